"""Writes a published data set at half its size, each pixel the mean of 2x2: a trial then costs about a tenth.

python benchmarks/half_size.py mnist <folder of its published files> data/mnist14.npz
python benchmarks/half_size.py cifar10 <folder of its published files> data/cifar16.npz

Images are in the order of the files, which is not that of the prepared data sets.
"""

import sys

import numpy as np

from kipx.data import raw, sources

TEST = 2000  # images to test on


def half(images):
    """(n, h / 2, w / 2, c) uint8 means of 2x2 pixels."""
    n, h, w, c = images.shape
    return np.round(images.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))).astype(np.uint8)


def main(name, folder, path):
    source = sources.SOURCES[name]
    splits, _ = source.read(raw.read(name, source, folder, command=f"kipx prepare dataset={name}"))
    (x_train, y_train), (x_test, y_test) = ((splits[s]["image"], splits[s]["label"]) for s in ("train", "test"))
    test = half(x_test[:TEST])
    np.savez(path, x_train=half(x_train), y_train=y_train, x_test=test, y_test=y_test[:TEST])


if __name__ == "__main__":
    main(*sys.argv[1:])
