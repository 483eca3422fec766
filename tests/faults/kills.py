"""SIGKILL and SIGTERM at random moments of a run's whole life, and in the middle of what it writes."""

import random
import signal
import time

from faults.cases import IDENTICAL, WRONG, Case, Outcome, after, compare, last_line
from faults.commands import watch
from kipx import artifacts

FRESH, ANY, CHECKPOINT, ARTIFACT = 3, 11, 8, 8  # kills of each command, 30 together
TERMS = 4
GLANCE_S = 0.0003


def cases(commands, seed):
    """30 kills of each command, and some terminations."""
    found = []
    for command in commands:
        rng = random.Random(f"{seed} {command.name}")
        found += [
            Case(command, "SIGKILL", f"at {rng.random():.3f} of a new interpreter", _kill_at(True))
            for _ in range(FRESH)
        ]
        found += [Case(command, "SIGKILL", f"at {rng.random():.3f} of its life", _kill_at(False)) for _ in range(ANY)]
        for what, count in (("checkpoint", CHECKPOINT), ("artifact", ARTIFACT)):
            found += [
                Case(command, "SIGKILL", f"in the middle of {what} {rng.randrange(1, 13)}, {i}", _kill_in(what))
                for i in range(count)
            ]
        found += [Case(command, "SIGTERM", f"at {rng.random():.3f} of its life, {i}", _terminate) for i in range(TERMS)]
    return found


def _share(case):
    return float(case.how.split()[1].rstrip(","))


def _until(running, share, bench, name):
    """Waits for a share of what a run usually takes; whether it was still alive then."""
    ends = running.began + share * bench.took_s[name]
    while time.monotonic() < ends and running.alive():
        time.sleep(0.002)
    return running.alive()


def _kill_at(fresh):
    def run(case, bench):
        command, folder, share = case.command, bench.folder / "run", _share(case)
        key = f"{command.name} {'fresh' if fresh else 'forked'}"
        for turn in range(4):
            running = command.begin(folder, bench.folder / f"{turn}.log", fresh=fresh)
            if _until(running, share, bench, key):
                running.send(signal.SIGKILL)
                ended = running.wait()
                if ended.code == -signal.SIGKILL:
                    return after(command, folder, bench)
            ended = running.wait()  # it was faster than the last one
            bench.took_s[key] = ended.took_s
            folder = bench.folder / f"run{turn}"
        return Outcome(WRONG, "was never caught alive")

    return run


def _kill_in(what):
    def run(case, bench):
        command, pattern, wanted = case.command, case.command.parts[what], int(case.how.split()[5].rstrip(","))
        for turn in range(6):
            folder, seen = bench.folder / f"run{turn}", set()
            running = command.begin(folder, bench.folder / f"{turn}.log")
            while running.alive():
                seen |= watch(folder, pattern)
                if len(seen) >= wanted:
                    running.send(signal.SIGKILL)
                    break
                time.sleep(GLANCE_S)
            ended = running.wait()
            if ended.code == -signal.SIGKILL:
                left = " with a part left behind" if watch(folder, pattern) else ""
                outcome = after(command, folder, bench)
                return outcome._replace(seen=outcome.seen or f"killed{left}")
            wanted = max(1, min(len(seen), wanted // 2))  # so many were not to be seen
        return Outcome(WRONG, "was never caught writing")

    return run


def _terminate(case, bench):
    """A line that says how to go on, and exit code 143; before kipx runs, the system's own end."""
    command, folder = case.command, bench.folder / "run"
    running = command.begin(folder, bench.folder / "first.log")
    _until(running, _share(case), bench, f"{command.name} forked")
    running.send(signal.SIGTERM)
    ended = running.wait()
    begun = (folder / artifacts.CONFIG).exists()
    if ended.code == 0:
        outcome = compare(command, folder, bench)
        return outcome._replace(seen=outcome.seen or "it was too late to stop it")
    told = f"go on with kipx {command.name} resume={folder}" if command.resumes and begun else "kipx: "
    early = ended.code == -signal.SIGTERM and not begun and not ended.said
    if not early and not (ended.code == 143 and told in ended.said and "Traceback" not in ended.said):
        return Outcome(WRONG, last_line(ended))
    outcome = after(command, folder, bench)
    return outcome._replace(seen=last_line(ended)) if outcome.end == IDENTICAL else outcome
