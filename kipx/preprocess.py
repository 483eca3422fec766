"""Preprocessing of images: fitted on the training set once, kept as arrays beside everything distilled with it.

All sums are float64 and go over the images in parts of fixed size, so that memory beyond the result stays at some
hundred megabytes, however many images there are.
"""

from typing import NamedTuple

import numpy as np

from kipx import checks

PART = 2**22  # numbers in a part of the images, 32 MB as float64


class Preprocessing(NamedTuple):
    """A fitted map from pixels to what the kernel sees. All arrays, so that it travels in an npz.

    Attributes:
      mean, std: (c,) float64, per channel, of the training pixels.
      whitening: (d, d) float64 symmetric map of flattened images, d = h * w * c; (0, 0) for none.
      unit_norm: whether each standardized image is centred and scaled to norm 1 before whitening.
      centre, norm: typical mean and norm of a standardized image, which `invert` restores where `unit_norm` took them.
    """

    mean: np.ndarray
    std: np.ndarray
    whitening: np.ndarray
    unit_norm: np.ndarray
    centre: np.ndarray
    norm: np.ndarray

    def apply(self, images):
        """(n, h, w, c) float32 from (n, h, w, c) pixels."""
        images = np.asarray(images)
        result = np.empty(images.shape, np.float32)
        for part in _parts(images):
            x = _scaled(images[part], self.mean, self.std)
            if self.whitening.size:
                x = (_rows(x, self.unit_norm) @ self.whitening).reshape(x.shape)
            result[part] = x
        return result

    def invert(self, x):
        """(n, h, w, c) float64 pixels, not clipped, whose `apply` is x up to the image's own mean and norm."""
        x = np.asarray(x)
        result = np.empty(x.shape, np.float64)
        for part in _parts(x, at_least=len(self.whitening)):
            own = x[part].astype(np.float64)
            if self.whitening.size:
                own = np.linalg.solve(self.whitening, own.reshape(len(own), -1).T).T.reshape(own.shape)
                own = own * self.norm + self.centre
            result[part] = own * self.std + self.mean
        return result


def standardize():
    """Per channel, minus the mean and over the standard deviation of the training set.

    Returns:
      fit: (n, h, w, c) pixels -> Preprocessing.
    Raises:
      UserError: from fit, where a channel is constant.
    """

    def fit(images):
        images = np.asarray(images)
        count, parts = images[..., 0].size, _parts(images)
        mean = sum(images[part].sum(axis=(0, 1, 2), dtype=np.float64) for part in parts) / count
        std = np.sqrt(sum(((images[part] - mean) ** 2).sum(axis=(0, 1, 2)) for part in parts) / count)
        if not np.all(std > 0):
            raise checks.UserError(f"preprocess: channel {int(np.argmin(std))} of the training images is constant")
        return Preprocessing(mean, std, np.zeros((0, 0)), np.asarray(False), np.zeros(()), np.ones(()))

    return fit


def zca(*, reg: float = 0.1, unit_norm: bool = True):
    """Regularized ZCA: standardize, centre and normalize each image, whiten by (C + reg * tr(C)/d * I)^-1/2.

    Args:
      reg: >= 0, dimensionless, relative to the mean eigenvalue of C = X'X/n.
      unit_norm: whether each image's own mean is taken off and its norm scaled to 1 before C is formed.
    Returns:
      fit: (n, h, w, c) pixels -> Preprocessing.
    Raises:
      UserError: reg < 0; from fit, where C is singular and reg is 0.
    Source: paper section 3.1 and appendix A, as in the authors' nn_training notebook.
    """
    checks.not_negative("preprocess.reg", reg)

    def fit(images):
        images = np.asarray(images)
        base = standardize()(images)
        covariance, centre, norm = _moments(images, base, unit_norm)
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, 0) + reg * values.mean()
        if values.min() <= 1e-12 * values.max():
            raise checks.UserError("preprocess.reg: the images' covariance is singular, expected reg > 0, got 0")
        return base._replace(
            whitening=(vectors / np.sqrt(values)) @ vectors.T,
            unit_norm=np.asarray(unit_norm),
            centre=np.asarray(centre if unit_norm else 0.0),
            norm=np.asarray(norm if unit_norm else 1.0),
        )

    return fit


def _moments(images, base, unit_norm):
    """C = X'X/n of the rows that are whitened, and the mean and mean norm of the standardized images."""
    n, size = len(images), images[0].size
    products, total, norms = np.zeros((size, size)), 0.0, 0.0
    for part in _parts(images):
        x = _scaled(images[part], base.mean, base.std)
        own = x.reshape(len(x), -1)
        total += own.sum()
        norms += np.linalg.norm(own - own.mean(axis=1, keepdims=True), axis=1).sum()
        rows = _rows(x, unit_norm)
        products += rows.T @ rows
    return products / n, total / (n * size), norms / n


def _parts(images, at_least=1):
    """Slices of the first axis, each of PART numbers or `at_least` images, whichever is more."""
    step = max(PART // max(images[:1].size, 1), at_least, 1)
    return [slice(start, start + step) for start in range(0, len(images), step)]


def _scaled(images, mean, std):
    return (images.astype(np.float64) - mean) / std


def _rows(x, unit_norm):
    x = x.reshape(len(x), -1)
    if not unit_norm:
        return x
    x = x - x.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)
