"""Seconds of an engine's calls, from parts of them that are small enough to try."""

import math
import time
from typing import NamedTuple

import jax
import numpy as np

from kipx.cost import rounds
from kipx.engine import hosts

SMALLEST, REPETITIONS = 4, 9  # images a side of the first try; calls timed at most


class Timed(NamedTuple):
    """Seconds of a call.

    Attributes:
      time_s: of the whole call, warm.
      pair_s: of one pair on one device.
      first_s: more than that the first time, for compilation.
      pairs: that were tried, padding included, and their repetitions.
    """

    time_s: float
    pair_s: float
    first_s: float
    pairs: int
    repetitions: int


def time_call(engine, call, *, allowed_s):
    """Times as large a part of a call as can be repeated within the time allowed, and scales it up.

    Parts have the call's own blocks as long as one of them fits; time goes with the pairs on the busiest device.

    Args:
      engine: kipx.engine.Engine.
      call: kipx.cost.Call.
      allowed_s: seconds to spend, about; one part is tried twice however long it takes.
    Returns:
      Timed; in all processes of a run that of the leading one.
    """
    sizes, tried = [_smallest(call)], {}
    while sizes:
        size, part = sizes[-1], _part(call, sizes[-1])
        first, warm = _seconds(engine, part), _seconds(engine, part)
        tried = {"size": size, "first": first, "times": [warm]}
        pair_s = warm / rounds(engine.layout(*part.sizes))
        larger = [s for s in _sizes(engine, call) if math.prod(s) > math.prod(size)]
        sizes = [s for s in larger if 3 * pair_s * rounds(engine.layout(*_part(call, s).sizes)) <= allowed_s]
    while len(tried["times"]) < REPETITIONS and sum(tried["times"]) + tried["times"][-1] <= allowed_s:
        tried["times"].append(_seconds(engine, part))
    layout, warm = engine.layout(*part.sizes), float(np.median(tried["times"]))
    pair_s = warm / rounds(layout)
    whole = pair_s * rounds(engine.layout(*call.sizes))
    return Timed(whole, pair_s, max(tried["first"] - warm, 0.0), layout.pairs, len(tried["times"]))


def _seconds(engine, call):
    """Seconds of a call, in all processes those of the leading one, so that all go on alike."""
    n1, n2, _ = call.sizes
    began = time.perf_counter()
    if call.name == "vjp":
        result = engine.vjp(call.x1, call.x2, np.ones((n1, n1 if n2 is None else n2), np.float32))
    else:
        result = getattr(engine, call.name)(call.x1, call.x2)
    jax.block_until_ready(result)
    return float(hosts.of_leader(np.asarray(time.perf_counter() - began)))


def _part(call, size):
    """The call on its first images."""
    n1, n2 = size
    return call._replace(x1=call.x1[:n1], x2=None if call.x2 is None else call.x2[:n2])


def _smallest(call):
    n1, n2, _ = call.sizes
    return min(n1, SMALLEST), min(n1 if n2 is None else n2, SMALLEST)


def _sizes(engine, call):
    """(n1, n2) of parts, from small to whole: fractions of a block, some whole blocks for each device, everything."""
    n1, n2, shape = call.sizes
    whole = engine.layout(n1, n2, shape)
    rows, columns = whole.rows, whole.columns
    sizes = [*_alike(engine, call, whole), (n1, n1 if n2 is None else n2)]
    while rows * columns > SMALLEST**2:
        rows, columns = (-(-rows // 2), columns) if rows >= columns else (rows, -(-columns // 2))
        sizes.insert(0, (rows, rows if n2 is None else columns))
    return sorted(set(sizes), key=math.prod)


def _alike(engine, call, whole):
    """Yields (n1, n2) of parts whose blocks are the whole call's: of one for each device, and of ever twice as many."""
    n1, n2, shape = call.sizes
    k = 1
    while k * whole.rows < n1:
        size = (k * whole.rows, k * whole.rows if n2 is None else whole.columns)
        found = engine.layout(size[0], None if n2 is None else size[1], shape)
        alike = (found.rows, found.columns) == (whole.rows, whole.columns) and found.count >= whole.devices
        if alike:
            yield size
        k = 2 * k if alike else k + 1
