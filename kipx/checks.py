"""Refusals on the host, before anything is compiled: what was expected, what came, what to do."""

import math
import numbers


class UserError(ValueError):
    """The user's mistake: one message, no traceback, exit code 2."""


class NumericalError(ArithmeticError):
    """The numbers gave out: state is saved, exit code 3."""


class EngineError(RuntimeError):
    """A process or a worker of the engine failed or is gone: state is saved, exit code 3."""


class StorageError(RuntimeError):
    """A file cannot be written: what was whole before is whole still, exit code 3."""


def integer(name, value, *, at_least):
    """Returns `value` if it is an integer >= `at_least`, else raises UserError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
        raise UserError(f"{name}: expected an integer >= {at_least}, got {value!r}")
    return int(value)


def positive(name, value):
    """Returns `value` if it is a finite number > 0, else raises UserError."""
    return _number(name, value, "a number > 0", lambda v: v > 0)


def not_negative(name, value):
    """Returns `value` if it is a finite number >= 0, else raises UserError."""
    return _number(name, value, "a number >= 0", lambda v: v >= 0)


def share(name, value):
    """Returns `value` if it is a number from 0 to 1, else raises UserError."""
    return _number(name, value, "a number from 0 to 1", lambda v: 0 <= v <= 1)


def one_of(name, value, choices):
    """Returns `value` if it is one of `choices`, else raises UserError."""
    if value not in choices:
        raise UserError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")
    return value


def _number(name, value, expected, fits):
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not fits(value):
        raise UserError(f"{name}: expected {expected}, got {value!r}")
    return float(value)
