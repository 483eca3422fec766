"""Attacks by npz, checkpoints and safetensors that others wrote: nothing is unpickled, no memory is flooded."""

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore

from kipx import artifacts, checkpoints, checks, formats, untrusted
from kipx.commands import solving
from kipx.data import cache, npz

pytestmark = pytest.mark.usefixtures("within_time")


def _objects(path):
    np.savez(path, x_train=np.array([Evil()], dtype=object), images=np.array([Evil()], dtype=object))


class Evil:
    """Leaves a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def _states(path, header):
    """An npz of one array whose header states more than is there."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"fortran_order": False, **header})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", buffer.getvalue() + bytes(80))


def _lying_length(path):
    """The zip's own directory states eight exabytes."""
    _states(path, {"descr": "<f4", "shape": (20,)})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)


NPZ = {
    "objects": _objects,
    "pickle": lambda path: path.write_bytes(pickle.dumps(Evil())),
    "more numbers than there are": lambda path: _states(path, {"descr": "<f8", "shape": (10**6, 10**6)}),
    "more than an address holds": lambda path: _states(path, {"descr": "<f8", "shape": (2**62, 2**62)}),
    "a negative size": lambda path: _states(path, {"descr": "<f8", "shape": (-1, 10)}),
    "one long text": lambda path: _states(path, {"descr": "<U999999999", "shape": (1,)}),
    "objects in a record": lambda path: _states(path, {"descr": [("a", "O")], "shape": (10,)}),
    "a lying length": _lying_length,
    "one array": lambda path: np.save(open(path, "wb"), np.zeros(3)),  # noqa: SIM115
}


@pytest.mark.parametrize("attack", NPZ)
def test_no_npz_is_unpickled_or_believed(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "support.npz"
    NPZ[attack](path)
    tracemalloc.start()
    for read in (
        lambda: npz.load(path=str(path)),
        lambda: artifacts.load(path),
        lambda: formats.read(path),
        lambda: solving._read(path, (1, 2, 2), 5, {"dataset": {}}),
    ):
        with pytest.raises(checks.UserError) as refusal:
            read()
        assert "\n" not in str(refusal.value)
    assert cache._read(path, "key") is None
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert not (tmp_path / "pwned").exists()


def test_an_npz_of_more_than_the_memory_is_refused_before_any_is_taken(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros(2**22))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**16
    monkeypatch.setattr(untrusted.machine, "host_memory", lambda: 2**24)
    tracemalloc.start()
    with pytest.raises(checks.UserError, match="states 33554560 bytes, more than this machine's memory"):
        artifacts.read_npz(tmp_path / "bomb.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_checkpoint_of_more_than_the_memory_is_refused(tmp_path):
    """Its arrays are files of numbers that need not be there: what is not there is 0."""
    state = {"images": np.ones((2, 3, 3, 1), np.float32), "labels": np.ones((2, 2))}
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        origin = ocp.args.JsonSave({"config": "of the run"})
        manager.save(4, args=ocp.args.Composite(state=ocp.args.StandardSave(state), origin=origin))
    images, labels = checkpoints.support_at(tmp_path, 4)
    assert images.shape == (2, 3, 3, 1) and labels.shape == (2, 2)
    base = f"file://{tmp_path}/checkpoints/4/state/"
    store = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": "images/"}}
    stated = tensorstore.open(store).result().spec(retain_context=False).to_json()["metadata"]
    huge = {**stated, "shape": [10**7, 10**7, 1, 1], "chunks": [64, 64, 1, 1]}
    tensorstore.open({**store, "metadata": huge, "create": True, "delete_existing": True}).result()
    with pytest.raises(checks.UserError, match=r"checkpoint 4 .* more than this machine's memory"):
        checkpoints.support_at(tmp_path, 4)


def _header(header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SAFETENSORS = {
    "a header of exabytes": struct.pack("<Q", 2**63) + b"{}",
    "a header longer than the file": struct.pack("<Q", 100) + b"{}",
    "no header": b"\x02\0\0",
    "a list": _header([1]),
    "a deep header": _header(b"[" * 10**5),
    "a number of many digits": _header(
        b'{"a": {"dtype": "F32", "data_offsets": [0, 8], "shape": [' + b"9" * 5000 + b"]}}"
    ),
    "notes that are none": _header({"__metadata__": 3, "images": ONE}),
    "bytes outside": _header({"images": {**ONE, "data_offsets": [0, 2**40]}}),
    "bytes before": _header({"images": {**ONE, "data_offsets": [-8, 0]}}),
    "another size": _header({"images": {**ONE, "shape": [2**31, 2**31]}}),
    "nothing, of a huge shape": _header({"images": {**ONE, "shape": [0, 2**80], "data_offsets": [0, 0]}}),
    "a thousand names for the same": _header({f"a{i}": ONE for i in range(1000)}),
    "another type": _header({"images": {**ONE, "dtype": "O"}}),
    "true for a size": _header({"images": {**ONE, "shape": [True, 2]}}),
    "names that are none": _header({"__metadata__": {"class_names": "[[1]]", "config": "{}"}, "images": ONE}),
    "names that are aliases": _header({"__metadata__": {"class_names": "&a [*a]", "config": "{}"}, "images": ONE}),
}


@pytest.mark.parametrize("attack", SAFETENSORS)
def test_no_header_is_believed(attack, tmp_path):
    path = tmp_path / "set.safetensors"
    path.write_bytes(SAFETENSORS[attack])
    tracemalloc.start()
    with pytest.raises(checks.UserError) as refusal:
        formats.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000
