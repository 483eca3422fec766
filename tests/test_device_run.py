"""The script for machines without Hydra and data sets: packed images, and a run that goes on there and comes back."""

import json
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

ROOT = pathlib.Path(__file__).parents[1]
ABSENT = ("hydra", "omegaconf", "tensorflow_datasets", "wandb", "dm_pix", "neural_tangents", "ray")


@pytest.mark.parametrize("shape", [(5, 28, 28, 1), (401, 6, 4, 3)])
def test_packed_images_come_back_bit_for_bit(shape, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "packed.npz", **device_run._packed("x", images))
    with np.load(tmp_path / "packed.npz") as file:
        np.testing.assert_array_equal(device_run._unpacked(file, "x"), images)


@pytest.mark.parametrize(
    ("command", "schema", "overrides", "steps"),
    [
        ("distill", arguments.DISTILL, ["steps=3", "baseline.draws=0"], [0, 1, 2, 3]),
        ("label-solve", arguments.LABEL_SOLVE, [], [0, 1]),
    ],
)
def test_a_run_goes_on_where_only_jax_is_and_comes_back(command, schema, overrides, steps, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 4, 4, 1), np.uint8), np.arange(60) % 10
    arrays = {**device_run._packed("x_train", images), **device_run._packed("x_test", images)}
    np.savez(tmp_path / "data.npz", **arrays, y_train=labels, y_test=labels, class_names=np.arange(10).astype(str))
    overrides = ["dataset=npz", "dataset.path=data.npz", "kernel=fc", "target.batch_size=20", *overrides]
    with initialize_config_module("kipx.conf", version_base="1.3"):
        values = config.plain(compose(command, overrides=overrides), schema)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(values))
    program = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); sys.argv[0] = sys.argv.pop(1); " + (
        "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = [str(ROOT / "benchmarks" / "device_run.py"), "go", "run", "data.npz", "--out", "back.tar"]
    subprocess.run([sys.executable, "-c", program, *script], cwd=tmp_path, check=True)
    with tarfile.open(tmp_path / "back.tar") as archive:
        rows = archive.extractfile("run/metrics.jsonl").read().decode().splitlines()
        assert "run/support.npz" in archive.getnames()
    assert [json.loads(row)["step"] for row in rows] == steps
