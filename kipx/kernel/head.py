"""The layers behind the mean over positions, which see one position: all of them where there is nothing to convolve."""

import jax
import jax.numpy as jnp

from kipx.architecture import Dense, Flatten, GlobalAvgPool, Relu
from kipx.kernel.layers import place, propagate
from kipx.kernel.relu import std


def end(architecture):
    """Which layer takes the mean over positions."""
    return next(i for i, layer in enumerate(architecture) if isinstance(layer, Flatten | GlobalAvgPool))


def bends(architecture):
    """Whether a ReLU comes behind the mean, so that the kernel depends on each image's own mean covariance too."""
    return any(isinstance(layer, Relu) for layer in architecture[end(architecture) :])


def kernel(architecture, kind, nngp, ntk, stds=None):
    """(n1, n2) kernel from covariance and tangent kernel of the mean; `stds` as for `propagate` where it bends."""
    placed = place((Flatten(), *architecture[end(architecture) + 1 :]), (1, 1), radius=0)
    nngp, ntk = propagate(placed, nngp[None, None], ntk[None, None] if kind == "ntk" else None, stds)
    return (nngp if ntk is None else ntk)[0, 0]


def bent_kernel(architecture, kind, build, x1, x2):
    """(n1, n2) float64 kernel where a ReLU comes behind the mean, in double precision from the pixels on.

    Single precision would not tell nearly equal images apart there.

    Args:
      build: that of a module of compiled kernels, as `kipx.kernel.compiled`.
    """
    x1, x2 = (x.astype(jnp.float64) for x in (x1, x2))
    own = build(architecture, "nngp")
    sets = (jax.lax.map(lambda image: own(image[None], image[None])[0][0, 0], x) for x in (x1, x2))
    maps = zip(*(vector_stds(architecture[end(architecture) :], variance) for variance in sets), strict=True)

    def of_pairs(nngp, bands):
        std1, std2 = next(maps)
        return std1[None, None, :, None], std2[None, None, None, :]

    return kernel(architecture, kind, *build(architecture, kind)(x1, x2), of_pairs)


def vector_stds(layers, variance):
    """Standard deviations before each ReLU of layers that see one position, from the variance below them.

    A ReLU halves a variance: XLA would put all of `kipx.kernel.relu` into each layer's loop.
    """
    maps = []
    for layer in layers:
        if isinstance(layer, Relu):
            maps.append(std(variance))
            variance = variance / 2
        elif isinstance(layer, Dense):
            variance = layer.w_std**2 * variance + layer.b_std**2
    return maps
