"""Runs the suite, writes its JSON and its section of the page; exit code 1 if a case ended otherwise than promised."""

import itertools
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
    """All faults, or those that are named (twos, disks, damage, kills, clocks), of all commands or those that are.

    What a fault of a command gave is written when all its cases have ended; what others gave before stays.
    """
    root = pathlib.Path(tempfile.mkdtemp(prefix="kipx-faults-"))
    _surround(root)
    from faults import commands, process

    process.FORKED.set_forkserver_preload(process.IMPORTED)
    with commands.serving() as address:
        os.environ["MNIST_IN_SMALL"] = address
        made = commands.make(root)
        wanted = {command.name for command in made if command.name in only}
        wrong, faults = 0, set(only) - wanted
        for name, minutes, ended in _tried(made, root, faults, wanted):
            cases = [_as_json(case, outcome, root) for case, outcome in ended]
            wrong += sum(case["end"] == "wrong" for case in cases)
            print(f"{name}, seed {SEED}: {len(cases)} cases in {minutes:.1f} minutes, {wrong} wrong so far", flush=True)
            _write(pathlib.Path(json_path), pathlib.Path(page_path), name, {"minutes": minutes, "cases": cases})
    if not wrong:
        shutil.rmtree(root)
    return int(bool(wrong))


def _as_json(case, outcome, root):
    seen = outcome.seen.replace(str(root), "<folder>")
    return {"command": case.command.name, "fault": case.fault, "how": case.how, "end": outcome.end, "seen": seen}


def _write(json_path, page_path, name, part):
    import section

    from faults import page

    result = json.loads(json_path.read_text()) if json_path.exists() else {"parts": {}}
    result.update(seed=SEED, machine=_machine())
    result["parts"][name] = {"minutes": round(part["minutes"], 1), "cases": part["cases"]}
    json_path.write_text(json.dumps(result, indent=1) + "\n")
    page_path.write_text(section.replaced(page_path.read_text(), page.SECTION, page.section(result)))


def _surround(root):
    """What all processes find in their environment: one cache of compiled programs, two devices."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "jax"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ["JAX_NUM_CPU_DEVICES"] = "2"
    logging.disable(logging.ERROR)


def _tried(commands, root, faults, wanted):
    """Yields (fault and command, minutes, [(Case, Outcome)])."""
    from faults import cases, clocks, damage, disks, kills, twos

    whole, took_s = _undisturbed(commands, root)
    finished = {command.name: whole[f"{command.name} folder"] for command in commands}
    parts = {
        "twos": twos.cases(commands),
        "disks": disks.cases(commands),
        "damage": damage.cases(commands, finished),
        "kills": kills.cases(commands, SEED),
        "clocks": clocks.cases(commands),
    }
    for fault, command in itertools.product(parts, reversed(commands)):
        if fault in (faults or parts) and command.name in (wanted or finished):
            began, name = time.monotonic(), f"{fault} {command.name}"
            found = [case for case in parts[fault] if case.command is command]
            ended = cases.run_all(found, whole, took_s, root / name.replace(" ", "_"), SEED, WORKERS)
            yield name, (time.monotonic() - began) / 60, ended


def _undisturbed(commands, root):
    """What runs leave that nobody disturbs, which is the same twice, and how long they take."""
    from faults import disks

    whole, took_s = {}, {}
    (root / "whole").mkdir()
    for command in commands:
        for kind in ("fresh", "forked"):
            folder = root / "whole" / f"{command.name}_{kind}"
            ended = command.begin(folder, root / "whole" / f"{command.name}.log", fresh=kind == "fresh").wait()
            assert ended.code == 0, ended.said
            took_s[f"{command.name} {kind}"] = ended.took_s
            print(f"{command.name}, {kind}: {ended.took_s:.1f} s", flush=True)
            found = command.traces(folder)
            assert whole.setdefault(command.name, found) == found, f"{command.name} is not the same twice"
        whole[f"{command.name} folder"], whole[f"{command.name} sizes"] = folder, disks.sizes(folder)
    return whole, took_s


def _machine():
    import jax

    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, JAX {jax.__version__}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
