"""The run folder: what is written is whole, what is read is not trusted."""

import hashlib
import json
import subprocess

import numpy as np
import pytest
import yaml

from kipx import artifacts, checkpoints, checks, track
from kipx.data import npz
from kipx.preprocess import standardize, zca

PIXELS = np.random.default_rng(0).integers(0, 256, size=(40, 4, 3, 2)).astype(np.uint8)


@pytest.fixture(params=[standardize, zca])
def folder(request, tmp_path):
    fitted = request.param()(PIXELS)
    artifacts.save_support(
        tmp_path,
        fitted.apply(PIXELS[:2]),
        np.eye(2) - 0.5,
        preprocessing=fitted,
        class_names=("cat", "dog"),
        config={"ridge": 1.0},
    )
    return tmp_path


def test_the_commit_is_of_kipxs_own_repository(tmp_path, monkeypatch):
    module = tmp_path / "theirs" / "site" / "kipx" / "artifacts.py"
    module.parent.mkdir(parents=True)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C"]
    for own in ("theirs", "theirs/site"):
        subprocess.run(["git", "init", "-q", tmp_path / own], check=True)
        subprocess.run([*git, tmp_path / own, "commit", "-q", "--allow-empty", "-m", own], check=True)
        monkeypatch.setattr(artifacts, "__file__", str(module))
        asked = ["git", "-C", tmp_path / own, "rev-parse", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        if own == "theirs":
            assert artifacts.environment()["git_commit"] is None
    assert artifacts.environment()["git_commit"] == commit
    (tmp_path / own / "outputs").write_text("whatever a run leaves")
    assert artifacts.environment()["git_commit"] == commit
    module.write_text("changed = True")
    assert artifacts.environment()["git_commit"] == f"{commit}-dirty"


def test_a_set_comes_back_with_its_preprocessing(folder):
    for path in (folder, folder / "support.npz", str(folder)):
        distilled = artifacts.load(path)
    assert distilled.class_names == ("cat", "dog")
    assert distilled.config == {"ridge": 1.0}
    np.testing.assert_array_equal(distilled.preprocess(PIXELS[:2]), distilled.images)
    np.testing.assert_allclose(distilled.preprocess(distilled.pixels), distilled.images, atol=1e-5)


def test_equal_contents_give_equal_bytes(folder, tmp_path):
    (tmp_path / "again").mkdir()
    read = artifacts.load(folder)
    kept = {"preprocessing": read.preprocessing, "class_names": ("cat", "dog"), "config": {"ridge": 1.0}}
    artifacts.save_support(tmp_path / "again", read.images, read.labels, **kept)
    assert (tmp_path / "again" / "support.npz").read_bytes() == (folder / "support.npz").read_bytes()


@pytest.mark.parametrize("keep", [0, 10, 300, -200, -5])
def test_a_torn_set_is_refused(folder, keep):
    path = folder / "support.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(checks.UserError, match=r"support\.npz: is torn or no npz"):
        artifacts.load(folder)


def test_a_flipped_byte_is_refused(folder):
    path = folder / "support.npz"
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(checks.UserError, match="torn or no npz"):
        artifacts.load(folder)


def test_a_foreign_set_is_refused(tmp_path):
    np.savez(tmp_path / "images_only.npz", images=PIXELS, labels=np.eye(40))
    with pytest.raises(checks.UserError, match=r"lacks class_names, config, preprocessing_mean.*cannot be used"):
        artifacts.load(tmp_path / "images_only.npz")
    with pytest.raises(checks.UserError, match="or an npz, got"):
        artifacts.load(tmp_path / "nope")


def test_nothing_is_ever_unpickled(tmp_path):
    np.savez(tmp_path / "attack.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(checks.UserError, match="torn or no npz"):
        artifacts.load(tmp_path / "attack.npz")
    np.savez(tmp_path / "data.npz", **{key: np.array([{}], dtype=object) for key in npz.KEYS})
    with pytest.raises(checks.UserError, match="not a readable npz of plain arrays"):
        npz.load(path=str(tmp_path / "data.npz"))


def test_the_manifest_holds_every_files_hash(folder):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "x").write_text("y")
    artifacts.write_manifest(folder, config={"seed": 0})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {"support.npz", "checkpoints/x"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_a_folder_takes_one_run(tmp_path):
    artifacts.create(tmp_path / "run", config={"seed": 0, "resume": None}, overrides=["seed=0"])
    assert artifacts.read_config(tmp_path / "run") == {"seed": 0, "resume": None}
    assert yaml.safe_load((tmp_path / "run" / "overrides.yaml").read_text()) == ["seed=0"]
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["jax"]
    with pytest.raises(checks.UserError, match="already holds a run; go on with resume="):
        artifacts.create(tmp_path / "run", config={}, overrides=[])


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1, 2]", "got list"), ("a: [", "torn or no YAML"), ("!!python/name:os.system", "torn or no YAML")],
)
def test_a_config_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(checks.UserError, match=message):
        artifacts.read_config(tmp_path)


def test_metrics_are_cut_back_to_a_step_and_a_torn_line_is_dropped(tmp_path):
    log = track.jsonl(tmp_path)
    for step in range(4):
        log({"step": step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "train')
    track.jsonl(tmp_path, after=2)({"step": 3, "again": True})
    assert track.read(tmp_path / "metrics.jsonl") == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_scheduled_steps_are_counted():
    for last in (0, 1, 3, 999, 1000, 1001, 1499, 1500, 1501, 5000):
        assert checkpoints.scheduled_until(last) == sum(map(checkpoints.scheduled, range(last + 1)))


def test_scheduled_steps_are_the_papers():
    steps = [s for s in range(2001) if checkpoints.scheduled(s)]
    assert steps[:8] == [0, 1, 2, 4, 6, 8, 12, 18]
    assert steps[-4:] == [695, 1000, 1500, 2000]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": np.zeros(3, int)}, "as many labels"),
        ({"y_train": np.full(4, -1)}, r"expected train labels from 0 to 1, got -1 to -1"),
        ({"y_train": np.array([0, 0, 0, 0])}, "got none of class 1"),
        (
            {"y_train": np.array([0.0, 1.0, 0.5, 1.0])},
            r"expected integers as train labels, got float64; .*return_inverse",
        ),
        ({"y_train": np.array(list("abab"))}, "expected integers as train labels, got <U1"),
        ({"y_train": np.zeros(4, int), "y_test": np.zeros(2, int)}, "expected at least two classes, got 1"),
        ({"x_train": np.zeros((4, 2, 2, 1), bool)}, "expected numbers as train images, got bool; save them as uint8"),
        ({"class_names": np.array(["a", "a"])}, "class_names that differ, none empty"),
        ({"class_names": np.array(["a", ""])}, "class_names that differ, none empty"),
        ({"class_names": np.array([b"a", b"\xff"])}, "class_names as text"),
        ({"x_train": np.full((4, 2, 2, 1), np.nan)}, "got float64 with NaN or inf"),
        ({"x_test": np.zeros((0, 2, 2, 1))}, "n >= 1"),
        ({"x_train": np.zeros((4, 3, 8, 8))}, r"got \(4, 3, 8, 8\), channels first; np.moveaxis"),
        ({"x_test": np.zeros((2, 3, 2, 1))}, "expected test images"),
        ({"x_train": None}, "lacks x_train; it has"),
    ],
)
def test_unsound_data_are_refused(tmp_path, change, message):
    arrays = {
        "x_train": np.zeros((4, 2, 2, 1)),
        "y_train": np.array([0, 1, 0, 1]),
        "x_test": np.zeros((2, 2, 2, 1)),
        "y_test": np.array([0, 1]),
    }
    arrays = {key: value for key, value in {**arrays, **change}.items() if value is not None}
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(checks.UserError, match=message):
        npz.load(path=str(tmp_path / "data.npz"))


def test_digits_are_split_once_and_for_all():
    from kipx.data import digits

    data = digits.load()
    assert data.x_train.shape == (1297, 8, 8, 1)
    assert data.x_test.shape == (500, 8, 8, 1)
    assert data.x_train.dtype == np.uint8
    assert hashlib.sha256(data.x_test.tobytes()).hexdigest()[:16] == "322404a7068b556c"
    assert np.ptp(np.bincount(data.y_test)) <= 4


def test_the_config_inside_a_set_is_not_trusted(folder):
    arrays = dict(np.load(folder / "support.npz"))
    for config, message in (("[]", "got list"), ("!!python/name:os.system", "torn or no YAML")):
        np.savez(folder / "support.npz", **{**arrays, "config": np.asarray(config)})
        with pytest.raises(checks.UserError, match=message):
            artifacts.load(folder)


@pytest.mark.parametrize("side", [1, 2, 5, 12])
def test_half_of_a_symmetric_matrix_is_all_of_it(side):
    matrix = np.random.default_rng(side).normal(size=(side, side)).astype(np.float32)
    matrix += matrix.T
    np.testing.assert_array_equal(artifacts._of_half(matrix[np.triu_indices(side)]), matrix)


def test_a_whitened_set_keeps_half_its_whitening_and_reads_it_bit_for_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 2, 2), np.uint8)
    fitted, kept = zca(reg=0.1)(pixels), {"class_names": ("a", "b"), "config": {"seed": 0}}
    images, labels = fitted.apply(pixels[:2]), np.eye(2)
    artifacts.save_support(tmp_path, images, labels, preprocessing=fitted, **kept)
    with np.load(tmp_path / "support.npz") as file:
        assert file["preprocessing_whitening"].shape == (12 * 13 // 2,)
        arrays = {key: file[key] for key in file.files}
    read = artifacts.load(tmp_path)
    np.testing.assert_array_equal(read.preprocessing.whitening, fitted.whitening)
    np.testing.assert_array_equal(read.preprocess(pixels), fitted.apply(pixels))
    whole = {**arrays, "preprocessing_whitening": fitted.whitening.astype(np.float64)}  # as before
    np.savez(tmp_path / "before.npz", **whole)
    np.testing.assert_array_equal(artifacts.load(tmp_path / "before.npz").preprocess(pixels), read.preprocess(pixels))
    np.savez(tmp_path / "torn.npz", **{**arrays, "preprocessing_whitening": arrays["preprocessing_whitening"][1:]})
    with pytest.raises(checks.UserError, match=r"torn\.npz: expected finite preprocessing of images of \(3, 2, 2\)"):
        artifacts.load(tmp_path / "torn.npz")
