"""Two runs in one folder: the first is halted in the middle, then goes on or is killed."""

import signal
import time

from faults.cases import IDENTICAL, WRONG, Case, Outcome, after, compare, in_a_line, last_line
from faults.disks import _until_it_writes


def cases(commands):
    """Of each command: the second begins anew or goes on; the first lives on or dies."""
    found = []
    for command in commands:
        run = _refused if command.resumes else _waits
        for second in ("begins", "goes on") if command.resumes else ("begins",):
            for first in ("lives on", "is killed"):
                found.append(Case(command, "two in one folder", f"the second {second}, the first {first}", run))
    return found


def _refused(case, bench):
    command, folder = case.command, bench.folder / "run"
    first = _halted(command, folder, bench)
    start = command.begin if "begins" in case.how else command.go_on
    second = start(folder, bench.folder / "second.log").wait()
    if not (second.code == 2 and in_a_line(second, str(folder), "another run is at work there")):
        first.send(signal.SIGKILL)
        first.wait()
        return Outcome(WRONG, f"the second: {last_line(second)} of {second.said[-1500:]}")
    outcome = _ended(case, first, folder, bench)
    return outcome._replace(seen=outcome.seen or last_line(second))


def _waits(case, bench):
    """kipx prepare waits for the other instead, and finds the data set prepared or prepares it itself."""
    command, folder = case.command, bench.folder / "run"
    first = _halted(command, folder, bench)
    second = command.begin(folder, bench.folder / "second.log")
    while second.alive() and not (second.log.exists() and "waiting" in second.log.read_text()):
        time.sleep(0.01)
    waited = second.alive()
    first.send(signal.SIGCONT if "lives" in case.how else signal.SIGKILL)
    codes = first.wait().code, second.wait().code
    if not waited or codes != (0 if "lives" in case.how else -signal.SIGKILL, 0):
        return Outcome(WRONG, f"waited: {waited}, exit codes {codes}: {second.log.read_text()[-1000:]}")
    return compare(command, folder, bench)


def _halted(command, folder, bench):
    first = command.begin(folder, bench.folder / "first.log")
    _until_it_writes(first, folder)
    first.send(signal.SIGSTOP)
    return first


def _ended(case, first, folder, bench):
    if "is killed" in case.how:
        first.send(signal.SIGKILL)
        first.wait()
        return after(case.command, folder, bench)
    first.send(signal.SIGCONT)
    ended = first.wait()
    if ended.code != 0:
        return Outcome(WRONG, f"the first: {ended.said[-1500:]}")
    outcome = compare(case.command, folder, bench)
    return outcome if outcome.end == IDENTICAL else outcome._replace(seen=f"the first {outcome.seen}")
