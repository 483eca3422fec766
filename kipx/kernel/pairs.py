"""Compiled: one pair of images carried through the layers plane by plane, forward and backward.

The layers between two pools keep the offset of a pair of positions, and a ReLU is pointwise: each plane goes through
them by itself, in the fastest cache, and only its pooled sums are stored. A run of such layers with the pool behind it
is a stage. Going back, each plane is computed once more, from the stage's stored input.

The same code carries an image with itself (`own`). Its plane of offset 0 then holds the variances: it is the first to
go forward, which makes the maps of standard deviations, and the last to go back.
"""

from typing import NamedTuple

import numpy as np

from kipx.kernel import offsets, planes, pools
from kipx.kernel.angles import compiled, inlined
from kipx.kernel.plan import SLACK
from kipx.kernel.planes import NEXT, NO, NONE, WIDE_ZERO, YES, ZERO


class Scratch(NamedTuple):
    """Memory of one thread: what belongs to covariances in double precision, to tangent kernels in the images' own.

    Attributes:
      nngp, ntk: (layers + 1, entries) planes before each layer and behind the last.
      ct_nngp, ct_ntk: (2, entries) cotangents before and behind a layer.
      nngp_store, ntk_store: (2, entries) inputs of the stages, every plane, and their cotangents.
      nngp_columns, ntk_columns: (dx + 1, entries) planes of one dy whose columns are pooled; one stays 0.
      nngp_column, ntk_column, log_std: (entries,).
    """

    nngp: np.ndarray
    ntk: np.ndarray
    ct_nngp: np.ndarray
    ct_ntk: np.ndarray
    nngp_store: np.ndarray
    ntk_store: np.ndarray
    nngp_columns: np.ndarray
    ntk_columns: np.ndarray
    nngp_column: np.ndarray
    ntk_column: np.ndarray
    log_std: np.ndarray


def scratch(plan):
    """Fresh Scratch for a plan."""
    rows, last = plan.stages["height"] * plan.stages["stride"], plan.stages[-1]
    entries = int(max(rows + 2 * plan.stages["pad"])) + 2 * SLACK
    stored = int(last["store"] + (2 * last["radius_y"] + 1) * (2 * last["radius_x"] + 1) * rows[-1])
    columns = plan.masks.shape[1] + 2  # more than there are once they are pooled
    shapes = (len(plan.layers) + 1, entries), (2, entries), (2, stored), (columns, entries), entries
    kinds = [[np.zeros(shape, dtype) for dtype in (np.float64, plan.share.dtype)] for shape in shapes]
    return Scratch(*(array for kind in kinds for array in kind), np.zeros(entries, np.float64))


@inlined
def forward(plan, image1, image2, own, kinds, work):
    """Output of one pair of images; with `own` fills image1's maps of standard deviations.

    Args:
      plan: Plan.
      image1, image2: Image.
      own: whether the two are one image.
      kinds: 1 for the covariance alone, 2 with the tangent kernel.
      work: Scratch; its stores hold the inputs of the stages afterwards.
    Returns:
      (nngp, ntk) of the last stage's output.
    """
    work.nngp_store[0] = WIDE_ZERO
    if kinds == 2:
        work.ntk_store[0] = ZERO
    nngp = ntk = WIDE_ZERO
    for s in range(len(plan.stages)):
        stage = plan.stages[s]
        dys, dxs = offsets.vertical(stage), offsets.horizontal(stage)
        for m in range(dys[1]):
            dy = offsets.nth(*dys, m)
            pools.clear_columns(plan, s, kinds, work)
            for n in range(dxs[1]):
                at = offsets.plane(stage, s, dy, offsets.nth(*dxs, n))
                k = _through(plan, stage, at, image1, image2, own, kinds, NO, work)
                if stage.pool == NONE:
                    nngp += planes.total(work.nngp[k], at)
                    ntk += planes.total(work.ntk[k], at) if kinds == 2 else WIDE_ZERO
                else:
                    pools.pool_columns(stage, plan.stages[s + 1], at, k, kinds, work)
            if stage.pool != NONE:
                pools.pool_rows(stage, plan.stages[s + 1], dy, work.nngp_columns, work.nngp_store[0])
                if kinds == 2:
                    pools.pool_rows(stage, plan.stages[s + 1], dy, work.ntk_columns, work.ntk_store[0])
    return nngp * plan.share, ntk * plan.share


@inlined
def backward(plan, image1, image2, own, kinds, ct_nngp, ct_ntk, both, gradient1, gradient2, work):
    """Adds to the gradients of ct_nngp * nngp + ct_ntk * ntk.

    Args:
      plan, image1, image2, own, kinds: as for `forward`, which has just been run on the same `work`.
      ct_nngp, ct_ntk: cotangents of the output.
      both: whether image1 counts as well.
      gradient1, gradient2: Gradient.
      work: Scratch.
    """
    for s in range(len(plan.stages) - 1, -1, -1):
        stage = plan.stages[s]
        dys, dxs = offsets.vertical(stage), offsets.horizontal(stage)
        for m in range(dys[1] - 1, -1, -1):
            dy = offsets.nth(*dys, m)
            if stage.pool != NONE:
                pools.unpool_rows(plan, s, dy, work.nngp_columns, work.nngp_store[1])
                if kinds == 2:
                    pools.unpool_rows(plan, s, dy, work.ntk_columns, work.ntk_store[1])
            for n in range(dxs[1] - 1, -1, -1):
                at = offsets.plane(stage, s, dy, offsets.nth(*dxs, n))
                _through(plan, stage, at, image1, image2, own, kinds, YES, work)
                if stage.pool == NONE:
                    _spread(plan, at, kinds, plan.share * ct_nngp, plan.share * ct_ntk, work)
                else:
                    pools.unpool_columns(stage, plan.stages[s + 1], at, kinds, work)
                q = _back(plan, stage, at, image1, image2, own, kinds, both, gradient1, gradient2, work)
                _keep(stage, at, q, image1, image2, kinds, both, gradient1, gradient2, work)


