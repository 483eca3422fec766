"""Commands as processes that can be killed, starved and stopped: forked from a server with all imports, or fresh."""

import contextlib
import multiprocessing
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

TESTS = pathlib.Path(__file__).parents[1]
IMPORTED = [
    "PIL.JpegImagePlugin",
    "PIL.PpmImagePlugin",
    "faults.process",
    "kipx.augment",
    "kipx.arguments",
    "kipx.cli",
    "kipx.commands.distill",
    "kipx.commands.label_solve",
    "kipx.commands.prepare",
    "kipx.commands.transfer",
    "kipx.commands.transfer_set",
    "kipx.engine.dense",
    "kipx.finite.losses",
    "kipx.finite.train",
    "kipx.kernel",
    "kipx.merged",
    "kipx.optimizer",
    "mnist_in_small",
    "rich._emoji_codes",
    "scipy.linalg",
]
FORKED = multiprocessing.get_context("forkserver")
PATIENCE_S = 300


class Ended(NamedTuple):
    """How a process ended: its exit code, negative for a signal, what it said on stderr, and after how long."""

    code: int
    said: str
    took_s: float


class Running(NamedTuple):
    """A process that has been started."""

    process: Any
    log: pathlib.Path
    began: float
    reader: Any

    def alive(self):
        """Whether it still runs."""
        one = self.process
        return one.poll() is None if isinstance(one, subprocess.Popen) else one.is_alive()

    def send(self, number):
        """Sends a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive():
                os.kill(self.process.pid, number)

    def wait(self):
        """Waits for its end; what hangs is killed, and raises."""
        one = self.process
        try:
            if isinstance(one, subprocess.Popen):
                code = one.wait(PATIENCE_S)
            else:
                one.join(PATIENCE_S)
                code = one.exitcode
            assert code is not None, "it hangs"
        finally:
            self.send(signal.SIGKILL)
        if self.reader is not None:
            self.reader.join()
        said = self.log.read_text(errors="replace") if self.log.exists() else ""  # it may end before it begins one
        return Ended(code, said, time.monotonic() - self.began)


def start(arguments, log, *, fresh=False, limit=None, uid=None, environment=()):
    """Starts `kipx` with arguments; stderr goes to `log`.

    Args:
      fresh: as an interpreter of its own, with all its imports.
      limit: the most bytes that it may write into one file; uid: the user that it runs as.
      environment: variables beside those that are there, for a fresh one.
    """
    began, reader, to = time.monotonic(), None, log
    if limit is not None:  # which holds for stderr too, were it a file
        to = log.with_suffix(".pipe")
        os.mkfifo(to)
        reader = threading.Thread(target=lambda: log.write_bytes(to.read_bytes()))
        reader.start()
    if fresh:
        program = "import mnist_in_small; from kipx.cli import main; main()"
        told = {**os.environ, "PYTHONPATH": str(TESTS), **dict(environment)}
        with open(log, "wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments], stdout=subprocess.DEVNULL, stderr=err, env=told
            )
    else:
        process = FORKED.Process(target=_child, args=(arguments, str(to), limit, uid))
        process.start()
    return Running(process, log, began, reader)


def run(arguments, log, **how):
    """Starts it and waits for its end."""
    return start(arguments, log, **how).wait()


def _child(arguments, log, limit, uid):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    import mnist_in_small  # noqa: F401  kipx prepare is to find that one

    from kipx.cli import main

    sys.argv = ["kipx", *arguments]
    main()
