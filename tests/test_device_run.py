"""The script for machines without Hydra and data sets: packed images, and a run that goes on there and comes back."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile

import device_run
import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_module

from kipx import arguments, config
from kipx.data import Dataset

ROOT = pathlib.Path(__file__).parents[1]
ABSENT = ("hydra", "omegaconf", "tensorflow_datasets", "wandb", "dm_pix", "neural_tangents", "ray")


@pytest.mark.parametrize("shape", [(5, 28, 28, 1), (401, 6, 4, 3)])
def test_packed_images_come_back_bit_for_bit(shape, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "packed.npz", **device_run._packed("x", images))
    with np.load(tmp_path / "packed.npz") as file:
        np.testing.assert_array_equal(device_run._unpacked(file, "x"), images)


def data(tmp_path):
    """Images packed in two files; returns their names."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 4, 4, 1), np.uint8), np.arange(60) % 10
    names, paths = tuple(map(str, range(10))), [tmp_path / "a.npz", tmp_path / "b.npz"]
    device_run.write(paths, Dataset(images, labels, images[:25], labels[:25], names))
    dataset = device_run.load(paths)
    np.testing.assert_array_equal(dataset.x_train, images)
    np.testing.assert_array_equal(dataset.y_train, labels)
    np.testing.assert_array_equal(dataset.x_test, images[:25])
    np.testing.assert_array_equal(dataset.y_test, labels[:25])
    return ["a.npz", "b.npz"]


def go(tmp_path, name, command, schema, overrides):
    """Runs a command's config in the folder `name` as where kipx is not installed; returns the steps that came back."""
    with initialize_config_module("kipx.conf", version_base="1.3"):
        values = config.plain(compose(command, overrides=["dataset=npz", "dataset.path=a.npz", *overrides]), schema)
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(values))
    program = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); sys.argv[0] = sys.argv.pop(1); " + (
        "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = [str(ROOT / "benchmarks" / "device_run.py"), "go", name, *data(tmp_path), "--out", "back.tar"]
    packages = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("-packages"))}
    not_installed = [sys.executable, "-S", "-c", program]  # the packages as folders, without what installs kipx
    subprocess.run([*not_installed, *script], cwd=tmp_path, check=True, env={**os.environ, **packages})
    with tarfile.open(tmp_path / "back.tar") as archive:
        rows = archive.extractfile(f"{name}/metrics.jsonl").read().decode().splitlines()
        return [json.loads(row)["step"] for row in rows], archive.getnames()


FC = ["kernel=fc", "target.batch_size=20"]
DISTILL = "distill", arguments.DISTILL, [*FC, "steps=3", "baseline.draws=0"]


@pytest.mark.parametrize(
    ("command", "steps"),
    [(DISTILL, [0, 1, 2, 3]), (("label-solve", arguments.LABEL_SOLVE, FC), [0, 1])],
    ids=["distill", "label-solve"],
)
def test_a_run_goes_on_where_only_jax_is_and_comes_back(command, steps, tmp_path):
    found, names = go(tmp_path, "run", *command)
    assert found == steps
    assert "run/support.npz" in names
    assert any("checkpoints" in name for name in names) == (command is DISTILL)


def test_networks_are_trained_there_and_come_back_without_their_checkpoints(tmp_path):
    go(tmp_path, "run", *DISTILL)
    trained = ["run=run", "network=fc", "network.width=4", "trainer.steps=2", "trainer.evaluations=2", "baselines=[]"]
    found, names = go(tmp_path, "networks", "transfer", arguments.TRANSFER, trained)
    assert found == [0, 1, 2]
    assert "networks/summary.json" in names
    assert not any("checkpoints" in name for name in names)
