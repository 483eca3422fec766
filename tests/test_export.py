"""What is exported holds all that the set is, in each format, and is what others read."""

import hashlib
import json
import shutil

import contract
import numpy as np
import PIL.Image
import pytest
import yaml

from kipx import artifacts, checks, formats, preprocess
from kipx.commands import evaluate, export
from kipx.formats import pt, torch

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, size=(40, 4, 2, 3)).astype(np.uint8)
LEARNED = RNG.normal(size=(6, 3))
FITS = {
    "standardize": preprocess.standardize(),
    "zca": preprocess.zca(),
    "zca_plain": preprocess.zca(unit_norm=False),
    "zca_pixels": preprocess.zca_pixels(),
    "normalize": preprocess.normalize(dataset="cifar10"),
}
ARCHITECTURE = {
    "_target_": "kipx.architecture.convnet",
    "depth": 3,
    "prepend_conv": True,
    "w_std": 2**0.5,
    "b_std": 0.1,
}


def config(name="cifar10"):
    load = {"_target_": "kipx.data.published.load", "name": name, "data_dir": "/home/somebody/data"}
    return {
        "dataset": {
            "load": load,
            "pools": 3,
            "path": "/home/somebody/mine.npz",
            "data_dir": "/home/somebody/data",
            "raw_dir": None,
        },
        "kernel": {"architecture": ARCHITECTURE, "depth": 3, "kind": "ntk", "dtype": "float32", "backend": "kipx"},
        "ridge": 1e-6,
        "seed": 7,
    }


def save(folder, fit, labels=LEARNED, name="cifar10"):
    """A run folder with a set of six images, somewhat out of the range of pixels."""
    fitted = fit(PIXELS)
    images = fitted.apply(PIXELS[:6]) * np.float32(1.3)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("cat", "dog", "a: 'bird'")
    artifacts.save_support(folder, images, labels, preprocessing=fitted, class_names=names, config=config(name))
    return folder


@pytest.fixture(params=FITS)
def run(request, tmp_path):
    return save(tmp_path / "run", FITS[request.param])


@pytest.mark.parametrize("form", contract.EXPORT_FORMATS)
def test_a_set_comes_back_as_it_was(form, run):
    folder, _ = export.run(run, format=form, out=None)
    assert folder == run / "export" / form
    (path,) = [path for path in folder.iterdir() if path.stem == "set"]
    there, back = artifacts.load(run), artifacts.unpack(formats.read(path), path)
    for field in ("images", "pixels", "labels"):
        np.testing.assert_array_equal(getattr(back, field), getattr(there, field))
        assert getattr(back, field).dtype == getattr(there, field).dtype
    for ours, theirs in zip(back.preprocessing, there.preprocessing, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert back.class_names == there.class_names
    np.testing.assert_array_equal(back.preprocess(PIXELS), there.preprocess(PIXELS))
    assert back.config["dataset"]["load"] == {**there.config["dataset"]["load"], "data_dir": None}
    assert {**back.config, "dataset": 0} == {**there.config, "dataset": 0}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parents"][0]["sha256"] == hashlib.sha256((run / "support.npz").read_bytes()).hexdigest()
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    for path in folder.rglob("*"):
        assert path.is_dir() or b"somebody" not in path.read_bytes(), "whose machine it was is nobody's business"


def test_kipx_uses_the_npz_as_it_is(run):
    folder, _ = export.run(run, format="npz", out=None)
    arrays = np.load(folder / "set.npz")
    np.testing.assert_array_equal(artifacts.load(folder / "set.npz").images, arrays["images"])
    np.testing.assert_array_equal(arrays["classes"], LEARNED.argmax(axis=1))
    assert arrays["pixels"].max() > 255, "not clipped"


def test_the_torch_set_says_how_to_preprocess(run):
    """The steps of the data card, channels first, on the file's own numbers."""
    folder, _ = export.run(run, format="torch", out=None)
    s = pt.read(folder / "set.pt")
    x = (PIXELS.transpose(0, 3, 1, 2) - s["mean"]) / s["std"]
    if s["whitening"].size:
        x = x.reshape(40, 24)
        if s["unit_norm"]:
            x = x - x.mean(axis=1, keepdims=True)
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        x = (x @ s["whitening"]).reshape(40, 3, 4, 2)
    there = artifacts.load(run)
    np.testing.assert_allclose(x.transpose(0, 2, 3, 1), there.preprocess(PIXELS), atol=1e-6)
    np.testing.assert_array_equal(s["images"], there.images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(s["pixels"], there.pixels.transpose(0, 3, 1, 2), rtol=1e-6)


def test_peers_find_their_layouts_and_their_normalization(run):
    folder, _ = export.run(run, format="torch", out=None)
    condensed, images, labels = (pt.read(folder / name) for name in ("dc.pt", "images.pt", "labels.pt"))
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])  # of DC's code
    theirs = (artifacts.load(run).pixels / 255 - mean) / std
    np.testing.assert_allclose(images.transpose(0, 2, 3, 1), theirs, atol=1e-5)
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(labels, LEARNED.argmax(axis=1))
    np.testing.assert_array_equal(condensed["data"][0][0], images)
    np.testing.assert_array_equal(condensed["data"][0][1], labels)
    np.testing.assert_allclose(pt.read(folder / "soft_labels.pt"), LEARNED, rtol=1e-6)


