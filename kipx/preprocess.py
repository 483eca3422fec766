"""Preprocessing of images: fitted on the training set once, kept as arrays beside everything distilled with it.

All sums are float64 and go over the images in parts of fixed size, so that memory beyond the result stays at some
hundred megabytes, however many images there are; whitening adds that of matrices with a row a pixel (`cost.of_data`),
and says so: its fit `whitens`.
"""

from typing import NamedTuple

import numpy as np

from kipx import checks

OTHERWISE = ", or take preprocess=standardize or zca"  # of pixels that are not from 0 to 255
PART = 2**22  # numbers in a part of the images, 32 MB as float64
CODES = {  # mean and std of pixels / 255, as DC's code states them, which DSA, DM, MTT and DD-Ranking share
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2861,), (0.3530,)),
    "svhn_cropped": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


class Preprocessing(NamedTuple):
    """A fitted map from pixels to what the kernel sees. All arrays, so that it travels in an npz.

    Attributes:
      mean, std: (c,) float64, per channel, of the training pixels; the mean may be one of each pixel, (h, w, c).
      whitening: (d, d) symmetric map of flattened images, d = h * w * c, fitted in float64 and kept in float32, which
        `invert` undoes as it is; (0, 0) for none.
      unit_norm: whether each standardized image is centred and scaled to norm 1 before whitening.
      centre, norm: typical mean and norm of a standardized image, which `invert` restores where `unit_norm` took them.
    """

    mean: np.ndarray
    std: np.ndarray
    whitening: np.ndarray = np.zeros((0, 0))
    unit_norm: np.ndarray = np.asarray(False)
    centre: np.ndarray = np.zeros(())
    norm: np.ndarray = np.ones(())

    def apply(self, images):
        """(n, h, w, c) float32 from (n, h, w, c) pixels."""
        images = np.asarray(images)
        result, finite = np.empty(images.shape, np.float32), True
        for part in _parts(images):
            with np.errstate(over="ignore", invalid="ignore"):  # see below
                x = _scaled(images[part], self.mean, self.std)
                if self.whitening.size:
                    x = (_rows(x, self.unit_norm) @ self.whitening).reshape(x.shape)
                result[part] = x
            finite = finite and bool(np.isfinite(result[part]).all())
        if not finite:
            raise checks.UserError(
                "preprocess: images are not finite any more; expected a mean, a deviation and pixels of one scale"
            )
        return result

    def invert(self, x):
        """(n, h, w, c) float64 pixels, not clipped, whose `apply` is x up to the image's own mean and norm."""
        x = np.asarray(x)
        result = np.empty(x.shape, np.float64)
        for part in _parts(x, at_least=len(self.whitening)):
            own = x[part].astype(np.float64)
            if self.whitening.size:
                try:
                    own = np.linalg.solve(self.whitening, own.reshape(len(own), -1).T).T.reshape(own.shape)
                except np.linalg.LinAlgError as error:
                    raise checks.UserError("preprocess: the whitening is singular, and cannot be undone") from error
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
        varies = std > count * np.finfo(np.float64).eps * np.abs(mean)  # what the sums' rounding makes of a constant
        if not varies.all():
            raise checks.UserError(
                f"preprocess: expected channels that vary, got channel {int(np.argmin(varies))} of the training images "
                "constant, or too dim for its squares; leave it out, or rescale the images"
            )
        return Preprocessing(mean, std)

    return fit


def normalize(*, mean=None, std=None, dataset: str | None = None):
    """Pixels / 255, minus a stated mean, over a stated deviation: torchvision's ToTensor and Normalize.

    Args:
      mean, std: a number or one a channel; None: those that DC's code states for the data set.
      dataset: its name, for that.
    Returns:
      fit: (n, h, w, c) pixels -> Preprocessing.
    Raises:
      UserError: nothing is stated for the data set, or std is not > 0; from fit, another number of channels.
    Source: get_dataset in utils.py of VICO-UoE/DatasetCondensation.
    """
    if dataset not in CODES and (mean is None or std is None):
        raise checks.UserError(
            f"preprocess.mean: expected mean and std of pixels / 255; peers state them for {', '.join(CODES)} alone, "
            f"got dataset {dataset}; give preprocess.mean and preprocess.std"
        )
    stated = CODES.get(dataset, (None, None))
    mean, std = (_one_a_channel(*each) for each in (("mean", mean, stated[0]), ("std", std, stated[1])))
    for value in std:
        checks.positive("preprocess.std", value)

    def fit(images):
        checks.byte_levels("preprocess: normalize", np.asarray(images), OTHERWISE)
        channels = np.shape(images)[-1]
        if len(mean) not in (1, channels) or len(std) not in (1, channels):
            raise checks.UserError(
                f"preprocess: expected mean and std of {channels} channels, got {len(mean)} and {len(std)}"
            )
        scaled = (np.broadcast_to(255 * np.asarray(values), channels).copy() for values in (mean, std))
        return Preprocessing(*scaled)

    return fit


