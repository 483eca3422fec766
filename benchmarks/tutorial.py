"""Writes what the runs of docs/tutorial.md reached, a line a run, from their folders.

    python benchmarks/tutorial.py outputs/{digits,fc2,networks,odd,mnist,cifar10_fc}

Into docs/results/tutorial.jsonl: overrides, device, versions, summary and every row of metrics; of `kipx evaluate`
what it found.
"""

import json
import pathlib
import sys

import yaml

from kipx import track

PATH = pathlib.Path(__file__).parents[1] / "docs" / "results" / "tutorial.jsonl"


def line(folder):
    if (folder / "evaluation.json").exists():
        return {"run": folder.name, "evaluation": json.loads((folder / "evaluation.json").read_text())}
    environment, summary = json.loads((folder / "environment.json").read_text()), folder / "summary.json"
    overrides = [o for o in yaml.safe_load((folder / "overrides.yaml").read_text()) if not o.startswith("hydra.")]
    return {
        "run": folder.name,
        "overrides": overrides,
        "cpus": environment["cpus"],
        "devices": environment["devices"],
        "packages": environment["packages"],
        "summary": json.loads(summary.read_text()) if summary.exists() else None,
        "metrics": track.rows(folder),
    }


if __name__ == "__main__":
    PATH.write_text("".join(json.dumps(line(pathlib.Path(folder))) + "\n" for folder in sys.argv[1:]))
