"""What is published: addresses, checksums, and how the files of each set become images and labels.

sha256 of archives as tensorflow-datasets registers them. MD5 of what is in them: MNIST's and Fashion-MNIST's of the idx
files inside the published archives, CIFAR-10's of the records rebuilt from the published pickles, CIFAR-100's as
rai-project/dldataset has them, whose CIFAR-10 values are the same; SVHN's as torchvision has them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kipx import checks
from kipx.data import formats


class Archive(NamedTuple):
    """A published file.

    Attributes:
      url: where it is published.
      size: its length in bytes.
      sha256: its checksum.
      contents: {name: MD5 or None} of what is inside, decompressed; labels' names, which are text, have none.
    """

    url: str
    size: int
    sha256: str
    contents: dict


class Source(NamedTuple):
    """A published data set.

    Attributes:
      archives: of Archive.
      folder: where the contents lie in the archive and beside it, once extracted; "" for where the archive lies.
      read: {name: bytes} of all contents -> (splits, class_names); splits {"train" | "test": {feature: values}} with
        `image` (n, h, w, c) uint8 and `label` (n,), class_names {feature: names} where the files have them.
    """

    archives: tuple
    folder: str
    read: Callable


def _idx_archives(url, table):
    parts = (("train-images-idx3", 0), ("train-labels-idx1", 1), ("t10k-images-idx3", 2), ("t10k-labels-idx1", 3))
    for part, row in parts:
        size, sha256, md5 = table[row]
        yield Archive(f"{url}{part}-ubyte.gz", size, sha256, {f"{part}-ubyte": md5})


def read_idx(contents):
    """Images and labels of the four idx files of MNIST and its like."""
    parts = {"train": "train", "test": "t10k"}
    return {
        split: {
            "image": formats.idx(contents[f"{part}-images-idx3-ubyte"])[..., None],
            "label": formats.idx(contents[f"{part}-labels-idx1-ubyte"]),
        }
        for split, part in parts.items()
    }, {}


def read_cifar(contents, *, train, test, labels):
    """Images and labels of CIFAR's binary files.

    Args:
      contents: {name: bytes}.
      train, test: names of the files of each split, in order.
      labels: {feature: file with its classes' names}, in the order of a record's label bytes.
    """
    splits = {}
    for split, names in (("train", train), ("test", test)):
        parts = [formats.cifar(contents[name], labels=len(labels)) for name in names]
        classes = np.concatenate([part[1] for part in parts])
        splits[split] = {
            "image": np.concatenate([part[0] for part in parts]),
            **{feature: classes[:, column] for column, feature in enumerate(labels)},
            "id": [f"{split}_{i:05d}" for i in range(len(classes))],
        }
    return splits, {feature: _words(contents[name], name) for feature, name in labels.items()}


def _words(content, name):
    try:
        return content.decode().split()
    except UnicodeDecodeError as error:
        raise checks.UserError(f"{name}: expected the classes' names as text, got other bytes ({error})") from error


def read_svhn(contents):
    """Images and labels of SVHN's cropped digits, without the 531,131 extra ones."""
    splits = {}
    for split in ("train", "test"):
        images, labels = formats.svhn(contents[f"{split}_32x32.mat"])
        ids = [f"{split}_{i:06d}" for i in range(len(labels))]
        splits[split] = {"image": images, "label": labels, "id": ids}
    return splits, {}


_CIFAR10_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_MNIST = (
    (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", "6bbc9ace898e44ae57da46a324031adb"),
    (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", "a25bea736e30d166cdddb491f175f624"),
    (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", "2646ac647ad5339dbf082846283269ea"),
    (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", "27ae3e4e09519cfbb04c329615203637"),
)
_FASHION_MNIST = (
    (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", "9018921c3c673c538a1fc5bad174d6f9"),
    (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", "8181f5470baa50b63fa0f6fddb340f0a"),
    (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", "15d484375f8d13e6eb1aabb0c3f46965"),
)
SOURCES = {
    "mnist": Source(tuple(_idx_archives("https://storage.googleapis.com/cvdf-datasets/mnist/", _MNIST)), "", read_idx),
    "fashion_mnist": Source(
        tuple(_idx_archives("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", _FASHION_MNIST)),
        "",
        read_idx,
    ),
    "svhn_cropped": Source(
        (
            Archive(
                "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
                182040794,
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
                {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373"},
            ),
            Archive(
                "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
                64275384,
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
                {"test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"},
            ),
        ),
        "",
        read_svhn,
    ),
    "cifar10": Source(
        (
            Archive(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170052171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                {
                    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
                    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
                    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
                    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
                    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
                    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
                    "batches.meta.txt": None,
                },
            ),
        ),
        "cifar-10-batches-bin",
        functools.partial(
            read_cifar, train=_CIFAR10_BATCHES, test=("test_batch.bin",), labels={"label": "batches.meta.txt"}
        ),
    ),
    "cifar100": Source(
        (
            Archive(
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                168513733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                {
                    "train.bin": "6172c7755cfe09b2fe270c85cebc1b15",
                    "test.bin": "4499cfba6c016c1be1438163640a0898",
                    "coarse_label_names.txt": None,
                    "fine_label_names.txt": None,
                },
            ),
        ),
        "cifar-100-binary",
        functools.partial(
            read_cifar,
            train=("train.bin",),
            test=("test.bin",),
            labels={"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"},
        ),
    ),
}