def test_a_data_set_that_peers_do_not_have_is_normalized_by_itself(tmp_path):
    run = save(tmp_path / "run", preprocess.standardize(), name="pictures")
    images = torch.peers_images(artifacts.load(run))
    np.testing.assert_allclose(images.transpose(0, 2, 3, 1), artifacts.load(run).images, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("images", np.full((6, 4, 2, 3), "x")),
        ("labels", np.full((6, 3), "x")),
        ("labels", np.full((6, 3), np.nan)),
        ("labels", np.ones((6, 2))),
        ("preprocessing_mean", np.ones(2)),
        ("preprocessing_mean", np.full(3, np.nan)),
        ("preprocessing_whitening", np.eye(7)),
        ("preprocessing_norm", np.ones(3)),
    ],
)
def test_a_set_whose_arrays_do_not_fit_is_refused(key, value, run):
    arrays = {**np.load(run / "support.npz"), key: value}
    with pytest.raises(checks.UserError, match="expected finite"):
        artifacts.unpack(arrays, "set")


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_clipped_pixels_with_their_labels(channels, tmp_path):
    fitted = preprocess.standardize()(PIXELS[..., :channels])
    images = fitted.apply(PIXELS[:6, ..., :channels]) * np.float32(1.3)
    given = {"preprocessing": fitted, "class_names": ("a", "b", "c"), "config": config()}
    artifacts.save_support(tmp_path, images, LEARNED, **given)
    folder, _ = export.run(tmp_path, format="hf", out=tmp_path / "out")
    rows = [json.loads(line) for line in (folder / "train" / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    for row, pixels, label in zip(rows, artifacts.load(tmp_path).pixels, LEARNED, strict=True):
        picture = np.asarray(PIL.Image.open(folder / "train" / row["file_name"])).reshape(pixels.shape)
        np.testing.assert_array_equal(picture, np.clip(np.rint(pixels), 0, 255))
        assert row["label"] == label.argmax()
        np.testing.assert_array_equal(row["soft_label"], label)
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    (first,) = front["configs"]
    assert first["data_files"] == [{"split": "train", "path": "train/*"}]
    assert first["features"][1]["dtype"]["class_label"]["names"] == {"0": "a", "1": "b", "2": "c"}


@pytest.mark.parametrize(("scale", "offset"), [(1 / 255, 0), (16 / 255, 0), (2 / 255, -1), (257.0, 0)])
@pytest.mark.parametrize("fit", [preprocess.standardize(), preprocess.zca(unit_norm=False)])
def test_pictures_of_pixels_on_another_scale_can_be_seen_and_the_card_says_which(fit, scale, offset, tmp_path):
    pixels = PIXELS * scale + offset
    fitted = fit(pixels)
    given = {"preprocessing": fitted, "class_names": ("a", "b", "c"), "config": config()}
    artifacts.save_support(tmp_path, fitted.apply(pixels[:6]), LEARNED, **given)
    folder, _ = export.run(tmp_path, format="hf", out=None)
    shown = np.stack([np.asarray(PIL.Image.open(path)) for path in sorted(folder.glob("train/*.png"))])
    own = artifacts.load(tmp_path).pixels
    low, high = own.min(), own.max()
    np.testing.assert_allclose(shown, (pixels[:6] - low) / (high - low) * 255, atol=0.6)
    card = (folder / "README.md").read_text()
    assert f"which are `pixels` of {low:.4g} to {high:.4g}, clipped" in card
    assert f"on the scale of the training images: {low:.4g} to {high:.4g}, not clipped" in card
    assert "pixels of 0 to 255:" not in card


def test_pictures_of_a_larger_set_are_not_left_beside_those_of_a_smaller(tmp_path):
    folder, _ = export.run(save(tmp_path / "run", preprocess.standardize()), format="hf", out=tmp_path / "out")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    own = artifacts.load(tmp_path / "run")
    given = {"preprocessing": own.preprocessing, "class_names": own.class_names, "config": own.config}
    artifacts.save_support(tmp_path / "run", own.images[:4], own.labels[:4], **given)
    with pytest.raises(checks.UserError, match=r"00004\.png is there and not of this set; remove .*train, or choose"):
        export.run(tmp_path / "run", format="hf", out=tmp_path / "out")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    shutil.rmtree(folder / "train")
    export.run(tmp_path / "run", format="hf", out=tmp_path / "out")
    assert len(list(folder.glob("train/*.png"))) == 4


def test_pictures_of_two_channels_are_refused(tmp_path):
    fitted = preprocess.standardize()(PIXELS[..., :2])
    given = {"preprocessing": fitted, "class_names": ("a", "b", "c"), "config": config()}
    artifacts.save_support(tmp_path, fitted.apply(PIXELS[:6, ..., :2]), LEARNED, **given)
    with pytest.raises(checks.UserError, match="format=hf: pictures have 1 or 3 channels, got images of 2"):
        export.run(tmp_path, format="hf", out=None)


@pytest.mark.parametrize("form", contract.EXPORT_FORMATS)
def test_the_card_says_what_it_is(form, tmp_path):
    run = save(tmp_path / "run", preprocess.zca())
    summary = {"test_accuracy": 0.6471, "natural_test_accuracy_mean": 0.2612}
    (run / "summary.json").write_text(json.dumps(summary))
    export.run(run, format=form, out=None)
    card = (run / "export" / form / "README.md").read_text()
    for said in (
        "# cifar10, distilled into 6 images",
        "6 images of 4x2x3 with labels of 3 classes: cat, dog, a: 'bird'.",
        "ntk of convnet(b_std=0.1, depth=3, prepend_conv=True, w_std=1.414); ridge 1e-06",
        "seed 7",
        "test accuracy by kernel ridge regression: 64.7%",
        "natural images, in the mean: 26.1%",
        "**Labels are learned and are no classes**",
        "**The preprocessing belongs to the set**",
        "x = x @ whitening",
        "not clipped",
        hashlib.sha256((run / "support.npz").read_bytes()).hexdigest(),
    ):
        assert said in card, said
    save(run, preprocess.standardize(), labels=np.eye(3)[[0, 1, 2, 0, 1, 2]] - 1 / 3)
    (run / "summary.json").unlink()
    export.run(run, format=form, out=None)
    card = (run / "export" / form / "README.md").read_text()
    assert "one-hot less 1/3" in card
    assert "test accuracy: not measured" in card
    assert "whitening`" in card
    assert "@ whitening" not in card


def test_the_card_is_silent_about_a_run_that_goes_on_after_its_end(run):
    (run / "summary.json").write_text(json.dumps({"steps": 100, "test_accuracy": 0.6471}))
    for steps, said in ((100, "64.7%"), (5000, "test accuracy: not measured")):
        artifacts.write_config(run, {**config(), "steps": steps})
        export.run(run, format="npz", out=None)
        assert said in (run / "export" / "npz" / "README.md").read_text()
    assert not [row for row in evaluate.table({"test_accuracy": 0.1, "test_mse": 0.1}, run)[1] if "said" in row[0]]


def test_an_export_again_has_the_same_bytes_and_overwrites_nothing_of_others(run, tmp_path):
    folder, _ = export.run(run, format="torch", out=None)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "manifest.json").unlink()  # as if it had been killed
    assert export.run(run, format="torch", out=None)[0] == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    save(run, preprocess.standardize(), labels=LEARNED + 1)  # the run went on
    export.run(run, format="torch", out=None)
    assert pt.read(folder / "set.pt")["labels"][0, 0] == LEARNED[0, 0] + 1
    with open(folder / "README.md", "a") as file:
        file.write("\nMy own words.\n")
    save(run, preprocess.standardize(), labels=LEARNED)
    with pytest.raises(checks.UserError, match=r"README\.md is there and not as kipx export wrote it; remove it"):
        export.run(run, format="torch", out=None)
    assert pt.read(folder / "set.pt")["labels"][0, 0] == LEARNED[0, 0] + 1, "nothing was written"
    shutil.copy(folder / "dc.pt", tmp_path / "set.npz")
    with pytest.raises(checks.UserError, match="not as kipx export wrote it"):
        export.run(run, format="npz", out=tmp_path)
    (run / "config.yaml").write_text("seed: 0")
    with pytest.raises(checks.UserError, match="is the folder of a run; choose another"):
        export.run(run, format="npz", out=run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run: expected a value, got none; give run=..."),
        (["run=run"], "format: expected a value, got none; give format=..."),
        (["run=nowhere", "format=npz"], "a run folder with support.npz or an npz, got nowhere"),
        (["run=run", "format=pkl"], "format: expected one of npz, torch, safetensors, hf, got 'pkl'"),
        (["run=run", "format=npz", "out=3"], "out: expected text or null, got 3"),
        (["run=run", "format=npz", "out=run/support.npz"], "out: cannot write"),
        (["run=run", "formt=npz"], "formt: unknown key or group"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(kipx, tmp_path, arguments, message):
    save(tmp_path / "run", preprocess.standardize())
    code, out, err = kipx("export", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


def test_a_run_goes_out_and_comes_back_with_the_same_number(kipx, tmp_path):
    home = f"dataset.data_dir={tmp_path}"  # which no export holds
    assert (
        kipx("distill", "kernel=fc", "debug=tiny", "logger=none", "hydra.run.dir=run", "preprocess=zca", home)[0] == 0
    )
    said = json.loads((tmp_path / "run" / "summary.json").read_text())
    files = {"torch": "set.pt", "safetensors": "set.safetensors", "npz": "set.npz", "hf": "set.safetensors"}
    for form in contract.EXPORT_FORMATS:
        code, out, err = kipx("export", "run=run", f"format={form}")
        assert (code, f"folder: run/export/{form}" in out) == (0, True), err
        code, _, err = kipx("import", f"path=run/export/{form}/{files[form]}", f"hydra.run.dir={form}", home)
        assert code == 0, err
        assert (tmp_path / form / "support.npz").read_bytes() == (tmp_path / "run" / "support.npz").read_bytes()
    assert kipx("evaluate", "run=torch", "hydra.run.dir=again")[0] == 0
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert (again["test_accuracy"], again["test_mse"]) == (said["test_accuracy"], said["test_mse"])
    code, _, err = kipx("import", "path=run/export/torch/set.pt", "preprocess=zca")
    assert (code, "holds what its images were preprocessed with; leave it out" in err) == (2, True)
    code, _, err = kipx(
        "import", "path=npz/support.npz", "ridge=1e-3", "kernel=fc", "kernel.depth=2", "hydra.run.dir=other"
    )
    assert code == 0, err
    found = artifacts.load(tmp_path / "other").config
    assert (found["ridge"], found["kernel"]["architecture"]["depth"], found["seed"]) == (1e-3, 2, 0)
    assert (
        kipx("import", "path=run/export/torch/dc.pt", "dataset=digits", "preprocess=standardize", "hydra.run.dir=dc")[0]
        == 0
    )
    peers = artifacts.load(tmp_path / "dc")
    np.testing.assert_allclose(peers.pixels, artifacts.load(tmp_path / "run").pixels, atol=1e-3)
