"""One program over many hosts, by jax.distributed: every host runs the same command and holds the same state."""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from kipx import checks

TIMEOUT_S = 60  # to find each other


def connect(coordinator=None, num_processes=None, process_id=None):
    """Joins the other processes of a run; does nothing where there is one, or where it has been done.

    Args:
      coordinator: 'host:port' of process 0, or None: then Slurm says, if this is a job step of several tasks.
      num_processes: of the whole run; process_id: this one's, from 0.
    Raises:
      UserError: only some of the three are given, or the others do not come within a minute.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise checks.UserError(
            "engine: coordinator, num_processes and process_id belong together; give all three or none, "
            f"got {coordinator!r}, {num_processes!r}, {process_id!r}"
        )
    if jax.distributed.is_initialized() or not (any(given) or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1):
        return
    if any(given):
        checks.integer("engine.num_processes", num_processes, at_least=1)
        if checks.integer("engine.process_id", process_id, at_least=0) >= num_processes:
            raise checks.UserError(f"engine.process_id: expected less than {num_processes}, got {process_id}")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=TIMEOUT_S)
    except (RuntimeError, ValueError) as error:
        raise checks.UserError(
            f"engine.coordinator: the {num_processes or 'Slurm'} processes did not meet at {coordinator} "
            f"({checks.reason(error)})"
        ) from error


def leads():
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def any_of(flag):
    """Whether `flag` is true in any process; all of them must ask."""
    return bool(np.any(exchanged(multihost_utils.process_allgather, np.array(flag)))) if _many() else flag


def of_leader(tree):
    """The leading process's value of a tree of arrays, equal in structure everywhere; all must ask."""
    return exchanged(multihost_utils.broadcast_one_to_all, tree) if _many() else tree


def exchanged(function, *arguments):
    """function(*arguments), computed; a failure of the exchange between processes becomes EngineError."""
    try:
        return jax.block_until_ready(function(*arguments)) if _many() else function(*arguments)
    except jax.errors.JaxRuntimeError as error:
        if not _many():
            raise
        raise checks.EngineError(
            f"process {jax.process_index()}: another of the run's {jax.process_count()} processes is gone "
            f"({checks.reason(error)[:160]})"
        ) from error


def _many():
    return jax.process_count() > 1
