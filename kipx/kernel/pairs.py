"""Compiled: one pair of images carried through the layers plane by plane, forward and backward.

The layers between two pools keep the offset of a pair of positions, and a ReLU is pointwise: each plane goes through
them by itself, in the fastest cache, and only its pooled sums are stored. A run of such layers with the pool behind it
is a stage. Going back, each plane is computed once more, from the stage's stored input.

The same code carries an image with itself (`own`). Its plane of offset 0 then holds the variances: it is the first to
go forward, which makes the maps of standard deviations, and the last to go back.
"""

from typing import NamedTuple

import numpy as np

from kipx.kernel import planes
from kipx.kernel.plan import SLACK
from kipx.kernel.planes import LANES, NEXT, NONE, TWICE, ZERO, Plane, compiled


class Scratch(NamedTuple):
    """Memory of one thread: covariance and tangent kernel, in this order, of all but `column` and `log_std`.

    Attributes:
      planes: (layers + 1, 2, entries) a plane before each layer and behind the last.
      cts: (2, 2, entries) cotangents before and behind a layer.
      stores: (2, entries) inputs of the stages, every plane; ct_stores their cotangents.
      phases: (size of the largest pool, entries).
      column, log_std: (entries,).
    """

    planes: np.ndarray
    cts: np.ndarray
    stores: np.ndarray
    ct_stores: np.ndarray
    phases: np.ndarray
    column: np.ndarray
    log_std: np.ndarray


def scratch(plan):
    """Fresh Scratch for a plan."""
    rows = plan.stages["height"] * plan.stages["stride"]
    offsets = (2 * plan.stages["radius_y"] + 1) * (2 * plan.stages["radius_x"] + 1)
    entries = int(max(rows + 2 * plan.stages["pad"])) + 2 * SLACK
    stored = int(plan.stages["store"][-1] + offsets[-1] * rows[-1])
    pool = max(1, int(max(plan.stages["pool"])))
    shapes = (len(plan.layers) + 1, 2, entries), (2, 2, entries), (2, stored), (2, stored), (pool, entries)
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
        for n in range(_planes(stage)):
            offset = _offset(stage, n)
            at = _plane(stage, s, offset)
            k = _through(plan, stage, at, offset, image1, image2, own, kinds, work)
            if stage.pool == 0:
                nngp += planes.total(work.planes, k, 0, at)
                ntk += planes.total(work.planes, k, 1, at) if kinds == 2 else ZERO
            else:
                for kind in range(kinds):
                    _pool(plan, s, at, offset, work.planes[k, kind], work.stores[kind], work.phases, False)
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
        for n in range(_planes(stage), 0, -1):
            offset = _offset(stage, n - 1)
            at = _plane(stage, s, offset)
            _through(plan, stage, at, offset, image1, image2, own, kinds, work)
            _above(plan, s, at, offset, kinds, plan.share * ct_nngp, plan.share * ct_ntk, work)
            q = _back(plan, stage, at, offset, image1, image2, own, kinds, both, gradient1, gradient2, work)
            if s:
                slot = _slot(stage, offset)
                for kind in range(kinds):
                    planes.copy(work.cts[q, kind], at.pad, work.ct_stores[kind], slot, at.size)
            else:
                planes.multiply_vjp(work.cts, q, at, image1.pixels, at.first, gradient2.pixels, at.second)
                if both:
                    planes.multiply_vjp(work.cts, q, at, image2.pixels, at.second, gradient1.pixels, at.first)


@compiled
def _planes(stage):
    return (TWICE * stage.radius_y + NEXT) * (TWICE * stage.radius_x + NEXT)


