"""Checkpoints of a run, by orbax: asynchronous, atomic, of any pytree; a wrong byte in one is noticed."""

import contextlib
import hashlib
import logging
import math
import os
import pathlib
import re
import sys
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, CustomSteps, EveryNSteps, LatestN

from kipx import checks, untrusted

FIRST_STEPS = (0, 1, 2, 4, 6, 8, 12, 18, 26, 37, 54, 78, 112, 162, 233, 335, 483, 695, 1000)
EVERY = 500
PATIENCE_S = 10**8  # for what is being written; orbax counts a jump of the clock and a laptop's sleep as waiting


def scheduled(step):
    """Whether a step is one of the paper's: log-spaced to 1000, then every 500 (the authors' dataset notebook)."""
    return step in FIRST_STEPS or (step > FIRST_STEPS[-1] and step % EVERY == 0)


def scheduled_until(step):
    """How many steps from 0 to this one are scheduled."""
    return sum(first <= step for first in FIRST_STEPS) + max(step // EVERY - FIRST_STEPS[-1] // EVERY, 0)


def due(step, steps):
    """Whether a run of so many steps stops at this one to be evaluated and saved: scheduled steps and the last."""
    return scheduled(step) or step == steps


@contextlib.contextmanager
def open_manager(folder):
    """Opens the checkpoints of a run folder; those at scheduled steps are kept, and the latest.

    Of several processes one opens them, and the others know nothing of it.

    Yields:
      orbax's manager; when it is closed all is on disk.
    Raises:
      StorageError: a checkpoint could not be written; those before it are whole.
    """
    folder = pathlib.Path(folder).absolute() / "checkpoints"
    with _storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    keep = AnyPreservationPolicy([LatestN(1), CustomSteps(FIRST_STEPS), EveryNSteps(EVERY)])
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix="one")
    options = ocp.CheckpointManagerOptions(
        preservation_policy=keep,
        cleanup_tmp_directories=True,
        multiprocessing_options=alone,
        async_options=ocp.AsyncOptions(timeout_secs=PATIENCE_S),
        create=False,
    )
    _silence()
    with _storing(folder):
        manager = _Manager(folder, options=options)
    try:
        yield manager
    finally:
        with _storing(folder):
            manager.close()


class _Manager(ocp.CheckpointManager):
    """Saves once more what timed out: in places orbax waits by the wall clock, which jumps where a laptop sleeps."""

    _last_save = None

    def save(self, *args, **how):
        """As orbax's, when the save before is on disk."""
        self._await_last()
        self._last_save = partial(super().save, *args, **how)
        return self._last_save()

    def close(self):
        """As orbax's."""
        try:
            self._await_last()
        finally:
            super().close()

    def _await_last(self):
        try:
            self.wait_until_finished()
        except TimeoutError:
            self._last_save()
            self.wait_until_finished()


def _silence():
    """Keeps orbax from printing what goes wrong in its threads, with tracebacks: its next call raises it again.

    For good: what they had begun may end after the manager is closed.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    raised, unraisable = threading.excepthook, sys.unraisablehook
    if getattr(unraisable, "__module__", None) == __name__:
        return

    def raise_again(failed):
        if not type(failed.thread).__module__.startswith("orbax."):
            raised(failed)

    def drop(failed):
        if "Event loop is closed" not in str(failed.exc_value):  # of what was cancelled because something failed
            unraisable(failed)

    threading.excepthook, sys.unraisablehook = raise_again, drop


@contextlib.contextmanager
def _storing(folder):
    """Turns what orbax raises where it cannot write into StorageError; it may be of a checkpoint begun before."""
    try:
        yield
    except (OSError, ValueError) as error:  # tensorstore's are ValueErrors
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or checks.reason(error)
        message = f"{folder}: a checkpoint cannot be written ({reason}); make room, or let it be written"
        raise checks.StorageError(message, reason) from error


def to_host(state):
    """The state's dict with numpy arrays in place of JAX's, and the words of keys in place of keys."""

    def plain(x):
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(plain, state._asdict())


def from_host(host, like):
    """The state in the structure of `like` from what `to_host` made of it."""

    def back(x, like):
        is_key = isinstance(like, jax.Array) and jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(jnp.asarray(x)) if is_key else jnp.asarray(x)

    return type(like)(**{**jax.tree.map(back, host, like._asdict()), "step": int(host["step"])})


def save(manager, state, *, config_hash):
    """Saves a state at its step, unless that step is saved already; returns before it is on disk."""
    if state.step not in manager.all_steps():
        host = to_host(state)
        origin = {"config": config_hash, "state": digest(host)}
        items = {"state": ocp.args.StandardSave(host), "origin": ocp.args.JsonSave(origin)}
        with _storing(manager.directory):
            manager.save(state.step, args=ocp.args.Composite(**items), force=True)


def digest(host):
    """The sha256 of all arrays of a tree with what names and shapes them; orbax keeps none."""
    named = {
        "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(host)
    }
    content = hashlib.sha256()
    for name, leaf in sorted(named.items()):
        array = np.asarray(leaf)
        content.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


def _origin(manager, step):
    """What a checkpoint says of itself: `config`, the hash of the run's; `state`, the digest, None in old ones."""
    origin = _part(manager, step, origin=ocp.args.JsonRestore())
    if not isinstance(origin, dict) or {*origin, "state"} != {"config", "state"}:
        raise ValueError("its origin is not what was written")
    return {"state": None, **origin}


