"""Disks that are full or read-only."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

from faults.cases import REFUSED, WRONG, Case, Outcome, after, compare, in_a_line, last_line
from kipx import artifacts

NOBODY = 65534
PAGE = 4096
LIMITS = (0.0, 0.1, 0.3, 0.6)  # of the largest file that it writes


def cases(commands):
    """Of each command: no file larger than a limit, a small tmpfs, and folders that cannot be written."""
    found = []
    for command in commands:
        found += [Case(command, "disk full", f"RLIMIT_FSIZE {share} of its largest file", _limited) for share in LIMITS]
        found += [Case(command, "disk full", f"tmpfs of {share} of what it needs", _small) for share in (0.3, 0.7)]
        found += [
            Case(command, "read-only folder", how, _read_only) for how in ("before it begins", "before it goes on")
        ]
    return found


def sizes(folder):
    """Bytes of each file below a folder."""
    return sorted(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def _limited(case, bench):
    command, folder = case.command, bench.folder / "run"
    limit = int(float(case.how.split()[1]) * bench.whole[f"{command.name} sizes"][-1]) + 1
    return _starved(command, folder, bench, command.begin(folder, bench.folder / "first.log", limit=limit).wait())


def _starved(command, folder, bench, ended):
    """It must have said what could not be written; with room it goes on."""
    if ended.code == 0:
        outcome = compare(command, folder, bench)
        return outcome._replace(seen=outcome.seen or "it had enough")
    if not in_a_line(ended, str(folder)):
        return Outcome(WRONG, f"{last_line(ended)} of {ended.said[-1500:]}")
    outcome = after(command, folder, bench)
    return outcome._replace(seen=outcome.seen or last_line(ended))


def can_mount():
    """Whether this process may mount."""
    return (
        os.geteuid() == 0
        and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


@contextlib.contextmanager
def _tmpfs(folder, size):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder], check=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _small(case, bench):
    command, share = case.command, float(case.how.split()[2])
    if not can_mount():
        return Outcome(REFUSED, "not tried: this user may not mount")
    pages = sum(-(-size // PAGE) for size in bench.whole[f"{command.name} sizes"])
    with _tmpfs(bench.folder / "disk", int(share * pages) * PAGE) as remount:
        folder = bench.folder / "disk" / "run"
        ended = command.begin(folder, bench.folder / "first.log").wait()
        remount("size=64m")
        return _starved(command, folder, bench, ended)


def _read_only(case, bench):
    """By a tmpfs that is mounted read-only, or as a user who may not write there."""
    if can_mount():
        with _tmpfs(bench.folder / "disk", "64m") as remount:
            return _refused(case, bench, bench.folder / "disk", lambda: remount("ro"), lambda: remount("rw"), None)
    (bench.folder / "disk").mkdir()
    for path in (*reversed(bench.folder.parents), bench.folder):
        with contextlib.suppress(OSError):
            path.chmod(path.stat().st_mode | 0o055)
    uid = NOBODY if os.geteuid() == 0 else None
    shut = lambda: _chmod(bench.folder / "disk", 0o555)  # noqa: E731
    return _refused(case, bench, bench.folder / "disk", shut, lambda: _chmod(bench.folder / "disk", 0o755), uid)


def _chmod(folder, mode):
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(mode)


def _refused(case, bench, disk, shut, opened, uid):
    command, folder = case.command, disk / "run"
    if case.how == "before it goes on":
        running = command.begin(folder, bench.folder / "killed.log")
        _until_it_writes(running, folder)
        running.send(signal.SIGKILL)
        running.wait()
    shut()
    ended = command.go_on(folder, bench.folder / "first.log", uid=uid).wait()
    opened()
    if not in_a_line(ended, str(disk)):
        return Outcome(WRONG, f"{last_line(ended)} of {ended.said[-1500:]}")
    by = "as another user" if uid else "read-only mount"
    outcome = after(command, folder, bench)
    return outcome._replace(seen=outcome.seen or f"{by}; {last_line(ended)}")


def _until_it_writes(running, folder):
    while running.alive() and not ((folder / artifacts.METRICS).exists() or (folder / "incomplete.mnist").exists()):
        time.sleep(0.002)
