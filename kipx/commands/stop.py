"""How a run is stopped: signals are noted, the run saves its state, and its message says how to go on."""

import contextlib
import shlex
import signal
import threading

from kipx import checks
from kipx.engine import hosts


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop; its state is saved. `number` is the signal's."""

    def __init__(self, number, message):
        super().__init__(message)
        self.number = number


class signals:
    """Notes SIGINT and SIGTERM in a list instead of dying of them; a second SIGINT does not wait.

    A second SIGTERM changes nothing: schedulers send several, and SIGKILL to who takes too long.
    """

    def __enter__(self):
        self.caught, self.before = [], {}
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self.caught

    def note(self, number, _):
        """Is the handler."""
        self.caught.append(number)
        signal.signal(number, self.before[number] if number == signal.SIGINT else signal.SIG_IGN)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def check(caught, where):
    """Raises Stopped if any process has caught a signal; all of them must ask."""
    if hosts.any_of(bool(caught)):
        raise Stopped(caught[0] if caught else signal.SIGTERM, f"stopped at {where}")


@contextlib.contextmanager
def resumable(command, folder):
    """Ends the message of what stopped the run with how to go on."""
    try:
        yield
    except (KeyboardInterrupt, checks.EngineError, checks.StorageError) as stopped:
        if hosts.leads():
            typed = shlex.join(["kipx", command, f"resume={folder}"])
            stopped.args = (f"{str(stopped) or 'interrupted'}; go on with {typed}",)
        raise