def _one_a_channel(name, given, stated):
    """A tuple of numbers, one a channel or one for all."""
    values = stated if given is None else tuple(given) if isinstance(given, list | tuple) else (given,)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise checks.UserError(f"preprocess.{name}: expected a number or a list of one a channel, got {given!r}")
    return values


def zca_pixels(*, eps: float = 0.1):
    """ZCA of pixels / 255, as MTT and DD-Ranking take it from kornia: minus the mean image, times (C + eps I)^-1/2.

    Args:
      eps: > 0, absolute.
    Returns:
      fit: (n, h, w, c) pixels -> Preprocessing.
    Raises:
      UserError: eps not > 0.
    Source: get_dataset with zca in GeorgeCazenavette/mtt-distillation and NUS-HPC-AI-Lab/DD-Ranking, and
      kornia.enhance.ZCAWhitening.
    """
    checks.positive("preprocess.eps", eps)

    def fit(images):
        images = np.asarray(images)
        checks.byte_levels("preprocess: zca_pixels", images, OTHERWISE)
        n, mean = len(images), images.mean(axis=0, dtype=np.float64)
        scale = np.full(images.shape[-1], 255.0)
        rows = ((_scaled(images[part], mean, scale)).reshape(-1, mean.size) for part in _parts(images))
        covariance = sum(row.T @ row for row in rows) / max(n - 1, 1)
        values, vectors = np.linalg.eigh(covariance)
        whitening = _symmetric(vectors, np.sqrt(np.maximum(values, 0) + eps), f"preprocess.eps={eps:g}")
        return Preprocessing(mean, scale, whitening)

    fit.whitens = True
    return fit


def zca(*, reg: float = 0.1, unit_norm: bool = True, held_out: int = 0):
    """Regularized ZCA: standardize, centre and normalize each image, whiten by (C + reg * tr(C)/d * I)^-1/2.

    Args:
      reg: >= 0, dimensionless, relative to the mean eigenvalue of C = X'X/n.
      unit_norm: whether each image's own mean is taken off and its norm scaled to 1 before C is formed.
      held_out: images at the end that C leaves out; 5,000 in the authors' notebook, of 50,000.
    Returns:
      fit: (n, h, w, c) pixels -> Preprocessing.
    Raises:
      UserError: reg < 0; from fit, where C is singular and reg too small to help, or no image is left.
    Source: paper section 3.1 and appendix A, as in the authors' nn_training notebook.
    """
    checks.not_negative("preprocess.reg", reg)
    checks.integer("preprocess.held_out", held_out, at_least=0)

    def fit(images):
        images = np.asarray(images)
        if held_out >= len(images):
            raise checks.UserError(f"preprocess.held_out: expected less than {len(images)} images, got {held_out}")
        base = standardize()(images)
        covariance, centre, norm = _moments(images[: len(images) - held_out], base, unit_norm)
        values, vectors = np.linalg.eigh(covariance)
        if not values.max() > 0:
            raise checks.UserError(
                "preprocess: nothing is left to whiten once each image's mean is off; expected images of several "
                "pixels, or set preprocess=standardize"
            )
        values = np.maximum(values, 0) + reg * values.mean()
        if values.min() <= 1e-12 * values.max():
            raise checks.UserError(
                f"preprocess.reg: the images' covariance is singular; expected a larger one, such as 0.1, got {reg:g}"
            )
        return base._replace(
            whitening=_symmetric(vectors, np.sqrt(values), f"preprocess.reg={reg:g}"),
            unit_norm=np.asarray(unit_norm),
            centre=np.asarray(centre if unit_norm else 0.0),
            norm=np.asarray(norm if unit_norm else 1.0),
        )

    fit.whitens = True
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


def _symmetric(vectors, values, given):
    """vectors diag(1 / values) vectors', to the last bit symmetric, so that half of it is all of it."""
    with np.errstate(all="ignore"):  # see below
        whitening = (vectors / values) @ vectors.T
        whitening = (0.5 * (whitening + whitening.T)).astype(np.float32)
    if not (np.isfinite(whitening).all() and np.diag(whitening).all()):
        raise checks.UserError(f"{given}: float32 cannot hold its whitening; expected one nearer to 0.1")
    return whitening


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
