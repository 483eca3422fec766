"""Compiled: from the planes of one stage to those of the next, and back.

An average pool of p x p takes offset d of its input to the offsets (d + a) // p, a = 0, ..., p - 1 being the phase of
the first position. Columns are pooled first, in one vector loop a plane, and gathered for all planes of one dy; then
the rows of these.
"""

import numpy as np

from kipx.kernel import planes
from kipx.kernel.angles import compiled, inlined
from kipx.kernel.offsets import slot, top
from kipx.kernel.planes import NEXT, NO, NONE, TWICE, YES


@inlined
def clear_columns(plan, s, kinds, work):
    """Zeros for one dy of a stage, forward."""
    if plan.stages[s].pool != NONE:
        _clear(plan, s, work.nngp_columns)
        if kinds == 2:
            _clear(plan, s, work.ntk_columns)


@compiled
def _clear(plan, s, columns):
    for n in range(_needed(plan.stages[s], plan.stages[s + 1]) + NEXT):
        planes.clear(columns[n], NONE, _pooled(plan.stages[s]))


@compiled
def _needed(stage, above):
    """How many planes of pooled columns a dy has; the one behind them stays 0."""
    return stage.stride // stage.pool + NEXT if stage.wraps else TWICE * above.radius_x + NEXT


@compiled
def _pooled(stage):
    return stage.height * stage.stride // stage.pool


@compiled
def _above(stage, above, dx, b):
    """Which of work.columns takes the b-th column of every pool; the one that stays 0 where none is needed."""
    up, needed = (dx + b) // np.int64(stage.pool), _needed(stage, above)
    n = np.uint64(up if stage.wraps else up + np.int64(above.radius_x))  # huge, if negative
    return min(n, needed)


@compiled
def pool_columns(stage, above, at, k, kinds, work):
    """Adds a plane to work's columns, which hold all planes of one dy with their columns pooled."""
    for b in range(stage.pool):
        to = _above(stage, above, at.dx, np.int64(b))
        if to < _needed(stage, above):
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
        even = _above(stage, above, at.dx, np.int64(NONE))
        odd = _above(stage, above, at.dx, np.int64(NEXT))
        planes.unpool_pairs(columns[even], columns[odd], plane, at.pad, size)
    else:
        for b in range(stage.pool):
            source = columns[_above(stage, above, at.dx, np.int64(b))]
            planes.unpool_columns(source, plane, at.pad + b, stage.pool, size)


@inlined
def pool_rows(stage, above, dy, columns, store):
    """Adds columns of one dy, averaged over pools, to the next stage's input."""
    _rows(stage, above, dy, columns, store, NO)


@inlined
def unpool_rows(plan, s, dy, columns, store):
    """Fills columns of one dy from cotangents of the next stage's input: the transpose of `pool_rows`."""
    _clear(plan, s, columns)
    _rows(plan.stages[s], plan.stages[s + 1], dy, columns, store, YES)


@inlined
def _rows(stage, above, dy, columns, store, transpose):
    wraps, radius = np.int64(stage.wraps), np.int64(above.radius_x)
    for h in range(1 + wraps):  # halves of the planes: the first has dx from 0 on, if there is a second
        lowest, highest = -radius * max(h, 1 - wraps), radius * (1 - h)
        shift = h * np.int64(stage.stride // stage.pool) if wraps else radius
        _rows_of(stage, above, dy, dy + h, lowest, highest, shift, columns, store, transpose)


@compiled
def _rows_of(stage, above, begun, dy, lowest, highest, shift, columns, store, transpose):
    """The rows at one dy of columns that begin where the planes of dy = `begun` do; columns[dx + shift] has a dx's."""
    step, width = np.int64(stage.pool), stage.stride // stage.pool
    scale = store.dtype.type(1 / step**4)
    for a in range(step):
        up = (dy + a) // step
        if abs(up) > np.int64(above.radius_y):
            continue
        row = np.uint64(max(0, -up) * step + a - top(stage, begun)) * width
        rows = above.height - np.uint64(abs(up))
        for dx in range(lowest, highest + 1):
            left, size = np.uint64(max(0, -dx)), above.width - np.uint64(abs(dx))
            start, to, pooled = row + left, slot(above, up, dx) + left, columns[dx + shift]
            if transpose:
                planes.add_rows(store, to, above.stride, pooled, start, stage.stride, rows, size, scale)
            else:
                planes.add_rows(pooled, start, stage.stride, store, to, above.stride, rows, size, scale)
