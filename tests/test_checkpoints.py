"""Checkpoints by themselves: what may happen while one is written, or to its bytes."""

import gc
import sys
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from kipx import checkpoints, checks


class State(NamedTuple):
    step: int
    images: jnp.ndarray
    labels: jnp.ndarray


STATE = State(2, jnp.arange(24.0).reshape(2, 2, 2, 3).astype("float32"), jnp.eye(2))


def save(folder, step):
    with checkpoints.open_manager(folder) as manager:
        checkpoints.save(manager, STATE._replace(step=step), config_hash="of a config")


def test_a_clock_that_jumps_while_it_is_written_changes_nothing(tmp_path, monkeypatch):
    """As after a laptop's sleep, at ten moments: orbax waits by the wall clock."""
    real = time.time
    for step in range(10):
        jump = real() + 0.01 * step
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + 86400 * (real() > jump))
        save(tmp_path, step)
    monkeypatch.undo()
    assert checkpoints.steps(tmp_path)[-1] == 9
    for found, given in zip(checkpoints.support_at(tmp_path, 9), STATE[1:], strict=True):
        np.testing.assert_array_equal(found, given)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # what orbax gave up
def test_a_save_that_timed_out_is_saved_once_more(tmp_path, monkeypatch):
    """The clock jumps by a day whenever orbax, in the first save, waits for a word of its own."""
    real, orbax_save, begun, jumps = time.time, ocp.CheckpointManager.save, [], []

    def jumping():
        if sys._getframe(1).f_code.co_name == "blocking_key_value_get" and len(begun) == 1:
            jumps.append(86400)
        return real() + sum(jumps)

    def save(manager, step, **how):
        begun.append(step)
        return orbax_save(manager, step, **how)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    with checkpoints.open_manager(tmp_path) as manager:
        for step in (1, 2):
            checkpoints.save(manager, STATE._replace(step=step), config_hash="of a config")
    gc.collect()
    assert begun == [1, 1, 2]
    assert checkpoints.steps(tmp_path) == (1, 2)
    for found, given in zip(checkpoints.support_at(tmp_path, 1), STATE[1:], strict=True):
        np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("reader", ["item_metadata", "restore"])
def test_whatever_a_reader_says_of_damaged_bytes_is_told_in_a_line(reader, tmp_path, monkeypatch):
    """An empty AssertionError was met once, of a bit flipped in a checkpoint's metadata."""
    save(tmp_path, 2)

    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr(ocp.CheckpointManager, reader, fail)
    with pytest.raises(checks.UserError, match=r"checkpoint 2 of .* cannot be read \(AssertionError\); take another"):
        checkpoints.support_at(tmp_path, 2)
