"""Refusals on the host, before anything is compiled: what was expected, what came, what to do."""

import contextlib
import math
import numbers
import reprlib

LARGEST = 2**63 - 1  # integer that an array holds
MANY = 10_000  # draws, networks or the like: more are a mistake
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlong = 40


class UserError(ValueError):
    """The user's mistake: one message, no traceback, exit code 2."""


class NumericalError(ArithmeticError):
    """The numbers gave out: state is saved, exit code 3."""


class EngineError(RuntimeError):
    """A process or a worker of the engine failed or is gone: state is saved, exit code 3."""


class StorageError(OSError):
    """A file cannot be written, for the reason in `strerror`: what was whole before is whole still, exit code 3."""

    def __init__(self, message, reason=None):
        super().__init__(message)
        self.strerror = reason


def integer(name, value, *, at_least, at_most=LARGEST):
    """Returns `value` if it is an integer from `at_least` to `at_most`, else raises UserError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not at_least <= value <= at_most:
        most = f" and <= {at_most}" if isinstance(value, numbers.Integral) and value > at_most else ""
        raise UserError(f"{name}: expected an integer >= {at_least}{most}, got {said(value)}")
    return int(value)


def positive(name, value):
    """Returns `value` if it is a finite number > 0, else raises UserError."""
    return _number(name, value, "a number > 0", lambda v: v > 0)


def not_negative(name, value):
    """Returns `value` if it is a finite number >= 0, else raises UserError."""
    return _number(name, value, "a number >= 0", lambda v: v >= 0)


def below_one(name, value):
    """Returns `value` if it is a number from 0 to below 1, else raises UserError."""
    return _number(name, value, "a number from 0 to below 1", lambda v: 0 <= v < 1)


def share(name, value):
    """Returns `value` if it is a number from 0 to 1, else raises UserError."""
    return _number(name, value, "a number from 0 to 1", lambda v: 0 <= v <= 1)


def one_of(name, value, choices):
    """Returns `value` if it is one of `choices`, else raises UserError."""
    if value not in choices:
        raise UserError(f"{name}: expected one of {', '.join(map(str, choices))}, got {said(value)}")
    return value


def byte_levels(what, pixels, otherwise=""):
    """Raises UserError unless an array's pixels are from 0 to 255; floats up to 1 are on another scale."""
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 255 or (high <= 1 and pixels.dtype.kind == "f"):
        raise UserError(f"{what} is for pixels from 0 to 255, got {low} to {high}; rescale the images{otherwise}")


def reason(error):
    """What an exception says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def said(value):
    """What a value looks like in a message: a line of bounded length, whatever it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python writes out
        return "an integer of thousands of digits"


def printable(text):
    """Text as one line of characters that can be seen, the others as escapes: no terminal obeys what a file says."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def text(name, value):
    """Returns `value` if it is text, else raises UserError."""
    if not isinstance(value, str):
        raise UserError(f"{name}: expected text, got {said(value)}")
    return value


def _number(name, value, expected, fits):
    if getattr(value, "ndim", None) == 0:  # an array of one number; one that is only traced has none yet
        with contextlib.suppress(TypeError):
            value = value.item()
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        sound = number and math.isfinite(value) and fits(value)
    except OverflowError:  # an integer beyond all floats
        sound = False
    if not sound:
        raise UserError(f"{name}: expected {expected}, got {said(value)}")
    return float(value)
