"""What a case is, how its end is judged, and how many run at a time."""

import concurrent.futures
import random
import shutil
from collections.abc import Callable
from typing import NamedTuple

IDENTICAL, REFUSED, WRONG = "identical", "refused", "wrong"


class Case(NamedTuple):
    """One disturbance of one command.

    Attributes:
      command: faults.commands.Command.
      fault: its group in the table; how: what exactly is done.
      run: (Case, Bench) -> Outcome.
    """

    command: object
    fault: str
    how: str
    run: Callable


class Outcome(NamedTuple):
    """How a case ended, and in words what was seen."""

    end: str
    seen: str


class Bench(NamedTuple):
    """Where a case works.

    Attributes:
      folder: empty, its own.
      whole: {command: what a run leaves that nobody disturbed}; took_s: {command: its seconds, the last time}.
      rng: random.Random of this case alone.
    """

    folder: object
    whole: dict
    took_s: dict
    rng: random.Random


def in_a_line(ended, *names):
    """Whether a process refused in one line, without a traceback, that has all these words."""
    last = (ended.said.strip().splitlines() or [""])[-1]
    return (
        ended.code in (2, 3)
        and "Traceback" not in ended.said
        and last.startswith("kipx: ")
        and all(name in last for name in names)
    )


def last_line(ended):
    """What it said last, and its exit code."""
    return f"exit code {ended.code}: {(ended.said.strip().splitlines() or ['nothing'])[-1]}"


def compare(command, folder, bench):
    """Outcome of a folder whose run has ended well."""
    found, whole = command.traces(folder), bench.whole[command.name]
    different = sorted(key for key in whole.keys() | found.keys() if whole.get(key) != found.get(key))
    return Outcome(WRONG, f"differs in {', '.join(different)}") if different else Outcome(IDENTICAL, "")


def after(command, folder, bench, log="again.log", **how):
    """Goes on as a user would, to the end, and compares; a second refusal is wrong."""
    ended = command.go_on(folder, bench.folder / log, **how).wait()
    if ended.code == 0:
        return compare(command, folder, bench)
    return Outcome(WRONG, f"went on: {ended.said[-2000:]}")


def run_all(cases, whole, took_s, root, seed, workers):
    """[(Case, Outcome)] in order; each case has its own folder and its own random numbers."""

    def one(at):
        case = cases[at]
        folder = root / f"{at}"
        folder.mkdir()
        bench = Bench(folder, whole, took_s, random.Random(f"{seed} {case.command.name} {case.fault} {case.how}"))
        try:
            outcome = case.run(case, bench)
        except Exception as error:
            outcome = Outcome(WRONG, f"{type(error).__name__}: {error}")
        seen = outcome.seen if outcome.end == WRONG else ""
        print(f"{at + 1}/{len(cases)} {case.command.name}: {case.fault}, {case.how}: {outcome.end} {seen}", flush=True)
        if outcome.end != WRONG:
            shutil.rmtree(folder, ignore_errors=True)
        return case, outcome

    root.mkdir()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, range(len(cases))))
