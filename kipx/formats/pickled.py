"""Pickles without `pickle`: an interpreter of the few opcodes that plain values need, which calls nothing by its name.

A file may name any function; here a name is text, and what a reader does not allow by that text is refused.
"""

import pickletools
from typing import NamedTuple

from kipx import checks

_MARK = object()
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_KEYS = (str, bytes, int, float, type(None))
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Name(NamedTuple):
    """A function or class that a pickle names; never looked up."""

    text: str


class Inert:
    """A value that a reader allows and does not need: a numpy number among the notes, say."""


def load(stream, *, call, storage=lambda key: None):
    """Reads one pickle.

    Args:
      stream: bytes, or a binary file, which is left behind the pickle.
      call: (name, arguments) -> value, for what the pickle wants called; raises UserError to refuse.
      storage: persistent id -> value.
    Returns:
      Its value, of None, bool, int, float, str, bytes, tuple, list, dict, and what `call` and `storage` return.
    Raises:
      UserError: an opcode that plain values do not need; ValueError, KeyError, IndexError, TypeError: damaged.
    """
    machine = _Machine(call, storage)
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            break
        machine.do(opcode.name, argument)
    (value,) = machine.stack
    return value


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, call, storage):
        self.stack, self.memo, self.call, self.storage = [], {}, call, storage

    def do(self, name, argument):
        """One opcode."""
        if name in _VALUES:
            self.stack.append(_VALUES[name])
        elif name in _ARGUMENTS:
            self.stack.append(argument)
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[name])))
        elif name not in ("PROTO", "FRAME"):
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise checks.UserError(f"expected tensors, lists, dicts, numbers and text, got a pickle's {name}")
            step(argument)

    def _pop(self, count):
        if count > len(self.stack):
            raise IndexError("a pickle takes more than there is")
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found

    def _to_mark(self):
        count = next(count for count, value in enumerate(reversed(self.stack)) if value is _MARK)
        return self._pop(count + 1)[1:]

    def _mark(self, _):
        self.stack.append(_MARK)

    def _tuple(self, _):
        self.stack.append(tuple(self._to_mark()))

    def _append(self, _):
        (value,) = self._pop(1)
        self._extend([value])

    def _appends(self, _):
        self._extend(self._to_mark())

    def _extend(self, values):
        if not isinstance(self.stack[-1], list):
            raise TypeError("a pickle appends to what is no list")
        self.stack[-1].extend(values)

    def _setitem(self, _):
        self._update(self._pop(2))

    def _setitems(self, _):
        self._update(self._to_mark())

    def _update(self, pairs):
        if not isinstance(self.stack[-1], dict):
            raise TypeError("a pickle sets an item of what is no dict")
        if not all(isinstance(key, _KEYS) for key in pairs[::2]):  # a tuple of tuples may take years to hash
            raise TypeError("a pickle has a key that is neither a number nor text")
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))

    def _global(self, argument):
        self.stack.append(Name(argument.replace(" ", ".")))

    def _stack_global(self, _):
        self.stack.append(Name(".".join(self._pop(2))))

    def _reduce(self, _):
        function, arguments = self._pop(2)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise checks.UserError("a pickle calls what is no function")
        self.stack.append(self.call(function.text, arguments))

    def _build(self, _):
        self._pop(1)
        if not isinstance(self.stack[-1], Inert | dict):  # an ordered dict may have notes, which are dropped
            raise checks.UserError("expected plain values, got a pickle that sets an object's state")

    def _binpersid(self, _):
        (key,) = self._pop(1)
        self.stack.append(self.storage(key))

    def _binput(self, place):
        self.memo[place] = self.stack[-1]

    _long_binput = _binput

    def _memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def _binget(self, place):
        self.stack.append(self.memo[place])

    _long_binget = _binget
