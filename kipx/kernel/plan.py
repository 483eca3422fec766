"""An architecture over an image as plain arrays, and images as padded maps: what the compiled loops read."""

from typing import NamedTuple

import numpy as np

from kipx.architecture import AvgPool, Conv, Flatten, GlobalAvgPool, Relu
from kipx.kernel.layers import place

_PLACE = ("height", "width", "stride", "pad", "reach", "radius_y", "radius_x")
_PARTS = ("first", "last", "pool", "store", "wraps")
STAGE = np.dtype([(name, np.uint64) for name in _PLACE + _PARTS])
SLACK = 16  # entries behind every map, for loops over whole vectors


class Plan(NamedTuple):
    """The layers below Flatten or GlobalAvgPool. A stage is the layers between two pools, with the pool behind them.

    Attributes:
      stages: STAGE records. layers[first:last] are its own; `pool` is 0 for the last; its input is stored from `store`;
        windows need `reach` zeros around a plane that begins at `pad`. It `wraps` where every offset is needed.
      layers: records; `map` is where a ReLU's map of standard deviations begins.
      masks: (stages, dx, entries) 1 where a pair lies inside both images.
      share: what an entry behind the last layer counts for in the mean, in the precision of the images.
      entries: of an image's map of pixels; of all its maps of standard deviations.
    """

    stages: np.ndarray
    layers: np.ndarray
    masks: np.ndarray
    share: np.floating
    entries: tuple


class Image(NamedTuple):
    """Maps of one image, or of a set of images with a leading axis; each has a row of zeros above and below.

    Attributes:
      pixels: (channels, entries).
      stds: (entries,) standard deviations before each ReLU.
      inverses: (entries,) one over them; 0 where they are 0.
    """

    pixels: np.ndarray
    stds: np.ndarray
    inverses: np.ndarray


class Gradient(NamedTuple):
    """Maps of a gradient with respect to an image, or to a set of images.

    Attributes:
      pixels: (channels, entries).
      log_stds: (entries,) with respect to the logarithms of the standard deviations.
    """

    pixels: np.ndarray
    log_stds: np.ndarray


def make_plan(architecture, sides, *, radius, dtype):
    """Plan for images of sides (h, w) and a dtype.

    Args:
      architecture: tuple of layers that does not begin with Flatten.
      sides: (h, w).
      radius: 0 for the kernel; -1 for the variances before each ReLU alone.
    Returns:
      Plan, or None where there is nothing to compute.
    """
    half = max((layer.size // 2 for layer in architecture if isinstance(layer, Conv)), default=0)
    found = runs(place(architecture, sides, radius=radius))
    if not found:
        return None
    stages, layers, stored, maps = [], [], 0, 0
    for (bands, inside, pool), (*_, next_pool) in zip(found, runs(place(architecture, sides, radius=0)), strict=False):
        (height, width), (radius_y, radius_x) = zip(*bands, strict=True)
        stride, first = _stride(width + half, next_pool), len(layers)
        for layer in inside:
            layers.append(_layer(layer, maps))
            maps += (height + 2) * stride * isinstance(layer, Relu)
        reach = half * (stride + 1)
        pad = stages[0][3] if stages else reach  # the widest; leading zeros then stay zeros
        wraps = (radius_y, radius_x) == (height - 1, width - 1) and stride < 2 * radius_x + 1
        its_place = height, width, stride, pad, reach, radius_y, radius_x
        stages.append((*its_place, first, len(layers), pool, stored, wraps))
        stored += (2 * radius_y + 1) * (2 * radius_x + 1) * height * stride * (len(stages) > 1)
    pixels = (stages[0][0] + 2) * stages[0][2]
    share = 1 / (height * width) ** (1 if radius_y == radius_x == 0 else 2)
    stages = np.array(stages, STAGE)
    entries = pixels + SLACK, maps + SLACK
    return Plan(stages, np.array(layers, _layer_type(dtype)), _masks(stages), np.dtype(dtype).type(share), entries)


def _layer_type(dtype):
    return np.dtype([*((name, np.uint64) for name in ("relu", "half", "map")), ("scale", dtype), ("bias", dtype)])


def operations(plan):
    """Entries of all planes times the passes over each: what one pair costs, in proportion."""
    stages = plan.stages.astype([(name, np.int64) for name in STAGE.names])
    columns = np.where(stages["wraps"], stages["stride"], 2 * stages["radius_x"] + 1)
    planes = (2 * stages["radius_y"] + 1) * columns
    passes = stages["last"] - stages["first"] + 1
    return int(sum(planes * stages["height"] * stages["stride"] * passes))


def runs(placed):
    """List of (bands, layers, size of the pool behind them or 0) up to Flatten or GlobalAvgPool."""
    found, inside = [], []
    for layer, bands in placed:
        if isinstance(layer, Flatten | GlobalAvgPool):
            return [*found, (bands, inside, 0)]
        if isinstance(layer, AvgPool):
            found.append((bands, inside, layer.size))
            inside = []
        else:
            inside.append(layer)
    return [*found, (bands, inside, 0)] if inside else found


def _stride(width, pool):
    """Entries a row: the width, and as many more as let every row begin a new pool."""
    return -(-width // max(pool, 1)) * max(pool, 1)


def _layer(layer, maps):
    if isinstance(layer, Relu):
        return 1, 0, maps, 0, 0
    size = layer.size if isinstance(layer, Conv) else 1
    return 0, size // 2, 0, layer.w_std**2 / size**2, layer.b_std**2


def _masks(stages):
    entries, columns = max(stages["height"] * stages["stride"]), max(*(2 * stages["radius_x"] + 1), *stages["stride"])
    masks = np.zeros((len(stages), int(columns), int(entries) + SLACK), np.float32)
    for stage, mask in zip(stages.tolist(), masks, strict=True):
        stage = dict(zip(STAGE.names, stage, strict=True))
        lowest, highest = (0, stage["stride"] - 1) if stage["wraps"] else (-stage["radius_x"], stage["radius_x"])
        for dx in range(lowest, highest + 1):
            rows = mask[dx - lowest, : stage["height"] * stage["stride"]].reshape(stage["height"], stage["stride"])
            rows[:, max(0, -dx) : max(0, stage["width"] - max(0, dx))] = 1
            if stage["wraps"]:
                rows[:, stage["stride"] - dx : stage["width"]] = 1
    return masks


def pad(x, plan):
    """(n, c, entries) maps of the pixels of images (n, h, w, c)."""
    n, h, w, c = x.shape
    stride = int(plan.stages["stride"][0])
    maps = np.zeros((n, c, plan.entries[0]), x.dtype)
    maps[..., : (h + 2) * stride].reshape(n, c, h + 2, stride)[:, :, 1:-1, :w] = np.moveaxis(x, -1, 1)
    return maps


def unpad(maps, plan, shape):
    """Images of a shape (n, h, w, c) from maps of their pixels."""
    n, h, w, c = shape
    stride = int(plan.stages["stride"][0])
    rows = maps[..., : (h + 2) * stride].reshape(n, c, h + 2, stride)
    return np.moveaxis(rows[:, :, 1:-1, :w], 1, -1)
