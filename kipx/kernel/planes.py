"""Compiled loops over one plane: all pairs of positions of two images at one offset (dy, dx), in single precision.

A plane lies flat in memory in the coordinates of the first image, `stride` entries a row, so that a window, a ReLU or
a product of pixels is one long vector loop. Entries whose second position falls outside the image, and the columns
between two rows, are 0 in `masks` and kept 0 in every plane.

Maps of one image (pixels, standard deviations) have the same rows, with a row of zeros above and below, so that the
map of the second image is read at the same speed, from a shifted start.

Indices are unsigned, and offsets into whole arrays instead of slices: the compiler then makes plain vector loops.

Source of the formulas: `kipx.kernel.relu`, the plain version that this one is tested against.
"""

import math
from functools import partial
from typing import NamedTuple

import numba
import numpy as np

from kipx.kernel.relu import arccos_polynomial

entry = partial(numba.njit, cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
compiled = partial(
    numba.njit,
    nogil=True,
    error_model="numpy",
    fastmath={"contract"},
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
)

ZERO, HALF, ONE, TWO, OVER_2PI_SQUARED = (np.float32(v) for v in (0, 0.5, 1, 2, 0.25 / math.pi**2))
NONE, NEXT, TWICE, LANES = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(16)
LIMIT = np.uint64(
    2**32
)  # indices below it cannot wrap around when doubled, which the compiler asks before it vectorizes
NEARLY_ONE = np.float32(1 - 8 * np.finfo(np.float32).eps)
C0, C1, C2, C3, C4, C5, C6, C7, C8 = (np.float32(c / (2 * math.pi)) for c in arccos_polynomial(8))


class Plane(NamedTuple):
    """Where one plane lies.

    Attributes:
      dy, dx: its offset. The rest is unsigned:
      size: its entries.
      lanes: the same, rounded up to whole vectors, which need no loop for the rest; more is computed than kept.
      pad: where they begin in a buffer; zeros before and behind them serve the windows.
      stride: entries a row.
      stage, column: its row in `masks`.
      first, second: where they begin in a map of the first and of the second image.
    """

    dy: int
    dx: int
    size: np.uint64
    lanes: np.uint64
    pad: np.uint64
    stride: np.uint64
    stage: np.uint64
    column: np.uint64
    first: np.uint64
    second: np.uint64


@compiled
def _angle(covariance, inverse):
    """Sine of the angle t over 2 pi, and (pi - t) / 2 pi."""
    correlation = covariance * inverse
    size = abs(correlation)
    size = ONE if size > NEARLY_ONE else size
    root = math.sqrt(ONE - size)
    t = TWO * size - ONE
    high = ((C8 * t + C7) * t + C6) * t + C5
    turn = root * (((((high * t + C4) * t + C3) * t + C2) * t + C1) * t + C0)
    return root * math.sqrt(OVER_2PI_SQUARED * size + OVER_2PI_SQUARED), turn if correlation < ZERO else HALF - turn


@compiled
def relu(planes, k, to, at, place, stds1, stds2, masks, kinds):
    """Fills planes[to] from planes[k]: covariance and tangent kernel behind a ReLU.

    Args:
      planes: (any, 2, entries).
      at: Plane.
      place: where the ReLU's maps begin in stds1 and stds2, (2, entries): standard deviations and their inverses.
      masks: (stages, columns, entries).
      kinds: 1 for the covariance alone, 2 with the tangent kernel.
    """
    p, first, second = at.pad, place + at.first, place + at.second
    if kinds == 1:
        for f in range(at.lanes):
            nngp, m = planes[k, 0, p + f], masks[at.stage, at.column, f]
            sine, factor = _angle(nngp, stds1[1, first + f] * stds2[1, second + f])
            scale = stds1[0, first + f] * stds2[0, second + f]
            planes[to, 0, p + f] = m * scale * sine + factor * nngp
    else:
        for f in range(at.lanes):
            nngp, m = planes[k, 0, p + f], masks[at.stage, at.column, f]
            sine, factor = _angle(nngp, stds1[1, first + f] * stds2[1, second + f])
            scale = stds1[0, first + f] * stds2[0, second + f]
            planes[to, 0, p + f] = m * scale * sine + factor * nngp
            planes[to, 1, p + f] = factor * planes[k, 1, p + f]


@compiled
def relu_vjp(planes, k, at, place, stds1, stds2, kinds, cts, q, log_std):
    """Overwrites cts[q], cotangents behind a ReLU, by those before it; log_std gets that of either log(std)."""
    p, first, second = at.pad, place + at.first, place + at.second
    if kinds == 1:
        for f in range(at.lanes):
            nngp, ct = planes[k, 0, p + f], cts[q, 0, p + f]
            sine, factor = _angle(nngp, stds1[1, first + f] * stds2[1, second + f])
            scale = stds1[0, first + f] * stds2[0, second + f]
            log_std[f] = scale * sine * ct
            cts[q, 0, p + f] = factor * ct
    else:
        for f in range(at.lanes):
            nngp, ct, ct_ntk = planes[k, 0, p + f], cts[q, 0, p + f], cts[q, 1, p + f]
            inverse = stds1[1, first + f] * stds2[1, second + f]
            sine, factor = _angle(nngp, inverse)
            scale = stds1[0, first + f] * stds2[0, second + f]
            smooth = sine > ZERO
            slope = OVER_2PI_SQUARED * inverse / (sine if smooth else ONE) * planes[k, 1, p + f] * ct_ntk
            slope = slope if smooth else ZERO
            log_std[f] = scale * sine * ct - slope * nngp
            cts[q, 0, p + f] = factor * ct + slope
            cts[q, 1, p + f] = factor * ct_ntk


@compiled
def window(source, k, kind, target, to, at, half, scale, bias, masks, column):
    """target[to] = scale * (sum of source[k] over the (2 half + 1)^2 neighbours) + bias; symmetric but for the bias."""
    wide, start = at.lanes + LANES, at.pad - half * (at.stride + NEXT)
    if half == NEXT:
        down, below = start + at.stride, start + TWICE * at.stride
        for f in range(wide):
            column[f] = source[k, kind, start + f] + source[k, kind, down + f] + source[k, kind, below + f]
        for f in range(at.lanes):
            total = column[f] + column[f + NEXT] + column[f + TWICE]
            target[to, kind, at.pad + f] = masks[at.stage, at.column, f] * (scale * total + bias)
    else:
        column[:wide] = ZERO
        for step in range(TWICE * half + NEXT):
            add(source[k, kind], start + step * at.stride, column, NONE, wide)
        target[to, kind, at.pad : at.pad + at.lanes] = ZERO
        for step in range(TWICE * half + NEXT):
            add(column, step, target[to, kind], at.pad, at.lanes)
        for f in range(at.lanes):
            target[to, kind, at.pad + f] = masks[at.stage, at.column, f] * (scale * target[to, kind, at.pad + f] + bias)


@compiled
def clear(target, start, size):
    """target[start:] = 0, `size` entries of a flat array."""
    for f in range(size):
        target[start + f] = ZERO


@compiled
def copy(source, a, target, b, size):
    """target[b:] = source[a:], `size` entries of flat arrays."""
    for f in range(size):
        target[b + f] = source[a + f]


@compiled
def add(source, a, target, b, size):
    """target[b:] += source[a:], `size` entries of flat arrays."""
    for f in range(size):
        target[b + f] += source[a + f]


@compiled
def multiply(pixels1, pixels2, at, masks, planes):
    """Fills planes[0] with the mean over channels of products of pixels, and a tangent kernel of 0."""
    share = ONE / np.float32(len(pixels1))
    for f in range(at.lanes):
        product = pixels1[0, at.first + f] * pixels2[0, at.second + f]
        planes[0, 0, at.pad + f] = masks[at.stage, at.column, f] * share * product
        planes[0, 1, at.pad + f] = ZERO
    for c in range(1, len(pixels1)):
        for f in range(at.lanes):
            product = pixels1[c, at.first + f] * pixels2[c, at.second + f]
            planes[0, 0, at.pad + f] += masks[at.stage, at.column, f] * share * product


@compiled
def multiply_vjp(cts, q, at, pixels, start, gradient, to):
    """Adds to an image's gradient, from `to`, the other image's pixels times the cotangent of their products."""
    share = ONE / np.float32(len(pixels))
    for c in range(len(pixels)):
        for f in range(at.size):
            gradient[c, to + f] += share * cts[q, 0, at.pad + f] * pixels[c, start + f]


@compiled
def deviations(planes, k, at, place, stds):
    """Fills maps of standard deviations and their inverses from variances; both 0 where there is no variance."""
    for f in range(at.size):
        variance = planes[k, 0, at.pad + f]
        std = math.sqrt(variance) if variance > ZERO else ZERO
        stds[0, place + at.first + f] = std
        stds[1, place + at.first + f] = ONE / std if std > ZERO else ZERO


@compiled
def deviations_vjp(cts, q, at, place, stds, log_stds):
    """Adds to cts[q], cotangents of variances, what came by way of the logarithms of their standard deviations."""
    for f in range(at.size):
        inverse = stds[1, place + at.first + f]
        cts[q, 0, at.pad + f] += HALF * log_stds[0, place + at.first + f] * inverse * inverse


@compiled
def pool_columns(plane, start, step, target, size):
    """Adds every step-th entry of a plane, from `start`: one column of each pool."""
    start, size = min(start, LIMIT), min(size, LIMIT)
    if step == TWICE:
        for f in range(size):
            target[f] += plane[start + TWICE * f]
    else:
        for f in range(size):
            target[f] += plane[start + step * f]


@compiled
def unpool_pairs(even, odd, plane, start, size):
    """Fills a plane with two columns in turn: the transpose of both their `pool_columns`, for pools of 2."""
    start, size = min(start, LIMIT), min(size, LIMIT)
    for f in range(size):
        plane[start + TWICE * f] = even[f]
        plane[start + TWICE * f + NEXT] = odd[f]


@compiled
def unpool_columns(source, plane, start, step, size):
    """Fills every step-th entry of a plane, from `start`: the transpose of `pool_columns`."""
    for f in range(size):
        plane[start + step * f] = source[f]


@compiled
def add_rows(source, a, stride, target, b, target_stride, rows, columns, scale):
    """Adds rows of `source`, the first at a, to rows of `target`, the first at b, scaled."""
    for _ in range(rows):
        for x in range(columns):
            target[b + x] += scale * source[a + x]
        a, b = a + stride, b + target_stride


@compiled(fastmath={"contract", "reassoc"})
def total(planes, k, kind, at):
    """Sum of a plane, in any order."""
    result = ZERO
    for f in range(at.size):
        result += planes[k, kind, at.pad + f]
    return result
