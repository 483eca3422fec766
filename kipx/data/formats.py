"""The formats in which the published sets come: idx, CIFAR's binary records, SVHN's mat. Bytes in, arrays out."""

import io
import math

import numpy as np
import scipy.io

from kipx import checks

CIFAR_PIXELS = 32 * 32 * 3


def idx(content):
    """Reads an idx file.

    Args:
      content: bytes: two zeros, 8 for uint8, the number of dimensions, each of them as a big-endian uint32, the data.
    Returns:
      uint8 array of the dimensions that the header states.
    Raises:
      UserError: another type, or more or fewer bytes than the header states.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise checks.UserError(f"idx: expected a header of unsigned bytes, 00 00 08, got {content[:4].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if len(content) - start != math.prod(shape):
        raise checks.UserError(f"idx: expected {math.prod(shape)} bytes for {shape}, got {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def cifar(content, *, labels):
    """Reads CIFAR's binary records: `labels` bytes of labels, then 32x32 red, green and blue values.

    Returns:
      (images (n, 32, 32, 3) uint8, labels (n, labels) uint8).
    Raises:
      UserError: not a whole number of records.
    """
    size = labels + CIFAR_PIXELS
    if not content or len(content) % size:
        raise checks.UserError(f"CIFAR: expected records of {size} bytes, got {len(content)} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, :labels]


def svhn(content):
    """Reads SVHN's cropped digits: X (32, 32, 3, n), y (n, 1) of 1 to 10, where 10 stands for the digit 0.

    Returns:
      (images (n, 32, 32, 3) uint8, labels (n,) of 0 to 9).
    Raises:
      UserError: no mat file, or without such X and y.
    """
    try:
        arrays = scipy.io.loadmat(io.BytesIO(content), variable_names=["X", "y"])
        images, labels = arrays["X"].transpose(3, 0, 1, 2), arrays["y"].reshape(-1)
    except Exception as error:  # scipy raises whatever the bytes lead it to
        raise checks.UserError(f"SVHN: expected a mat file with X (32, 32, 3, n) and y (n, 1), got {error}") from error
    whole = images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3) and len(images) == len(labels) > 0
    if not whole or labels.min() < 1 or labels.max() > 10:
        raise checks.UserError(
            f"SVHN: expected uint8 X (32, 32, 3, n) and as many y of 1 to 10, got {images.shape[1:]} "
            f"{images.dtype} of {len(images)} and {len(labels)} labels"
        )
    return images, labels % 10
