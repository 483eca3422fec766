"""Compiled: one pair of images carried through the layers plane by plane, forward and backward.

The layers between two pools keep the offset of a pair of positions, and a ReLU is pointwise: each plane goes through
them by itself, in the fastest cache, and only its pooled sums are stored. A run of such layers with the pool behind it
is a stage. Going back, each plane is computed once more, from the stage's stored input.

The same code carries an image with itself (`own`). Its plane of offset 0 then holds the variances: it is the first to
go forward, which makes the maps of standard deviations, and the last to go back.
"""

from typing import NamedTuple

import numpy as np

from kipx.kernel import planes, pools
from kipx.kernel.plan import SLACK
from kipx.kernel.planes import LANES, NEXT, NONE, ZERO, Plane, compiled


class Scratch(NamedTuple):
    """Memory of one thread: covariance and tangent kernel, in this order, wherever there are two.

    Attributes:
      planes: (layers + 1, 2, entries) a plane before each layer and behind the last.
      cts: (2, 2, entries) cotangents before and behind a layer.
      stores: (2, entries) inputs of the stages, every plane; ct_stores their cotangents.
      columns: (2, dx + 1, entries) planes of one dy whose columns are pooled; the last dx stays 0.
      column, log_std: (entries,).
    """

    planes: np.ndarray
    cts: np.ndarray
    stores: np.ndarray
    ct_stores: np.ndarray
    columns: np.ndarray
    column: np.ndarray
    log_std: np.ndarray


def scratch(plan):
    """Fresh Scratch for a plan."""
    rows = plan.stages["height"] * plan.stages["stride"]
    offsets = (2 * plan.stages["radius_y"] + 1) * (2 * plan.stages["radius_x"] + 1)
    entries = int(max(rows + 2 * plan.stages["pad"])) + 2 * SLACK
    stored = int(plan.stages["store"][-1] + offsets[-1] * rows[-1])
    columns = (2, 2 * int(max(plan.stages["radius_x"])) + 2, entries)
    shapes = (len(plan.layers) + 1, 2, entries), (2, 2, entries), (2, stored), (2, stored), columns
    return Scratch(*(np.zeros(shape, np.float32) for shape in (*shapes, entries, entries)))


@compiled
def forward(plan, image1, image2, own, kinds, work):
    """Output of one pair of images; with `own` fills image1's maps of standard deviations.

    Args:
      plan: Plan.
      image1, image2: Image.
      own: whether the two are one image.
      kinds: 1 for the covariance alone, 2 with the tangent kernel.
      work: Scratch; `stores` holds the inputs of the stages afterwards.
    Returns:
      (nngp, ntk) of the last stage's output.
    """
    work.stores[:kinds] = ZERO
    nngp = ntk = ZERO
    for s in range(len(plan.stages)):
        stage = plan.stages[s]
        for m in range(pools.offsets(stage.radius_y)):
            dy = _offset(stage.radius_y, m)
            pools.clear_columns(plan, s, kinds, work)
            for n in range(pools.offsets(stage.radius_x)):
                at = _plane(stage, s, dy, _offset(stage.radius_x, n))
                k = _through(plan, stage, at, image1, image2, own, kinds, False, work)
                if stage.pool == NONE:
                    nngp += planes.total(work.planes, k, 0, at)
                    ntk += planes.total(work.planes, k, 1, at) if kinds == 2 else ZERO
                else:
                    pools.pool_columns(stage, plan.stages[s + 1], at, k, kinds, work)
            if stage.pool != NONE:
                pools.pool_rows(stage, plan.stages[s + 1], dy, kinds, work.columns, work.stores, False)
    return nngp * plan.share, ntk * plan.share


@compiled
def backward(plan, image1, image2, own, kinds, ct_nngp, ct_ntk, both, gradient1, gradient2, work):
    """Adds to the gradients of ct_nngp * nngp + ct_ntk * ntk.

    Args:
      plan, image1, image2, own, kinds: as for `forward`, which has just been run on the same `work`.
      ct_nngp, ct_ntk: cotangents of the output.
      both: whether image1 counts as well.
      gradient1, gradient2: Image; stds[0] is the gradient with respect to log(std).
      work: Scratch.
    """
    for s in range(len(plan.stages) - 1, -1, -1):
        stage = plan.stages[s]
        for m in range(pools.offsets(stage.radius_y), 0, -1):
            dy = _offset(stage.radius_y, m - 1)
            pools.clear_columns(plan, s, kinds, work)
            if stage.pool != NONE:
                pools.pool_rows(stage, plan.stages[s + 1], dy, kinds, work.columns, work.ct_stores, True)
            for n in range(pools.offsets(stage.radius_x), 0, -1):
                at = _plane(stage, s, dy, _offset(stage.radius_x, n - 1))
                _through(plan, stage, at, image1, image2, own, kinds, True, work)
                if stage.pool == NONE:
                    _spread(plan, at, kinds, plan.share * ct_nngp, plan.share * ct_ntk, work)
                else:
                    pools.unpool_columns(stage, plan.stages[s + 1], at, kinds, work)
                q = _back(plan, stage, at, image1, image2, own, kinds, both, gradient1, gradient2, work)
                _keep(stage, at, q, image1, image2, kinds, both, gradient1, gradient2, work)


