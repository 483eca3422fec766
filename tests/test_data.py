"""Published data sets from files in the official formats, to the folder of tensorflow-datasets, and read back."""

import gzip
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import official
import pytest
import tensorflow_datasets as tfds

import kipx
from kipx import checks
from kipx.commands import prepare as command
from kipx.data import formats, prepare, published, raw
from kipx.data.sources import SOURCES

NAMES = ("mnist", "fashion_mnist", "svhn_cropped", "cifar10", "cifar100")
ROOT = pathlib.Path(__file__).parents[1]


def run(name, small, data_dir, raw_dir, said=None):
    say = (lambda text: None) if said is None else said.append
    return command.run(name=name, data_dir=str(data_dir), raw_dir=str(raw_dir), source=small.source, say=say)


def as_set(images, labels):
    """What a split holds, whatever its order."""
    return sorted(image.tobytes() + bytes([int(label)]) for image, label in zip(images, labels, strict=True))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A small MNIST and the folder in which it is prepared; not to be touched."""
    folder = tmp_path_factory.mktemp("mnist")
    small = official.make("mnist")
    run("mnist", small, folder / "data", small.lay_out(folder / "raw"))
    return small, folder / "data"


@pytest.mark.parametrize("name", NAMES)
def test_stock_tensorflow_datasets_reads_what_is_prepared(name, tmp_path):
    small = official.make(name)
    result = run(name, small, tmp_path / "data", small.lay_out(tmp_path / "raw"))
    assert result["new"]
    stock = tfds.builder(name, data_dir=tmp_path / "data")
    assert (result["folder"], result["classes"]) == (str(stock.data_path), official.CLASSES.get(name, 10))
    fresh = tfds.builder(name, data_dir=tmp_path / "empty").info.features
    assert {key: repr(value) for key, value in stock.info.features.items()} == {k: repr(v) for k, v in fresh.items()}
    ours = published.load(name=name, data_dir=str(tmp_path / "data"))
    for split, x, y in (("train", ours.x_train, ours.y_train), ("test", ours.x_test, ours.y_test)):
        rows = list(tfds.data_source(name, split=split, data_dir=tmp_path / "data"))
        np.testing.assert_array_equal(np.stack([row["image"] for row in rows]), x)
        assert [row["label"] for row in rows] == y.tolist()
        assert as_set(x, y) == as_set(*small.truth[split])
        assert (x.dtype, y.dtype) == (np.uint8, np.int64)
        for row in rows if "id" in fresh else ():
            part, _, i = row["id"].decode().partition("_")
            assert part == split and (row["image"] == small.truth[split][0][int(i)]).all()
            assert row.get("coarse_label", 0) == (row["label"] // 5 if name == "cifar100" else 0)
    assert ours.class_names == tuple(stock.info.features["label"].names)


def test_class_names_come_from_the_code_of_tensorflow_datasets_or_from_the_files(mnist, tmp_path):
    assert published.load(name="mnist", data_dir=str(mnist[1])).class_names == tuple("0123456789")
    small = official.make("cifar100")
    run("cifar100", small, tmp_path / "data", small.lay_out(tmp_path / "raw"))
    data = published.load(name="cifar100", data_dir=str(tmp_path / "data"))
    assert data.class_names == tuple(f"fine_{i:02d}" for i in range(100))


@pytest.mark.parametrize("how", ["short", "doubled", "another order", "no text"])
def test_names_of_classes_that_are_not_the_published_are_refused(how, tmp_path):
    small = official.make("cifar100")
    names = small.contents["fine_label_names.txt"].split()
    wrong = {"short": names[:2], "doubled": [*names[:-1], names[-2]], "another order": names[::-1]}
    text = b"\n".join(wrong[how]) if how in wrong else b"\xff\xfe\x00"
    small.contents["fine_label_names.txt"] = text
    message = r"fine_label_names\.txt: expected the classes' names as text"
    message = (
        message if how == "no text" else "expected the 100 names of label in alphabetical order, got .* take their"
    )
    with pytest.raises(checks.UserError, match=message) as caught:
        run("cifar100", small, tmp_path / "other", small.extract(tmp_path / "extracted"))
    assert len(str(caught.value)) < 500
    assert not list((tmp_path / "other").glob("[!.]*"))


@pytest.mark.parametrize("name", NAMES)
def test_every_way_in_which_files_may_lie_gives_the_same_contents(name, tmp_path):
    small = official.make(name)
    small.lay_out(tmp_path / "archives")
    small.lay_out(tmp_path / "all" / name)
    small.extract(tmp_path / "extracted" / small.source.folder)
    small.extract(tmp_path / "inside")
    for folder in ("archives", "all", "extracted", "inside"):
        assert raw.read(name, small.source, tmp_path / folder, command="kipx prepare") == small.contents


def test_a_repacked_archive_is_as_good(tmp_path):
    small = official.make("mnist")
    file = small.lay_out(tmp_path) / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(small.contents["train-images-idx3-ubyte"], compresslevel=1, mtime=7))
    assert file.read_bytes() != small.files[file.name]
    assert raw.read("mnist", small.source, tmp_path, command="") == small.contents


def damaged(content, how):
    return {"truncated": content[:-20], "empty": b"", "no archive": b"<html>moved</html>" * 9, "missing": None}[how]


@pytest.mark.parametrize("how", ["truncated", "empty", "no archive", "missing"])
@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn_cropped"])
def test_wrong_files_are_named_with_checksums_and_the_command_that_mends_it(name, how, tmp_path):
    small = official.make(name)
    archive = small.source.archives[0]
    file = small.lay_out(tmp_path / "raw") / raw.file_name(archive)
    content = damaged(file.read_bytes(), how)
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(checks.UserError) as caught:
        run(name, small, tmp_path / "data", tmp_path / "raw")
    text, (md5, *_) = str(caught.value), archive.contents.values()
    found = "no file" if how == "missing" else raw.checksum(file, "md5" if name == "svhn_cropped" else "sha256")
    if how == "empty" and name == "mnist":
        found = "d41d8cd98f00b204e9800998ecf8427e"  # of nothing: an empty gzip file is a whole one
    for part in (
        name,
        str(file),
        f"found {found}",
        f"kipx prepare dataset={name} dataset.data_dir={tmp_path / 'data'}",
    ):
        assert part in text
    assert archive.sha256 in text or md5 in text
    assert not list((tmp_path / "data").glob("[!.]*"))


def test_content_of_another_data_set_is_refused(tmp_path):
    small, other = official.make("mnist"), official.make("mnist", train=210)
    other.lay_out(tmp_path / "raw")
    expected = small.source.archives[0].contents["train-images-idx3-ubyte"]
    found = other.source.archives[0].contents["train-images-idx3-ubyte"]
    with pytest.raises(
        checks.UserError, match=rf"train-images-idx3-ubyte in .* expected MD5 {expected}, found {found}"
    ):
        run("mnist", small, tmp_path / "data", tmp_path / "raw")


def test_an_extracted_folder_that_lacks_a_file_is_refused(tmp_path):
    small = official.make("cifar10")
    (small.extract(tmp_path / "cifar-10-batches-bin") / "data_batch_3.bin").unlink()
    with pytest.raises(checks.UserError, match=r"batches-bin/data_batch_3\.bin is missing; expected MD5"):
        raw.read("cifar10", small.source, tmp_path, command="")
    with pytest.raises(checks.UserError, match=r"dataset\.raw_dir: expected a folder with the files of cifar10, got"):
        raw.read("cifar10", small.source, tmp_path / "nowhere", command="")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: formats.idx(b""), "idx: expected a header of unsigned bytes"),
        (lambda: formats.idx(b"\0\0\x0d\x01" + bytes(8)), "got 00 00 0d 01"),
        (lambda: formats.idx(b"\0\0\x08\x03" + bytes(8)), "got 00 00 08 03"),
        (lambda: formats.idx(b"\0\0\x08\x01\0\0\0\x03ab"), r"expected 3 bytes for \(3,\), got 2"),
        (lambda: formats.cifar(bytes(3072), labels=1), "expected records of 3073 bytes, got 3072 bytes"),
        (lambda: formats.cifar(b"", labels=1), "got 0 bytes"),
        (lambda: formats.svhn(b"MATLAB"), "SVHN: expected a mat file"),
    ],
)
def test_what_is_not_of_the_format_is_refused(read, message):
    with pytest.raises(checks.UserError, match=message):
        read()


def test_preparing_again_does_nothing(mnist):
    small, data_dir = mnist
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if path.is_file()}
    result = run("mnist", small, data_dir, "nowhere")
    assert not result["new"]
    assert command.table("mnist", result)[0] == "mnist was prepared already"
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("folder", ["sets", "my sets"])
def test_without_prepared_data_the_message_names_the_folder_and_what_to_type(folder, tmp_path):
    where = tmp_path / folder
    with pytest.raises(checks.UserError, match=rf"in {where}/mnist/3\.0\.1, .*; run kipx") as caught:
        published.load(name="mnist", data_dir=str(where))
    typed = str(caught.value).partition("; run ")[2]
    assert shlex.split(typed) == ["kipx", "prepare", "dataset=mnist", f"dataset.data_dir={where}"]


def test_a_name_that_is_not_published_is_refused(tmp_path):
    with pytest.raises(checks.UserError, match=r"dataset\.load\.name: expected one of mnist, .*, got 'imagenet'"):
        published.load(name="imagenet", data_dir=str(tmp_path))
    with pytest.raises(checks.UserError, match=r"dataset\.load\.name: expected one of mnist, .*, got 'imagenet'"):
        command.run(name="imagenet", data_dir=str(tmp_path), raw_dir=None)


def test_the_default_folder_is_data_in_the_repository_and_else_in_the_current_folder(monkeypatch, tmp_path):
    assert published.folder() == ROOT / "data"
    monkeypatch.setattr(kipx, "__file__", str(tmp_path / "site-packages" / "kipx" / "__init__.py"))
    assert published.folder() == pathlib.Path("data")


def shard(data_dir):
    return data_dir / "mnist" / "3.0.1" / "mnist-train.array_record-00000-of-00001"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        flip,
        lambda path: path.with_name("dataset_info.json").write_text("{"),
        lambda path: path.with_name("dataset_info.json").unlink(),
        lambda path: path.with_name("features.json").unlink(),
        lambda path: path.with_name("features.json").write_text("{"),
    ],
    ids=[
        "no shard",
        "empty shard",
        "short shard",
        "wrong byte",
        "torn info",
        "no info",
        "no features",
        "torn features",
    ],
)
def test_a_damaged_folder_is_never_taken_for_a_whole_one_and_prepared_again(damage, tmp_path):
    small = official.make("mnist")
    raw_dir = small.lay_out(tmp_path / "raw")
    run("mnist", small, tmp_path, raw_dir)
    damage(shard(tmp_path))
    with pytest.raises(checks.UserError, match=r"dataset=mnist: .*3\.0\.1.* kipx prepare dataset=mnist dataset"):
        published.load(name="mnist", data_dir=str(tmp_path))
    assert run("mnist", small, tmp_path, raw_dir)["new"]
    data = published.load(name="mnist", data_dir=str(tmp_path))
    assert as_set(data.x_train, data.y_train) == as_set(*small.truth["train"])


def test_data_that_only_tensorflow_reads_is_left_alone(tmp_path):
    small = official.make("mnist")
    raw_dir = small.lay_out(tmp_path / "raw")
    run("mnist", small, tmp_path, raw_dir)
    info = shard(tmp_path).with_name("dataset_info.json")
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(checks.UserError, match=r"expected mnist as array_record, .* has it as tfrecord"):
        run("mnist", small, tmp_path, raw_dir)
    assert shard(tmp_path).is_file()


def test_killed_in_the_middle_it_leaves_nothing_that_is_taken_for_whole(tmp_path):
    program = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
import official
from kipx.data import prepare
small = official.make("mnist")
def watch(examples, total):
    for i, example in enumerate(examples):
        if total == 100 and i == 50:
            print("in the middle", file=sys.stderr, flush=True)
            time.sleep(60)
        yield example
with prepare.alone("mnist", {str(tmp_path)!r}):
    prepare.write("mnist", *small.source.read(small.contents), {str(tmp_path)!r}, watch=watch)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert "in the middle\n" in iter(child.stderr.readline, "")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert (tmp_path / "incomplete.mnist").is_dir()
    with pytest.raises(checks.UserError, match="found nothing whole"):
        published.load(name="mnist", data_dir=str(tmp_path))
    small = official.make("mnist")
    assert run("mnist", small, tmp_path, small.lay_out(tmp_path / "raw"))["new"]
    assert not (tmp_path / "incomplete.mnist").exists()


def test_of_two_at_once_one_prepares_and_the_other_waits(tmp_path):
    small, said, results = official.make("mnist"), [], []
    raw_dir = small.lay_out(tmp_path / "raw")
    with prepare.alone("mnist", tmp_path):
        jobs = [
            threading.Thread(target=lambda: results.append(run("mnist", small, tmp_path, raw_dir, said)))
            for _ in range(2)
        ]
        for job in jobs:
            job.start()
        while len(said) < 2:
            time.sleep(0.01)
        assert not results
    for job in jobs:
        job.join()
    assert said == ["mnist: waiting for another kipx prepare"] * 2
    assert sorted(result["new"] for result in results) == [False, True]


def test_a_folder_that_cannot_be_written_is_the_users_mistake(tmp_path):
    small = official.make("mnist")
    raw_dir = small.lay_out(tmp_path / "raw")
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.UserError, match=r"mnist: cannot prepare in .*file.*Not a directory|File exists"):
        run("mnist", small, tmp_path / "file", raw_dir)


def test_reading_imports_no_tensorflow(mnist):
    program = (
        f"import sys; from kipx.data import published; published.load(name='mnist', data_dir={str(mnist[1])!r});"
        "from kipx.commands import prepare; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_is_published_is_complete():
    assert set(SOURCES) == set(NAMES)
    for source in SOURCES.values():
        for archive in source.archives:
            assert archive.size > 0
            assert len(archive.sha256) == 64
            assert {len(md5) for md5 in archive.contents.values() if md5} == {32}


@pytest.mark.parametrize("name", NAMES)
def test_checksums_of_downloads_are_those_of_tensorflow_datasets(name):
    folder = pathlib.Path(tfds.__file__).parent
    files = [folder / "url_checksums" / f"{name}.txt", folder / "datasets" / name / "checksums.tsv"]
    lines = next(file for file in files if file.is_file()).read_text().splitlines()
    registered = {tuple(line.split("\t")[:3]) for line in lines}
    assert {(a.url, str(a.size), a.sha256) for a in SOURCES[name].archives} <= registered
