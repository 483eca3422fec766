"""Files in others' formats: by their descriptions here, and by their own libraries where those are installed."""

import contextlib
import json
import pathlib
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from test_export import FITS, LEARNED, PIXELS, RNG, config, save

from kipx import artifacts, checks, formats, preprocess
from kipx.commands import export, import_set
from kipx.data import digits
from kipx.formats import pt, safetensors


@pytest.fixture(params=FITS)
def run(request, tmp_path):
    return save(tmp_path / "run", FITS[request.param])


def test_safetensors_are_a_header_and_aligned_bytes(run):
    export.run(run, format="safetensors", out=run / "out")
    content = (run / "out" / "set.safetensors").read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    assert size % 8 == 0
    entry = header["images"]
    start, end = entry["data_offsets"]
    images = np.frombuffer(content[8 + size :][start:end], np.float32).reshape(entry["shape"])
    np.testing.assert_array_equal(images, artifacts.load(run).images)
    assert json.loads(header["__metadata__"]["class_names"]) == ["cat", "dog", "a: 'bird'"]
    assert all(e["data_offsets"][0] % 8 == 0 for e in header.values() if e.get("dtype") in ("F64", "I64"))


def test_damaged_safetensors_are_refused_or_read(run, tmp_path):
    export.run(run, format="safetensors", out=run / "out")
    content, path, rng = (run / "out" / "set.safetensors").read_bytes(), tmp_path / "x.safetensors", RNG
    for changed in [content[:cut] for cut in rng.integers(0, len(content), 40)] + [
        content[:place] + bytes([rng.integers(256)]) + content[place + 1 :] for place in rng.integers(0, 1500, 200)
    ]:
        path.write_bytes(changed)
        with contextlib.suppress(checks.UserError):
            import_set.read(path, load=None, fit=None, config=None)
    with pytest.raises(checks.UserError, match="expected what kipx export wrote"):
        path.write_bytes(safetensors.to_bytes({"images": np.ones(3)}, {"by": "others"}))
        formats.read(path)
    with pytest.raises(checks.UserError, match="lacks labels, preprocessing_mean"):
        path.write_bytes(safetensors.to_bytes({"images": np.ones(3)}, {"config": "{}", "class_names": "[]"}))
        formats.read(path)


@pytest.mark.slow
def test_torch_itself_reads_and_writes_the_same(run):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, and kipx does not need it")
    folder, _ = export.run(run, format="torch", out=None)
    for name in ("set.pt", "dc.pt", "images.pt", "labels.pt", "soft_labels.pt"):
        ours = pt.read(folder / name)
        for memory in (False, True):
            assert_same(torch.load(folder / name, weights_only=True, mmap=memory), ours)
        for zipped in (True, False):
            value = torch.load(folder / name, weights_only=True)
            torch.save(value, folder / "again.pt", _use_new_zipfile_serialization=zipped)
            assert_same(value, pt.read(folder / "again.pt"))
    strange = {"a": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)[1:], "b": torch.nn.Parameter(torch.ones(2))}
    strange |= {"h": torch.ones(2).half(), "m": torch.nn.Linear(2, 2).state_dict(), "t": (1, None, "x", 2.5, 10**12)}
    torch.save(strange, folder / "again.pt")
    assert_same(strange, pt.read(folder / "again.pt"))


def assert_same(theirs, ours):
    """Values of torch and of kipx's reader."""
    if isinstance(theirs, dict):
        assert list(theirs) == list(ours)
        theirs, ours = list(theirs.values()), list(ours.values())
    if isinstance(theirs, list | tuple):
        for pair in zip(theirs, ours, strict=True):
            assert_same(*pair)
    elif hasattr(theirs, "detach"):
        np.testing.assert_array_equal(theirs.detach().numpy(), ours)
        assert theirs.detach().numpy().dtype == ours.dtype
    else:
        assert theirs == ours


@pytest.mark.slow
def test_the_script_of_the_docs_trains_on_a_set(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed, and kipx does not need it")
    data, script = digits.load(), pathlib.Path(__file__).parents[1] / "docs" / "train_with_pytorch.py"
    lines = [line for line in script.read_text().split('"""')[2].splitlines() if line.strip() and line[0] != "#"]
    assert len(lines) <= 30
    fitted = preprocess.zca()(data.x_train)
    labels = np.eye(10)[data.y_train[:100]] - 0.1
    given = {"preprocessing": fitted, "class_names": data.class_names, "config": config("digits")}
    artifacts.save_support(tmp_path, fitted.apply(data.x_train[:100]), labels, **given)
    export.run(tmp_path, format="torch", out=tmp_path / "out")
    np.savez(tmp_path / "test.npz", x_test=data.x_test, y_test=data.y_test)
    command = [sys.executable, script, tmp_path / "out" / "set.pt", tmp_path / "test.npz", "16", "300", "1.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    reached = float(re.match(r"test accuracy ([\d.]+)% at a rate of", done.stdout)[1])
    assert reached > 40, "without the whitening of the test images it is 10"


@pytest.mark.slow
def test_safetensors_itself_reads_the_same(run):
    library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed, and kipx does not need it")
    folder, _ = export.run(run, format="safetensors", out=None)
    theirs, ours = library.load_file(folder / "set.safetensors"), formats.read(folder / "set.safetensors")
    assert set(theirs) == set(ours) - {"config", "class_names"}
    for name, array in theirs.items():
        np.testing.assert_array_equal(array, ours[name])
        assert array.dtype == ours[name].dtype


@pytest.mark.slow
def test_kornia_itself_whitens_alike():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, and kipx does not need it")
    kornia = pytest.importorskip("kornia", reason="kornia is not installed, and kipx does not need it")
    whitening = kornia.enhance.ZCAWhitening(eps=0.1)  # as in MTT's and DD-Ranking's get_dataset
    images = torch.tensor(PIXELS).permute(0, 3, 1, 2).double() / 255
    whitening.fit(images)
    ours = preprocess.zca_pixels()(PIXELS).apply(PIXELS)
    np.testing.assert_allclose(ours, whitening(images).permute(0, 2, 3, 1).numpy(), atol=1e-6)


@pytest.mark.slow
def test_datasets_itself_loads_the_folder(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed, and kipx does not need it")
    folder, _ = export.run(run, format="hf", out=None)
    levels = np.clip(np.rint(artifacts.load(run).pixels), 0, 255)
    for named, given in ((True, {"path": str(folder)}), (False, {"path": "imagefolder", "data_dir": str(folder)})):
        found = datasets.load_dataset(**given, cache_dir=str(tmp_path / "cache"))["train"]
        np.testing.assert_array_equal([np.asarray(row["image"]) for row in found], levels)
        np.testing.assert_array_equal(found["label"], LEARNED.argmax(axis=1))
        np.testing.assert_array_equal(found["soft_label"], LEARNED)
        if named:
            assert found.features["label"].names == ["cat", "dog", "a: 'bird'"]
