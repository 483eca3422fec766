"""A sweep as the process sees it that launches it: told apart from others, stopped as a whole, its failures named."""

import atexit
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from platform import node

from hydra.experimental.callback import Callback
from omegaconf import open_dict, read_write

from kipx import exits, grid, jobs
from kipx.notes import note

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 60  # for jobs to save and stop
_opened = {}  # name, folder, launcher, start and number of jobs of this process's sweep


class Stopped(KeyboardInterrupt):
    """A signal came while jobs ran elsewhere; `number` is its."""

    def __init__(self, number):
        super().__init__("interrupted")
        self.number = number


class Opened(Callback):
    """Told by Hydra that a sweep begins, before there is a launcher."""

    def on_multirun_start(self, config, **_):
        """Notes folder and launcher; makes the folder absolute, since launchers may run jobs elsewhere."""
        folder = os.path.abspath(config.hydra.sweep.dir)
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = folder
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={in_quotes(folder)}")
            if "ray" in config.hydra.launcher:
                _settle(config.hydra.launcher.ray.init)
        _opened.update(folder=folder, began=time.time(), jobs=len(grid.jobs(config.hydra)))
        _opened.update(launcher=config.hydra.runtime.choices["hydra/launcher"])
        if _opened["launcher"] != "basic" and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, _stop)


def in_quotes(path):
    """A path as a value of Hydra's grammar, whatever characters it has."""
    return "'" + path.replace("'", "\\'") + "'"


def _settle(init):
    """How Ray starts for its launcher: a Ray of its own unless there is an address, gone with this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # jobs may say the same
    if init.get("address") is not None:
        init.setdefault("object_store_memory", None)  # Hydra's launcher sets it, and a cluster refuses it
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else a token is written to the user's home
    folder = tempfile.mkdtemp(prefix="kipx-ray-")
    atexit.register(_end_ray, folder)
    init.address = "local"  # null would join whatever runs here
    for key, value in (("include_dashboard", False), ("_temp_dir", folder), ("logging_level", "error")):
        init.setdefault(key, value)


def _end_ray(folder):
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()  # it writes until it ends
    shutil.rmtree(folder, ignore_errors=True)


def _stop(number, _):
    """Asks the jobs on this machine to save their state and stop, since launchers kill them when this process ends."""
    for each in SIGNALS:
        signal.signal(each, signal.default_int_handler)  # a second signal does not wait
    ends = time.monotonic() + PATIENCE_S
    asked = set()
    while _opened["launcher"] != "submitit_slurm" and time.monotonic() < ends:
        running = {r["pid"] for r in _of_launch(_opened["name"]) if r["code"] is None and r["host"] == node()}
        for pid in running - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        asked |= running
        if not running:
            break
        time.sleep(0.2)
    raise Stopped(number)


@contextlib.contextmanager
def launch():
    """Yields the Launch of this process; afterwards signals mean what they meant."""
    name = uuid.uuid4().hex
    _opened.clear()
    _opened.update(name=name)
    jobs.here.clear()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield jobs.Launch(name, os.getcwd(), _opened)
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def close(launch):
    """Names the jobs that failed; the largest of their exit codes, 0 if none did."""
    records = jobs.here or _of_launch(launch.name)
    failed = sorted((r for r in records if r["code"] != 0), key=lambda r: r["job"])
    for record in failed:
        note(f"job {record['job']} ({' '.join(record['overrides'])}): {record['message']}")
    if failed:
        where = f"each folder in {_opened['folder']} has its {jobs.JOB}"
        note(f"{len(failed)} of {len(records)} jobs failed; {where}")
    return max((3 if r["code"] is None else r["code"] for r in failed), default=0)


def explain(error, command):
    """As `exits.explain`, also of what a launcher raises: it knows its errors, and says so in many lines."""
    code, message = exits.explain(error, command)
    launcher = _opened.get("launcher", "basic")
    if code != exits.OURS or launcher == "basic":
        return code, message
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    ends = " ... ".join(lines[:1] + lines[1:][-1:])
    begun = any(True for _ in _folders(_opened["folder"]))
    return 3 if begun else 2, f"hydra/launcher={launcher}: {ends}"


def _of_launch(name):
    return [record for record in map(jobs.read, _folders(_opened.get("folder"))) if record.get("launch") == name]


def _folders(folder):
    """The folders below that hold a job.json, none of them inside another."""
    if folder is None or not os.path.isdir(folder):
        return
    if os.path.exists(os.path.join(folder, jobs.JOB)):
        yield folder
        return
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _folders(entry.path)
