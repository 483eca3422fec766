"""Distilled sets in files of others, and of kipx for other tools: a format a file.

A format that is written has `files(distilled) -> {name: bytes}`; one that is read has `read(path, entry) -> arrays`,
where arrays are {name: array} in kipx's layout and under the names of support.npz:

- a set of kipx's own has them all: `images`, `labels`, `class_names`, `config` and the preprocessing;
- one of others has `images` (n, h, w, c), preprocessed in a way that the file does not hold, and, if the file has
  them, `labels` (n,) of class numbers or (n, classes) centred, or `soft_labels` (n, classes) of a kind it does not say.
"""

import pathlib

import numpy as np

from kipx import checks
from kipx.formats import npz, safetensors, torch
from kipx.formats.npz import is_own

__all__ = ["READERS", "is_own", "read"]

READERS = {".npz": npz.read, ".pt": torch.read, ".pth": torch.read, ".safetensors": safetensors.read}


def read(path, *, labels=None, entry=0):
    """Reads a distilled set without trust: nothing in a file is ever run.

    Args:
      path: an npz, a .pt or a .safetensors.
      labels: the file of its labels, or 'by_class' for images in the order of their classes, equally many of each;
        None: they are in `path`.
      entry: which set, of a file with several.
    Returns:
      {name: array}, see above; `labels` is the text 'by_class' where that was given.
    Raises:
      UserError: no such file, damaged, of an unknown layout, or with labels missing or given twice.
    """
    found = _read(path, entry)
    if labels == "by_class":
        return {**_without_labels(found, path), "labels": np.asarray(labels)}
    if labels is not None:
        return {**_without_labels(found, path), **torch.labels_of(_file("labels.path", labels, "labels, or by_class"))}
    if "labels" not in found and "soft_labels" not in found:
        raise checks.UserError(
            f"{path}: holds images alone; give kipx import labels.path=<file>, or labels.path=by_class where they "
            "are in the order of their classes, equally many of each"
        )
    return found


def _read(path, entry):
    path = _file("path", path, ", ".join(READERS))
    reader = READERS.get(path.suffix)
    if reader is None:
        raise checks.UserError(f"path: expected a file of {', '.join(READERS)}, got {path}")
    return reader(path, checks.integer("entry", entry, at_least=0))


def _file(key, path, kinds):
    path = pathlib.Path(path)
    if not path.is_file():
        raise checks.UserError(f"{key}: expected a file of {kinds}, got {path}, which is no file")
    return path


def _without_labels(arrays, path):
    if "labels" in arrays or "soft_labels" in arrays:
        raise checks.UserError(f"labels.path: {path} has its labels; leave labels.path out")
    return arrays
