"""Preprocessing of images: fitted on the training set once, kept as arrays beside everything distilled with it."""

from typing import NamedTuple

import numpy as np

from kipx import checks


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
        x = (np.asarray(images, np.float64) - self.mean) / self.std
        if self.whitening.size:
            x = (_flat(x, self.unit_norm) @ self.whitening).reshape(x.shape)
        return x.astype(np.float32)

    def invert(self, x):
        """(n, h, w, c) float64 pixels, not clipped, whose `apply` is x up to the image's own mean and norm."""
        x = np.asarray(x, np.float64)
        if self.whitening.size:
            x = np.linalg.solve(self.whitening, x.reshape(len(x), -1).T).T.reshape(x.shape)
            x = x * self.norm + self.centre
        return x * self.std + self.mean


def standardize():
    """Per channel, minus the mean and over the standard deviation of the training set.

    Returns:
      fit: (n, h, w, c) pixels -> Preprocessing.
    Raises:
      UserError: from fit, where a channel is constant.
    """

    def fit(images):
        x = np.asarray(images, np.float64)
        mean, std = x.mean(axis=(0, 1, 2)), x.std(axis=(0, 1, 2))
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
        base = standardize()(images)
        x = (np.asarray(images, np.float64) - base.mean) / base.std
        flat = _flat(x, unit_norm)
        values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
        values = np.maximum(values, 0) + reg * values.mean()
        if values.min() <= 1e-12 * values.max():
            raise checks.UserError("preprocess.reg: the images' covariance is singular, expected reg > 0, got 0")
        own = x.reshape(len(x), -1)
        norms = np.linalg.norm(own - own.mean(axis=1, keepdims=True), axis=1)
        centre, norm = (own.mean(), norms.mean()) if unit_norm else (0.0, 1.0)
        whitening = (vectors / np.sqrt(values)) @ vectors.T
        return base._replace(
            whitening=whitening, unit_norm=np.asarray(unit_norm), centre=np.asarray(centre), norm=np.asarray(norm)
        )

    return fit


def _flat(x, unit_norm):
    x = x.reshape(len(x), -1)
    if not unit_norm:
        return x
    x = x - x.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)
