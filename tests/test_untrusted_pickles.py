"""Attacks by .pt files that others wrote: no pickle runs, none floods memory or time."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from attacks import SECRET

from kipx import checks, formats
from kipx.formats import pt

pytestmark = pytest.mark.usefixtures("within_time")


def zipped(main, compressed=False, **storages):
    """A file of torch.save with another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", main)
        for name, content in storages.items():
            file.writestr(f"archive/data/{name}", content)
    return buffer.getvalue()


def calls(module, name, *arguments):
    return b"\x80\x02" + pickle.GLOBAL + f"{module}\n{name}\n".encode() + b"".join(_arguments(arguments)) + b"R."


def _arguments(values):
    yield pickle.MARK
    for value in values:
        yield b"X" + struct.pack("<I", len(value)) + value.encode() if isinstance(value, str) else value
    yield pickle.TUPLE


def nested(depth):
    """The opcodes of ((((), ()), ((), ())), ...): a few bytes that stand for 2**depth values."""
    return pickle.EMPTY_TUPLE + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + pickle.TUPLE2 for i in range(depth))


def tensor(name, size, numbers):
    """The opcodes of a tensor of `size` out of a storage."""
    key = b"".join(
        [
            *(pickle.MARK, *list(_arguments(["storage"]))[1:-1], pickle.GLOBAL + b"torch\nFloatStorage\n"),
            *list(_arguments([name, "cpu"]))[1:-1],
            b"J" + struct.pack("<i", numbers) + pickle.TUPLE + pickle.BINPERSID,
        ]
    )
    sizes = b"J" + struct.pack("<i", size) + pickle.TUPLE1
    stride = b"K\x01" + pickle.TUPLE1
    rebuild = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"
    return rebuild + pickle.MARK + key + b"K\x00" + sizes + stride + pickle.TUPLE + pickle.REDUCE


OWN = {"format": "kipx", "images": np.ones((1, 1, 2, 2), np.float32), "mean": np.ones((1, 1, 1)), "std": np.ones(1)}
PT = {
    "system": zipped(calls("os", "system", "touch pwned")),
    "posix": zipped(calls("posix", "system", "touch pwned")),
    "eval": zipped(calls("builtins", "eval", "open('pwned', 'w')")),
    "getattr": zipped(calls("builtins", "getattr", pickle.GLOBAL + b"os\nenviron\n", "clear")),
    "a function that is a function's result": zipped(
        calls("builtins", "getattr", pickle.GLOBAL + b"os\nx\n", "system")[:-1] + b"X\x01\0\0\0x" + b"\x85R."
    ),
    "a function by two names": zipped(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0btouch pwned\x85R."),
    "a function inside an ordered dict": zipped(
        calls("collections", "OrderedDict", calls("os", "system", "touch pwned")[2:-1])
    ),
    "torch's own": zipped(calls("torch.storage", "_load_from_bytes", "x")),
    "numpy's own": zipped(calls("numpy.core.multiarray", "_reconstruct", "x")),
    "an extension": zipped(b"\x80\x02\x82\x01."),
    "a key that takes years to hash": zipped(b"\x80\x02" + pickle.EMPTY_DICT + nested(60) + b"K\x01s."),
    "a size that takes years to write out": zipped(
        calls("torch._utils", "_rebuild_tensor", tensor("0", 1, 1), b"K\x00", nested(60), nested(60)), **{"0": bytes(4)}
    ),
    "names that take years to write out": zipped(
        b"\x80\x02" + b"".join(pt._encoded({**OWN, "class_names": 1}, []))[:-1] + b"X\x0b\0\0\0class_names"
        b"" + nested(60) + b"su."
    ),
    "a value that takes years": zipped(b"\x80\x02" + nested(60) + b"."),
    "a number of a gigabyte": zipped(b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"1."),
    "a negative length": zipped(b"\x80\x02\x8b" + struct.pack("<i", -1) + b"1."),
    "text of exabytes": zipped(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x."),
    "a storage of terabytes": zipped(b"\x80\x02" + tensor("0", 2**31 - 1, 2**31 - 1) + b".", **{"0": bytes(4)}),
    "a compressed pickle": zipped(b"\x80\x02" + b"N0" * 2**24 + b"N.", compressed=True),
    "a list of itself": zipped(b"\x80\x02]q\0h\0a."),
    "many lists in each other": zipped(b"\x80\x02" + b"]" * 20000 + b"a" * 19999 + b"."),
}


@pytest.mark.parametrize("attack", PT)
def test_no_pickle_runs_or_floods(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "set.pt"
    path.write_bytes(PT[attack])
    tracemalloc.start()
    with pytest.raises(checks.UserError) as refusal:
        formats.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**27 + 10 * len(PT[attack])
    tracemalloc.stop()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000
    assert os.listdir(tmp_path) == ["set.pt"]
    assert os.environ["SECRET"] == SECRET


def test_a_tensor_named_a_thousand_times_is_held_once(tmp_path):
    numbers = 2**18
    many = b"".join(tensor("0", numbers, numbers) for _ in range(1000))
    (tmp_path / "x.pt").write_bytes(zipped(b"\x80\x02](" + many + b"e.", **{"0": bytes(4 * numbers)}))
    tracemalloc.start()
    found = pt.read(tmp_path / "x.pt")
    assert len(found) == 1000
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
