"""Compiled loops over one plane: all pairs of positions of two images at one offset (see `offsets`).

A plane lies flat in memory in the coordinates of the first image, `stride` entries a row, so that a window, a ReLU or
a product of pixels is one long vector loop. Entries whose second position falls outside the image, and the columns
between two rows, are 0 in `masks` and kept 0 in every plane.

Maps of one image (pixels, standard deviations) have the same rows, with a row of zeros above and below, so that the
map of the second image is read at the same speed, from a shifted start.

Covariances, their cotangents and the maps are in double precision: nearly parallel patches differ from parallel ones in
the last digits of their covariance. Tangent kernels and their cotangents are in the precision of the images.

Indices are unsigned, and offsets into whole arrays instead of slices: the compiler then makes plain vector loops.
"""

import math

import numpy as np

from kipx.kernel import angles
from kipx.kernel.angles import OVER_2PI, WIDE_HALF, WIDE_ONE, WIDE_ZERO, ZERO, compiled

ONE, FAR = np.float32(1), np.float32(np.inf)
NO, YES = np.bool_(False), np.bool_(True)  # of one type, where True and False would compile a function each
NONE, NEXT, TWICE, LANES = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(16)
LIMIT = np.uint64(
    2**32
)  # indices below it cannot wrap around when doubled, which the compiler asks before it vectorizes


@compiled
def relu(nngp, ntk, k, to, at, place, image1, image2, masks, kinds):
    """Fills nngp[to] and ntk[to] from nngp[k] and ntk[k]: covariance and tangent kernel behind a ReLU.

    Args:
      nngp, ntk: (any, entries).
      at: kipx.kernel.offsets.Plane.
      place: where the ReLU's maps begin in those of image1 and image2.
      masks: (stages, columns, entries).
      kinds: 1 for the covariance alone, 2 with the tangent kernel.
    """
    p, first, second, like = at.pad, place + at.first, place + at.second, ntk[k, NONE]
    if kinds == 1:
        for f in range(at.lanes):
            c = nngp[k, p + f]
            apart = angles.apart(c, image1.inverses[first + f] * image2.inverses[second + f], like)
            scale = masks[at.stage, at.column, f] * image1.stds[first + f] * image2.stds[second + f]
            nngp[to, p + f] = angles.behind(c, apart, math.sqrt(apart), scale, like)
    else:
        for f in range(at.lanes):
            c = nngp[k, p + f]
            apart = angles.apart(c, image1.inverses[first + f] * image2.inverses[second + f], like)
            root = math.sqrt(apart)
            scale = masks[at.stage, at.column, f] * image1.stds[first + f] * image2.stds[second + f]
            nngp[to, p + f] = angles.behind(c, apart, root, scale, like)
            ntk[to, p + f] = angles.factor(c, apart, root, like) * ntk[k, p + f]


@compiled
def relu_vjp(nngp, ntk, k, at, place, image1, image2, kinds, ct_nngp, ct_ntk, log_std):
    """Overwrites cotangents behind a ReLU by those before it; log_std gets that of either log(std)."""
    p, first, second, like = at.pad, place + at.first, place + at.second, ntk[k, NONE]
    for f in range(at.lanes):
        c, ct = nngp[k, p + f], ct_nngp[p + f]
        inverse = image1.inverses[first + f] * image2.inverses[second + f]
        apart = angles.apart(c, inverse, like)
        root = math.sqrt(apart)
        sine, factor = angles.sine(apart, root, like), angles.factor(c, apart, root, like)
        to_log_std = OVER_2PI * image1.stds[first + f] * image2.stds[second + f] * sine * ct
        to_nngp = factor * ct
        if kinds == 2:
            steep = ntk.dtype.type(OVER_2PI * inverse) / (sine if sine > ZERO else ONE)
            smooth = (sine > ZERO) & (steep < FAR)  # beyond it the tangent kernel has underflowed
            slope = steep * ntk[k, p + f] * ct_ntk[p + f]
            slope = np.float64(slope if smooth else ZERO)
            to_log_std -= slope * c
            to_nngp += slope
            ct_ntk[p + f] *= factor
        log_std[f] = to_log_std
        ct_nngp[p + f] = to_nngp


@compiled
def window(source, target, at, half, scale, bias, masks, column):
    """target = scale * (sum of source over the (2 half + 1)^2 neighbours) + bias; symmetric but for the bias."""
    wide, start = at.lanes + LANES, at.pad - half * (at.stride + NEXT)
    if half == NEXT:
        down, below = start + at.stride, start + TWICE * at.stride
        for f in range(wide):
            column[f] = source[start + f] + source[down + f] + source[below + f]
        for f in range(at.lanes):
            total = column[f] + column[f + NEXT] + column[f + TWICE]
            target[at.pad + f] = masks[at.stage, at.column, f] * (scale * total + bias)
    else:
        clear(column, NONE, wide)
        for step in range(TWICE * half + NEXT):
            add(source, start + step * at.stride, column, NONE, wide)
        clear(target, at.pad, at.lanes)
        for step in range(TWICE * half + NEXT):
            add(column, step, target, at.pad, at.lanes)
        for f in range(at.lanes):
            target[at.pad + f] = masks[at.stage, at.column, f] * (scale * target[at.pad + f] + bias)


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
def multiply(pixels1, pixels2, at, masks, nngp):
    """Fills a plane with the mean over channels of products of pixels."""
    share = WIDE_ONE / len(pixels1)
    for f in range(at.lanes):
        product = np.float64(pixels1[0, at.first + f]) * pixels2[0, at.second + f]
        nngp[at.pad + f] = masks[at.stage, at.column, f] * share * product
    for c in range(1, len(pixels1)):
        for f in range(at.lanes):
            product = np.float64(pixels1[c, at.first + f]) * pixels2[c, at.second + f]
            nngp[at.pad + f] += masks[at.stage, at.column, f] * share * product


@compiled
def multiply_vjp(ct, at, pixels, start, gradient, to):
    """Adds to an image's gradient, from `to`, the other image's pixels times the cotangent of their products."""
    share = WIDE_ONE / len(pixels)
    for c in range(len(pixels)):
        for f in range(at.size):
            gradient[c, to + f] += share * ct[at.pad + f] * pixels[c, start + f]


@compiled
def deviations(nngp, at, place, image):
    """Fills maps of standard deviations and their inverses from variances; both 0 where there is no variance."""
    for f in range(at.size):
        variance = nngp[at.pad + f]
        std = math.sqrt(variance) if variance > WIDE_ZERO else WIDE_ZERO
        image.stds[place + at.first + f] = std
        image.inverses[place + at.first + f] = WIDE_ONE / std if std > WIDE_ZERO else WIDE_ZERO


@compiled
def deviations_vjp(ct, at, place, image, log_stds):
    """Adds to the cotangents of variances what came by way of the logarithms of their standard deviations."""
    for f in range(at.size):
        inverse = image.inverses[place + at.first + f]
        ct[at.pad + f] += WIDE_HALF * log_stds[place + at.first + f] * inverse * inverse


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
def total(plane, at):
    """Sum of a plane, in any order."""
    result = WIDE_ZERO
    for f in range(at.size):
        result += plane[at.pad + f]
    return result
