"""Draws docs/augmentation.png: images, and what `augment=grayscale`, `rgb` and `geometric` make of them.

    python benchmarks/augmentation.py

Digits, and 32x32 pieces of the two photographs that come with scikit-learn (china.jpg, flower.jpg).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image

from kipx import augment
from kipx.data import digits

PATH = pathlib.Path(__file__).parents[1] / "docs" / "augmentation.png"
COLUMNS, DRAWS = 10, 4


def photographs():
    """(COLUMNS, 32, 32, 3) uint8: squares of the photographs, shrunk."""
    pieces = []
    for name in ("china.jpg", "flower.jpg"):
        image = Image.fromarray(load_sample_image(name))
        boxes = [(x, y, x + 200, y + 200) for x, y in ((0, 60), (110, 130), (220, 190), (330, 120), (430, 220))]
        pieces += [np.asarray(image.crop(box).resize((32, 32), Image.Resampling.BOX)) for box in boxes]
    return np.stack(pieces)


def rows(pixels, builder):
    """The images as they are, then DRAWS rows of their augmentations, (1 + DRAWS, COLUMNS, h, w, c)."""
    drawn = [pixels]
    change = builder(rate=1.0)(pixels, COLUMNS)
    for key in jax.random.split(jax.random.key(0), DRAWS):
        chosen, images = change(key, jnp.arange(COLUMNS))
        drawn.append(np.asarray(images)[np.argsort(chosen)])
    return np.stack(drawn)


def main():
    data = digits.load()
    first = np.stack([data.x_train[data.y_train == c][0] for c in range(COLUMNS)])
    images = {"grayscale": first, "rgb": photographs(), "geometric": photographs()}
    figure = Figure(figsize=(8, 12.6), layout="constrained")
    FigureCanvasAgg(figure)
    for part, (name, pixels) in zip(figure.subfigures(len(images), 1), images.items(), strict=True):
        block = rows(pixels, getattr(augment, name))
        part.suptitle(f"augment={name}: the originals, and {DRAWS} draws", fontsize=10)
        axes = part.subplots(1 + DRAWS, COLUMNS)
        for axis, image in zip(axes.flat, block.reshape(-1, *block.shape[2:]), strict=True):
            axis.imshow(image.squeeze().astype(np.uint8), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.axis("off")
    figure.savefig(PATH, dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main()
