"""safetensors, written and read without its library: a header of JSON, then the bytes of the arrays.

Source: the format's own description in huggingface/safetensors, README.md.
"""

import json
import math
import struct

import numpy as np

from kipx import artifacts, checks, untrusted
from kipx.formats import npz

FILE = "set.safetensors"
TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "BOOL": "|b1"}
_TEXT = ("class_names", "config")
_MOST_HEADER = 100_000_000  # bytes, the format's own limit


def files(distilled):
    """{name: bytes}: the arrays of `kipx.formats.npz`, images (n, h, w, c), text in the header.

    Args:
      distilled: kipx.artifacts.Distilled.
    """
    arrays = npz.arrays(distilled)
    notes = {"format": "kipx", "config": str(arrays["config"]), "class_names": json.dumps(distilled.class_names)}
    return {FILE: to_bytes({name: a for name, a in arrays.items() if name not in _TEXT}, notes)}


def to_bytes(arrays, notes):
    """A file of {name: array} and of notes {name: text}; equal values give equal bytes."""
    names = {np.dtype(dtype): name for name, dtype in TYPES.items()}
    header, end = {"__metadata__": notes}, 0
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))  # so that all are aligned
    for name, array in ordered:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for _, array in ordered)


def read(path, entry):
    """Reads one that kipx wrote.

    Args:
      path: pathlib.Path.
      entry: 0, there is one set in it.
    Returns:
      {name: array}, see `kipx.formats`.
    Raises:
      UserError: damaged, or not of kipx's writing.
    """
    checks.one_of("entry", entry, (0,))
    try:
        arrays, notes = from_bytes(path.read_bytes())
    except (ArithmeticError, LookupError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise checks.UserError(f"{path}: is no safetensors, or a damaged one ({checks.reason(error)})") from error
    try:
        names = untrusted.from_json(notes["class_names"])
        text = {"config": np.asarray(notes["config"]), "class_names": untrusted.texts(names)}
    except (KeyError, TypeError, untrusted.Damaged) as error:
        raise checks.UserError(f"{path}: expected what kipx export wrote, got notes {', '.join(notes)}") from error
    artifacts.check_whole(arrays | text, path)
    return arrays | text


def from_bytes(content):
    """({name: array}, notes) of a file; ValueError, KeyError or the like where it is damaged."""
    (size,) = struct.unpack("<Q", content[:8])
    if size > min(len(content) - 8, _MOST_HEADER):
        raise ValueError(f"a header of {size} bytes")
    header, data = untrusted.from_json(content[8 : 8 + size]), memoryview(content)[8 + size :]
    notes, arrays, taken = header.pop("__metadata__", {}), {}, 0
    for name, entry in header.items():
        dtype, shape, (start, end) = np.dtype(TYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        if any(type(n) is not int or n < 0 for n in (*shape, start, end)) or end > len(data):
            raise ValueError(f"{name} lies outside the file")
        if end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has {end - start} bytes for {shape}")
        if (taken := taken + end - start) > len(data):
            raise ValueError(f"{name} overlaps another")
        arrays[name] = np.frombuffer(data[start:end], dtype).reshape(shape)
    return arrays, {str(key): str(value) for key, value in notes.items()}
