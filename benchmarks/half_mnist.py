"""Writes MNIST at 14x14, each pixel the mean of 2x2, for trials of settings at a tenth of the cost.

python benchmarks/half_mnist.py data/mnist14.npz
"""

import sys

import numpy as np

from kipx.data import published

TEST = 2000  # images to test on


def half(images):
    """(n, h / 2, w / 2, c) uint8 means of 2x2 pixels."""
    n, h, w, c = images.shape
    return np.round(images.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))).astype(np.uint8)


def main(path):
    data = published.load(name="mnist")
    test = half(data.x_test[:TEST])
    np.savez(path, x_train=half(data.x_train), y_train=data.y_train, x_test=test, y_test=data.y_test[:TEST])


if __name__ == "__main__":
    main(*sys.argv[1:])
