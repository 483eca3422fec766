"""What a ReLU does to a covariance and to a tangent kernel, with its derivative written by hand.

With standard deviations s1, s2, covariance c, correlation r = c / (s1 s2) and angle t = arccos r:

    nngp' = (s1 s2 sqrt(1 - r^2) + (pi - t) c) / 2 pi
    ntk'  = ntk * (pi - t) / 2 pi

Source: Cho and Saul 2009, the arc-cosine kernels of order 1 and 0.
"""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import Polynomial, chebyshev


def std(variance):
    """Square root whose derivative at 0 is 0, its symmetric limit for the pixels behind it."""
    alive = variance > 0
    return jnp.where(alive, jnp.sqrt(jnp.where(alive, variance, 1)), 0)


@jax.custom_vjp
def relu(nngp, ntk, std1, std2):
    """Covariance and tangent kernel behind a ReLU.

    The kink: where two patches are equal the derivative of ntk' is unbounded, and float rounding of r would already
    cost 1e-4 in ntk'. Correlations within rounding of 1 or -1 therefore count as 1 or -1, and derivatives there are the
    symmetric limit: 0 for the singular terms. A patch of standard deviation 0 has angle pi / 2 to everything.

    Args:
      nngp: covariances before the ReLU.
      ntk: tangent kernel before the ReLU, or None.
      std1, std2: standard deviations of the first and second position, broadcastable to nngp.
    Returns:
      (nngp', ntk'), ntk' None if ntk is.
    """
    scale, sine, factor = _angles(nngp, std1, std2)
    out = scale * sine * (0.5 / math.pi) + factor * nngp
    return out, None if ntk is None else factor * ntk


def _forward(nngp, ntk, std1, std2):
    return relu(nngp, ntk, std1, std2), (nngp, ntk, std1, std2)


def _backward(residuals, cotangents):
    nngp, ntk, std1, std2 = residuals
    ct_nngp, ct_ntk = cotangents
    scale, sine, factor = _angles(nngp, std1, std2)
    both = scale * sine * (0.5 / math.pi) * ct_nngp  # std * d nngp' / d std, the same for either std
    to_nngp = factor * ct_nngp
    if ntk is not None:
        smooth = scale * sine > jnp.finfo(nngp.dtype).tiny  # whose inverse is finite
        slope = jnp.where(smooth, (0.5 / math.pi) / jnp.where(smooth, scale * sine, 1), 0) * ntk * ct_ntk
        to_nngp, both = to_nngp + slope, both - slope * nngp
    to_ntk = None if ntk is None else factor * ct_ntk
    return to_nngp, to_ntk, _sum_to(both, std1), _sum_to(both, std2)


relu.defvjp(_forward, _backward)


def _angles(nngp, std1, std2):
    """s1 s2, the sine of the angle t, and (pi - t) / 2 pi."""
    correlation = nngp * _inverse(std1) * _inverse(std2)
    size = jnp.abs(correlation)
    size = jnp.where(size > 1 - 8 * jnp.finfo(nngp.dtype).eps, 1, size)
    turn = _arccos(size) * (0.5 / math.pi)
    return std1 * std2, jnp.sqrt((1 - size) * (1 + size)), jnp.where(correlation < 0, turn, 0.5 - turn)


def _arccos(x):
    """arccos on [0, 1] to rounding: sqrt(1 - x) times a polynomial, several times faster than the library's."""
    coefficients = arccos_polynomial(10 if x.dtype == jnp.float32 else 22)
    t = 2 * x - 1
    value = jnp.full_like(t, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * t + c
    return jnp.sqrt(1 - x) * value


@lru_cache
def arccos_polynomial(degree):
    """Power series in t = 2x - 1 of arccos(x) / sqrt(1 - x), whose only singularity is far off, at x = -1."""

    def smooth(t):
        return 2 * np.arctan2(np.sqrt(1 - t), np.sqrt(3 + t)) / np.sqrt((1 - t) / 2)

    return [float(c) for c in chebyshev.cheb2poly(chebyshev.chebinterpolate(smooth, degree))]


@lru_cache
def lens_polynomial(degree):
    """Power series in t = 2x - 1 of (sin a - a cos a) / (1 - x)^1.5 with a = arccos(x), as smooth."""

    def smooth(t):
        x = (1 + t) / 2
        angle = np.arccos(x)
        return (np.sin(angle) - angle * x) / (1 - x) ** 1.5

    return [float(c) for c in chebyshev.cheb2poly(chebyshev.chebinterpolate(smooth, degree))]


def turn_series():
    """Power series in 1 - x of arccos(x) / sqrt(1 - x) / 2 pi, to float32's rounding."""
    return _in_distance(arccos_polynomial(7))


def wide_turn_series():
    """Power series in 2x - 1 of the same, to float64's rounding."""
    return [c / (2 * math.pi) for c in arccos_polynomial(22)]


def lens_series():
    """Power series in 1 - x of (sin a - a cos a) / (1 - x)^1.5 / 2 pi with a = arccos(x), to float32's rounding."""
    return _in_distance(lens_polynomial(6))


def _in_distance(coefficients):
    """A power series in 2x - 1 as one in 1 - x, divided by 2 pi."""
    series = Polynomial(coefficients)(Polynomial([1, -2])) / (2 * math.pi)
    return [float(c) for c in series.coef]


def _inverse(std):
    return jnp.where(std > 0, 1 / jnp.where(std > 0, std, 1), 0)


def _sum_to(ct, std):
    """Cotangent of `std` from that of its logarithm, summed over the axes along which `std` was broadcast."""
    axes = tuple(a for a in range(ct.ndim) if std.shape[a] == 1 and ct.shape[a] != 1)
    total = jnp.sum(ct, axis=axes, keepdims=True)
    return total * _inverse(std)
