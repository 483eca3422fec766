"""Copies a run into docs/results with its last checkpoint alone, so that it goes on from a fresh clone.

Runs of transfer have none: their networks are far larger than their numbers, and nothing goes on with them.

python benchmarks/publish.py outputs/distill/<time> mnist_kip_10
kipx distill resume=docs/results/mnist_kip_10 steps=<more>
kipx report run=docs/results table=table1
"""

import pathlib
import shutil
import sys

from kipx import artifacts, checkpoints
from kipx.report import folders

RESULTS = pathlib.Path(__file__).parents[1] / "docs" / "results"


def publish(run, folder):
    """Writes `folder` anew from a run folder."""
    config = artifacts.read_config(run)
    trained = folders.is_transfer(config)
    last = None if trained else _last_step(run)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", "job.json"))
    if last is not None:
        shutil.copytree(run / "checkpoints" / str(last), folder / "checkpoints" / str(last))
    for mark in folder.rglob("commit_success.txt"):
        mark.write_text("")  # orbax asks whether it is there, and writes a path into it
    artifacts.write_manifest(folder, config=config, parents=[config["run"]] if trained else ())
    homes = [str(path).encode() for path in (pathlib.Path.home(), RESULTS.parents[1], run.resolve().parent)]
    local = [str(path) for path in folder.rglob("*") if path.is_file() and _any_in(homes, path.read_bytes())]
    if local:
        sys.exit(f"{', '.join(local)}: a path of this machine in it; run with relative paths, and data in data/")


def _last_step(run):
    with checkpoints.open_manager(run) as manager:
        return manager.latest_step()


def _any_in(parts, content):
    return any(part in content for part in parts)


if __name__ == "__main__":
    publish(pathlib.Path(sys.argv[1]), RESULTS / sys.argv[2])
