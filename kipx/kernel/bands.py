"""Pairs of positions along one side of two images, and the linear maps on them.

A covariance of two images lives on pairs of positions ((y, x), (y', x')). What happens vertically and what happens
horizontally are independent, so the pairs are kept as (y, y') times (x, x'): an array of shape (P_y, P_x, ...).
Only pairs with |y' - y| <= radius are kept, sorted by offset y' - y and then by y, so that moving both positions one
step down a diagonal, as a convolution does, is moving one place along the axis.

Each map has its transpose written by hand: both directions are gathers, where autodiff would scatter.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Band(NamedTuple):
    """The pairs (first[i], second[i]) of positions on a side of `side` pixels, hashable."""

    side: int
    radius: int

    @property
    def offsets(self):
        """Offsets in the order of the axis."""
        reach = min(self.radius, self.side - 1)
        return range(-reach, reach + 1)

    @property
    def first(self):
        """(P,) positions in the first image."""
        return np.concatenate([np.arange(max(0, -d), min(self.side, self.side - d)) for d in self.offsets])

    @property
    def second(self):
        """(P,) positions in the second image."""
        lengths = [self.side - abs(d) for d in self.offsets]
        return self.first + np.repeat(np.asarray(self.offsets), lengths)

    def index(self, first, second):
        """Places of the given pairs on the axis; -1 where the pair is outside the band."""
        table = np.full((self.side + 1, self.side + 1), -1)  # the extra row and column catch positions off the image
        table[self.first, self.second] = np.arange(len(self.first))
        inside = (first >= 0) & (first < self.side) & (second >= 0) & (second < self.side)
        return table[np.where(inside, first, -1), np.where(inside, second, -1)]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def window_sum(x, band, axis, size):
    """Sum over the `size` neighbours that both positions reach together, zero outside the image: a convolution's sum.

    The map is symmetric, hence its own transpose.
    """
    half = size // 2
    links = _links(band, half)
    length = x.shape[axis]
    padded = jnp.pad(x, [(half, half) if a == axis else (0, 0) for a in range(x.ndim)])
    total = x
    for step in (*range(-half, 0), *range(1, half + 1)):
        shifted = jax.lax.slice_in_dim(padded, half + step, half + step + length, axis=axis)
        total = total + jnp.where(_along(links[step], axis, x.ndim), shifted, 0)
    return total


window_sum.defvjp(
    lambda x, band, axis, size: (window_sum(x, band, axis, size), None),
    lambda band, axis, size, _, ct: (window_sum(ct, band, axis, size),),
)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def pool_sum(x, band, axis, size):
    """Sum over the `size`^2 pairs below each pair of pooled positions, onto the band of `pooled(band, size)`."""
    return _gather_sum(x, _pool_places(band, size), axis)


def _pool_sum_transpose(band, axis, size, _, ct):
    return (_gather_sum(ct, pooled(band, size).index(band.first // size, band.second // size)[:, None], axis),)


pool_sum.defvjp(lambda x, band, axis, size: (pool_sum(x, band, axis, size), None), _pool_sum_transpose)


def pooled(band, size):
    """The band above an average pool of which `band` is the band below."""
    return Band(band.side // size, (band.radius - size + 1) // size)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def spread(x, band, axis, which):
    """Lays one image's map along the pairs: the value at the first (`which` = 0) or second (1) position of each."""
    return jnp.take(x, band.second if which else band.first, axis=axis)


def _spread_transpose(band, axis, which, _, ct):
    return (_gather_sum(ct, _spread_places(band, which), axis),)


spread.defvjp(lambda x, band, axis, which: (spread(x, band, axis, which), None), _spread_transpose)


def diagonal(x, band, axis):
    """The entries of equal positions: (side,) of the (P,) along `axis`."""
    start = sum(band.side - abs(d) for d in band.offsets if d < 0)
    return jax.lax.slice_in_dim(x, start, start + band.side, axis=axis)


def _gather_sum(x, places, axis):
    """Sums x over each row of places (m, k) along an axis, which becomes m long; places of -1 count as zero."""
    m, k = places.shape
    taken = jnp.take(x, np.maximum(places, 0).ravel(), axis=axis)
    if (places < 0).any():
        taken = jnp.where(_along(places.ravel() >= 0, axis, x.ndim), taken, 0)
    return jnp.sum(taken.reshape(*x.shape[:axis], m, k, *x.shape[axis + 1 :]), axis=axis + 1)


def _along(values, axis, ndim):
    return jnp.asarray(values).reshape([-1 if a == axis else 1 for a in range(ndim)])


@lru_cache
def _links(band, half):
    steps = [s for s in range(-half, half + 1) if s]
    return {s: band.index(band.first + s, band.second + s) >= 0 for s in steps}


@lru_cache
def _pool_places(band, size):
    above = pooled(band, size)
    a, b = np.divmod(np.arange(size**2), size)
    return band.index(above.first[:, None] * size + a, above.second[:, None] * size + b)


@lru_cache
def _spread_places(band, which):
    other = np.arange(band.side)[:, None] + np.asarray(band.offsets)[None, :]
    own = np.broadcast_to(np.arange(band.side)[:, None], other.shape)
    return band.index(other, own) if which else band.index(own, other)
