"""Compiled: what the angle between two patches makes of their covariance and of their tangent kernel.

Everything follows from 1 - |correlation| and its root, so that no inverse cosine is taken. A function has two forms,
and the type of `like` decides between them while it is compiled. In single precision a polynomial gives the covariance
behind a ReLU; in double precision it is put together from sine and angle as in `kipx.kernel.relu`, the plain version
that both are tested against.
"""

import math
from functools import partial

import numba
import numpy as np
from numba.extending import overload

from kipx.kernel.relu import lens_series, turn_series, wide_turn_series

# nothing is allocated and the caller holds every array: counting references would double the time of small ones
BARE = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "_nrt": False}
entry = partial(numba.njit, **BARE, cache=True)
compiled = partial(numba.njit, **BARE, no_cpython_wrapper=True, no_cfunc_wrapper=True)
inlined = partial(compiled, inline="always")  # into its few callers: at every level what is called is optimized anew

ZERO, HALF = np.float32(0), np.float32(0.5)
WIDE_ZERO, WIDE_HALF, WIDE_ONE, WIDE_TWO, OVER_2PI = (np.float64(v) for v in (0, 0.5, 1, 2, 0.5 / math.pi))
TURN = tuple(np.float32(c) for c in reversed(turn_series()))
LENS = tuple(np.float64(c) for c in reversed(lens_series()))
_WIDE_TURN = tuple(np.float64(c) for c in reversed(wide_turn_series()))
HIGH, MIDDLE, LOW = _WIDE_TURN[:8], _WIDE_TURN[8:16], _WIDE_TURN[16:]  # longer loops are not unrolled
SAME, WIDE_SAME = np.float64(1e-13), np.float64(8 * np.finfo(np.float64).eps)  # 1e-13 moves the angle by 5e-7


def apart(covariance, inverse, like):
    """1 - |correlation|, 0 where the two patches count as parallel; `inverse` is one over both standard deviations."""


def sine(apart, root, like):
    """Sine of the angle, from `apart` and its root, in the precision of `like`."""


def factor(covariance, apart, root, like):
    """(pi - t) / 2 pi for the angle t, in the precision of `like`."""


def behind(covariance, apart, root, scale, like):
    """Covariance behind a ReLU; `scale` is the product of both standard deviations."""


@compiled
def _sum(coefficients, x, total):
    """A power series, its highest power first; `total` of the powers that are higher still."""
    for c in coefficients:
        total = total * x + c
    return total


@overload(apart, jit_options=BARE)
def _apart(covariance, inverse, like):
    same = SAME if like == numba.float32 else WIDE_SAME

    def form(covariance, inverse, like):
        found = WIDE_ONE - abs(covariance * inverse)
        return found if found > same else WIDE_ZERO

    return form


@overload(sine, jit_options=BARE)
def _sine(apart, root, like):
    def single(apart, root, like):
        return np.float32(root) * math.sqrt(np.float32(WIDE_TWO - apart))

    def double(apart, root, like):
        return root * math.sqrt(WIDE_TWO - apart)

    return single if like == numba.float32 else double


@overload(factor, jit_options=BARE)
def _factor(covariance, apart, root, like):
    def single(covariance, apart, root, like):
        turn = np.float32(root) * _sum(TURN, np.float32(apart), ZERO)
        return turn if covariance < WIDE_ZERO else HALF - turn

    def double(covariance, apart, root, like):
        x = WIDE_ONE - WIDE_TWO * apart
        turn = root * _sum(LOW, x, _sum(MIDDLE, x, _sum(HIGH, x, WIDE_ZERO)))
        return turn if covariance < WIDE_ZERO else WIDE_HALF - turn

    return single if like == numba.float32 else double


@overload(behind, jit_options=BARE)
def _behind(covariance, apart, root, scale, like):
    def single(covariance, apart, root, scale, like):
        positive = WIDE_ZERO if covariance < WIDE_ZERO else WIDE_HALF * covariance  # so that nan stays nan
        return positive + scale * apart * root * _sum(LENS, apart, WIDE_ZERO)

    def double(covariance, apart, root, scale, like):
        return factor(covariance, apart, root, like) * covariance + OVER_2PI * scale * sine(apart, root, like)

    return single if like == numba.float32 else double
