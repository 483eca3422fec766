"""Measures what networks make of sets learned with and without the predictor's RKHS norm in the loss, on digits.

python benchmarks/networks.py docs/results/networks.json docs/networks.md      (`make bench-networks`)
"""

import json
import statistics
import sys

import sides

from kipx import track
from kipx.report.tables import mean_and_spread

SEEDS = range(3)
WIDTHS = (64, 256)
NOTHING = "rkhs_weight=1e-12"  # too little to count: the norm is measured all the same
NEWTON = ("optimizer=gauss_newton", "steps=20", "optimizer.damping=0.3", "optimizer.last_damping=0.03")
SIDES = {  # name: overrides
    "Adam (the demo)": (NOTHING,),
    "Adam, labels fixed": (NOTHING, "labels=fixed"),
    "Adam, weight 1e-4": ("rkhs_weight=1e-4",),
    "Gauss-Newton": (*NEWTON, NOTHING),
    "Gauss-Newton, weight 1e-5": (*NEWTON, "rkhs_weight=1e-5"),
    "Gauss-Newton, weight 1e-4": (*NEWTON, "rkhs_weight=1e-4"),
    "Gauss-Newton, weight 1e-3": (*NEWTON, "rkhs_weight=1e-3"),
}
QUIET = ("logger.progress=false",)
DISTILL = ("baseline.draws=0", "checkpoint.tested_from=100", *QUIET)
TRAINER = [f"trainer.{it}" for it in ("l2=0.01", "centred=true", "factor=0.2", "steps=200", "evaluations=4")]
TRANSFER = ("trainer.validation=200", "baselines=[]", *TRAINER, *QUIET)


def run(folder, seed, overrides):
    """Accuracies of one set by kernel ridge regression and of its networks, and the norm before the last step."""
    sides.kipx("distill", f"seed={seed}", *overrides, *DISTILL, f"hydra.run.dir={folder / 'set'}")
    last = track.rows(folder / "set")[-1]
    found = {"test_accuracy": last["test_accuracy"], "rkhs_norm": last["train_rkhs_norm"]}
    for width in WIDTHS:
        into = folder / str(width)
        sides.kipx("transfer", f"run={folder / 'set'}", f"network.width={width}", *TRANSFER, f"hydra.run.dir={into}")
        summary = json.loads((into / "summary.json").read_text())
        found[f"width_{width}"] = summary["sets"]["distilled"]["test_accuracies"]
    return found


def page(result):
    """The page, as Markdown."""
    rows = [_row(side, runs) for side, runs in result["runs"].items()]
    columns = "".join(f" width {width} |" for width in WIDTHS)
    return f"""# Sets for networks

{result["machine"]}; seeds 0 to {len(SEEDS) - 1}. Written by `make bench-networks` from
[results/networks.json](results/networks.json).

Ten images of scikit-learn's digits, one a class, learned with their labels but for one row, with and without the
predictor's RKHS norm in the loss (`rkhs_weight`, [why](mathematics.md)): test accuracy in percent by kernel ridge
regression and of ConvNets trained on the set, mean ± standard deviation over the seeds, or over seeds and three
networks of each; the norm is the mean of `train_rkhs_norm`.

| | norm | kernel ridge regression |{columns}
|---|--:|--:|{"--:|" * len(WIDTHS)}
{chr(10).join(rows)}

Gauss-Newton: {" ".join(f"`{key}`" for key in NEWTON)}.
Networks: {" ".join(f"`{key}`" for key in TRAINER)}.
On real data: [settings](settings.md), [results](results.md).
"""


def _row(side, runs):
    of_networks = ([a for run in runs for a in run[f"width_{width}"]] for width in WIDTHS)
    cells = map(mean_and_spread, ([run["test_accuracy"] for run in runs], *of_networks))
    return " | ".join([f"| {side}", f"{statistics.mean(run['rkhs_norm'] for run in runs):.3g}", *cells]) + " |"


def main(results, markdown):
    sides.write("make bench-networks", sides.measure(SIDES, SEEDS, run), page, results, markdown)


if __name__ == "__main__":
    main(*sys.argv[1:])
