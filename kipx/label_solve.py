"""Label Solve: the best labels for given support images over a whole train set, which is streamed in blocks.

Of each block of k_ts a QR decomposition keeps a triangle T with T'T = [k_ts y_t]'[k_ts y_t], the block is forgotten. T
holds all that the least squares problem needs, and its condition number is not squared as in that product.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kipx import checks, krr

BATCH = 1000  # rows of k_ts held at once
CUTOFF = 1e-10  # docs/label_solve.md


class Sums(NamedTuple):
    """What is known of the targets that have been streamed.

    Attributes:
      done: targets, from the first one.
      triangles: (kernels, n_s + c, n_s + c) float64, T of each kernel.
    """

    done: int
    triangles: Any


class Problem(NamedTuple):
    """The least squares problem of the labels, of all kernels by weight: 0.5 * mean((A y_s - y_t)^2).

    Attributes:
      a: (m, n_s), Q'A with A = k_ts (k_ss + ridge * tr(k_ss)/n_s * I)^-1; z: (m, c), Q'y_t.
      rest: what no labels take from ||A y_s - y_t||^2.
      k_ss, k_ts: lists of (n_s, n_s), of each kernel, k_ts as Q'k_ts.
    """

    a: Any
    z: Any
    rest: Any
    k_ss: list
    k_ts: list


class Solution(NamedTuple):
    """Labels and how well they solve.

    Attributes:
      labels: (n_s, c) float64.
      kept: of the n_s directions of the spectrum of A'A.
      residual: of the normal equations, ||A'(A y_s - y_t)|| / ||A'y_t||.
      train_loss: 0.5 * mean((A y_s - y_t)^2) over the streamed targets and classes.
    """

    labels: Any
    kept: int
    residual: float
    train_loss: float


def solve(engine, x_support, x_target, y_target, *, ridge, form=None, batch=BATCH):
    """The least-norm labels that minimize the KRR loss from given support images to all targets.

    Args:
      engine: kipx.engine.Engine.
      x_support: (n_s, h, w, c) preprocessed images.
      x_target: (n_t, h, w, c) preprocessed images; y_target: (n_t, classes) labels.
      ridge: > 0, dimensionless, as in the evaluation.
      form: from `least_norm`, which None stands for, or `notebook`.
      batch: rows of k_ts held at once.
    Returns:
      Solution.
    Raises:
      UserError: as `krr.solve`; NumericalError: the numbers gave out.
    Source: paper eq. (2).
    """
    *_, sums = stream([engine], x_support, x_target, y_target, batch=batch)
    problem = pose([engine.gram(x_support)], sums, [1.0], ridge=ridge)
    return conclude(problem, (form or least_norm())(problem), y_target.size)


def stream(engines, x_support, x_target, y_target, *, batch=BATCH, sums=None):
    """Yields the Sums after each block of targets, from `sums` on if there are any; equal blocks give equal bits.

    Args:
      engines: list of kipx.engine.Engine, one of each kernel.
      x_support, x_target, y_target, batch: as for `solve`; the last block is filled up from the front with rows that
        do not count, so that one compilation serves all.
      sums: of the first targets, from a stream with the same batch.
    Raises:
      UserError: not as many labels as targets; NumericalError: a kernel is not finite.
    """
    n = x_target.shape[0]
    if y_target.ndim != 2 or len(y_target) != n:
        raise checks.UserError(f"y_target: expected ({n}, classes), a row for each target, got {y_target.shape}")
    size = x_support.shape[0] + y_target.shape[1]
    batch = min(checks.integer("batch", batch, at_least=1), n)
    done, triangles = (0, jnp.zeros((len(engines), size, size), jnp.float64)) if sums is None else sums
    for at in range(done, n, batch):
        start = min(at, n - batch)
        x, y = jnp.asarray(x_target[start : start + batch]), y_target[start : start + batch]
        new = np.arange(start, start + batch) >= at
        folded = [_fold(t, e.gram(x, x_support), y, new) for e, t in zip(engines, triangles, strict=True)]
        triangles = jnp.stack(folded)
        if not bool(jnp.isfinite(triangles).all()):
            raise checks.NumericalError(
                f"targets {at} to {min(at + batch, n)}: their kernel is not finite; set kernel.dtype=float64"
            )
        yield Sums(min(at + batch, n), triangles)


@jax.jit
def _fold(triangle, k_ts, y_target, new):
    """The triangle with the block's new rows folded in."""
    rows = jnp.concatenate([k_ts.astype(jnp.float64), y_target.astype(jnp.float64)], axis=1)
    return jnp.linalg.qr(jnp.concatenate([triangle, jnp.where(new[:, None], rows, 0)]), mode="r")


