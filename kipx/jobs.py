"""One job of a sweep, in this process or in one of its own, so that it takes no other down.

How it ended stands in `job.json` in its folder: `launch` (which call of kipx started it), `job` (its number),
`overrides`, `code` (its exit code; null until it has ended), `message` (one line), `host` and `pid`. Under any launcher
but the basic one a job has its own process: what kills it kills neither the launcher nor the next job.
"""

import contextlib
import io
import os
import pathlib
import pickle
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from functools import partial
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf

from kipx import exits, untrusted
from kipx.artifacts import JOB, write_json
from kipx.notes import tell
from kipx.report.tables import duration

CHILD = "from kipx.jobs import child; child()"
NOT_ENDED = "has not ended: it still runs, or its process is gone"
here = []  # what job.json holds, of the jobs that ran in this process


class Launch(NamedTuple):
    """What every job of one sweep knows.

    Attributes:
      name: the sweep's own.
      folder: that the user was in.
      opened: of the sweep once it has begun: its `folder`, when it `began` in seconds, and how many `jobs` it has.
    """

    name: str
    folder: str
    opened: dict = {}  # noqa: RUF012  never written to


def run(command, launch, cfg):
    """Runs one job of a sweep; Hydra's task function, so importable by name from any process."""
    hydra = HydraConfig.get()
    record = {"launch": launch.name, "job": hydra.job.num, "overrides": list(hydra.overrides.task)}
    folder = _of_record(pathlib.Path(hydra.runtime.output_dir), record)
    if hydra.runtime.choices["hydra/launcher"] == "basic":
        here.append(record)
        tell(_begins(launch, record))
        _attempt(command, cfg, folder, record)
    else:
        if launch.opened.get("jobs"):
            tell(_begins(launch, record))
        _apart(command, cfg, folder, record, launch.folder)


def _of_record(folder, record):
    """A job's folder, for its record; one beside it where it holds a run of another sweep, whose record stays."""
    if read(folder).get("launch") in (None, record["launch"]) or not (folder / "config.yaml").is_file():
        return folder
    beside = folder.with_name(f"{folder.name}_refused")
    beside.mkdir(exist_ok=True)
    return beside


def _begins(launch, record):
    """A line on the job that begins: its overrides, how many have ended, and the time left at the pace until now."""
    line, opened = f"job {record['job']}: {' '.join(record['overrides'])}", launch.opened
    if not opened.get("jobs"):
        return line
    records = map(read, (path.parent for path in pathlib.Path(opened["folder"]).glob(f"*/{JOB}")))
    ended = sum(one.get("launch") == launch.name and one.get("code") is not None for one in records)
    left = (time.time() - opened["began"]) / ended * (opened["jobs"] - ended) if ended else None
    told = f", about {duration(left)} left" if ended else ""
    return f"{line}  ({ended} of {opened['jobs']} jobs ended{told})"


def _attempt(command, cfg, folder, record):
    """The exit code of the command, noted in the folder; only an interruption goes on upwards."""
    note = partial(_note, folder, record)
    record.update(host=platform.node(), pid=os.getpid())
    note(None, NOT_ENDED)
    try:
        command(cfg)
        return note(0, "")
    except (Exception, KeyboardInterrupt) as error:
        code, message = exits.explain(error, HydraConfig.get().job.config_name)
        note(code, message)
        if code == exits.OURS:
            traceback.print_exc()
        if isinstance(error, KeyboardInterrupt) or exits.one_of_many():  # whose others may be gone
            raise
        return exits.say(code, message)


def _note(folder, record, code, message):
    record.update(code=code, message=message)
    if os.environ.get("SLURM_PROCID", "0") == "0":  # one task of a job writes
        write_json(folder / JOB, record)
    return code


def read(folder):
    """The job.json of a folder; {} if there is none, or none that can be read."""
    try:
        found = untrusted.from_json((pathlib.Path(folder) / JOB).read_bytes())
    except (OSError, untrusted.Damaged):
        return {}
    return found if isinstance(found, dict) else {}


def mend(folder):
    """Notes that the job of a sweep, resumed by itself, is done now."""
    if record := read(folder):
        _note(pathlib.Path(folder), record, 0, "")


def _apart(command, cfg, folder, record, cwd):
    """The job in a process of its own, which stops when this one ends."""
    before = read(folder)
    again = before.get("launch") == record["launch"] and (folder / "config.yaml").is_file()
    hydra = OmegaConf.to_container(HydraConfig.instance().cfg)  # classes of plugins cannot be pickled
    payload = pickle.dumps((command, cfg, hydra, folder, record, again))
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, cwd=cwd) as process:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(payload)
            process.stdin.flush()
        code = process.wait()
    if read(folder).get("code") is None:
        record.update(host=platform.node(), pid=process.pid)
        killed = f"was killed by {signal.Signals(-code).name}, perhaps for want of memory" if code < 0 else ""
        _note(folder, record, 3, f"its process {killed or f'ended with exit code {code}'}")


def child():
    """The process of a job, which comes through standard input; that stays open while the launcher's process lives."""
    command, cfg, hydra, folder, record, again = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning is for the launcher, which then ends this
    setup_globals()
    if again and "resume" in cfg:  # started twice by Ray or Slurm: it goes on
        cfg.resume, hydra["hydra"]["overrides"]["task"] = str(folder), []
    HydraConfig.instance().cfg = OmegaConf.create(hydra)
    prefix = f"job {record['job']}: "
    sys.stdout, sys.stderr = Prefixed(sys.stdout, prefix), Prefixed(sys.stderr, prefix)
    try:
        code = _attempt(command, cfg, folder, record)
    except (Exception, KeyboardInterrupt) as error:
        code = exits.say(*exits.explain(error, None))
    exits.leave(code)


def _stop_with_parent():
    os.read(0, 1)  # returns when the other end is gone
    os.kill(os.getpid(), signal.SIGTERM)


class Prefixed(io.TextIOBase):
    """A stream for whole lines with a prefix, many jobs' worth of which share one terminal; itself none."""

    def __init__(self, stream, prefix):
        self.stream, self.prefix, self.rest = stream, prefix, ""

    def write(self, text):
        """Writes the lines that are complete, in one go."""
        *lines, self.rest = (self.rest + text).split("\n")
        self.stream.write("".join(f"{self.prefix}{line}\n" for line in lines))
        self.stream.flush()
        return len(text)
