"""Checkpoints of a run, by orbax: asynchronous, atomic, of any pytree."""

import pathlib

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, CustomSteps, EveryNSteps, LatestN

from kipx import checks

FIRST_STEPS = (0, 1, 2, 4, 6, 8, 12, 18, 26, 37, 54, 78, 112, 162, 233, 335, 483, 695, 1000)
EVERY = 500


def scheduled(step):
    """Whether a step is one of the paper's: log-spaced to 1000, then every 500 (the authors' dataset notebook)."""
    return step in FIRST_STEPS or (step > FIRST_STEPS[-1] and step % EVERY == 0)


def open_manager(folder):
    """Opens the checkpoints of a run folder; those at scheduled steps are kept, and the latest."""
    keep = AnyPreservationPolicy([LatestN(1), CustomSteps(FIRST_STEPS), EveryNSteps(EVERY)])
    options = ocp.CheckpointManagerOptions(preservation_policy=keep, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(pathlib.Path(folder).absolute() / "checkpoints", options=options)


def save(manager, state, *, config_hash):
    """Saves a state at its step, unless that step is saved already; returns before it is on disk."""
    if state.step not in manager.all_steps():
        items = {"state": ocp.args.StandardSave(state._asdict()), "origin": ocp.args.JsonSave({"config": config_hash})}
        manager.save(state.step, args=ocp.args.Composite(**items), force=True)


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
        items = {"state": ocp.args.StandardRestore(like._asdict())}
        state = manager.restore(step, args=ocp.args.Composite(**items))["state"]
    except checks.UserError:
        raise
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise checks.UserError(
            f"resume: the checkpoint at step {step} in {manager.directory} cannot be read; "
            f"remove its folder to go on from an earlier one ({str(error).splitlines()[0]})"
        ) from error
    return type(like)(**{**state, "step": int(state["step"])})
