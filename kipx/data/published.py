"""Published data sets in tensorflow-datasets' folders (array_record), read without TensorFlow."""

import io
import json
import re
import shlex

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from kipx import checks
from kipx.data import Dataset, check, folder
from kipx.data.sources import SOURCES

BATCH = 2000  # images that are decoded at a time


def load(*, name: str, data_dir: str | None = None):
    """Reads a published data set, in the order of tensorflow-datasets, which shuffles it by a fixed hash.

    Args:
      name: as tensorflow-datasets has it.
      data_dir: folder of prepared data sets; None: see `folder`.
    Returns:
      Dataset of uint8 pixels.
    Raises:
      UserError: not prepared, or damaged.
    """
    where, mend = place(name, data_dir), prepare_command(name, data_dir)
    if not is_prepared(name, data_dir):
        raise checks.UserError(f"dataset={name}: expected it prepared in {where}, found nothing whole; run {mend}")
    try:
        json.loads((where / "features.json").read_bytes())  # kipx can do without; others who read the folder cannot
        builder = tfds.builder_cls(name)(data_dir=folder(data_dir))
        train, test = _split(builder, "train"), _split(builder, "test")
    except Exception as error:  # the readers' C++ raises whatever the bytes lead it to
        text = checks.reason(error)
        raise checks.UserError(f"dataset={name}: {where} is damaged ({text}); {mend} prepares it again") from error
    return check(f"dataset={name} in {where}", Dataset(*train, *test, tuple(builder.info.features["label"].names)))


def place(name, data_dir=None):
    """Where a prepared data set lies: the folder of the version that tensorflow-datasets reads by default.

    Raises:
      UserError: not one of `kipx.data.sources`.
    """
    checks.one_of("dataset.load.name", name, tuple(SOURCES))
    return folder(data_dir) / name / str(tfds.builder_cls(name).VERSION)


def is_prepared(name, data_dir=None):
    """Whether a data set's folder has what tensorflow-datasets writes last.

    Raises:
      UserError: it is prepared in a format that only TensorFlow reads.
    """
    info = place(name, data_dir) / "dataset_info.json"
    if not info.is_file() or not info.with_name("features.json").is_file():
        return False
    file_format = re.search(r'"fileFormat": *"(\w+)"', info.read_text(errors="replace"))
    if file_format and file_format[1] != "array_record":
        raise checks.UserError(
            f"dataset.data_dir: expected {name} as array_record, {info.parent} has it as {file_format[1]}, which only "
            "TensorFlow reads; choose another folder, or remove that one"
        )
    return True


def prepare_command(name, data_dir=None):
    """What to type to prepare a data set."""
    where = [] if data_dir is None else [f"dataset.data_dir={data_dir}"]
    return shlex.join(["kipx", "prepare", f"dataset={name}", *where])


def _split(builder, split):
    """(images (n, h, w, c) uint8, labels (n,) int64) of a split."""
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    shape = builder.info.features["image"].shape
    images, labels = np.empty((len(source), *shape), np.uint8), np.empty(len(source), np.int64)
    for start in range(0, len(source), BATCH):
        stop = min(start + BATCH, len(source))
        for i, example in enumerate(source.__getitems__(list(range(start, stop))), start):
            images[i] = np.asarray(PIL.Image.open(io.BytesIO(example["image"]))).reshape(shape)
            labels[i] = example["label"]
    return images, labels
