"""Files that others may have written: plain values come out, and nothing that a file states is believed unchecked."""

import json
import math
import zipfile

import numpy as np
import yaml

from kipx import checks, machine

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Damaged(checks.UserError):
    """A file that is not read, for the reason that it states in one line."""


def npz(path):
    """{name: array} of an npz; nothing is ever unpickled, and no memory is taken for what is not there.

    Raises:
      Damaged: torn, no npz, with objects, with an array of another size than it states, or of more than the memory.
    """
    try:
        with zipfile.ZipFile(path) as file:
            check_size(sum(entry.file_size for entry in file.infolist()))
            return {entry.filename.removesuffix(".npy"): _array(file, entry) for entry in file.infolist()}
    except Exception as error:  # damaged bytes lead the readers of zips and arrays to errors of every kind
        raise Damaged(checks.reason(error)) from error


def check_size(size):
    """Raises Damaged if a file states more bytes than this machine has memory."""
    most = machine.host_memory()
    if most is not None and size > most:
        raise Damaged(f"it states {size} bytes, more than this machine's memory")


def _array(file, entry):
    with file.open(entry) as stream:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        stated, held = math.prod(shape) * dtype.itemsize, entry.file_size - stream.tell()
        if dtype.hasobject:
            raise Damaged(f"{entry.filename} holds objects, which could run anything")
        if stated != held:
            raise Damaged(f"{entry.filename} has {held} bytes, {shape} of {dtype} take {stated}")
    with file.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


class _Plain(yaml.SafeLoader):
    """Without aliases, a few lines of which can stand for more than any memory holds."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise Damaged("it has aliases, which kipx never writes")
        return super().compose_node(parent, index)


def from_yaml(text):
    """The value that YAML holds, of None, bool, int, float, str, list, dict, date and bytes.

    Raises:
      Damaged: torn, no YAML, with tags of Python's, or with aliases.
    """
    try:
        return yaml.load(text, _Plain)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"no plain YAML: {checks.reason(error)}") from error


def texts_in(value):
    """Yields every text in nested dicts and lists, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from texts_in(part)


def texts(values):
    """An array of texts, of a list of them.

    Raises:
      TypeError: it is something else.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("expected a list of text")
    return np.asarray(values, dtype=np.str_)


def from_json(text):
    """The value that JSON holds.

    Args:
      text: str or bytes.
    Raises:
      Damaged: torn, or no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"no JSON: {checks.reason(error)}") from error
