"""Engines evaluate a kernel over whole sets of images and pull cotangents back to them; each file is one way to do it.

An engine is built from a `kernel_fn` and knows nothing of losses. Swapping it changes time and memory, not numbers.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kipx import checks


class Layout(NamedTuple):
    """How an engine cuts a Gram matrix: what it computes is count * rows * columns pairs.

    Attributes:
      rows, columns: images a side of a block.
      count: of blocks, those included that only fill up the devices' last round.
      devices: that work on them at once, each on one block at a time.
      bounded: whether `engine.block_size` bounds them.
    """

    rows: int
    columns: int
    count: int
    devices: int
    bounded: bool = True

    @property
    def pairs(self):
        """Pairs of images that are computed, padding included."""
        return self.count * self.rows * self.columns


def whole(n1, n2, shape):
    """The Layout of one block on one device."""
    return Layout(n1, n1 if n2 is None else n2, 1, 1, bounded=False)


class Engine(NamedTuple):
    """What every `build(...)` of this package returns.

    Attributes:
      gram: (x1, x2=None) -> (n1, n2) Gram matrix; without x2 symmetric, (n1, n1).
      vjp: (x1, x2, cotangent) -> gradient of sum(cotangent * gram(x1, x2)) with respect to x2, in the shape of x2;
        with x2=None the gradient of sum(cotangent * gram(x1)) with respect to x1, both arguments counted.
      layout: (n1, n2 or None, image shape) -> Layout of the matrix between so many images; the same for all.
      with_jacobian: (x1, x2) -> gram(x1, x2) and (n1, n2, h, w, c), of each of its entries [i, j] the gradient with
        respect to x2[j], the only image of x2 that it depends on. None of an engine that cannot:
        `kipx.optimizer.gauss_newton` needs it.
    """

    gram: Callable
    vjp: Callable
    layout: Callable = whole
    with_jacobian: Callable | None = None


def check_inputs(x1, x2, cotangent=None):
    """Raises UserError on images that are not arrays (n, h, w, c) or empty, on a cotangent that is not (n1, n2), and
    beside one on images of another dtype than float32 or float64: gradients have it, and their sum would lose digits.
    """
    x2 = x1 if x2 is None else x2
    for array in (x1, x2, x2 if cotangent is None else cotangent):
        if not hasattr(array, "shape"):
            raise checks.UserError(f"engine: expected arrays, got {checks.said(array)}")
    if x1.ndim != 4 or x2.ndim != 4 or x1.shape[1:] != x2.shape[1:] or 0 in (*x1.shape, *x2.shape):
        raise checks.UserError(
            f"engine: expected images (n1, h, w, c) and (n2, h, w, c), none of them 0, got {x1.shape} and {x2.shape}"
        )
    if cotangent is None:
        return
    if cotangent.shape != (x1.shape[0], x2.shape[0]):
        raise checks.UserError(f"engine: expected a cotangent {(x1.shape[0], x2.shape[0])}, got {cotangent.shape}")
    if x2.dtype not in (np.float32, np.float64):
        raise checks.UserError(
            f"engine: expected float32 or float64 images, to differentiate by them, got {x2.dtype}; convert them first"
        )
