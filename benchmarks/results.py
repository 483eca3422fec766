"""Writes the results of a sweep's run folders as a table.

    python benchmarks/results.py outputs/distill/<sweep> docs/results/demo.md

Accuracies in percent, on the test images; wall time is that of the steps.
"""

import json
import pathlib
import sys

import numpy as np
import yaml

from kipx import track


def row(run):
    summary = json.loads((run / "summary.json").read_text())
    times = [r["step_time_s"] for r in track.read(run / "metrics.jsonl") if "step_time_s" in r]
    natural = f"{100 * summary['natural_test_accuracy_mean']:.1f} ± {100 * summary['natural_test_accuracy_std']:.1f}"
    overrides = " ".join(yaml.safe_load((run / "overrides.yaml").read_text()))
    numbers = f"{100 * summary['initial_test_accuracy']:.1f} | {natural} | {100 * summary['test_accuracy']:.1f}"
    return f"| `{overrides}` | {summary['steps']} | {numbers} | {np.median(times):.2f} | {sum(times):.0f} |"


def main(sweep, path):
    runs = sorted(folder for folder in pathlib.Path(sweep).iterdir() if (folder / "summary.json").exists())
    accuracies = [json.loads((run / "summary.json").read_text())["test_accuracy"] for run in runs]
    environment = json.loads((runs[0] / "environment.json").read_text())
    device = f"{environment['cpus']} cores, {', '.join(environment['devices'])}, jax {environment['packages']['jax']}"
    typed = environment["command"]
    command = " ".join(a for a in typed[typed.index("kipx") :] if not a.startswith("hydra."))
    lines = [
        f"# `{command}`",
        "",
        f"Test accuracy in percent, on {device}; written by `benchmarks/results.py` from the run folders.",
        "",
        "| overrides | steps | initial | natural draws | distilled | s a step | s in all |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *map(row, runs),
        "",
        f"Mean of {len(runs)}: {100 * np.mean(accuracies):.1f}; worst: {100 * min(accuracies):.1f}.",
    ]
    pathlib.Path(path).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
