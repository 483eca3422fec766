"""Compiled: from the planes of one stage to those of the next, and back.

An average pool of p x p takes offset d of its input to the offsets (d + a) // p, a = 0, ..., p - 1 being the phase of
the first position. Columns are pooled first, in one vector loop a plane, and gathered for all planes of one dy; then
the rows of these.
"""

import numpy as np

from kipx.kernel import planes
from kipx.kernel.planes import NEXT, NO, NONE, TWICE, YES, compiled


@compiled
def offsets(radius):
    """How many offsets there are up to a radius."""
    return TWICE * radius + NEXT


@compiled
def slot(stage, dy, dx):
    """Where a plane of the stage's input is stored."""
    radius_y, radius_x = np.int64(stage.radius_y), np.int64(stage.radius_x)
    n = (dy + radius_y) * (2 * radius_x + 1) + dx + radius_x
    return stage.store + np.uint64(n) * stage.height * stage.stride


@compiled
def clear_columns(plan, s, kinds, work):
    """Zeros for one dy of a stage, forward."""
    if plan.stages[s].pool != NONE:
        for n in range(_columns(plan, s)):
            planes.clear(work.nngp_columns[n], NONE, _pooled(plan.stages[s]))
            if kinds == 2:
                planes.clear(work.ntk_columns[n], NONE, _pooled(plan.stages[s]))


@compiled
def _columns(plan, s):
    return offsets(plan.stages[s + 1].radius_x) + NEXT


@compiled
def _pooled(stage):
    return stage.height * stage.stride // stage.pool


@compiled
def _above(stage, above, dx, b):
    """Which of work.columns takes the b-th column of every pool; the last, which stays 0, where none is needed."""
    up, radius = (dx + b) // np.int64(stage.pool), np.int64(above.radius_x)
    return np.uint64(up + radius) if abs(up) <= radius else offsets(above.radius_x)


@compiled
def pool_columns(stage, above, at, k, kinds, work):
    """Adds a plane to work's columns, which hold all planes of one dy with their columns pooled."""
    for b in range(stage.pool):
        to = _above(stage, above, at.dx, np.int64(b))
        if to < offsets(above.radius_x):
            start, size = at.pad + b, at.size // stage.pool
            planes.pool_columns(work.nngp[k], start, stage.pool, work.nngp_columns[to], size)
            if kinds == 2:
                planes.pool_columns(work.ntk[k], start, stage.pool, work.ntk_columns[to], size)


@compiled
def unpool_columns(stage, above, at, kinds, work):
    """Fills the first cotangents of `work` from its columns: the transpose of `pool_columns`."""
    _unpool(stage, above, at, work.nngp_columns, work.ct_nngp[0])
    if kinds == 2:
        _unpool(stage, above, at, work.ntk_columns, work.ct_ntk[0])


@compiled
def _unpool(stage, above, at, columns, plane):
    size = at.size // stage.pool
    if stage.pool == TWICE:
        even, odd = _above(stage, above, at.dx, 0), _above(stage, above, at.dx, 1)
        planes.unpool_pairs(columns[even], columns[odd], plane, at.pad, size)
    else:
        for b in range(stage.pool):
            source = columns[_above(stage, above, at.dx, np.int64(b))]
            planes.unpool_columns(source, plane, at.pad + b, stage.pool, size)


@compiled
def pool_rows(stage, above, dy, columns, store):
    """Adds columns of one dy, averaged over pools, to the next stage's input."""
    _rows(stage, above, dy, columns, store, NO)


@compiled
def unpool_rows(plan, s, dy, columns, store):
    """Fills columns of one dy from cotangents of the next stage's input: the transpose of `pool_rows`."""
    for n in range(_columns(plan, s)):
        planes.clear(columns[n], NONE, _pooled(plan.stages[s]))
    _rows(plan.stages[s], plan.stages[s + 1], dy, columns, store, YES)


@compiled
def _rows(stage, above, dy, columns, store, transpose):
    step, radius_x, width = np.int64(stage.pool), np.int64(above.radius_x), stage.stride // stage.pool
    scale = np.float32(1 / step**4)
    for a in range(step):
        up = (dy + a) // step
        if abs(up) > np.int64(above.radius_y):
            continue
        top = max(0, -up)
        row, rows = np.uint64(top * step + a - max(0, -dy)) * width, above.height - np.uint64(abs(up))
        for dx in range(-radius_x, radius_x + 1):
            left, size = np.uint64(max(0, -dx)), above.width - np.uint64(abs(dx))
            start, to, pooled = row + left, slot(above, up, dx) + left, columns[dx + radius_x]
            if transpose:
                planes.add_rows(store, to, above.stride, pooled, start, stage.stride, rows, size, scale)
            else:
                planes.add_rows(pooled, start, stage.stride, store, to, above.stride, rows, size, scale)
