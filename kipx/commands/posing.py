"""What distill and label-solve decide alike: the data set, preprocessed, and the images that a set starts from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kipx import cost, machine, support


class Split(NamedTuple):
    """A data set as kernels see it; labels are centred one-hot ones, (n, classes)."""

    data: object  # kipx.data.Dataset
    preprocessing: object  # kipx.preprocess.Preprocessing
    train: tuple  # (images (n, h, w, c), labels), on the host
    test: tuple  # likewise, on the device


def check_images(members, data):
    """Refuses images that are too small for a member's kernel, before anything is computed.

    Raises:
      UserError: a layer that needs a larger image.
    """
    for member in members:
        jax.eval_shape(member.kernel_fn, np.zeros((1, *data.x_train.shape[1:])))


def preprocessed(data, fit, available=None):
    """Split of a Dataset, by the preprocessing that `fit` makes of its training images.

    Args:
      data: Dataset.
      fit: training pixels -> Preprocessing.
      available: kipx.machine.Memory that it may take; None for what there is.
    Raises:
      UserError: what `fit` refuses, or more memory needed than available.
    """
    needs = cost.of_data(data.x_train, data.x_test, getattr(fit, "whitens", False))
    cost.check_fits(needs, (available or machine.memory()).host, "this machine")
    preprocessing = fit(data.x_train)
    x_train, x_test = preprocessing.apply(data.x_train), preprocessing.apply(data.x_test)
    y_train, y_test = (support.one_hot(y, data.classes) for y in (data.y_train, data.y_test))
    return Split(data, preprocessing, (x_train, y_train), (jnp.asarray(x_test), y_test))


def start(key, draw, split):
    """(images (n_s, h, w, c), labels (n_s, classes)) of a set at its start.

    Args:
      key: jax.random key.
      draw: from `kipx.support`: (key, images, labels, classes) -> (x_support, classes of them).
      split: Split; training images are drawn from.
    """
    images, classes = draw(key, split.train[0], split.data.y_train, split.data.classes)
    return images, support.one_hot(classes, split.data.classes)
