"""Standard deviations before each ReLU, of each image by itself, by the same arithmetic as the pairs' covariances.

They must be: where two patches are equal the correlation is 1, and an angle computed from anything else than exactly
that is wrong by the square root of the difference. The maps of a stage follow from the variances that it begins with,
and these, but for the first stage's, are pooled covariances of an image with itself from the GPU's kernels.
"""

from functools import partial
from itertools import accumulate, pairwise

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.buffer_callback import buffer_callback

from kipx.kernel import launch
from kipx.kernel.relu import std
from kipx.kernel.stages import make_stages, own_stages


def build(architecture):
    """Builds a function of float32 images (n, h, w, c) -> list of float64 maps (n, h', w'), one for each ReLU."""

    @jax.custom_vjp
    def deviations(x):
        return forward(x)[0]

    def forward(x):
        stages, pairs = own_stages(architecture, x.shape[1:]), make_stages(architecture, x.shape[1:])
        maps, begins, columns = [], [_squares(x)], [None]
        for s, stage in enumerate(stages):
            maps += _maps(stage, begins[s])
            if s + 1 < len(stages):
                columns.append(_walk(stages, s, images(pairs, x, maps), columns[s]))
                begins.append(_at_no_offset(stage, stages[s + 1], columns[-1]))
        return maps, (x, maps, begins, columns)

    def backward(residuals, cts):
        x, maps, begins, columns = residuals
        stages, pairs = own_stages(architecture, x.shape[1:]), make_stages(architecture, x.shape[1:])
        owned = [slice(*ends) for ends in pairwise([0, *accumulate(len(stage.convolutions) for stage in stages)])]
        planes, to_x = None, 0
        for s in range(len(stages) - 1, -1, -1):
            ct, to_planes = cts[owned[s]], 0
            if planes is not None:
                logs, to_x, to_planes = _walk_back(stages, s, images(pairs, x, maps), columns[s], planes)
                ct = [a + b for a, b in zip(ct, by_std(logs, maps[owned[s]]), strict=True)]
            (begin,) = jax.vjp(partial(_maps, stages[s]), begins[s])[1](ct)
            planes = _beside(stages[s], to_planes, begin)
        return (jax.vjp(_squares, x)[1](begin)[0] + jnp.asarray(to_x, jnp.float32),)

    deviations.defvjp(forward, backward)
    return deviations


def by_std(logs, stds):
    """Gradients by standard deviations from those by their logarithms."""
    return [jnp.where(s > 0, log / jnp.where(s > 0, s, 1), 0) for log, s in zip(logs, stds, strict=True)]


def images(stages, x, maps):
    """What the kernels read of a set, (n, entries) each, see `cuda/walk.cuh`: float64 and float32.

    Args:
      stages: from `make_stages`.
      x: (n, h, w, c) images.
      maps: (n, h', w') standard deviations, of the first ReLUs or of all.
    """
    layers = [stage for stage in stages for _ in stage.convolutions]
    known = [_wide(stage, m) for stage, m in zip(layers, maps, strict=False)]
    rest = sum(stage.sides[0] * stage.stride for stage in layers[len(maps) :]) + 2  # which keeps rows aligned
    stds = jnp.concatenate([*known, jnp.zeros((len(x), rest), jnp.float64)], axis=1)
    inverses = jnp.where(stds > 0, 1 / jnp.where(stds > 0, stds, 1), 0)
    pixels = _wide(stages[0], jnp.moveaxis(x, -1, 1).astype(jnp.float64))
    return jnp.concatenate([pixels, inverses], axis=1), stds.astype(jnp.float32)


def _wide(stage, x):
    """Rows of (n, ..., w) with zeros before and behind them, one behind the other."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [stage.margins]).reshape(len(x), -1)


def _squares(x):
    """(n, h, w) variances of pixels: means over channels of their squares."""
    return jnp.mean(jnp.square(x.astype(jnp.float64)), axis=3)


def _maps(stage, variances):
    """Standard deviations before each ReLU of a stage, from the variances that it begins with."""
    maps = []
    for conv in stage.convolutions:
        total = lax.reduce_window(variances, 0.0, lax.add, (1, 3, 3), (1, 1, 1), "SAME")
        variances = conv.w_std**2 / 9 * total + conv.b_std**2
        maps.append(std(variances))
        variances = variances / 2
    return maps


def _walk(stages, s, sets, columns):
    """(n, dys, dxs above, h, w / 2) pooled columns of each image with itself behind stage s, at every offset."""
    stage, above = stages[s], stages[s + 1]
    shape = len(sets[0]), stage.planes[0], above.planes[1], stage.sides[0], stage.sides[1] // 2
    call = buffer_callback(partial(launch.walk, stages, s), _array(shape), vmap_method="sequential")
    return call(sets, sets[0] if columns is None else columns)


def _walk_back(stages, s, sets, columns, ct):
    """Gradients through stage s: by log standard deviations, by pixels or 0, by the planes that it begins with or 0."""
    stage, n = stages[s], len(sets[0])
    gradient, to = _array((n, stage.quantities, *stage.sides)), _array((n, *stage.planes, *stage.sides))
    call = buffer_callback(partial(launch.walk_back, stages, s), (gradient, to), vmap_method="sequential")
    gradient, to = call(sets, sets[0] if columns is None else columns, ct)
    logs, pixels = (2 * jnp.moveaxis(g, 1, 0) for g in jnp.split(gradient, [len(stage.convolutions)], axis=1))
    return list(logs), jnp.moveaxis(pixels, 0, -1) if s == 0 else 0, to if s else 0


def _array(shape):
    return jax.ShapeDtypeStruct(shape, jnp.float64)


def _at_no_offset(stage, above, columns):
    """(n, h, w) variances behind a stage's pool, from pooled columns of the planes around offset 0."""
    middle, rows = stage.radii[0], columns[:, :, above.radii[1], : 2 * above.sides[0]]
    even, odd = rows[:, :, ::2], rows[:, :, 1::2]
    return (even[:, middle] + even[:, middle + 1] + odd[:, middle - 1] + odd[:, middle]) / 16


def _beside(stage, planes, variances):
    """Cotangents (n, dys, dxs, h, w) of sums of pools: of all planes, and of variances, the means at no offset."""
    n, h, w = variances.shape
    middle = jnp.zeros((n, *stage.planes, h, w)).at[:, stage.radii[0], stage.radii[1]].set(variances / 16)
    return planes + middle
