"""What cores and what memory there are: of this machine, or what the process is confined to, and of a device."""

import os
import pathlib
from typing import NamedTuple

GROUPS = pathlib.Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """Bytes that a run may take.

    Attributes:
      host: of this machine, or less where the process is confined; None if nobody knows.
      device: of one accelerator; None on a CPU, whose memory is the host's.
    """

    host: int | None
    device: int | None


def cores():
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def memory():
    """The Memory there is, whether free or not: what is not free now may be so in a minute."""
    import jax  # takes a second, and files are read without it

    stats = jax.local_devices()[0].memory_stats() or {}
    return Memory(host_memory(), stats.get("bytes_limit"))


def host_memory():
    """The bytes of `Memory.host`; wakes no device."""
    return min((size for size in (_physical(), *_confined()) if size), default=None)


def _physical():
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def _confined(groups=GROUPS, own=pathlib.Path("/proc/self/cgroup")):
    """Limits of the control groups that the process is in, of either version."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    places = {"": (".", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}
    for _, controllers, path in lines:
        for name in controllers.split(","):
            if name in places:
                folder, file = places[name]
                for at in (groups / folder / path.lstrip("/") / file, groups / folder / file):
                    yield _number(at)


def _number(path):
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # 'max' is no limit
