"""How near are natural images to each other, as a run's kernel sees them?

    python benchmarks/cosines.py <run folder> ... > docs/results/settings/cosines.jsonl

Standard deviation of the cosines between the first 100 training images and all test images of a run's data set, under
the preprocessing that its set carries; read by docs/settings.md.
"""

import json
import pathlib
import sys

import numpy as np

from kipx import arguments, artifacts

IMAGES = 100


def spread(folder):
    """Of the cosines, float."""
    distilled, data = artifacts.load(folder), arguments.load(artifacts.read_config(pathlib.Path(folder)))()
    rows = [directions(distilled.preprocess(x)) for x in (data.x_train[:IMAGES], data.x_test)]
    return float(np.std(rows[0] @ rows[1].T))


def directions(images):
    """(n, pixels), each row divided by its length."""
    rows = np.asarray(images, np.float64).reshape(len(images), -1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    for run in sys.argv[1:]:
        print(json.dumps({"run": run, "cosines_std": spread(run)}))
