"""What the GPU is told to do for a matrix of pairs of images: which kernels, in what order, on which memory."""

import importlib.resources
from functools import lru_cache

import numpy as np

from kipx.kernel import gpu
from kipx.kernel.relu import lens_series, turn_series
from kipx.kernel.stages import THREADS

BLOCKS = {"forward": 4, "backward": 2}  # of THREADS at once on a multiprocessor, which bounds their registers


def share(last):
    """What each position counts for in the mean: all pairs of them, or those at offset 0 alone."""
    return 1 / (last.sides[0] * last.sides[1]) ** (1 if last.radii == (0, 0) else 2)


def fill(stages, tiles, kinds, context, out, images1, images2):
    """Fills sums over positions (n1, n2, dys), covariances and tangent kernels.

    Args:
      stages, tiles: from `kipx.kernel.stages`.
      kinds: 1 for the covariance alone, 2 with the tangent kernel.
      context: of the callback: its stream.
      out: (sums, scratch), buffers.
      images1, images2: (wide, stds) buffers, see `cuda/walk.cuh`.
    """
    with gpu.on(context, (out, images1, images2)) as ((sums, scratch), images1, images2):
        if kinds == 1:
            sums[1][...] = 0
        for tile in tiles.each():
            first = tile[0] * tiles.sides[1] + tile[2]
            ends = [k.reshape(-1, k.shape[2])[first:] for k in sums]
            _forward(stages, kinds, images1, images2, tile, [*scratch[: len(stages) - 1], ends])


def pull(stages, tiles, kinds, context, out, images1, images2, ct):
    """Fills each stage's gradient (parts, n2, quantities, h, w), to be added over its parts.

    Args:
      stages, tiles, kinds, context, images1, images2: as for `fill`.
      out: (gradients, scratch), buffers.
      ct: (n1, n2) cotangents of covariances and tangent kernels, buffers.
    """
    with gpu.on(context, (out, images1, images2, ct)) as ((gradients, scratch), images1, images2, ct):
        n, none = len(stages) - 1, images1
        for tile in tiles.each():
            first = tile[0] * tiles.sides[1] + tile[2]
            _forward(stages, kinds, images1, images2, tile, scratch[:n])
            starts, cts = [none, *scratch[:n]], [none, *scratch[n:], [c.reshape(-1)[first:] for c in ct]]
            for s in range(n, -1, -1):
                _backward(stages, s, kinds, tiles, images1, images2, tile, starts[s], cts[s + 1], cts[s], gradients[s])


