"""The paper's released npz, and kipx's own: support.npz with the images in pixel space and the classes beside it."""

import numpy as np

from kipx import artifacts, checks

FILE = "set.npz"


def files(distilled):
    """{name: bytes}: what `kipx.artifacts.load` reads as it reads support.npz, and what plain numpy can use.

    Args:
      distilled: kipx.artifacts.Distilled.
    """
    return {FILE: artifacts.npz_bytes(arrays(distilled))}


def arrays(distilled):
    """{name: array} of all that a set is: as in support.npz, `pixels` (n, h, w, c), not clipped, `classes` (n,)."""
    packed = artifacts.pack(
        distilled.images,
        distilled.labels,
        preprocessing=distilled.preprocessing,
        class_names=distilled.class_names,
        config=distilled.config,
    )
    classes = np.argmax(distilled.labels, axis=1).astype(np.int64)
    return {**packed, "pixels": distilled.pixels.astype(np.float32), "classes": classes}


def is_own(arrays):
    """Whether a set is of kipx's own writing, which needs nothing beside it."""
    return "preprocessing_mean" in arrays


def read(path, entry):
    """Reads kipx's own, or one with `images` (n, h, w, c) and `labels`, as in the paper's release.

    Args:
      path: pathlib.Path.
      entry: 0, there is one set in it.
    Returns:
      {name: array}, see `kipx.formats`; rows of `labels` that are probabilities are `soft_labels`.
    Raises:
      UserError: torn, with objects, or without images and labels of that shape.
    Source: dataset.ipynb and nn_training.ipynb in the folder kip of google-research: labels are one-hot less
      1 / classes, or learned from there.
    """
    checks.one_of("entry", entry, (0,))
    found = artifacts.read_npz(path)
    if is_own(found):
        artifacts.check_whole(found, path)
        return found
    images, labels = found.get("images"), found.get("labels")
    if images is None or labels is None or images.ndim != 4 or labels.ndim not in (1, 2):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in found.items())
        raise checks.UserError(f"{path}: expected images (n, h, w, c) and labels (n,) or (n, classes), got {shapes}")
    if not np.issubdtype(images.dtype, np.number):
        raise checks.UserError(f"{path}: expected images of numbers, got {images.dtype}")
    return {"images": images, "soft_labels" if _probable(labels) else "labels": labels}


def _probable(labels):
    """Whether rows are shares that add up to one: those are not centred."""
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.number):
        return False
    return bool(labels.size and labels.min() >= 0 and np.allclose(labels.sum(axis=1), 1, atol=1e-3))
