"""An architecture laid over an image: which pairs of positions each layer needs, and what each layer does to them."""

from typing import NamedTuple

import jax.numpy as jnp

from kipx import checks
from kipx.architecture import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Relu
from kipx.kernel.bands import Band, diagonal, pool_sum, window_sum
from kipx.kernel.relu import relu


class Placed(NamedTuple):
    """A layer with the bands of its input, vertical and horizontal."""

    layer: object
    bands: tuple


def place(architecture, sides, *, radius):
    """Places each layer over an image, from the offsets that the output needs down to those that the input needs.

    Args:
      architecture: tuple of layers, checked.
      sides: (h, w) of the image.
      radius: 0 if the output's covariance is wanted; -1 if only the variances before each ReLU are.
    Returns:
      List of Placed; layers above the last ReLU are left out where nothing needs their input.
    """
    below = []
    for layer in reversed(architecture):
        radius = _radius_below(layer, radius, max(sides))
        below.append(radius)
    placed = []
    for layer, radius in zip(architecture, reversed(below), strict=True):
        if radius < 0:
            break
        placed.append(Placed(layer, tuple(Band(side, min(radius, side - 1)) for side in sides)))
        sides = _sides_above(layer, sides)
    return placed


def _radius_below(layer, radius, everything):
    if isinstance(layer, Relu):
        return max(radius, 0)
    if radius < 0:
        return radius
    if isinstance(layer, AvgPool):
        return layer.size * radius + layer.size - 1
    return {Flatten: 0, GlobalAvgPool: everything}.get(type(layer), radius)


def _sides_above(layer, sides):
    if isinstance(layer, AvgPool):
        return tuple(side // layer.size for side in sides)
    return (1, 1) if isinstance(layer, Flatten | GlobalAvgPool) else sides


def propagate(placed, nngp, ntk, stds):
    """Carries covariance and tangent kernel through placed layers.

    Args:
      placed: from `place`.
      nngp: (P_y, P_x, ...) covariance at the input.
      ntk: tangent kernel at the input, or None to carry the covariance alone.
      stds: (nngp, bands) -> (std1, std2) at each ReLU in turn.
    Returns:
      (nngp, ntk) at the output.
    """
    for layer, bands in placed:
        if isinstance(layer, Relu):
            nngp, ntk = relu(nngp, ntk, *stds(nngp, bands))
        elif isinstance(layer, Conv | Dense):
            nngp, ntk = _weights(layer, bands, nngp, ntk)
        else:
            nngp, ntk = _average(layer, bands, nngp), None if ntk is None else _average(layer, bands, ntk)
    return nngp, ntk


def _weights(layer, bands, nngp, ntk):
    size = layer.size if isinstance(layer, Conv) else 1
    scale = layer.w_std**2 / size**2

    def window(k):
        return scale * _along_both(lambda x, band, axis: window_sum(x, band, axis, size), k, bands)

    nngp = window(nngp) + layer.b_std**2
    return nngp, None if ntk is None else nngp + window(ntk)


def _average(layer, bands, k):
    if isinstance(layer, AvgPool):
        return _along_both(lambda x, band, axis: pool_sum(x, band, axis, layer.size), k, bands) / layer.size**4
    if isinstance(layer, Flatten):
        k = _along_both(diagonal, k, bands)
    return jnp.mean(k, axis=(0, 1), keepdims=True)


def _along_both(function, k, bands):
    return function(function(k, bands[0], 0), bands[1], 1)


def check_layers(architecture):
    """Returns the architecture as a tuple, or raises UserError where the layers cannot follow each other."""
    known = (Conv, Dense, Relu, AvgPool, GlobalAvgPool, Flatten)
    if not isinstance(architecture, tuple | list):
        raise checks.UserError(f"architecture: expected a tuple of layers, got {checks.said(architecture)}")
    architecture = tuple(architecture)
    for layer in architecture:
        if not isinstance(layer, known):
            if isinstance(layer, tuple | list):
                raise checks.UserError("architecture: expected one flat tuple of layers, got tuples in it; add them up")
            raise checks.UserError(
                f"architecture: expected layers of {', '.join(k.__name__ for k in known)}, got {layer!r}; "
                "another kind needs its rules in kipx/kernel/layers.py, kipx/kernel/neural_tangents.py and "
                "kipx/finite/network.py"
            )
    ends = [i for i, layer in enumerate(architecture) if isinstance(layer, Flatten | GlobalAvgPool)]
    late = [layer for layer in architecture[(ends or [0])[0] :] if isinstance(layer, Conv | AvgPool)]
    if len(ends) != 1 or late:
        raise checks.UserError(
            f"architecture: expected one Flatten or GlobalAvgPool, and no Conv or AvgPool behind it, got {architecture}"
        )
    return architecture


def check_images(architecture, shape1, shape2):
    """Raises UserError unless both are (n, h, w, c) of equal h, w, c, large enough for the architecture's pools."""
    if len(shape1) != 4 or len(shape2) != 4 or shape1[1:] != shape2[1:] or 0 in (*shape1, *shape2):
        raise checks.UserError(
            f"images: expected (n1, h, w, c) and (n2, h, w, c), none of them 0, got {shape1} and {shape2}"
        )
    sides = shape1[1:3]
    for layer in architecture:
        sides = _sides_above(layer, sides)
    pools = [layer.size for layer in architecture if isinstance(layer, AvgPool)]
    smallest = 1
    for size in pools:
        smallest *= size
    if min(shape1[1:3]) < smallest:
        raise checks.UserError(
            f"images: {shape1[1]}x{shape1[2]} is too small for {len(pools)} pools, which need {smallest}x{smallest}; "
            "take larger images, or a kernel of fewer pools, as ConvNet's of a lower kernel.depth"
        )