def walk(stages, s, context, out, images, begin):
    """Fills pooled columns (n, dys, dxs, h, w) of images with themselves behind stage s, covariances alone.

    Args:
      stages: from `kipx.kernel.stages.own_stages`.
      s: which of them.
      context: of the callback: its stream.
      out: buffer.
      images: (wide, stds) buffers.
      begin: what stage s - 1 left; any buffer for the first.
    """
    with gpu.on(context, (out, images, begin)) as (out, images, begin):
        n, stage = len(out), stages[s]
        kernel = _kernel("forward", stages, s, 1, _entries(images), own=True)
        ntk = images[1]  # of which there is none
        grid = -(-n // stage.units), stage.planes[0]
        kernel(grid, *images, *images, begin, ntk, out, ntk, *_integers(0, 0, 1, n))


def walk_back(stages, s, context, out, images, begin, ct):
    """Fills stage s's gradient (n, quantities, h, w) by one of the two roles of each image, and that of its planes.

    Args:
      stages, s, context, images, begin: as for `walk`.
      out: (gradient, planes), buffers.
      ct: (n, dys, dxs, h, w) cotangents of the planes of stage s + 1, buffer.
    """
    with gpu.on(context, (out, images, begin, ct)) as ((gradient, planes), images, begin, ct):
        n, stage = len(gradient), stages[s]
        kernel = _kernel("backward", stages, s, 1, _entries(images), own=True)
        ntk = images[1]
        numbers = _integers(stage.units, 0, 0, 1, 0, n, n)
        kernel((n, 1), *images, *images, begin, ntk, ct, ntk, planes, ntk, gradient, np.float64(1), *numbers)


def _forward(stages, kinds, images1, images2, tile, ends):
    """Runs as many stages as there are `ends`, one after the other; each leaves its (nngp, ntk) in its own."""
    row, rows, column, columns = tile
    start = images1  # of the first, which does not look at it
    for s, end in enumerate(ends):
        kernel = _kernel("forward", stages, s, kinds, _entries(images1))
        grid = -(-rows * columns // stages[s].units), stages[s].planes[0]
        kernel(grid, *images1, *images2, *start, *end, *_integers(row, column, columns, rows * columns))
        start = end


def _backward(stages, s, kinds, tiles, images1, images2, tile, start, ct, to, gradient):
    (row, rows, column, columns), stage = tile, stages[s]
    kernel = _kernel("backward", stages, s, kinds, _entries(images1))
    parts, rows_a_block = tiles.parts_a_tile(stage), tiles.rows_a_block(stage)
    numbers = _integers(rows_a_block, row // tiles.rows * parts, row, rows, column, columns, tiles.sides[1])
    kernel((columns, parts), *images1, *images2, *start, *ct, *to, gradient, np.float64(share(stage)), *numbers)


def _integers(*numbers):
    return [np.int32(number) for number in numbers]


def _entries(images):
    return images[0].shape[1], images[1].shape[1]


@lru_cache
def _kernel(name, stages, s, kinds, entries, own=False):
    """The compiled kernel of stage s: kernel(grid, *arguments)."""
    stage, below, above = stages[s], stages[s - 1] if s else None, stages[s + 1] if s + 1 < len(stages) else None
    defined = _constants(stage, below, above)
    defined.update(KINDS=kinds, OWN=int(own), BLOCKS=max(1, BLOCKS[name] * THREADS // stage.threads))
    defined.update(WIDE_ENTRIES=entries[0], STD_ENTRIES=entries[1], CHANNELS_WIDE=entries[0] - entries[1])
    lines = [f"#define {key} {value}" for key, value in defined.items()]
    folder = importlib.resources.files("kipx.kernel") / "cuda"
    code = [(folder / file).read_text() for file in ("walk.cuh", f"{name}.cu")]
    return gpu.compiled("\n".join([*lines, *code]), name, stage.threads, stage.shared_bytes(name))


def _constants(stage, below, above):
    convolutions = stage.convolutions or [None]
    listed = {
        "SCALES": [repr(conv.w_std**2 / 9) if conv else "0" for conv in convolutions],
        "BIASES": [repr(conv.b_std**2) if conv else "0" for conv in convolutions],
        "MAPS": [str(start) for start in stage.maps or [0]],
        "TURN": [f"{c!r}f" for c in turn_series()],
        "LENS": [f"{c!r}f" for c in lens_series()],
    }
    return {
        "HEIGHT": stage.sides[0],
        "WIDTH": stage.sides[1],
        "STRIDE": stage.stride,
        "MARGIN": stage.margins[0],
        "CHANNELS": stage.channels,
        "LAYERS": len(stage.convolutions),
        "RADIUS_Y": stage.radii[0],
        "RADIUS_X": stage.radii[1],
        "ABOVE_Y": above.radii[0] if above else -1,
        "ABOVE_X": above.radii[1] if above else -1,
        "BELOW_Y": below.radii[0] if below else 0,
        "BELOW_HEIGHT": below.sides[0] if below else 0,
        "LANES": stage.lanes,
        "UNITS": stage.units,
        "GROUPS_A_UNIT": stage.groups,
        "THREADS": stage.threads,
        **{key: ", ".join(values) for key, values in listed.items()},
    }