@compiled
def _offset(radius, n):
    """The n-th of the offsets -radius, ..., radius, 0 first."""
    count = 2 * np.int64(radius) + 1
    return (np.int64(n) + count // 2) % count - np.int64(radius)


@compiled
def _plane(stage, s, dy, dx):
    height, stride, top = np.int64(stage.height), np.int64(stage.stride), max(0, -dy)
    size = np.uint64((height - abs(dy)) * stride)
    return Plane(
        dy,
        dx,
        size,
        (size + LANES - NEXT) // LANES * LANES,
        stage.pad,
        stage.stride,
        np.uint64(s),
        np.uint64(dx + np.int64(stage.radius_x)),
        np.uint64((1 + top) * stride),
        np.uint64((1 + top + dy) * stride + dx),
    )


@compiled
def _through(plan, stage, at, image1, image2, own, kinds, keep, work):
    """Carries a plane through a stage; returns which of work.planes holds the result.

    With `keep` every layer's input stays there, in order; without, two planes serve in turn and stay in the cache.
    """
    blank = _load(stage, at, image1, image2, plan.masks, kinds, work)
    k = NONE
    for i in range(stage.first, stage.last):
        layer = plan.layers[i]
        to = k + NEXT if keep else NEXT - k
        if layer.relu:
            if own and at.dy == 0 and at.dx == 0:
                planes.deviations(work.planes, k, at, layer.map, image1.stds)
            planes.relu(work.planes, k, to, at, layer.map, image1.stds, image2.stds, plan.masks, kinds)
        else:
            _window(work.planes, k, 0, work.planes, to, at, layer, layer.bias, plan.masks, work.column)
            if kinds == 2 and blank:
                planes.copy(work.planes[to, 0], at.pad, work.planes[to, 1], at.pad, at.lanes)
            elif kinds == 2:
                _window(work.planes, k, 1, work.planes, to, at, layer, ZERO, plan.masks, work.column)
                planes.add(work.planes[to, 0], at.pad, work.planes[to, 1], at.pad, at.lanes)
            blank = False
        k = to
        _seal(work.planes, k, stage, at, kinds)
    return k


@compiled
def _window(source, k, kind, target, to, at, layer, bias, masks, column):
    planes.window(source, k, kind, target, to, at, layer.half, layer.scale, bias, masks, column)


@compiled
def _load(stage, at, image1, image2, masks, kinds, work):
    """Brings a stage's input plane to work.planes[0], pixels or what is stored; returns whether its ntk is 0."""
    if at.stage == NONE:
        planes.multiply(image1.pixels, image2.pixels, at, masks, work.planes)
    else:
        for kind in range(kinds):
            planes.copy(work.stores[kind], pools.slot(stage, at.dy, at.dx), work.planes[0, kind], at.pad, at.size)
    _seal(work.planes, NONE, stage, at, kinds)
    return at.stage == NONE


@compiled
def _seal(buffers, k, stage, at, kinds):
    """Zeros behind a plane, for the windows to come."""
    end = at.pad + at.size
    for kind in range(kinds):
        planes.clear(buffers[k, kind], end, stage.reach + LANES)


@compiled
def _spread(plan, at, kinds, ct_nngp, ct_ntk, work):
    """Fills work.cts[0] with the cotangents behind the last layer: of a mean."""
    for kind in range(kinds):
        ct = ct_ntk if kind else ct_nngp
        for f in range(at.size):
            work.cts[0, kind, at.pad + f] = ct * plan.masks[at.stage, at.column, f]


@compiled
def _back(plan, stage, at, image1, image2, own, kinds, both, gradient1, gradient2, work):
    """Pulls work.cts[0] back through the layers of a stage; returns which of work.cts holds the result."""
    q, k, masks = NONE, stage.last - stage.first, plan.masks
    for i in range(stage.last, stage.first, -1):
        layer = plan.layers[i - 1]
        k -= NEXT
        if layer.relu:
            stds1, stds2, log_std = image1.stds, image2.stds, work.log_std
            planes.relu_vjp(work.planes, k, at, layer.map, stds1, stds2, kinds, work.cts, q, log_std)
            planes.add(log_std, NONE, gradient2.stds[0], layer.map + at.second, at.size)
            if both:
                planes.add(log_std, NONE, gradient1.stds[0], layer.map + at.first, at.size)
            if own and at.dy == 0 and at.dx == 0:
                planes.deviations_vjp(work.cts, q, at, layer.map, stds1, gradient1.stds)
        else:
            if kinds == 2:
                planes.add(work.cts[q, 1], at.pad, work.cts[q, 0], at.pad, at.size)
            _seal(work.cts, q, stage, at, kinds)
            for kind in range(1 if at.stage == NONE and k == NONE else kinds):
                _window(work.cts, q, kind, work.cts, NEXT - q, at, layer, ZERO, masks, work.column)
            q = NEXT - q
    return q


@compiled
def _keep(stage, at, q, image1, image2, kinds, both, gradient1, gradient2, work):
    """Stores the cotangents of a stage's input plane, or adds them to the pixels' gradients."""
    if at.stage != NONE:
        for kind in range(kinds):
            planes.copy(work.cts[q, kind], at.pad, work.ct_stores[kind], pools.slot(stage, at.dy, at.dx), at.size)
        return
    planes.multiply_vjp(work.cts, q, at, image1.pixels, at.first, gradient2.pixels, at.second)
    if both:
        planes.multiply_vjp(work.cts, q, at, image2.pixels, at.second, gradient1.pixels, at.first)
