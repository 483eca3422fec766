"""The kernel of an architecture's infinite-width limit, exactly, at a fraction of the usual cost.

Four things make it fast:

1. Below m pools only pairs of positions at offsets up to 2^m - 1 matter: 179,776 of 1,048,576 pairs for the ConvNet
   at 32x32 (see `bands`). Nothing is approximated.
2. Variances depend on one image, not on the pair: each image's are computed once, on a still narrower band.
3. The derivative of a ReLU's covariance is the factor of its tangent kernel: the backward pass is written by hand
   (see `relu`).
4. Between two pools the pairs at one offset never meet the others: on a CPU, in float32, compiled loops carry them
   through all those layers in the fastest cache (see `pairs`). Elsewhere, and as its reference, the same sums are plain
   JAX (see `layers`).

    >>> import numpy as np
    >>> from kipx.architecture import fc
    >>> build(fc(depth=1), kind="ntk", dtype="float32")(np.ones((2, 8, 8, 1))).shape
    (2, 2)
"""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp

from kipx import checks
from kipx.architecture import Flatten, GlobalAvgPool, Relu
from kipx.kernel.bands import diagonal, spread
from kipx.kernel.layers import check_images, check_layers, place, propagate
from kipx.kernel.relu import std


def build(architecture, kind: str = "ntk", dtype: str = "float32"):
    """Builds `kernel_fn(x1, x2=None)` for an architecture in NTK parameterization.

    Args:
      architecture: tuple of layers, as from `kipx.architecture`.
      kind: 'ntk' or 'nngp'.
      dtype: 'float32' or 'float64'; images are cast to it. float64 needs JAX's x64 flag.
    Returns:
      kernel_fn: (n1, h, w, c), (n2, h, w, c) -> (n1, n2); without x2 the second images are the first. One block:
      jit-safe, reverse-mode differentiable once. Memory grows by kernel_fn.pair_bytes((h, w, c)) a pair, about.
    Raises:
      UserError: an unknown kind or dtype, or layers that cannot follow each other; from kernel_fn: images of
        unequal shapes or too small to pool.
    Source: paper section 2; for the recursion Novak et al. 2019 and Arora et al. 2019.
    """
    checks.one_of("kind", kind, ("ntk", "nngp"))
    check_dtype(dtype)
    architecture = check_layers(architecture)

    def kernel_fn(x1, x2=None):
        check_dtype(dtype)
        x1 = jnp.asarray(x1, dtype)
        x2 = x1 if x2 is None else jnp.asarray(x2, dtype)
        check_images(architecture, x1.shape, x2.shape)
        gram = _compiled_gram if _compiles(architecture, dtype) else _gram
        return gram(architecture, kind, x1, x2)

    kernel_fn.pair_bytes = partial(_pair_bytes, architecture, dtype)
    return kernel_fn


def check_dtype(dtype):
    """Raises UserError unless `dtype` is float32, or float64 with JAX's x64 flag on."""
    checks.one_of("dtype", dtype, ("float32", "float64"))
    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise checks.UserError(
            "dtype: float64 needs JAX's x64 flag, which is off; call jax.config.update('jax_enable_x64', True) first"
        )


def _pair_bytes(architecture, dtype, shape):
    """About the most memory that one pair of images (h, w, c) takes, gradient included; 0 in compiled loops."""
    if _compiles(architecture, dtype):
        return 0
    placed = place(architecture, (1, 1) if _flat(architecture) else shape[:2], radius=0)
    entries = [len(bands[0].first) * len(bands[1].first) for _, bands in placed]
    kept = sum(n for n, (layer, _) in zip(entries, placed, strict=True) if isinstance(layer, Relu))
    return (4 * kept + 8 * max(entries)) * jnp.dtype(dtype).itemsize


def _compiles(architecture, dtype):
    """Whether compiled loops serve: float32 on a CPU, with numba, and no ReLU behind the mean over positions."""
    end = next(i for i, layer in enumerate(architecture) if isinstance(layer, Flatten | GlobalAvgPool))
    device = jax.config.jax_default_device
    platform = getattr(device, "platform", device) or jax.default_backend()
    convolutional = end > 0 and not any(isinstance(layer, Relu) for layer in architecture[end:])
    return dtype == "float32" and convolutional and platform == "cpu" and importlib.util.find_spec("numba") is not None