def _state(manager, step, origin, how):
    """The tree that was saved at a step; `how` are orbax's arguments for it."""
    host = _part(manager, step, state=how)
    if origin["state"] not in (None, digest(host)):
        raise ValueError("its content is not what was written")
    return host


def _part(manager, step, **item):
    """One item of a checkpoint; ValueError whatever is wrong with it."""
    with _reading():
        return manager.restore(step, args=ocp.args.Composite(**item))[next(iter(item))]


@contextlib.contextmanager
def _reading():
    """Turns what orbax raises into ValueError: damaged bytes lead it to errors of every kind."""
    try:
        yield
    except Exception as error:
        raise ValueError(checks.reason(error)[:160]) from error


def steps(folder):
    """The steps that a run folder has checkpoints of, in order; () where it has none. A run may be at work in it."""
    inside = pathlib.Path(folder) / "checkpoints"
    return tuple(sorted(int(path.name) for path in inside.glob("*") if path.name.isdigit()))


def support_at(folder, step):
    """The support set that a run had at one of its checkpoints.

    Args:
      folder: the run folder.
      step: of a checkpoint that was kept: those at the paper's steps, and the last.
    Returns:
      (images (n, h, w, c) float32, labels (n, classes) float64), as distilled.
    Raises:
      UserError: the run has no checkpoint at that step, or it cannot be read.
    """
    if not (pathlib.Path(folder) / "checkpoints").is_dir():
        raise checks.UserError(f"step: expected a run folder with checkpoints, got {folder}")
    place = (pathlib.Path(folder) / "checkpoints").absolute()
    reading = ocp.CheckpointManagerOptions(create=False)  # and no tidying: a run may be at work there
    handlers = {"state": ocp.StandardCheckpointHandler(), "origin": ocp.JsonCheckpointHandler()}
    with ocp.CheckpointManager(place, options=reading, item_handlers=handlers) as manager:
        kept = manager.all_steps()
        if step not in kept:
            raise checks.UserError(f"step: expected a checkpoint of {folder}, one of {sorted(kept)}, got {step}")
        try:
            _check_size(manager, step)
            state = _state(manager, step, _origin(manager, step), ocp.args.StandardRestore())
            return np.asarray(state["images"]), np.asarray(state["labels"])
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            raise checks.UserError(
                f"step: checkpoint {step} of {folder} cannot be read ({checks.reason(error)}); take another"
            ) from error


def _check_size(manager, step):
    with _reading():
        arrays = jax.tree.leaves(manager.item_metadata(step)["state"].tree)
        size = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)
    untrusted.check_size(size)


def restore(manager, like, *, config_hash):
    """The latest saved state, in the structure of `like`; None if nothing was saved yet.

    Raises:
      UserError: the checkpoint is of another config, or cannot be read.
    """
    step = manager.latest_step()
    if step is None:
        return None
    try:
        origin = _origin(manager, step)
        if origin["config"] != config_hash:
            raise checks.UserError(
                f"resume: the checkpoint at step {step} in {manager.directory} is of another config than config.yaml, "
                "or damaged; put the run's own config.yaml back, or remove its folder to go on from an earlier one"
            )
        state = _state(manager, step, origin, ocp.args.StandardRestore(to_host(like)))
    except checks.UserError:
        raise
    except ValueError as error:
        raise checks.UserError(
            f"resume: the checkpoint at step {step} in {manager.directory} cannot be read; "
            f"remove its folder to go on from an earlier one ({error})"
        ) from error
    return from_host(state, like)