def pose(k_ss, sums, weights, *, ridge):
    """The problem that the sums hold.

    Args:
      k_ss: list of (n_s, n_s), of each kernel; weights: of each, > 0, relative to their sum.
      sums: Sums of all targets.
      ridge: > 0, dimensionless.
    Returns:
      Problem.
    Raises:
      NumericalError: a k_ss is not positive definite.
    """
    n, shares = k_ss[0].shape[0], np.asarray(weights, float) / np.sum(weights)
    k_ts = [t[:n, :n] for t in sums.triangles]
    a = [share**0.5 * krr.solve(k, t.T, ridge=ridge).T for share, k, t in zip(shares, k_ss, k_ts, strict=True)]
    z = [share**0.5 * t[:n, n:] for share, t in zip(shares, sums.triangles, strict=True)]
    rest = sum(share * jnp.sum(t[n:, n:] ** 2) for share, t in zip(shares, sums.triangles, strict=True))
    a = jnp.concatenate(a)
    if not bool(jnp.isfinite(a).all()):
        raise checks.NumericalError("k_ss + ridge is not positive definite; raise ridge or set kernel.dtype=float64")
    return Problem(a, jnp.concatenate(z), rest, k_ss, k_ts)


def loss(problem, labels, size):
    """0.5 * mean((A y_s - y_t)^2) over the `size` = n_t * c numbers of the targets' labels; float."""
    return 0.5 * float((jnp.sum((problem.a @ labels - problem.z) ** 2) + problem.rest) / size)


def conclude(problem, solved, size):
    """The Solution of a form's (labels, kept); `size` as for `loss`."""
    labels, kept = solved
    right = problem.a.T @ problem.z
    off, scale = jnp.linalg.norm(problem.a.T @ (problem.a @ labels) - right), jnp.linalg.norm(right)
    return Solution(labels, kept, float(off / jnp.where(scale > 0, scale, 1)), loss(problem, labels, size))


def least_norm(*, cutoff: float = CUTOFF):
    """y_s = A^+ y_t: of all labels that minimize the loss under the evaluation's ridge those of least norm.

    Args:
      cutoff: in [0, 1); directions whose eigenvalue of A'A is not above `cutoff` times the largest get no labels.
    Returns:
      Problem -> (labels (n_s, c), directions kept).
    Source: paper eq. (2).
    """
    checks.below_one("form.cutoff", cutoff)

    def solve(problem):
        u, s, vt = jnp.linalg.svd(problem.a, full_matrices=False)
        keep = s > cutoff**0.5 * s[0]
        scaled = jnp.where(keep, 1 / jnp.where(keep, s, 1), 0)
        return vt.T @ (scaled[:, None] * (u.T @ problem.z)), int(keep.sum())

    return solve


def notebook(*, ridge: float = 1e-6):
    """y_s = (k_ss + ridge/n_s I)(k_st k_ts + ridge/n_s I)^-1 k_st y_t, under another ridge than the evaluation's.

    Args:
      ridge: > 0, absolute, unlike everywhere else.
    Returns:
      Problem of one kernel -> (labels (n_s, c), n_s).
    Source: the authors' KIP notebook.
    """
    checks.positive("form.ridge", ridge)

    def solve(problem):
        if len(problem.k_ss) > 1:
            raise checks.UserError("form: the notebook's is of one kernel, not of a family; take form=least_norm")
        (k_ss,), (k_ts,) = problem.k_ss, problem.k_ts
        n = k_ss.shape[0]
        u, s, vt = jnp.linalg.svd(k_ts)
        dual = vt.T @ ((s / (s**2 + ridge / n))[:, None] * (u.T @ problem.z))
        return k_ss.astype(jnp.float64) @ dual + ridge / n * dual, n

    return solve
