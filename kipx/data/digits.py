"""scikit-learn's bundled digits: 1,797 real 8x8 images, no network."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from kipx.data import Dataset, check


def load():
    """The digits in a fixed stratified split, 1,297 to train and 500 to test, that depends on no seed.

    Returns:
      Dataset of (n, 8, 8, 1) uint8 pixels 0 to 255.
    Source: UCI optical recognition of handwritten digits, test part, as bundled with scikit-learn.
    """
    digits = load_digits()
    images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=500, stratify=labels, random_state=0)
    return check("digits", Dataset(x_train, y_train, x_test, y_test, tuple(str(d) for d in range(10))))
