"""A sweep as a whole: which of its jobs are done, failed, at work or missing, and what to type for those not done."""

import collections
import itertools
import os
import pathlib
import platform
import re
import shlex
from typing import NamedTuple

from kipx import artifacts, grid, untrusted
from kipx.report import folders

FILE = "multirun.yaml"  # Hydra's, of the whole sweep
DONE, FAILED, RUNNING, STOPPED, MISSING = "done", "failed", "running", "not ended", "missing"


class Job(NamedTuple):
    """One job of a sweep.

    Attributes:
      number: from 0; also the name of its folder.
      overrides: as its own command line would have them.
      state: DONE, FAILED, RUNNING, STOPPED or MISSING.
      message: why it is not done; '' where nothing is said.
      command: that runs it into its folder, or goes on there; '' of one that is done or running.
    """

    number: int
    overrides: tuple
    state: str
    message: str
    command: str


def read(folder):
    """The jobs of a sweep, in order.

    Args:
      folder: of the sweep.
    Returns:
      list of Job; [] where the folder is no sweep's, its jobs' folders are not their numbers, or its multirun.yaml is
      damaged.
    """
    folder = pathlib.Path(folder)
    try:
        config = untrusted.from_yaml((folder / FILE).read_bytes())["hydra"]
        if config["sweep"]["subdir"] != "${hydra.job.num}":
            return []
        jobs, command = grid.jobs(config), config["job"]["config_name"]
        if not re.fullmatch(r"[a-z]+(-[a-z]+)*", command) or any(map(_is_hydras, itertools.chain(*jobs))):
            return []  # what is proposed to be typed could run anything
        return [_job(folder, command, *one) for one in enumerate(jobs)]
    except folders.DAMAGE:
        return []


def lines(jobs):
    """What to say of a sweep: how many jobs there are of each state, why some are not done, and what runs those."""
    counts = collections.Counter(job.state for job in jobs)
    said = [f"{len(jobs)} jobs: {', '.join(f'{count} {state}' for state, count in counts.items())}"] if jobs else []
    for job in jobs:
        if job.state != DONE:
            reason = f": {job.message}" if job.message else ""
            said.append(f"job {job.number} ({' '.join(job.overrides)}) {job.state}{reason}")
    commands = [job.command for job in jobs if job.command]
    return [*said, *(["what is not done, and nothing else, runs with:"] if commands else []), *commands]


def _is_hydras(override):
    return override.lstrip("+~").startswith("hydra")


def _job(folder, command, number, overrides):
    path = folder / str(number)
    state, message = _state(path)
    return Job(number, overrides, state, message, _command(path, command, overrides, state))


def _state(path):
    """(state, message) of the job in a folder."""
    try:
        record = folders.json_object(path / artifacts.JOB)
    except folders.DAMAGE:
        return STOPPED, f"its {artifacts.JOB} is torn"
    if record.get("code") == 0 or (not record and (path / "summary.json").is_file()):
        return DONE, ""
    if record.get("code") is not None:
        return FAILED, str(record.get("message", ""))
    if record:
        return (RUNNING, "") if _alive(record) else (STOPPED, str(record.get("message", "")))
    return (STOPPED, "") if (path / artifacts.CONFIG).is_file() else (MISSING, "")


def _alive(record):
    """Whether the job's process is at work on this machine."""
    if record.get("host") != platform.node() or not isinstance(record.get("pid"), int):
        return False
    try:
        os.kill(record["pid"], 0)
    except OSError:
        return False
    return True


def _command(path, command, overrides, state):
    if state in (DONE, RUNNING):
        return ""
    if (path / artifacts.CONFIG).is_file():
        return shlex.join(["kipx", command, f"resume={path}"])
    return shlex.join(["kipx", command, *overrides, f"hydra.run.dir={path}"])
