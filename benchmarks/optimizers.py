"""Measures Adam and Gauss-Newton on digits: whole runs of `kipx distill`, the sides in turn for each seed.

python benchmarks/optimizers.py docs/results/optimizers.json docs/optimizers.md      (`make bench-optimizers`)
"""

import statistics
import sys

import sides

from kipx import track

SEEDS = range(5)
SIDES = {  # name: overrides
    "Adam, 80 steps (the demo)": ("optimizer=adam", "steps=80"),
    "Adam, 20 steps": ("optimizer=adam", "steps=20"),
    "Gauss-Newton, 20 steps": ("optimizer=gauss_newton", "steps=20"),
    "Gauss-Newton, 8 steps": ("optimizer=gauss_newton", "steps=8"),
}
QUIET = ("baseline.draws=0", "checkpoint.tested_from=100", "logger.progress=false")


def run(folder, seed, overrides):
    """Accuracy at the end and seconds of each step of one run."""
    sides.kipx("distill", f"seed={seed}", *overrides, *QUIET, f"hydra.run.dir={folder / 'run'}")
    rows = track.rows(folder / "run")
    return {"test_accuracy": rows[-1]["test_accuracy"], "step_time_s": [row["step_time_s"] for row in rows[1:]]}


def page(result):
    """The page, as Markdown."""
    rows = [_row(side, runs) for side, runs in result["runs"].items()]
    return f"""# Two optimizers

{result["machine"]}; seeds 0 to {len(SEEDS) - 1}, the sides in turn for each.
Written by `make bench-optimizers` from [results/optimizers.json](results/optimizers.json).

Ten images of scikit-learn's digits, one a class, learned with their labels from 160 targets a step: `kipx distill` with
`optimizer=adam`, the default, and with `optimizer=gauss_newton` ([how it works](mathematics.md)). Time is that of the
steps without the first, which compiles; the median of the seeds, with the least and the most.

| | test accuracy, mean | worst | best | ms a step | s of all steps |
|---|--:|--:|--:|--:|--:|
{chr(10).join(rows)}

A step of Gauss-Newton costs more, since each pair's gradient is carried to the pixels by itself and conjugate gradients
follow. It takes fewer. On real data and larger images: [settings](settings.md), [results](results.md).
"""


def _row(side, runs):
    accuracies = [100 * one["test_accuracy"] for one in runs]
    step = [1e3 * statistics.median(one["step_time_s"][1:]) for one in runs]
    total = [len(one["step_time_s"]) * statistics.mean(one["step_time_s"][1:]) for one in runs]
    spread = (f"{statistics.median(of):.3g} ({min(of):.3g}-{max(of):.3g})" for of in (step, total))
    cells = statistics.mean(accuracies), min(accuracies), max(accuracies)
    return " | ".join([f"| {side}", *(f"{cell:.1f}" for cell in cells), *spread]) + " |"


def main(results, markdown):
    sides.write("make bench-optimizers", sides.measure(SIDES, SEEDS, run), page, results, markdown)


if __name__ == "__main__":
    main(*sys.argv[1:])
