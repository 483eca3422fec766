"""Checkpoints of a run, by orbax: asynchronous, atomic, of any pytree."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, CustomSteps, EveryNSteps, LatestN

from kipx import checks, untrusted

FIRST_STEPS = (0, 1, 2, 4, 6, 8, 12, 18, 26, 37, 54, 78, 112, 162, 233, 335, 483, 695, 1000)
EVERY = 500


def scheduled(step):
    """Whether a step is one of the paper's: log-spaced to 1000, then every 500 (the authors' dataset notebook)."""
    return step in FIRST_STEPS or (step > FIRST_STEPS[-1] and step % EVERY == 0)


def scheduled_until(step):
    """How many steps from 0 to this one are scheduled."""
    return sum(first <= step for first in FIRST_STEPS) + max(step // EVERY - FIRST_STEPS[-1] // EVERY, 0)


def due(step, steps):
    """Whether a run of so many steps stops at this one to be evaluated and saved: scheduled steps and the last."""
    return scheduled(step) or step == steps


def open_manager(folder):
    """Opens the checkpoints of a run folder; those at scheduled steps are kept, and the latest.

    Of several processes one opens them, and the others know nothing of it.
    """
    folder = pathlib.Path(folder).absolute() / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    keep = AnyPreservationPolicy([LatestN(1), CustomSteps(FIRST_STEPS), EveryNSteps(EVERY)])
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix="one")
    options = ocp.CheckpointManagerOptions(
        preservation_policy=keep, cleanup_tmp_directories=True, multiprocessing_options=alone, create=False
    )
    return ocp.CheckpointManager(folder, options=options)


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
        items = {"state": ocp.args.StandardSave(to_host(state)), "origin": ocp.args.JsonSave({"config": config_hash})}
        manager.save(state.step, args=ocp.args.Composite(**items), force=True)


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
            arrays = jax.tree.leaves(manager.item_metadata(step)["state"].tree)
            untrusted.check_size(sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays))
            state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
            return np.asarray(state["images"]), np.asarray(state["labels"])
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            raise checks.UserError(
                f"step: checkpoint {step} of {folder} cannot be read ({untrusted.reason(error)}); take another"
            ) from error


def restore(manager, like, *, config_hash):
    """The latest saved state, in the structure of `like`; None if nothing was saved yet.

    Raises:
      UserError: the checkpoint is of another config, or cannot be read.
    """
    step = manager.latest_step()
    if step is None:
        return None
    try:
        origin = manager.restore(step, args=ocp.args.Composite(origin=ocp.args.JsonRestore()))["origin"]
        if origin["config"] != config_hash:
            raise checks.UserError(
                f"resume: the checkpoint at step {step} in {manager.directory} is of another config than config.yaml; "
                "put the run's own config.yaml back, or start a new run"
            )
        items = {"state": ocp.args.StandardRestore(to_host(like))}
        state = manager.restore(step, args=ocp.args.Composite(**items))["state"]
    except checks.UserError:
        raise
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise checks.UserError(
            f"resume: the checkpoint at step {step} in {manager.directory} cannot be read; "
            f"remove its folder to go on from an earlier one ({str(error).splitlines()[0]})"
        ) from error
    return from_host(state, like)