@compiled
def _offset(stage, n):
    """(dy, dx) of the n-th plane, (0, 0) first."""
    radius_y, radius_x, count = np.int64(stage.radius_y), np.int64(stage.radius_x), np.int64(_planes(stage))
    n = (np.int64(n) + count // 2) % count
    return n // (2 * radius_x + 1) - radius_y, n % (2 * radius_x + 1) - radius_x


@compiled
def _plane(stage, s, offset):
    dy, dx = offset
    height, stride, top = np.int64(stage.height), np.int64(stage.stride), max(0, -dy)
    size = np.uint64((height - abs(dy)) * stride)
    return Plane(
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
def _slot(stage, offset):
    """Where a plane of the stage's input is stored."""
    dy, dx = offset
    radius_y, radius_x = np.int64(stage.radius_y), np.int64(stage.radius_x)
    n = (dy + radius_y) * (2 * radius_x + 1) + dx + radius_x
    return stage.store + np.uint64(n) * stage.height * stage.stride


@compiled
def _through(plan, stage, at, offset, image1, image2, own, kinds, work):
    """Fills work.planes: a plane before each layer of a stage and behind the last; returns the last one's number."""
    _load(stage, at, offset, image1, image2, plan.masks, kinds, work)
    k = NONE
    for i in range(stage.first, stage.last):
        layer = plan.layers[i]
        if layer.relu:
            if own and offset[0] == 0 and offset[1] == 0:
                planes.deviations(work.planes, k, at, layer.map, image1.stds)
            planes.relu(work.planes, k, at, layer.map, image1.stds, image2.stds, plan.masks, kinds)
        else:
            bias = layer.bias
            for kind in range(kinds):
                planes.window(
                    work.planes, k, kind, work.planes, k + NEXT, at, layer.half, layer.scale, bias, plan.masks, work.column
                )
                bias = ZERO
            if kinds == 2:
                planes.add(work.planes[k + NEXT, 0], at.pad, work.planes[k + NEXT, 1], at.pad, at.size)
        k += NEXT
        _seal(work.planes, k, stage, at, kinds)
    return k


@compiled
def _load(stage, at, offset, image1, image2, masks, kinds, work):
    """Brings a stage's input plane to work.planes[0]: pixels multiplied, or what the stage below stored."""
    if at.stage == 0:
        planes.multiply(image1.pixels, image2.pixels, at, masks, work.planes)
    else:
        slot = _slot(stage, offset)
        for kind in range(kinds):
            planes.copy(work.stores[kind], slot, work.planes[0, kind], at.pad, at.size)
    _seal(work.planes, NONE, stage, at, kinds)


@compiled
def _seal(buffers, k, stage, at, kinds):
    """Zeros behind a plane, for the windows to come."""
    end = at.pad + at.size
    for kind in range(kinds):
        for f in range(stage.reach + LANES):
            buffers[k, kind, end + f] = ZERO


@compiled
def _above(plan, s, at, offset, kinds, ct_nngp, ct_ntk, work):
    """Fills work.cts[0], the cotangents behind a stage's last layer."""
    for kind in range(kinds):
        if plan.stages[s].pool:
            _pool(plan, s, at, offset, work.cts[0, kind], work.ct_stores[kind], work.phases, True)
        else:
            ct = ct_ntk if kind else ct_nngp
            for f in range(at.size):
                work.cts[0, kind, at.pad + f] = ct * plan.masks[at.stage, at.column, f]


@compiled
def _back(plan, stage, at, offset, image1, image2, own, kinds, both, gradient1, gradient2, work):
    """Pulls work.cts[0] back through the layers of a stage; returns which of work.cts holds the result."""
    q, k = NONE, stage.last - stage.first
    for i in range(stage.last, stage.first, -1):
        layer = plan.layers[i - 1]
        k -= NEXT
        if layer.relu:
            log_std = work.log_std
            planes.relu_vjp(
                work.planes, k, at, layer.map, image1.stds, image2.stds, plan.masks, kinds, work.cts, q, log_std
            )
            planes.add(log_std, NONE, gradient2.stds[0], layer.map + at.second, at.size)
            if both:
                planes.add(log_std, NONE, gradient1.stds[0], layer.map + at.first, at.size)
            if own and offset[0] == 0 and offset[1] == 0:
                planes.deviations_vjp(work.cts, q, at, layer.map, image1.stds, gradient1.stds)
        else:
            if kinds == 2:
                planes.add(work.cts[q, 1], at.pad, work.cts[q, 0], at.pad, at.size)
            _seal(work.cts, q, stage, at, kinds)
            for kind in range(kinds):
                planes.window(
                    work.cts, q, kind, work.cts, NEXT - q, at, layer.half, layer.scale, ZERO, plan.masks, work.column
                )
            q = NEXT - q
    return q


@compiled
def _pool(plan, s, at, offset, plane, store, phases, transpose):
    """Adds a plane's sums over pools, averaged for both images, to the next stage's input, or the other way round."""
    stage, above = plan.stages[s], plan.stages[s + 1]
    step, size = np.int64(stage.pool), (at.pad + at.size) // stage.pool + NEXT
    scale = np.float32(1 / step**4)
    if transpose:
        phases[:, :size] = ZERO
    else:
        planes.split(plane, phases, stage.pool, size)
    for a in range(step):
        for b in range(step):
            dy, dx = (offset[0] + a) // step, (offset[1] + b) // step
            if abs(dy) > np.int64(above.radius_y) or abs(dx) > np.int64(above.radius_x):
                continue
            top, left = max(0, -dy), max(0, -dx)
            row = np.int64(at.pad) + (top * step + a - max(0, -offset[0])) * np.int64(stage.stride) + left * step + b
            phase, start = phases[row % step], np.uint64(row // step)
            to = _slot(above, (dy, dx)) + np.uint64(left)
            shape = (above.height - np.uint64(abs(dy)), above.width - np.uint64(abs(dx)))
            if transpose:
                planes.add_rows(store, to, above.stride, phase, start, stage.stride, shape, scale)
            else:
                planes.add_rows(phase, start, stage.stride, store, to, above.stride, shape, scale)
    if transpose:
        planes.join(phases, plane, stage.pool, size)
