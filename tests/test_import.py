"""Sets that others made: read as they wrote them, refused where something is missing, and never run."""

import io
import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from kipx import artifacts, checks, formats, preprocess
from kipx.commands import import_set
from kipx.data import Dataset
from kipx.formats import pt

FILES = (
    pathlib.Path(__file__).parent / "files"
)  # written by torch 2.13: {'data': [[images, labels], ...]}, numbers counted off
PIXELS = np.random.default_rng(0).integers(0, 256, size=(40, 2, 2, 3)).astype(np.uint8)
CLASSES = np.arange(40) % 2
NAMES = ("cat", "dog")
CONFIG = {"dataset": {"load": {"_target_": "kipx.data.digits.load"}}, "ridge": 1e-6}
IMAGES = np.arange(24.0, dtype=np.float32).reshape(2, 3, 2, 2)


def load():
    return Dataset(PIXELS, CLASSES, PIXELS, CLASSES, NAMES)


def read(path, **given):
    return import_set.read(path, load=load, fit=preprocess.standardize(), config=CONFIG, **given)


def zipped(value, **records):
    """A file of torch.save whose data.pkl is another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", value if isinstance(value, bytes) else pickle.dumps(value, protocol=2))
        for name, content in records.items():
            file.writestr(f"archive/data/{name}", content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["dc.pt", "dc_torch_1.pt"])
@pytest.mark.parametrize("entry", [0, 1])
def test_what_torch_wrote_for_dc_is_read(name, entry):
    found = read(FILES / name, entry=entry)
    np.testing.assert_array_equal(found.images, (IMAGES + 100 * entry).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(found.labels, [[-0.5, 0.5], [0.5, -0.5]])
    assert found.class_names == NAMES
    assert found.config == CONFIG
    np.testing.assert_array_equal(found.preprocess(PIXELS), preprocess.standardize()(PIXELS).apply(PIXELS))
    with pytest.raises(checks.UserError, match="entry: expected at most 1"):
        read(FILES / name, entry=2)


def test_the_papers_npz_is_read_as_it_is(tmp_path):
    path = tmp_path / "ConvNet_ssize10_zca_l_aug_ckpt1000.npz"
    images, labels = IMAGES.transpose(0, 2, 3, 1), np.array([[0.7, -0.4], [-0.5, 0.45]], np.float32)
    np.savez(path, images=images, labels=labels)
    found = read(path)
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels.astype(np.float64))


@pytest.mark.parametrize(
    ("kind", "soft", "centred"),
    [
        ("centred", [[0.3, -0.2], [-0.4, 0.6]], [[0.3, -0.2], [-0.4, 0.6]]),
        ("probabilities", [[0.25, 0.75], [1.0, 0.0]], [[-0.25, 0.25], [0.5, -0.5]]),
        ("logits", [[0.0, np.log(3.0)], [5.0, 5.0]], [[-0.25, 0.25], [0.0, 0.0]]),
    ],
)
def test_soft_labels_are_of_the_kind_that_is_stated(kind, soft, centred, tmp_path):
    images, labels = tmp_path / "images.pt", tmp_path / "labels.pt"
    images.write_bytes(pt.to_bytes(IMAGES))
    labels.write_bytes(pt.to_bytes(np.array(soft, np.float32)))
    found = read(images, labels=labels, kind=kind)
    np.testing.assert_allclose(found.labels, centred, atol=1e-7)
    with pytest.raises(
        checks.UserError, match=r"labels\.kind: .*does not say of which kind; give labels\.kind=centred"
    ):
        read(images, labels=labels)
    with pytest.raises(checks.UserError, match=r"labels\.kind: expected one of"):
        read(images, labels=labels, kind="soft")
    if kind == "centred":
        with pytest.raises(checks.UserError, match="expected probabilities, which add up to 1"):
            read(images, labels=labels, kind="probabilities")


def test_images_in_the_order_of_their_classes_need_no_labels(tmp_path):
    path = tmp_path / "images.pt"
    path.write_bytes(pt.to_bytes(np.repeat(IMAGES, 2, axis=0)))
    np.testing.assert_array_equal(read(path, labels="by_class").labels.argmax(axis=1), [0, 0, 1, 1])
    with pytest.raises(
        checks.UserError, match=r"holds images alone; give kipx import labels\.path=<file>, or labels\.path=by_class"
    ):
        read(path)
    with pytest.raises(checks.UserError, match=r"labels\.path: expected a file of labels, or by_class, got no\.pt"):
        read(path, labels="no.pt")
    path.write_bytes(pt.to_bytes(np.ones((3, 3, 2, 2), np.float32)))
    with pytest.raises(checks.UserError, match="expected equally many images of 2 classes, got 3"):
        read(path, labels="by_class")


BAD = {
    "of another size": (
        {"images": np.ones((2, 3, 3, 3)), "labels": np.array([0, 1])},
        r"\(n, 2, 2, 3\), .* got \(2, 3, 3, 3\)",
    ),
    "channels first": ({"images": np.ones((2, 3, 2, 2)), "labels": np.array([0, 1])}, "another order of axes"),
    "integers": ({"images": np.ones((2, 2, 2, 3), int), "labels": np.array([0, 1])}, "expected preprocessed images"),
    "not finite": ({"images": np.full((2, 2, 2, 3), np.nan), "labels": np.array([0, 1])}, "finite numbers"),
    "text": ({"images": np.full((2, 2, 2, 3), "x"), "labels": np.array([0, 1])}, "expected images of numbers"),
    "without labels": (
        {"images": np.ones((2, 2, 2, 3))},
        r"and labels \(n,\) or \(n, classes\), got images \(2, 2, 2, 3\)",
    ),
    "too few labels": (
        {"images": np.ones((2, 2, 2, 3)), "labels": np.array([0])},
        r"labels \(2,\) .* got int64 \(1,\)",
    ),
    "other classes": (
        {"images": np.ones((2, 2, 2, 3)), "labels": np.zeros((2, 10))},
        r"data set has 2 classes, .*\(2, 10\)",
    ),
    "a class too high": (
        {"images": np.ones((2, 2, 2, 3)), "labels": np.array([0, 2])},
        "class numbers 0 to 1, got 0 to 2",
    ),
    "labels not finite": (
        {"images": np.ones((2, 2, 2, 3)), "labels": np.full((2, 2), np.inf)},
        "expected finite labels",
    ),
    "one-hot": ({"images": np.ones((2, 2, 2, 3)), "labels": np.eye(2)}, "does not say of which kind"),
    "objects": ({"images": np.array([{}], object), "labels": np.array([0])}, "torn or no npz"),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_do_not_fit_are_refused(case, tmp_path):
    arrays, message = BAD[case]
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(checks.UserError, match=message):
        read(tmp_path / "set.npz")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((2, 3), np.float32), r"got a tensor \(2, 3\)"),
        ({"weights": np.ones(2)}, "got a dict of weights"),
        (["a"], "got list"),
        ({"data": [[np.ones((2, 3, 2, 2))]]}, "damaged"),
        ({"data": []}, "entry: expected at most -1"),
        ({"format": "kipx"}, "damaged"),
    ],
)
def test_another_layout_is_refused(value, message, tmp_path):
    (tmp_path / "x.pt").write_bytes(pt.to_bytes(value))
    with pytest.raises(checks.UserError, match=message):
        read(tmp_path / "x.pt")


class Calls:
    """Whose pickle calls a function by its name."""

    def __init__(self, function, *arguments):
        self.calls = function, arguments

    def __reduce__(self):
        return self.calls


def test_nothing_in_a_file_is_ever_run(tmp_path, kipx):
    left = tmp_path / "left"
    attacks = {
        "open": zipped({"data": [[Calls(open, str(left), "w"), None]]}),
        "eval": zipped(Calls(eval, f"open({str(left)!r}, 'w')")),
        "state": zipped(
            pickle.PROTO + b"\x02" + pickle.GLOBAL + b"os\nenviron\n" + pickle.EMPTY_DICT + pickle.BUILD + b"."
        ),
        "instance": zipped(pickle.PROTO + b"\x02" + pickle.MARK + pickle.INST + b"os\nsystem\n."),
        "object": zipped(
            pickle.PROTO + b"\x02" + pickle.GLOBAL + b"io\nFileIO\n" + pickle.EMPTY_TUPLE + pickle.NEWOBJ + b"."
        ),
        "old": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Calls(open, str(left), "w"), 2),
    }
    for name, content in attacks.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        code, out, err = kipx("import", f"path={name}.pt", "dataset=digits", "preprocess=standardize")
        assert (code, out, err.count("\n")) == (2, "", 1), (name, err)
        assert err.startswith(f"kipx: {name}.pt: ")
        assert "nothing in it was run" in err
    assert not left.exists()


@pytest.mark.parametrize("name", ["dc.pt", "dc_torch_1.pt"])
def test_damaged_bytes_are_refused_or_read(name, tmp_path):
    content, path, rng = (FILES / name).read_bytes(), tmp_path / "x.pt", np.random.default_rng(0)
    for cut in rng.integers(0, len(content), 60):
        path.write_bytes(content[:cut])
        with pytest.raises(checks.UserError, match=r"x\.pt"):
            formats.read(path)
    for place in rng.integers(0, len(content), 400):
        changed = bytearray(content)
        changed[place] ^= rng.integers(1, 256)
        path.write_bytes(changed)
        try:
            formats.read(path)
        except checks.UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (2, 4), (4, 1)),
        (5, (2,), (1,)),
        (0, (1000, 1000), (0, 0)),
        (0, (2,), (-1,)),
        (-1, (2,), (1,)),
        (0, (2, 2), (1,)),
    ],
)
def test_a_tensor_stays_within_its_numbers(offset, size, stride, tmp_path):
    numbers = np.arange(6.0, dtype=np.float32)
    with pytest.raises((ValueError, checks.UserError)):
        pt._tensor(numbers, offset, size, stride)
    np.testing.assert_array_equal(pt._tensor(numbers, 1, (2, 2), (1, 2)), [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "path: expected a value, got none; give path=..."),
        (["path=nowhere.pt"], "got nowhere.pt, which is no file"),
        (["path=3"], "path: expected text, got 3"),
        (["path=set.zip"], "path: expected a file of .npz, .pt, .pth, .safetensors, got set.zip"),
        (["path=dc.pt", "entry=-1"], "entry: expected an integer >= 0, got -1"),
        (["path=dc.pt", "labels.path=dc.pt"], "labels.path: dc.pt has its labels; leave labels.path out"),
        (["path=dc.pt"], "dataset: expected the one that dc.pt is distilled from, got none; give dataset=cifar10|"),
        (["path=dc.pt", "dataset=digits"], "preprocess: dc.pt does not say how its images were preprocessed"),
        (["path=dc.pt", "dataset=digits"], "give preprocess=normalize|standardize|zca|zca_pixels\n"),
        (["path=res_DSA_CIFAR10_ConvNet_1ipc.pt", "dataset=digits"], "(its name, one of DSA's, suggests normalize)"),
        (["path=ConvNet_ssize10_zca_nol_noaug_ckpt0.npz", "dataset=digits"], "one of the paper's, suggests zca)"),
        (["path=ConvNet3_ssize10_nozca_nol_noaug_ckpt0.npz", "dataset=digits"], "suggests standardize)"),
        (["path=dc.pt", "dataset=digits", "preprocess=standardize"], "got (2, 2, 2, 3); is it another dataset="),
        (["path=dc.pt", "dataset=digits", "preprocess=normalize"], "give preprocess.mean and preprocess.std"),
        (["path=dc.pt", "dataset=digits", "preprocess=pca"], "Could not find 'preprocess/pca'"),
        (["path=dc.pt", "dataset=digits", "preprocess=zca", "labels.kind=logits"], "labels.kind: is for soft labels"),
        (["path=dc.pt", "dataset=digits", "preprocess=zca", "ridge=0"], "ridge: expected a number > 0, got 0"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line_and_exit_code_2(kipx, tmp_path, arguments, message):
    content = (FILES / "dc.pt").read_bytes()
    for name in ("dc.pt", "set.zip", "res_DSA_CIFAR10_ConvNet_1ipc.pt"):
        (tmp_path / name).write_bytes(content)
    for name in ("ConvNet_ssize10_zca_nol_noaug_ckpt0.npz", "ConvNet3_ssize10_nozca_nol_noaug_ckpt0.npz"):
        np.savez(tmp_path / name, images=np.ones((2, 8, 8, 1)), labels=np.array([0, 1]))
    before = sorted(tmp_path.iterdir())
    code, out, err = kipx("import", *arguments)
    assert (code, out, err.count("\n"), err.startswith("kipx: ")) == (2, "", 1, True), err
    assert message in err
    assert [p for p in sorted(tmp_path.rglob("*.*")) if p not in before] == [], "a refused import leaves nothing"


def test_a_released_npz_becomes_a_run_that_evaluates(kipx, tiny_npz, tmp_path):
    """The numbers are those of the same images and labels in a set that kipx wrote itself."""
    data = np.load(tiny_npz)
    fitted = preprocess.zca()(data["x_train"])
    images, labels = fitted.apply(data["x_train"][:20]), np.eye(10)[data["y_train"][:20]] - 0.1
    np.savez("released.npz", images=images, labels=labels.astype(np.float32))
    told = ["dataset=npz", f"dataset.path={tiny_npz}", f"dataset.data_dir={tmp_path}", "kernel=fc"]
    code, out, err = kipx("import", "path=released.npz", *told, "preprocess=zca", "hydra.run.dir=run")
    assert code == 0, err
    assert "20 of 4x4x1" in out
    found = artifacts.load("run")
    np.testing.assert_array_equal(found.images, images)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["parents"] == [{"file": "released.npz", "sha256": import_set._sha256("released.npz")}]
    assert found.config["source"] == manifest["parents"][0]
    (tmp_path / "ours").mkdir()
    config = {key: found.config[key] for key in ("dataset", "kernel", "ridge")}
    artifacts.save_support("ours", images, labels, preprocessing=fitted, class_names=found.class_names, config=config)
    measured = []
    for run in ("run", "ours"):
        assert kipx("evaluate", f"run={run}", f"hydra.run.dir=evaluated_{run}")[0] == 0
        measured.append(json.loads((tmp_path / f"evaluated_{run}" / "evaluation.json").read_text())["test_mse"])
    assert measured[0] == pytest.approx(measured[1], rel=1e-6)
