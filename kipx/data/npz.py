"""A user's own arrays from an npz file."""

import pathlib

import numpy as np

from kipx import checks, untrusted
from kipx.data import Dataset, check

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(*, path: str | None = None):
    """Reads x_train, y_train, x_test, y_test and, if there, class_names.

    Args:
      path: the npz file; images (n, h, w) or (n, h, w, c), integer labels from 0. Nothing is ever unpickled.
    Returns:
      Dataset.
    Raises:
      UserError: no such file, not an npz, a key missing, or arrays that do not fit together.
    """
    if path is None or not pathlib.Path(path).is_file():
        raise checks.UserError(
            f"dataset.path: expected an npz file with {', '.join(KEYS)}, got {path}, which is no file"
        )
    try:
        arrays = untrusted.npz(path)
    except untrusted.Damaged as error:
        raise checks.UserError(f"dataset.path: {path} is not a readable npz of plain arrays: {error}") from error
    if missing := [key for key in KEYS if key not in arrays]:
        raise checks.UserError(f"dataset.path: {path} lacks {', '.join(missing)}; it has {', '.join(arrays)}")
    return check(f"dataset.path={path}", _dataset(arrays))


def _dataset(arrays):
    images = [x[..., None] if x.ndim == 3 else x for x in (arrays["x_train"], arrays["x_test"])]
    shape = images[0].shape
    if len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3] > 4:  # as PyTorch has them
        raise checks.UserError(
            f"dataset.path: expected images (n, h, w, c), got {shape}, channels first; np.moveaxis(x, 1, -1) puts them "
            "last"
        )
    labels = [
        y.astype(np.int64) if np.issubdtype(y.dtype, np.integer) else y for y in (arrays["y_train"], arrays["y_test"])
    ]
    highest = max((int(y.max()) for y in labels if y.size and np.issubdtype(y.dtype, np.integer)), default=0)
    names = arrays.get("class_names", np.arange(min(max(highest, 0), labels[0].size) + 1))  # a class has an image
    if names.ndim != 1 or not len(names):
        raise checks.UserError(f"dataset.path: expected class_names (n,), one for each class, got {names.shape}")
    return Dataset(images[0], labels[0], images[1], labels[1], _texts(names))


def _texts(names):
    """The names as text, each another; as integers, too, or bytes in UTF-8."""
    try:
        texts = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    except UnicodeDecodeError as error:
        raise checks.UserError(f"dataset.path: expected class_names as text, got other bytes ({error})") from error
    if "" in texts or len(set(texts)) < len(texts):
        raise checks.UserError(f"dataset.path: expected class_names that differ, none empty, got {checks.said(texts)}")
    return texts