@compiled
def _through(plan, stage, at, image1, image2, own, kinds, keep, work):
    """Carries a plane through a stage; returns which of work.nngp and work.ntk holds the result.

    With `keep` every layer's input stays there, in order; without, two planes serve in turn and stay in the cache.
    """
    blank = _load(stage, at, image1, image2, plan.masks, kinds, work)
    k, nngp, ntk = NONE, work.nngp, work.ntk
    for i in range(stage.first, stage.last):
        layer = plan.layers[i]
        to = k + NEXT if keep else NEXT - k
        if layer.relu:
            if own and at.dy == 0 and at.dx == 0:
                planes.deviations(nngp[k], at, layer.map, image1)
            planes.relu(nngp, ntk, k, to, at, layer.map, image1, image2, plan.masks, kinds)
        else:
            _window(nngp[k], nngp[to], at, layer, np.float64(layer.bias), plan.masks, work.nngp_column)
            if kinds == 2 and blank:
                planes.copy(nngp[to], at.pad, ntk[to], at.pad, at.lanes)
            elif kinds == 2:
                _window(ntk[k], ntk[to], at, layer, ZERO, plan.masks, work.ntk_column)
                planes.add(nngp[to], at.pad, ntk[to], at.pad, at.lanes)
            blank = False
        k = to
        offsets.seal(nngp[k], stage, at)
        if kinds == 2:
            offsets.seal(ntk[k], stage, at)
    return k


@compiled
def _window(source, target, at, layer, bias, masks, column):
    planes.window(source, target, at, layer.half, layer.scale, bias, masks, column)


@inlined
def _load(stage, at, image1, image2, masks, kinds, work):
    """Brings a stage's input plane to the first of `work`, pixels or what is stored; returns whether its ntk is 0."""
    if at.stage == NONE:
        planes.multiply(image1.pixels, image2.pixels, at, masks, work.nngp[0])
        if kinds == 2:
            planes.clear(work.ntk[0], at.pad, at.size)
    else:
        offsets.load(work.nngp_store[0], stage, at, work.nngp[0])
        if kinds == 2:
            offsets.load(work.ntk_store[0], stage, at, work.ntk[0])
    offsets.seal(work.nngp[0], stage, at)
    if kinds == 2:
        offsets.seal(work.ntk[0], stage, at)
    return at.stage == NONE


@inlined
def _spread(plan, at, kinds, ct_nngp, ct_ntk, work):
    """Fills the first cotangents of `work` with those behind the last layer: of a mean."""
    for f in range(at.size):
        work.ct_nngp[0, at.pad + f] = ct_nngp * plan.masks[at.stage, at.column, f]
    if kinds == 2:
        for f in range(at.size):
            work.ct_ntk[0, at.pad + f] = ct_ntk * plan.masks[at.stage, at.column, f]


@inlined
def _back(plan, stage, at, image1, image2, own, kinds, both, gradient1, gradient2, work):
    """Pulls the first cotangents of `work` back through a stage; returns which of them hold the result."""
    q, k, ct_nngp, ct_ntk, log_std = NONE, stage.last - stage.first, work.ct_nngp, work.ct_ntk, work.log_std
    for i in range(stage.last, stage.first, -1):
        layer = plan.layers[i - 1]
        k -= NEXT
        if layer.relu:
            cts = ct_nngp[q], ct_ntk[q]
            planes.relu_vjp(work.nngp, work.ntk, k, at, layer.map, image1, image2, kinds, *cts, log_std)
            planes.add(log_std, NONE, gradient2.log_stds, layer.map + at.second, at.size)
            if both:
                planes.add(log_std, NONE, gradient1.log_stds, layer.map + at.first, at.size)
            if own and at.dy == 0 and at.dx == 0:
                planes.deviations_vjp(ct_nngp[q], at, layer.map, image1, gradient1.log_stds)
        else:
            if kinds == 2:
                planes.add(ct_ntk[q], at.pad, ct_nngp[q], at.pad, at.size)
                if at.stage != NONE or k != NONE:
                    offsets.seal(ct_ntk[q], stage, at)
                    _window(ct_ntk[q], ct_ntk[NEXT - q], at, layer, ZERO, plan.masks, work.ntk_column)
            offsets.seal(ct_nngp[q], stage, at)
            _window(ct_nngp[q], ct_nngp[NEXT - q], at, layer, WIDE_ZERO, plan.masks, work.nngp_column)
            q = NEXT - q
    return q


@inlined
def _keep(stage, at, q, image1, image2, kinds, both, gradient1, gradient2, work):
    """Stores the cotangents of a stage's input plane, or adds them to the pixels' gradients."""
    if at.stage != NONE:
        offsets.keep(work.ct_nngp[q], stage, at, work.nngp_store[1])
        if kinds == 2:
            offsets.keep(work.ct_ntk[q], stage, at, work.ntk_store[1])
        return
    planes.multiply_vjp(work.ct_nngp[q], at, image1.pixels, at.first, gradient2.pixels, at.second)
    if both:
        planes.multiply_vjp(work.ct_nngp[q], at, image2.pixels, at.second, gradient1.pixels, at.first)
