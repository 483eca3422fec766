"""The kernel in plain JAX: for every device and dtype, and what the compiled kernels are tested against."""

from functools import partial

import jax
import jax.numpy as jnp

from kipx.architecture import Flatten
from kipx.kernel.bands import diagonal, spread
from kipx.kernel.head import vector_stds
from kipx.kernel.layers import place, propagate
from kipx.kernel.relu import std

APART = 1e-2  # of 1 - |correlation|: single precision has five digits of it, and loses others on the way back


def gram(architecture, kind, x1, x2):
    """(n1, n2) kernel of two sets of images.

    Where a fully connected kernel in single precision cannot tell two images apart, it is computed once more in double.
    """
    if _flat(architecture) and x1.dtype == jnp.float32 and jax.config.jax_enable_x64:
        return _told_apart(architecture, kind, x1, x2)
    return _propagated(architecture, kind, x1, x2)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _told_apart(architecture, kind, x1, x2):
    return _forward(architecture, kind, x1, x2)[0]


def _forward(architecture, kind, x1, x2):
    k, pull, near = jax.vjp(partial(_propagated, architecture, kind), x1, x2, has_aux=True)
    double = partial(_in_double, architecture, kind)
    k = jax.lax.cond(near, double, lambda *_: k, x1, x2)
    return k, (near, pull, x1, x2)


def _backward(architecture, kind, residuals, ct):
    near, pull, x1, x2 = residuals
    double = partial(_in_double, architecture, kind)
    return jax.lax.cond(near, lambda *x: jax.vjp(double, *x)[1](ct), lambda *_: pull(ct), x1, x2)


_told_apart.defvjp(_forward, _backward)


def _in_double(architecture, kind, x1, x2):
    return _propagated(architecture, kind, *(x.astype(jnp.float64) for x in (x1, x2)))[0].astype(x1.dtype)


def _propagated(architecture, kind, x1, x2):
    """The kernel, and whether any two images are nearly parallel, or opposite, before a ReLU."""
    placed = place(architecture, _sides(architecture, x1), radius=0)
    nngp = _flat_covariance(x1, x2) if _flat(architecture) else _position_covariance(x1, x2, placed[0].bands)
    ntk = jnp.zeros_like(nngp) if kind == "ntk" else None
    maps = zip(stds(architecture, x1), stds(architecture, x2), strict=True)
    near = False

    def of_pairs(nngp, bands):
        nonlocal near
        s1, s2 = next(maps)
        s1, s2 = _spread(s1, bands, 0)[..., :, None], _spread(s2, bands, 1)[..., None, :]
        near |= (jnp.abs(nngp) > (1 - APART) * s1 * s2).any()
        return s1, s2

    nngp, ntk = propagate(placed, nngp, ntk, of_pairs)
    return (nngp if ntk is None else ntk)[0, 0], near


def stds(architecture, x):
    """Maps (h, w, n) of standard deviations before each ReLU, from each image's covariance with itself."""
    if _flat(architecture):
        return vector_stds(architecture, _variance(x))
    maps = []
    placed = place(architecture, _sides(architecture, x), radius=-1)
    if not placed:
        return maps

    def of_images(nngp, bands):
        maps.append(std(diagonal(diagonal(nngp, bands[0], 0), bands[1], 1)))
        return _spread(maps[-1], bands, 0), _spread(maps[-1], bands, 1)

    propagate(placed, _own_position_covariance(x, placed[0].bands), None, of_images)
    return maps


def _flat(architecture):
    return isinstance(architecture[0], Flatten)


def _sides(architecture, x):
    return (1, 1) if _flat(architecture) else x.shape[1:3]


def _flat_covariance(x1, x2):
    """(1, 1, n1, n2) means over all pixels of x1[i] * x2[j].

    In double precision what is within their rounding of parallel is parallel: a root of that rounding would be 1e-8.
    """
    a, b = (x.reshape(x.shape[0], -1) for x in (x1, x2))
    k = (jnp.einsum("ic,jc->ij", a, b, precision="highest") / a.shape[1])[None, None]
    if k.dtype != jnp.float64:
        return k
    most = std(_variance(x1))[..., :, None] * std(_variance(x2))[..., None, :]
    rounding = 4 * a.shape[1] ** 0.5 * jnp.finfo(k.dtype).eps
    off = jnp.where(jnp.abs(k) > (1 - rounding) * most, jnp.sign(k) * most - k, 0)
    return k + jax.lax.stop_gradient(off)


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
