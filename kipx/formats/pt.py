"""The files of `torch.save`, written and read without torch: plain values and tensors, and nothing that could run.

Source: torch/serialization.py of pytorch/pytorch; the zip of torch >= 1.6, and to read the older file too.
"""

import functools
import io
import math
import pickle
import struct
import zipfile

import numpy as np

from kipx import checks
from kipx.formats import pickled

STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
_INERT = (
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "_codecs.encode",  # bytes in a pickle of protocol 2
)
_OLD = 0x1950A86A20F9469CFC6C  # the number that a file from before the zip begins with
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)


def read(path):
    """The value that a file holds, tensors as arrays.

    Raises:
      UserError: no file of torch.save, damaged, or with something other than tensors of plain types, lists, tuples,
        dicts, numbers and text. Nothing in it is ever run.
    """
    content = path.read_bytes()
    try:
        return _read_zip(content) if content.startswith(b"PK") else _read_old(content)
    except checks.UserError as error:
        raise checks.UserError(f"{path}: {error}; nothing in it was run") from error
    except Exception as error:  # damaged bytes lead the readers of zips and opcodes to errors of every kind
        reason = checks.reason(error)
        raise checks.UserError(f"{path}: is no file of torch.save, or a damaged one ({reason})") from error


def _read_zip(content):
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        (main,) = [name for name in file.namelist() if name.rpartition("/")[2] == "data.pkl"]
        prefix = main.removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
            raise ValueError("torch.save does not compress")
        if f"{prefix}byteorder" in file.namelist() and file.read(f"{prefix}byteorder") != b"little":
            raise checks.UserError("expected little-endian numbers; save it again on another machine")
        known = functools.cache(lambda name: file.read(f"{prefix}data/{name}"))

        def storage(key):
            _, dtype, name, size = _storage(key)
            content = known(name)
            if len(content) < size * dtype.itemsize:
                raise ValueError(f"storage {name} has {len(content)} bytes")
            return np.frombuffer(content, dtype, count=size)

        return pickled.load(file.read(main), call=_call, storage=storage)


def _read_old(content):
    stream, sizes = io.BytesIO(content), {}
    if pickled.load(stream, call=_call) != _OLD:
        raise ValueError("its first number is another")
    for _ in range(2):  # the version, the machine's sizes
        pickled.load(stream, call=_call)
    start = stream.tell()

    def note(key):
        _, dtype, name, size = _storage(key)
        sizes[name] = dtype, size
        return np.zeros(0, dtype)

    def call(name, arguments):
        return pickled.Inert() if name.startswith("torch._utils._rebuild") else _call(name, arguments)

    pickled.load(stream, call=call, storage=note)
    found = {}
    for name in pickled.load(stream, call=_call):
        dtype, size = sizes[name]
        (stated,) = struct.unpack("<q", stream.read(8))
        if stated != size:
            raise ValueError(f"storage {name} has {stated} numbers")
        found[name] = np.frombuffer(stream.read(size * dtype.itemsize), dtype, count=size)
    stream.seek(start)
    return pickled.load(stream, call=_call, storage=lambda key: found[key[2]])


def _storage(key):
    """(kind, dtype, name, size) of a persistent id, which may say more."""
    kind, storage, name, _, size = key[:5]
    known = storage.text.rpartition(".")[2]
    if kind != "storage" or known not in STORAGES or not storage.text.startswith("torch."):
        raise checks.UserError(
            f"expected tensors of {', '.join(STORAGES)}, got {storage.text!r}; save it again as float"
        )
    return kind, np.dtype(STORAGES[known]), str(name), checks.integer("storage", size, at_least=0)


def _call(name, arguments):
    """What a pickle may have made: tensors, ordered dicts, and what is not looked into."""
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return _tensor(*arguments[:4])
    if name == "torch._utils._rebuild_parameter":
        return arguments[0]
    if name == "collections.OrderedDict":
        return {}
    if name in _INERT:
        return pickled.Inert()
    raise checks.UserError(f"expected tensors, lists, dicts, numbers and text, got a pickle that calls {name!r}")


def _tensor(numbers, offset, size, stride):
    """An array from a stretch of a storage, which nobody can write to."""
    if not all(checks.integer("tensor", n, at_least=0) >= 0 for n in (offset, *size, *stride)):
        raise ValueError("a tensor of negative size")
    count = math.prod(size)
    if not count:
        return np.zeros(size, numbers.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= len(numbers) or count > len(numbers):
        raise ValueError(f"a tensor of {size} in {len(numbers)} numbers")
    steps = [step * numbers.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False)


def to_bytes(value):
    """A file that `torch.load(weights_only=True)` reads; equal values give equal bytes.

    Args:
      value: of None, bool, int, float, str, tuple, list, dict; arrays become tensors.
    """
    storages = []
    main = b"\x80\x02" + b"".join(_encoded(value, storages)) + pickle.STOP
    records = {"data.pkl": main, "byteorder": b"little", "version": b"3\n"}
    records |= {f"data/{place}": array.tobytes() for place, array in enumerate(storages)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, content in records.items():
            file.writestr(zipfile.ZipInfo(f"archive/{name}", date_time=_FIRST_DAY), content)
    return buffer.getvalue()


def _encoded(value, storages):
    """Opcodes of protocol 2 that make the value; arrays are added to `storages`."""
    if isinstance(value, np.ndarray):
        yield from _encoded_tensor(value, storages)
    elif isinstance(value, dict):
        yield pickle.EMPTY_DICT + pickle.MARK
        for pair in value.items():
            for part in pair:
                yield from _encoded(part, storages)
        yield pickle.SETITEMS
    elif isinstance(value, list | tuple):
        yield (pickle.EMPTY_LIST if isinstance(value, list) else b"") + pickle.MARK
        for part in value:
            yield from _encoded(part, storages)
        yield pickle.APPENDS if isinstance(value, list) else pickle.TUPLE
    elif isinstance(value, str):
        text = value.encode()
        yield pickle.BINUNICODE + struct.pack("<I", len(text)) + text
    elif value is None or isinstance(value, bool):
        yield {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value]
    elif isinstance(value, int):
        size = value.bit_length() // 8 + 1
        yield pickle.LONG1 + bytes([size]) + value.to_bytes(size, "little", signed=True)
    elif isinstance(value, float):
        yield pickle.BINFLOAT + struct.pack(">d", value)
    else:
        raise TypeError(f"expected a plain value, got {type(value).__name__}")


def _encoded_tensor(array, storages):
    """torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    names = {np.dtype(dtype): name for name, dtype in STORAGES.items()}
    place, stride = str(len(storages)), tuple(step // array.itemsize for step in array.strides)
    storages.append(array)
    yield _named("torch._utils", "_rebuild_tensor_v2") + pickle.MARK + pickle.MARK
    yield from _encoded("storage", storages)
    yield _named("torch", names[array.dtype])
    for part in (place, "cpu", array.size):
        yield from _encoded(part, storages)
    yield pickle.TUPLE + pickle.BINPERSID
    for part in (0, array.shape, stride, False):
        yield from _encoded(part, storages)
    yield _named("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.TUPLE + pickle.REDUCE


def _named(module, name):
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()
