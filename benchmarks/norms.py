"""The squared RKHS norm of published sets, as `kipx evaluate` tells it beside an accuracy that takes a minute.

python benchmarks/norms.py docs/results/mnist_kip_10 ... > docs/results/settings/rkhs_norms.jsonl
"""

import json
import pathlib
import sys

import jax

from kipx import arguments, artifacts, objective


def norm(run):
    """`kipx.objective.rkhs_norm` of a run of one kernel, on the data that its config names."""
    config, distilled = artifacts.read_config(run), artifacts.load(run)
    (member,) = arguments.members(config["kernel"], config["engine"])
    targets = distilled.preprocess(arguments.load(config)().x_train[: objective.UNIT_IMAGES])
    learned = distilled.images, distilled.labels
    return objective.rkhs_norm(member.engine, *learned, targets=targets, ridge=config["ridge"])


def main(runs):
    jax.config.update("jax_enable_x64", True)
    for run in map(pathlib.Path, runs):
        print(json.dumps({"run": str(run), "rkhs_norm": norm(run)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
