"""Attacks by links, manifests and archives that others made: nothing outside is read or written."""

import gzip
import io
import json
import math
import os
import tarfile

import official
import pytest
from attacks import CONFIG, SECRET, save
from in_process import files

from kipx import artifacts, checks, manifest, track
from kipx.commands import export, prepare, report
from kipx.data import raw

pytestmark = pytest.mark.usefixtures("within_time")


def test_nothing_is_written_through_a_link(tmp_path):
    """Names under which kipx writes lead elsewhere in a folder of someone else's."""
    given, victim, new = tmp_path / "given", tmp_path / "victim", tmp_path / "new"
    given.mkdir()
    victim.write_text("mine")
    for name in ("summary.json", ".summary.json.part", "job.json", ".job.json.part"):
        (given / name).symlink_to(victim)
    artifacts.write_json(given / "summary.json", {})
    artifacts.write_json(given / "job.json", {})
    assert victim.read_text() == "mine" and not (given / "summary.json").is_symlink()
    (given / "metrics.jsonl").symlink_to(new)
    with pytest.raises(checks.StorageError, match=r"metrics\.jsonl"):
        track.jsonl(given)({"step": 0})
    assert not new.exists()


def test_nothing_is_written_in_the_place_of_a_device(tmp_path):
    """As root, out=/dev/null would leave a file there."""
    os.mkfifo(tmp_path / "device")
    with pytest.raises(FileExistsError, match="no file"):
        artifacts.write(tmp_path / "device", "x")
    assert (tmp_path / "device").is_fifo() and os.listdir(tmp_path) == ["device"]


@pytest.mark.parametrize("path", ["../victim", "/etc/passwd", "a/../../victim", "~/victim", "\0"])
def test_a_manifest_leads_nowhere(path, tmp_path):
    """Its names are compared with those that kipx itself writes, and never opened."""
    given = save(tmp_path / "given")
    (tmp_path / "victim").write_text(SECRET)
    digest = "0" * 64
    artifacts.write_json(given / "manifest.json", {"files": {path: digest}, "config": {}, "parents": [path]})
    manifest.enter(given, ["support.npz"])
    assert json.loads((given / "manifest.json").read_text())["files"][path] == digest
    out = tmp_path / "out"
    out.mkdir()
    artifacts.write_json(out / "manifest.json", {"files": {path: digest}})
    export.run(given, format="npz", out=out)
    assert path not in json.loads((out / "manifest.json").read_text())["files"]
    artifacts.write_config(given, {**CONFIG, "support": {"per_class": 1}, "steps": 1})
    artifacts.write_json(given / "summary.json", {"test_accuracy": 0.5, "steps": 1})
    page, troubles = report.write_pages(given)
    assert SECRET not in page.read_text() and not troubles
    assert (tmp_path / "victim").read_text() == SECRET


def _tar(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))


def _member(name, size=0, **more):
    member = tarfile.TarInfo(name)
    member.size = size
    for key, value in more.items():
        setattr(member, key, value)
    return member


@pytest.mark.parametrize(
    "more",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "../../../etc/passwd"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.DIRTYPE},
        None,
    ],
    ids=["link", "hard link", "device", "pipe", "folder", "path"],
)
def test_no_member_of_an_archive_leads_elsewhere(more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = official.make("cifar10")
    small.lay_out(tmp_path / "raw")
    (archive,) = small.source.archives
    path = tmp_path / "raw" / raw.file_name(archive)
    first, folder = next(iter(archive.contents)), small.source.folder
    if more is None:
        _tar(
            path,
            *(
                (_member(at, 1), b"x")
                for at in (f"../{first}", f"/{first}", f"{folder}/../{first}", f"{folder}/../../x")
            ),
        )
    else:
        _tar(path, (_member(f"{folder}/{first}", **more), b""))
    before = files(tmp_path)
    with pytest.raises(checks.UserError, match=f"{first} in .* is missing"):
        raw.read("cifar10", small.source, tmp_path / "raw", command="kipx prepare")
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_no_archive_unpacks_without_end(name, tmp_path):
    small = official.make(name)
    small.lay_out(tmp_path)
    archive = small.source.archives[0]
    path, zeros = tmp_path / raw.file_name(archive), raw.PACKED * archive.size + 2 * raw.SMALL
    if name == "mnist":
        path.write_bytes(gzip.compress(bytes(zeros)))
    else:
        member = f"{small.source.folder}/{next(iter(archive.contents))}"
        _tar(path, (_member(member, zeros), bytes(zeros)))
    with pytest.raises(checks.UserError, match=r"cannot be unpacked \(it unpacks to more than"):
        raw.read(name, small.source, tmp_path, command="kipx prepare")


def test_every_published_archive_is_within_the_limit():
    """The largest of them unpack to what their data sets are: 28x28 or 32x32x3 bytes an image."""
    bytes_of = {"mnist": 60_000 * 784 + 16, "fashion_mnist": 60_000 * 784 + 16, "cifar10": 10_000 * 3073}
    for name, largest in bytes_of.items():
        archive = official.SOURCES[name].archives[0]
        assert largest < raw.PACKED * archive.size + raw.SMALL
    assert math.prod((10_000, 3074)) < raw.PACKED * official.SOURCES["cifar100"].archives[0].size


def test_a_downloaded_archive_that_is_another_never_gets_its_name(tmp_path, monkeypatch):
    """What a server sends is unpacked by nobody before its sha256 is right."""
    small = official.make("mnist")
    archive = small.source.archives[0]

    def serve(archive, part, *_):
        part.write_bytes(gzip.compress(b"something else"))

    monkeypatch.setattr(prepare.download, "_complete", serve)
    monkeypatch.setattr(raw, "unpack", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(checks.UserError, match="is not what was published"):
        prepare._contents("mnist", small.source, tmp_path, None, lambda text: None)
    assert not [path for path in files(tmp_path) if raw.file_name(archive) in path]
