"""Compiled: from the planes of one stage to those of the next, and back.

An average pool of p x p takes offset d of its input to the offsets (d + a) // p, a = 0, ..., p - 1 being the phase of
the first position. Columns are pooled first, in one vector loop a plane, and gathered for all planes of one dy; then
the rows of these.
"""

import numpy as np

from kipx.kernel import planes
from kipx.kernel.planes import NEXT, NONE, TWICE, compiled


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
    """Zeros for one dy of a stage."""
    stage = plan.stages[s]
    if stage.pool != NONE:
        size = stage.height * stage.stride // stage.pool
        for kind in range(kinds):
            for n in range(offsets(plan.stages[s + 1].radius_x) + NEXT):
                planes.clear(work.columns[kind, n], NONE, size)


@compiled
def _above(stage, above, dx, b):
    """Which of work.columns takes the b-th column of every pool; the last, which stays 0, where none is needed."""
    up, radius = (dx + b) // np.int64(stage.pool), np.int64(above.radius_x)
    return np.uint64(up + radius) if abs(up) <= radius else offsets(above.radius_x)


@compiled
def pool_columns(stage, above, at, k, kinds, work):
    """Adds a plane to work.columns, which hold all planes of one dy with their columns pooled."""
    for b in range(stage.pool):
        to = _above(stage, above, at.dx, np.int64(b))
        if to < offsets(above.radius_x):
            for kind in range(kinds):
                plane, target = work.planes[k, kind], work.columns[kind, to]
                planes.pool_columns(plane, at.pad + b, stage.pool, target, at.size // stage.pool)


@compiled
def unpool_columns(stage, above, at, kinds, work):
    """Fills work.cts[0] from work.columns: the transpose of `pool_columns`."""
    size = at.size // stage.pool
    for kind in range(kinds):
        plane, columns = work.cts[0, kind], work.columns[kind]
        if stage.pool == TWICE:
            even, odd = _above(stage, above, at.dx, 0), _above(stage, above, at.dx, 1)
            planes.unpool_pairs(columns[even], columns[odd], plane, at.pad, size)
        else:
            for b in range(stage.pool):
                source = columns[_above(stage, above, at.dx, np.int64(b))]
                planes.unpool_columns(source, plane, at.pad + b, stage.pool, size)


@compiled
def pool_rows(stage, above, dy, kinds, columns, stores, transpose):
    """Adds work.columns of one dy, averaged over pools, to the next stage's input, or the other way round."""
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
            start, to = row + left, slot(above, up, dx) + left
            for kind in range(kinds):
                pooled, store = columns[kind, dx + radius_x], stores[kind]
                if transpose:
                    planes.add_rows(store, to, above.stride, pooled, start, stage.stride, rows, size, scale)
                else:
                    planes.add_rows(pooled, start, stage.stride, store, to, above.stride, rows, size, scale)
