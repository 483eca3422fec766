"""Data sets, one source per file: each has a `load(...) -> Dataset`."""

import hashlib
import json
import pathlib
from typing import NamedTuple

import numpy as np

import kipx
from kipx import checks

BRIGHTEST = 1e30  # of a pixel, so that squares and sums are finite


class Dataset(NamedTuple):
    """A labelled set of images, split.

    Attributes:
      x_train, x_test: (n, h, w, c) pixels.
      y_train, y_test: (n,) int64 classes 0 .. classes - 1.
      class_names: one name for each class.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple

    @property
    def classes(self):
        """Number of classes."""
        return len(self.class_names)


def folder(data_dir=None):
    """Where prepared data sets lie: `data_dir`, or else `data` in the repository, or else in the current folder.

    The repository counts if kipx runs from it; installed from a wheel it has none.
    """
    root = pathlib.Path(kipx.__file__).parents[1]
    home = root if (root / "setup.cfg").is_file() and (root / "conf").is_dir() else pathlib.Path()
    return home / "data" if data_dir is None else pathlib.Path(data_dir).expanduser()


def fingerprint(dataset):
    """sha256, in hexadecimal digits, of a data set's images, labels and class names."""
    found = hashlib.sha256(json.dumps(dataset.class_names).encode())
    for array in dataset[:4]:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def check_set(dataset, shape, classes):
    """Raises UserError unless a distilled set of images (h, w, c) and so many classes is of the data set's kind."""
    if shape != dataset.x_train.shape[1:] or classes != dataset.classes:
        raise checks.UserError(
            f"run: expected a set of {dataset.classes} classes of {dataset.x_train.shape[1:]} images, as the data "
            f"set's, got {classes} of {shape}"
        )


def check(name, dataset):
    """Returns the data set if its shapes, labels and numbers are sound, else raises UserError."""
    for part in ("train", "test"):
        x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
        if x.ndim != 4 or 0 in x.shape or x.shape[1:] != dataset.x_train.shape[1:] or y.shape != x.shape[:1]:
            raise checks.UserError(
                f"{name}: expected {part} images (n, h, w, c), n >= 1, and as many labels (n,), "
                f"got {x.shape} and {y.shape}"
            )
        if x.dtype.kind not in "iuf":
            raise checks.UserError(f"{name}: expected numbers as {part} images, got {x.dtype}; save them as uint8")
        if not np.isfinite(x).all():
            raise checks.UserError(f"{name}: expected finite numbers as {part} images, got {x.dtype} with NaN or inf")
        if max(abs(float(x.min())), float(x.max())) > BRIGHTEST:
            raise checks.UserError(f"{name}: expected {part} images of pixels up to {BRIGHTEST:g}, got larger ones")
        if y.dtype.kind not in "iu":
            raise checks.UserError(
                f"{name}: expected integers as {part} labels, got {y.dtype}; of any classes "
                "np.unique(labels, return_inverse=True)[1] makes them"
            )
        if y.min() < 0 or y.max() >= dataset.classes:
            raise checks.UserError(
                f"{name}: expected {part} labels from 0 to {dataset.classes - 1}, got {y.min()} to {y.max()}"
            )
    if dataset.classes < 2:
        raise checks.UserError(f"{name}: expected at least two classes, got {dataset.classes}")
    missing = np.setdiff1d(np.arange(dataset.classes), dataset.y_train)
    if missing.size:
        raise checks.UserError(f"{name}: expected training images of every class, got none of class {missing[0]}")
    return dataset
