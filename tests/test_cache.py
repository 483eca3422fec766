"""Fitted preprocessing from disk: the bits of a new fit, whatever has happened to the file."""

import numpy as np
import pytest

from kipx import arguments, files
from kipx.data import cache
from kipx.preprocess import standardize, zca

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 4, 3, 2)).astype(np.uint8)


class Fit:
    """A fit that counts its calls."""

    def __init__(self, fit):
        self.fit, self.calls = fit, 0

    def __call__(self, images):
        self.calls += 1
        return self.fit(images)


def fitted(folder, pixels=PIXELS, fit=None, **arguments):
    """What comes out, and whether it had to be fitted."""
    counting = Fit(fit or zca(reg=0.1))
    return cache.remembering(counting, arguments or {"reg": 0.1}, folder)(pixels), counting.calls


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_the_second_run_reads_the_bits_of_the_first(tmp_path):
    first, calls = fitted(tmp_path / "cache")
    assert calls == 1
    again, calls = fitted(tmp_path / "cache")
    assert calls == 0
    assert_equal(first, zca(reg=0.1)(PIXELS))
    assert_equal(first, again)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    fitted(tmp_path / "cache", np.asfortranarray(PIXELS))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_other_images_or_arguments_are_fitted_anew(tmp_path):
    fitted(tmp_path)
    changed = PIXELS.copy()
    changed[-1, -1, -1, -1] ^= 1
    for pixels in (changed, PIXELS.astype(float), PIXELS[:-1], PIXELS[::-1], PIXELS.reshape(30, 3, 4, 2)):
        assert fitted(tmp_path, pixels)[1] == 1
    assert fitted(tmp_path, reg=0.2)[1] == 1
    assert fitted(tmp_path)[1] == 0


def damaged(content):
    yield b""
    yield b"no npz"
    yield content[: len(content) // 2]
    for place in range(60, len(content), len(content) // 25):
        yield content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def test_a_damaged_file_costs_a_fit_and_is_mended(tmp_path, capsys):
    first, _ = fitted(tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    notes = 0
    for bad in damaged(content):
        path.write_bytes(bad)
        again, calls = fitted(tmp_path)
        assert_equal(first, again)
        notes += calls
        assert capsys.readouterr().err.count("is damaged (") == calls  # some bytes of a zip mean nothing
        assert path.read_bytes() == (content if calls else bad)
    assert notes >= 20


def test_sound_files_with_another_content_are_not_trusted(tmp_path, capsys):
    first, _ = fitted(tmp_path)
    (path,) = tmp_path.iterdir()
    arrays = dict(np.load(path))
    for forged in ({**arrays, "whitening": 2 * arrays["whitening"]}, {"x": np.asarray([{}], object)}):
        np.savez(path, **forged)
        again, calls = fitted(tmp_path)
        assert calls == 1
        assert_equal(first, again)
        assert "is damaged (" in capsys.readouterr().err
    fitted(tmp_path, reg=0.3, fit=zca(reg=0.3))
    (its_path,) = (p for p in tmp_path.iterdir() if p != path)
    path.write_bytes(its_path.read_bytes())
    again, calls = fitted(tmp_path)
    assert calls == 1
    assert_equal(first, again)


def test_a_folder_that_cannot_be_written_costs_a_note(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    result, calls = fitted(tmp_path / "file" / "cache")
    assert calls == 1
    assert_equal(result, zca(reg=0.1)(PIXELS))
    assert "cannot be kept in" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert fitted(tmp_path)[1] == 1


def test_what_is_fitted_at_once_is_not_kept(tmp_path):
    fitted(tmp_path, fit=standardize())
    assert list(tmp_path.iterdir()) == []


def test_a_run_keeps_it_beside_the_data(tmp_path):
    section = {"_target_": "kipx.preprocess.zca", "reg": 0.1, "unit_norm": True}
    arguments.fit({"preprocess": section, "dataset": {"data_dir": str(tmp_path)}})(PIXELS)
    assert len(list((tmp_path / "cache").iterdir())) == 1