def _compiled_gram(architecture, kind, x1, x2):
    """(n1, n2) kernel of two sets of images: compiled below the mean over positions, plain above."""
    from kipx.kernel import compiled

    nngp, ntk = compiled.build(architecture, kind)(x1, x2)
    end = next(i for i, layer in enumerate(architecture) if isinstance(layer, Flatten | GlobalAvgPool))
    above = place((Flatten(), *architecture[end + 1 :]), (1, 1), radius=0)
    nngp, ntk = propagate(above, nngp[None, None], ntk[None, None] if kind == "ntk" else None, None)
    return (nngp if ntk is None else ntk)[0, 0]


def _gram(architecture, kind, x1, x2):
    """(n1, n2) kernel of two sets of images."""
    placed = place(architecture, _sides(architecture, x1), radius=0)
    nngp = _covariance(x1, x2) if _flat(architecture) else _position_covariance(x1, x2, placed[0].bands)
    ntk = jnp.zeros_like(nngp) if kind == "ntk" else None
    maps = zip(_stds(architecture, x1), _stds(architecture, x2), strict=True)

    def stds(_, bands):
        s1, s2 = next(maps)
        return _spread(s1, bands, 0)[..., :, None], _spread(s2, bands, 1)[..., None, :]

    nngp, ntk = propagate(placed, nngp, ntk, stds)
    return (nngp if ntk is None else ntk)[0, 0]


def _stds(architecture, x):
    """Maps (h, w, n) of standard deviations before each ReLU, from each image's covariance with itself."""
    maps = []
    placed = place(architecture, _sides(architecture, x), radius=-1)
    if not placed:
        return maps

    def stds(nngp, bands):
        maps.append(std(diagonal(diagonal(nngp, bands[0], 0), bands[1], 1)))
        return _spread(maps[-1], bands, 0), _spread(maps[-1], bands, 1)

    own = _variance(x) if _flat(architecture) else _own_position_covariance(x, placed[0].bands)
    propagate(placed, own, None, stds)
    return maps


def _flat(architecture):
    return isinstance(architecture[0], Flatten)


def _sides(architecture, x):
    return (1, 1) if _flat(architecture) else x.shape[1:3]


def _covariance(x1, x2):
    """(1, 1, n1, n2) means over all pixels of x1[i] * x2[j]."""
    a, b = (x.reshape(x.shape[0], -1) for x in (x1, x2))
    return (jnp.einsum("ic,jc->ij", a, b, precision="highest") / a.shape[1])[None, None]


def _variance(x):
    """(1, 1, n) means over all pixels of x[i]^2."""
    return jnp.mean(jnp.square(x), axis=(1, 2, 3))[None, None]


def _position_covariance(x1, x2, bands):
    """(P_y, P_x, n1, n2) means over channels of x1[i] * x2[j] at every pair of positions.

    A few channels are summed one by one, which fuses with what follows and rounds alike for pairs and for variances.
    """
    a, b = _spread(jnp.moveaxis(x1, 0, -1), bands, 0), _spread(jnp.moveaxis(x2, 0, -1), bands, 1)
    channels = a.shape[2]
    if channels > 4:
        return jnp.einsum("yxci,yxcj->yxij", a, b, precision="highest") / channels
    return sum(a[:, :, c, :, None] * b[:, :, c, None, :] for c in range(channels)) / channels


def _own_position_covariance(x, bands):
    """(P_y, P_x, n) means over channels of x[i] * x[i] at every pair of positions."""
    pixels = jnp.moveaxis(x, 0, -1)
    a, b = _spread(pixels, bands, 0), _spread(pixels, bands, 1)
    channels = a.shape[2]
    return (
        sum(a[:, :, c] * b[:, :, c] for c in range(channels)) / channels if channels <= 4 else jnp.mean(a * b, axis=2)
    )


def _spread(pixels, bands, which):
    return spread(spread(pixels, bands[0], 0, which), bands[1], 1, which)
