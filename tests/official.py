"""Published data sets in small: a few images of noise in the official formats, with their own checksums."""

import gzip
import hashlib
import io
import tarfile
from typing import NamedTuple

import numpy as np
import scipy.io

from kipx.data import raw
from kipx.data.sources import SOURCES, Archive

CLASSES = {"cifar100": 100}


class Official(NamedTuple):
    """What a data set's authors would publish.

    Attributes:
      source: kipx.data.sources.Source of these files.
      files: {name: bytes} as published.
      contents: {name: bytes} as extracted.
      truth: {"train" | "test": (images, labels)}.
    """

    source: object
    files: dict
    contents: dict
    truth: dict

    def lay_out(self, folder):
        """Writes the published files into a folder; returns it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder

    def extract(self, folder):
        """Writes the contents into a folder; returns it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            (folder / name).write_bytes(content)
        return folder


def make(name, *, train=200, test=100, url="http://127.0.0.1:9/"):
    """A small data set; every class has images."""
    sizes = {"train": train, "test": test}
    shape, classes = (28, 28, 1) if "mnist" in name else (32, 32, 3), CLASSES.get(name, 10)
    rng = np.random.default_rng(0)
    truth = {s: (rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % classes) for s, n in sizes.items()}
    contents = {"mnist": _idx, "cifar10": _cifar10, "cifar100": _cifar100}.get(name.removeprefix("fashion_"), _svhn)(
        truth
    )
    files, archives = {}, []
    for archive in SOURCES[name].archives:
        file = raw.file_name(archive)
        files[file] = _pack(file, SOURCES[name].folder, {key: contents[key] for key in archive.contents})
        sums = {k: None if k.endswith(".txt") else hashlib.md5(contents[k]).hexdigest() for k in archive.contents}
        archives.append(Archive(url + file, len(files[file]), hashlib.sha256(files[file]).hexdigest(), sums))
    return Official(SOURCES[name]._replace(archives=tuple(archives)), files, contents, truth)


def _pack(file, folder, contents):
    if file.endswith(".tar.gz"):
        with io.BytesIO() as packed:
            with tarfile.open(fileobj=packed, mode="w:gz") as tar:
                for name, content in {"readme.html": b"hello", **contents}.items():
                    member = tarfile.TarInfo(f"{folder}/{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            return packed.getvalue()
    (content,) = contents.values()
    return gzip.compress(content, mtime=0) if file.endswith(".gz") else content


def _idx(truth):
    contents = {}
    for part, split in (("train", "train"), ("t10k", "test")):
        images, labels = truth[split]
        sizes = b"".join(n.to_bytes(4, "big") for n in images.shape[:3])
        contents[f"{part}-images-idx3-ubyte"] = b"\0\0\x08\x03" + sizes + images.tobytes()
        contents[f"{part}-labels-idx1-ubyte"] = b"\0\0\x08\x01" + sizes[:4] + labels.astype(np.uint8).tobytes()
    return contents


def _records(images, *labels):
    rows = zip(zip(*labels, strict=True), images, strict=True)
    return b"".join(bytes(map(int, row)) + b"".join(image[..., c].tobytes() for c in range(3)) for row, image in rows)


def _cifar10(truth):
    fifths = zip(*(np.array_split(part, 5) for part in truth["train"]), strict=True)
    contents = {f"data_batch_{i}.bin": _records(*part) for i, part in enumerate(fifths, 1)}
    names = "".join(f"class_{i}\n" for i in range(10))
    return contents | {"test_batch.bin": _records(*truth["test"]), "batches.meta.txt": f"{names}\n".encode()}


def _cifar100(truth):
    contents = {f"{split}.bin": _records(x, y // 5, y) for split, (x, y) in truth.items()}
    for kind, n in (("fine", 100), ("coarse", 20)):
        contents[f"{kind}_label_names.txt"] = "".join(f"{kind}_{i:02d}\n" for i in range(n)).encode()
    return contents


def _svhn(truth):
    contents = {}
    for split, (images, labels) in truth.items():
        file = io.BytesIO()
        y = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
        scipy.io.savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": y}, do_compression=True)
        contents[f"{split}_32x32.mat"] = file.getvalue()
    return contents
