"""The same seed gives the same bits under every engine, and the same numbers under all of them."""

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from kipx import arguments, artifacts, config
from kipx.commands import distill

ENGINES = {
    "dense": ["engine=dense"],
    "blockwise": ["engine=blockwise", "engine.block_size=[7,3]"],
    "sharded": ["engine=sharded"],
}


def learned(folder, data, *overrides):
    small = ("dataset=npz", f"dataset.path={data}", "kernel=fc", "steps=3", "target.batch_size=20", "baseline.draws=0")
    with initialize_config_module("kipx.conf", version_base="1.3"):
        values = config.plain(compose("distill", [*small, *overrides]), arguments.DISTILL)
    distill.run(folder, overrides=[], config=values, **arguments.distill(values))
    return artifacts.load(folder).images


@pytest.fixture(scope="module")
def dense(tiny_npz, tmp_path_factory):
    return learned(tmp_path_factory.mktemp("dense"), tiny_npz, "engine=dense", "kernel.dtype=float64")


@pytest.mark.parametrize("engine", ENGINES)
def test_bits_are_the_same_twice_and_numbers_under_all_engines(engine, dense, tiny_npz, tmp_path):
    chosen = (*ENGINES[engine], "kernel.dtype=float64")
    first, second = (learned(tmp_path / name, tiny_npz, *chosen) for name in ("first", "second"))
    assert first.tobytes() == second.tobytes()
    assert np.linalg.norm(first - dense) < 1e-6 * np.linalg.norm(dense)
