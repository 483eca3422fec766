"""Published data sets in tensorflow-datasets' folders (array_record), read without TensorFlow."""

import io
import pathlib

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

import kipx
from kipx import checks
from kipx.data import Dataset, check

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
    where, builder = folder(data_dir), open_builder(name, data_dir)
    if not is_prepared(builder):
        raise checks.UserError(
            f"dataset={name}: expected it prepared in {builder.data_path}, found nothing whole there; "
            f"run {prepare_command(name, data_dir)}"
        )
    try:
        x_train, y_train = _split(builder, "train")
        x_test, y_test = _split(builder, "test")
    except Exception as error:  # the readers' C++ raises whatever the bytes lead it to
        raise checks.UserError(
            f"dataset={name}: {builder.data_path} is damaged or in another format than array_record "
            f"({_first_line(error)}); run {prepare_command(name, data_dir)}, which prepares it again"
        ) from error
    names = tuple(builder.info.features["label"].names)
    return check(f"dataset={name} in {where}", Dataset(x_train, y_train, x_test, y_test, names))


def folder(data_dir=None):
    """Where prepared data sets lie: `data_dir`, or else `data` in the repository, or else in the current folder.

    The repository counts if kipx runs from it; installed from a wheel it has none.
    """
    root = pathlib.Path(kipx.__file__).parents[1]
    home = root if (root / "setup.cfg").is_file() and (root / "conf").is_dir() else pathlib.Path()
    return home / "data" if data_dir is None else pathlib.Path(data_dir).expanduser()


def open_builder(name, data_dir=None):
    """tensorflow-datasets' builder of a data set; it need not be prepared."""
    return tfds.builder_cls(name)(data_dir=folder(data_dir))


def is_prepared(builder):
    """Whether a builder's folder has what tensorflow-datasets writes last."""
    return all((builder.data_path / file).is_file() for file in ("dataset_info.json", "features.json"))


def prepare_command(name, data_dir=None):
    """What to type to prepare a data set."""
    return f"kipx prepare dataset={name}" + ("" if data_dir is None else f" dataset.data_dir={data_dir}")


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


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]
