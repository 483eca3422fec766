"""Cases that nobody thought of: commands with random options, random data sets, damaged run folders.

    python tests/fuzz.py docs/results/fuzz.json docs/reliability.md

A case works; or it is refused as the user's mistake, with exit code 2, one line, and nothing left that looks like a
finished run; or its numbers give out, with exit code 3 and no summary. All else is a fault: a traceback, NaN in a file.
"""

import atexit
import collections
import functools
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import fuzz_cases
import in_process
import numpy as np
import section
from hypothesis import HealthCheck, Phase, given, seed, settings

from kipx import artifacts

WORKED, REFUSED, GAVE_OUT, FAULT = "worked", "refused", "numbers gave out", "faults"
KINDS = {"options": fuzz_cases.configs, "data": fuzz_cases.datasets, "run folders": fuzz_cases.harms}
CASES = {"options": 1700, "data": 150, "run folders": 200}  # of the long target
PART = 50  # cases that a process takes at a time
FINISHED = {"summary.json", "manifest.json", "evaluation.json", "plan.json"}


class Ground:
    """Where cases are tried: a folder with a data set, and a run that has ended."""

    def __init__(self, folder):
        self.home = pathlib.Path(folder)
        np.savez(self.home / "data.npz", **fuzz_cases.sound_data())
        ended = in_process.run(self.home, "distill", *fuzz_cases.COMMANDS["distill"], "hydra.run.dir=given")
        assert ended.code == 0, ended.err
        record = {"job": 0, "overrides": ["seed=0"], "code": 0, "message": "", "host": "elsewhere", "pid": 1}
        artifacts.write_json(self.home / "given" / artifacts.JOB, record)
        row = {"step": 1, "steps_before": 1, "steps": 2, "environment": {"devices": ["cpu"], "cpus": 2}}
        artifacts.write(self.home / "given" / artifacts.RESUMED, json.dumps(row) + "\n")

    def run(self, case):
        """(outcome, what was wrong or what was said) of a case, in a folder of its own."""
        with tempfile.TemporaryDirectory(dir=self.home) as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of libraries go to stderr, beside the one line
            folder = pathlib.Path(folder)
            self._lay_out(folder, case)
            before = set(in_process.files(folder))
            small = () if "resume=given" in case.arguments else fuzz_cases.COMMANDS[case.command]
            try:
                ended = in_process.run(folder, case.command, "--run", *small, *case.arguments)  # half of Hydra's time
            except (Exception, SystemExit) as error:
                return FAULT, "".join(traceback.format_exception(error)[-12:])
            wrong = list(_wrong(ended, [pathlib.Path(p) for p in set(in_process.files(folder)) - before]))
        return (FAULT, "\n".join(wrong)) if wrong else ({0: WORKED, 2: REFUSED, 3: GAVE_OUT}[ended.code], ended.err)

    def _lay_out(self, folder, case):
        arrays = fuzz_cases.sound_data()
        for name, what in case.data:
            fuzz_cases.change(arrays, name, what)
        np.savez(folder / "data.npz", **arrays)
        if case.command in fuzz_cases.NEED_A_RUN or case.harm:
            shutil.copytree(self.home / "given", folder / "given")
        for harm in case.harm:
            fuzz_cases.apply_harm(folder / "given", *harm)


def _wrong(ended, new):
    """What a command should not have done."""
    if ended.code not in (0, 2, 3):
        yield f"exit code {ended.code}: {ended.err}"
    last = ended.err.splitlines()[-1:]
    if ended.code and not (last and last[0].startswith("kipx: ") and last[0].isprintable()):
        yield f"exit code {ended.code} without its line: {ended.err!r}"
    if ended.code == 2 and ended.out:
        yield f"refused after it printed {ended.out!r}"
    for path in new:
        if ended.code and path.name in FINISHED:
            yield f"exit code {ended.code}, and yet there is {path.name}"
        yield from (f"{what} in {path.name}" for what in not_finite(path))


def not_finite(path):
    """What is NaN or infinite in a file that kipx wrote."""
    if path.name in ("support.npz", "set.npz", "label_solve.npz"):
        with np.load(path) as file:
            yield from (f"NaN or inf of {key}" for key in file if not np.isfinite(_numbers(file[key])).all())
    if path.name in FINISHED - {"manifest.json"} or path.suffix == ".jsonl":
        found = []
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line, parse_constant=found.append)
        yield from found


def _numbers(array):
    return array if array.dtype.kind in "fc" else np.zeros(0)


