"""A command of kipx in this process, as a user types it: its exit code and what it prints."""

import contextlib
import io
import os
import sys
from typing import NamedTuple

from kipx import cli


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run(folder, *arguments):
    """Runs a command in a folder; both streams are as strict as a terminal's."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", how) for how in ("strict", "backslashreplace"))
    before = sys.argv
    try:
        sys.argv = ["kipx", *arguments]
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(arguments[0], list(arguments[1:]))
    finally:
        sys.argv = before
    return Ended(code, *(_text(stream) for stream in (out, err)))


def refused(ended):
    """Whether a command ended as it should after a user's mistake: one line on stderr, nothing else."""
    one_line = ended.err.startswith("kipx: ") and ended.err.count("\n") == 1
    return ended.code == 2 and one_line and ended.out == ""


def files(folder):
    """The files below a folder, as text."""
    return sorted(os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)


def _text(stream):
    stream.flush()
    return stream.buffer.getvalue().decode()
