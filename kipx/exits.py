"""Exit codes, and what went wrong in one line.

0 done, 1 a fault of ours, 2 the user's mistake, 3 numerical failure, a process or worker lost or a disk full, 130 and
143 interrupted.
"""

import errno
import os
import re
import signal
import sys

from hydra.errors import HydraException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from kipx import checks
from kipx.notes import note

_CODES = {checks.UserError: 2, checks.NumericalError: 3, checks.EngineError: 3, checks.StorageError: 3}
_FOLDER = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
OURS = 1


def explain(error, command):
    """(exit code, one line) of an exception; code 1 where nobody foresaw it, and a traceback is due."""
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code, str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return 3, f"out of memory ({checks.printable(error)[:200]}); ask for less: kipx plan says what a run takes"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return 2, _in_one_line(error, command)
    if isinstance(error, OSError) and error.errno in _NO_PATH:
        return 2, f"{checks.said(error.filename)}: {error.strerror}; give another path"
    if isinstance(error, OSError) and error.errno in _FOLDER and error.filename:  # Hydra's, of the run folder
        return 2, f"{error.filename}: {error.strerror}; let it be written, or set another hydra.run.dir"
    if isinstance(error, KeyboardInterrupt):
        return 128 + getattr(error, "number", signal.SIGINT), str(error) or "interrupted"
    return OURS, f"{type(error).__name__}: {error}"


def say(code, message):
    """Prints the line to stderr; returns the code."""
    note(message)
    return code


def heed_sigterm():
    """Lets SIGTERM end this process as ctrl-c does, with a message, wherever a run does not note it itself."""
    signal.signal(signal.SIGTERM, _terminated)


def _terminated(number, _):
    error = KeyboardInterrupt("terminated")
    error.number = number
    raise error


def leave(code):
    """Exits. One of several processes that failed goes at once: saying goodbye, it would wait for the others."""
    if code and one_of_many():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def one_of_many():
    """Whether this process is one of several of a run."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _in_one_line(error, command):
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: expected a value, got none; give {error.full_key}=..."
    lines = [line.strip() for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    unknown = re.match(r"Could not override '(.*)'", lines[0]) if lines else None
    if unknown:
        return f"{unknown[1]}: unknown key or group; kipx {command} --help lists them"
    launcher = re.match(r"Could not find 'hydra/launcher/(joblib|submitit_local|submitit_slurm|ray)'", " ".join(lines))
    if launcher:
        extra = "ray-launcher" if launcher[1] == "ray" else "launchers"
        return f"hydra/launcher={launcher[1]}: is not installed; pip install 'kipx[{extra}]'"
    return " ".join(lines) or type(error).__name__