def explore(ground, kind, cases, key):
    """Tries random cases of a kind; the same for the same key.

    Returns:
      (Counter of (command, outcome), {what a fault has in common with others: (the first such case, what was wrong)}).
    """
    counts, faults = collections.Counter(), {}

    @seed(key)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind]())
    def one(case):
        outcome, said = ground.run(case)
        counts[case.command, outcome] += 1
        if outcome == FAULT and _common(said) not in faults:
            faults[_common(said)] = case, said
            print(case, said[-2000:], sep="\n", end=f"\n{'=' * 80}\n", flush=True)

    one()
    return counts, faults


def _common(said):
    lines = [line.strip() for line in said.splitlines()]
    ours = [line.partition(", in ")[0] for line in lines if line.startswith("File") and "/kipx/" in line]
    return f"{ours[-1] if ours else ''} {lines[-1][:60]}"


@functools.cache
def _ground():
    """The one of this process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Ground(folder)


def _part(part):
    return part[0], *explore(_ground(), *part)


def main(results, page, processes="2"):
    """Runs all cases in so many processes, writes counts and the page's section; exit code 1 if there were faults."""
    began, counts, faults = time.monotonic(), {kind: collections.Counter() for kind in KINDS}, []
    parts = [(key, kind, PART) for kind, cases in CASES.items() for key in range(cases // PART)]
    random.Random(0).shuffle(parts)  # so that a run that is stopped has tried some of each kind
    start = multiprocessing.get_context("spawn")
    with start.Pool(int(processes), maxtasksperchild=20) as pool:
        for kind, found, wrong in pool.imap_unordered(_part, [(kind, n, key) for key, kind, n in parts]):
            counts[kind].update(found)
            faults += [{"case": repr(case), "said": said.splitlines()[-1]} for case, said in wrong.values()]
            told = {
                "command": "make test-fuzz",
                "environment": artifacts.environment(),
                "processes": int(processes),
                "time_s": round(time.monotonic() - began),
                "counts": {k: [[*key, n] for key, n in sorted(of.items())] for k, of in counts.items()},
                "faults": faults,
            }
            artifacts.write_json(results, told)
            _write_section(pathlib.Path(page), _section(told))
            print(f"{sum(of.total() for of in counts.values())} cases, {told['time_s']} s", flush=True)
    return 1 if faults else 0


def _section(told):
    """The page's section, in Markdown."""
    outcomes = (WORKED, REFUSED, GAVE_OUT, FAULT)
    rows = []
    for kind, found in told["counts"].items():
        for command in sorted({command for command, _, _ in found}):
            of = {outcome: n for name, outcome, n in found if name == command}
            rows.append((kind, f"`{command}`", str(sum(of.values())), *(str(of.get(o, 0)) for o in outcomes)))
    total = [sum(int(row[i]) for row in rows) for i in range(2, 7)]
    rows.append(("all", "", *map(str, total)))
    table = ["| random | command | cases | " + " | ".join(outcomes) + " |", "|---|---|" + "--:|" * 5]
    table += ["| " + " | ".join(row) + " |" for row in rows]
    return TEXT.format(
        table="\n".join(table),
        total=total[0],
        minutes=told["time_s"] / 60,
        processes=told["processes"],
        **told["environment"],
    )


TEXT = """\
## Inputs that nobody thought of

`make test-fuzz` draws random commands: options of every group and of all kinds (wrong types, negative, zero, huge,
infinite, text, lists, unknown keys), data sets (types, shapes, NaN, constant images, classes without images, labels out
of range), and run folders with keys changed and bytes torn. Each either works, or is refused with exit code 2 and one
line, or stops with exit code 3 where the numbers give out. None may end in a traceback, write NaN into a file, or leave
what looks like a finished run after a refusal.

{table}

{total} cases in {minutes:.0f} minutes, {processes} at a time, on {cpus} cores; the counts are in
[results/fuzz.json](results/fuzz.json). `make test` tries a few dozen;
the tests named `test_untrusted_` attack by hand.
"""


def _write_section(page, text):
    page.write_text(section.replaced(page.read_text(), "fuzz", text))


if __name__ == "__main__":
    if sys.argv[1] in KINDS:  # to look into one kind: python tests/fuzz.py data 100 3
        with tempfile.TemporaryDirectory() as home:
            print(dict(explore(Ground(home), sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))[0]))
    else:
        sys.exit(main(*sys.argv[1:]))
