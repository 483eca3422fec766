"""Runs the suite, writes its JSON and its section of the page; exit code 1 if a case ended otherwise than promised."""

import json
import logging
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import time

SEED = 8
WORKERS = 2


def main(json_path, page_path, *only):
    """The whole suite, or the faults that are named, kills, disks, clocks, twos, damage, of the commands that are."""
    began = time.monotonic()
    root = pathlib.Path(tempfile.mkdtemp(prefix="kipx-faults-"))
    _surround(root)
    from faults import commands, page, process

    process.FORKED.set_forkserver_preload(process.IMPORTED)

    with commands.serving() as address:
        os.environ["MNIST_IN_SMALL"] = address
        results = _tried(commands.make(root), root, only)
    cases = [
        {
            "command": case.command.name,
            "fault": case.fault,
            "how": case.how,
            "end": outcome.end,
            "seen": _short(outcome, root),
        }
        for case, outcome in results
    ]
    wrong = [case for case in cases if case["end"] == "wrong"]
    minutes = (time.monotonic() - began) / 60
    result = {"seed": SEED, "minutes": round(minutes, 1), "machine": _machine(), "cases": cases}
    if not only:
        pathlib.Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
        path = pathlib.Path(page_path)
        path.write_text(page.replaced(path.read_text(), page.SECTION, page.section(result)))
    print(f"test-faults: seed {SEED}, {len(cases)} cases in {minutes:.1f} minutes, {len(wrong)} ended wrong")
    if not wrong:
        shutil.rmtree(root)
    return int(bool(wrong))


def _surround(root):
    """What all processes find in their environment: one cache of compiled programs, two devices."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "jax"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ["JAX_NUM_CPU_DEVICES"] = "2"
    logging.disable(logging.ERROR)


def _tried(commands, root, only):
    from faults import cases, clocks, damage, disks, kills, twos

    whole, took_s = {}, {}
    for command in commands:
        for kind in ("fresh", "forked"):
            folder = root / "whole" / f"{command.name} {kind}"
            folder.parent.mkdir(exist_ok=True)
            ended = command.begin(folder, root / "whole" / f"{command.name}.log", fresh=kind == "fresh").wait()
            assert ended.code == 0, ended.said
            took_s[f"{command.name} {kind}"] = ended.took_s
            print(f"{command.name}, {kind}: {ended.took_s:.1f} s", flush=True)
            found = command.traces(folder)
            assert whole.setdefault(command.name, found) == found, f"{command.name} is not the same twice"
        whole[f"{command.name} folder"], whole[f"{command.name} sizes"] = folder, disks.sizes(folder)
    wanted = [command for command in commands if command.name in only]
    faults, wanted = set(only) - {command.name for command in wanted}, wanted or commands
    finished = {command.name: whole[f"{command.name} folder"] for command in commands}
    parts = {
        "damage": lambda: damage.cases(commands, finished),
        "disks": lambda: disks.cases(commands),
        "twos": lambda: twos.cases(commands),
        "clocks": lambda: clocks.cases(commands),
        "kills": lambda: kills.cases(commands, SEED),
    }
    tried = [case for name, make in parts.items() if not faults or name in faults for case in make()]
    found = [case for case in tried if case.command in wanted]
    (root / "cases").mkdir()
    return cases.run_all(found, whole, took_s, root / "cases", SEED, WORKERS)


def _short(outcome, root):
    return outcome.seen.replace(str(root), "<folder>")


def _machine():
    import jax

    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, JAX {jax.__version__}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
