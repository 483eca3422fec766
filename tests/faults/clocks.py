"""Clocks that jump by a day while a run works, and files that seem to be of another year when it goes on."""

import os
import pathlib
import shutil
import signal
import time

from faults.cases import REFUSED, WRONG, Case, Outcome, after, compare
from faults.kills import _until

DAY_S = 86400
LIBRARY = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def cases(commands):
    """Of each command a jump forwards and one backwards, of its clock and of its files' times."""
    found = []
    for command in commands:
        found += [Case(command, "clock jump", f"{jump} while it runs", _jump) for jump in ("+1d", "-1d")]
        found += [
            Case(command, "clock jump", f"files of {years:+d} years when it goes on", _aged) for years in (10, -10)
        ]
    return found


def _jump(case, bench, latest=0.9):
    """By libfaketime, which leaves the monotonic clock alone, as a real jump does; earlier, if it came too late."""
    if LIBRARY is None:
        return Outcome(REFUSED, "not tried: there is no libfaketime")
    command, folder, now = case.command, bench.folder / "run", bench.folder / "now"
    now.write_text("+0\n")
    told = {"LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(now), "FAKETIME_NO_CACHE": "1"}
    told |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    running = command.begin(folder, bench.folder / "first.log", fresh=True, environment=told)
    share = bench.rng.uniform(latest / 2, latest)
    caught = _until(running, share, bench, f"{command.name} fresh")
    now.write_text(f"{case.how.split()[0]}\n")
    ended = running.wait()
    if ended.code != 0:
        return Outcome(WRONG, ended.said[-1500:])
    if not caught:
        shutil.rmtree(folder)
        return _jump(case, bench, latest / 2)
    outcome = compare(command, folder, bench)
    return outcome._replace(seen=outcome.seen or f"at {share:.2f} of its life")


def _aged(case, bench):
    command, folder, age_s = case.command, bench.folder / "run", int(case.how.split()[2]) * 365 * DAY_S
    running = command.begin(folder, bench.folder / "first.log")
    _until(running, bench.rng.uniform(0.4, 0.9), bench, f"{command.name} forked")
    running.send(signal.SIGKILL)
    running.wait()
    for path in (folder, *folder.rglob("*")) if folder.exists() else ():
        os.utime(path, (time.time() + age_s,) * 2)
    return after(command, folder, bench)
