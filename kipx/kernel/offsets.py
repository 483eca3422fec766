"""Compiled: which offsets a plane holds, where it lies, and where it is stored between two stages.

A plane holds all pairs of positions at an offset (dy, dx). Where a stage needs every offset, as all do below a global
average pool, half of the columns of such planes would be outside the second image. Exactly there lies, in flat maps,
the plane of (dy + 1, dx - stride), since both second positions are as far from the first ones. A stage that `wraps`
has both in one plane, its two halves, and dx from 0 to stride - 1.
"""

from typing import NamedTuple

import numpy as np

from kipx.kernel import planes
from kipx.kernel.angles import compiled
from kipx.kernel.planes import LANES, NEXT, NONE


class Plane(NamedTuple):
    """Where one plane lies.

    Attributes:
      dy, dx: its offset, of its first half if it has two. The rest is unsigned:
      size: its entries, whole rows.
      lanes: the same, rounded up to whole vectors, which need no loop for the rest; more is computed than kept.
      lead, tail: how many of them belong to no pair, in the first row and in the last.
      pad: where they begin in a buffer; zeros before and behind them serve the windows.
      stride: entries a row.
      stage, column: its row in `masks`.
      first, second: where they begin in a map of the first and of the second image.
    """

    dy: int
    dx: int
    size: np.uint64
    lanes: np.uint64
    lead: np.uint64
    tail: np.uint64
    pad: np.uint64
    stride: np.uint64
    stage: np.uint64
    column: np.uint64
    first: np.uint64
    second: np.uint64


@compiled
def vertical(stage):
    """(the lowest dy of a stage's planes, how many there are)."""
    if stage.wraps:
        return -np.int64(stage.height), 2 * np.int64(stage.height)
    return -np.int64(stage.radius_y), 2 * np.int64(stage.radius_y) + 1


@compiled
def horizontal(stage):
    """(the lowest dx of a stage's planes, how many there are)."""
    if stage.wraps:
        return np.int64(0), np.int64(stage.stride)
    return -np.int64(stage.radius_x), 2 * np.int64(stage.radius_x) + 1


@compiled
def nth(lowest, count, n):
    """The n-th offset, 0 first."""
    return (n - lowest) % count + lowest


@compiled
def top(stage, dy):
    """The first image's row in which the planes of a dy begin."""
    return max(0, -dy - np.int64(stage.wraps))


@compiled
def plane(stage, s, dy, dx):
    """The Plane of stage s at (dy, dx)."""
    stride, begin, wraps = np.int64(stage.stride), top(stage, dy), np.int64(stage.wraps)
    size = np.uint64((np.int64(stage.height) - max(0, dy) - begin) * stride)
    return Plane(
        dy,
        dx,
        size,
        (size + LANES - NEXT) // LANES * LANES,
        np.uint64(wraps * (stride - dx) if dy < 0 else 0),
        np.uint64(wraps * dx if dy >= 0 else 0),
        stage.pad,
        stage.stride,
        np.uint64(s),
        np.uint64(dx - horizontal(stage)[0]),
        np.uint64((1 + begin) * stride),
        np.uint64((1 + begin + dy) * stride + dx),
    )


@compiled
def seal(values, stage, at):
    """Zeros around a plane, for the windows to come."""
    planes.clear(values, at.pad, at.lead)
    planes.clear(values, at.pad + at.size - at.tail, at.tail + stage.reach + LANES)


@compiled
def slot(stage, dy, dx):
    """Where the pairs at one offset of the stage's input are stored."""
    radius_y, radius_x = np.int64(stage.radius_y), np.int64(stage.radius_x)
    n = (dy + radius_y) * (2 * radius_x + 1) + dx + radius_x
    return stage.store + np.uint64(n) * stage.height * stage.stride


@compiled
def load(store, stage, at, values):
    """Fills a plane with what is stored of it."""
    if stage.wraps:
        planes.clear(values, at.pad, at.size)
    for h in range(1 + np.int64(stage.wraps)):
        start, to, size = _half(stage, at, h)
        if stage.wraps:
            planes.add(store, start, values, to, size)
        else:
            planes.copy(store, start, values, to, size)


@compiled
def keep(values, stage, at, store):
    """Stores a plane."""
    for h in range(1 + np.int64(stage.wraps)):
        to, start, size = _half(stage, at, h)
        planes.copy(values, start, store, to, size)


@compiled
def _half(stage, at, h):
    """Where half h of a plane is stored, where it begins in the plane, and its entries, 0 if there is no such half."""
    dy, dx = at.dy + h, at.dx - h * np.int64(stage.stride)
    if abs(dy) > np.int64(stage.radius_y) or abs(dx) > np.int64(stage.radius_x):
        return NONE, NONE, NONE
    begin = np.uint64(max(0, -dy) - top(stage, at.dy)) * stage.stride
    return slot(stage, dy, dx), at.pad + begin, (stage.height - np.uint64(abs(dy))) * stage.stride
