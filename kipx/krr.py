"""Kernel ridge regression from support to target: solve, predict, loss, and the loss's cotangents, all in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

from kipx import checks


def solve(k_ss: Float[Array, "n_s n_s"], y_support: Float[Array, "n_s c"], *, ridge: float) -> Float[Array, "n_s c"]:
    """(k_ss + ridge * tr(k_ss) / n_s * I)^-1 y_s by Cholesky; not a number where the matrix is not positive definite.

    Args:
      k_ss: (n_s, n_s) symmetric positive definite Gram matrix of the support set.
      y_support: (n_s, c) labels.
      ridge: > 0, dimensionless, relative to the mean diagonal of k_ss.
    Returns:
      (n_s, c) float64 dual coefficients.
    Raises:
      UserError: shapes disagree, ridge <= 0, or JAX's x64 flag is off.
    Source: paper eq. (1); the relative ridge as in the authors' KIP notebook.
    """
    _check(k_ss, y_support, ridge)
    return _solve(k_ss, y_support, ridge)


@jax.jit  # one program where each operation would be one
def _solve(k_ss, y_support, ridge):
    return cho_solve((_cholesky(k_ss, ridge), True), y_support.astype(jnp.float64))


def cholesky(k_ss: Float[Array, "n_s n_s"], *, ridge: float) -> Float[Array, "n_s n_s"]:
    """The lower Cholesky factor of k_ss + ridge * tr(k_ss) / n_s * I; not a number where that is not positive definite.

    Args:
      k_ss, ridge: as `solve`.
    Returns:
      (n_s, n_s) float64.
    Raises:
      UserError: as `solve`.
    """
    _check_system(k_ss, ridge)
    return _cholesky(k_ss, ridge)


def _cholesky(k_ss, ridge):
    k_ss, n = k_ss.astype(jnp.float64), len(k_ss)
    return jnp.linalg.cholesky(k_ss + ridge * jnp.trace(k_ss) / n * jnp.eye(n))


def predict(
    k_ss: Float[Array, "n_s n_s"], k_ts: Float[Array, "n_t n_s"], y_support: Float[Array, "n_s c"], *, ridge: float
) -> Float[Array, "n_t c"]:
    """k_ts (k_ss + ridge * tr(k_ss) / n_s * I)^-1 y_s: (n_t, c) float64 predictions for the targets.

    Args:
      k_ts: (n_t, n_s), rows are targets.
      k_ss, y_support, ridge: as `solve`.
    Raises:
      UserError: as `solve`.
    Source: paper section 2, eq. (1).
    """
    if k_ts.ndim != 2 or k_ts.shape[1] != k_ss.shape[0]:
        raise checks.UserError(f"k_ts: expected (n_t, {k_ss.shape[0]}), got {k_ts.shape}")
    return k_ts.astype(jnp.float64) @ solve(k_ss, y_support, ridge=ridge)


@jax.jit
def half_mse(predictions, y_target):
    """0.5 * mean((predictions - y_t)^2), the mean over targets and classes; scalar, float64.

    Raises:
      UserError: predictions and y_target are not (n_t, c) both.
    """
    _check_predictions(predictions, y_target)
    return 0.5 * jnp.mean((predictions - y_target.astype(jnp.float64)) ** 2)


@jax.jit
def accuracy(predictions, y_target):
    """Share, in [0, 1], of targets whose largest prediction is at their largest label; nan where one is not finite.

    Raises:
      UserError: predictions and y_target are not (n_t, c) both.
    """
    _check_predictions(predictions, y_target)
    right = jnp.mean(jnp.argmax(predictions, axis=1) == jnp.argmax(y_target, axis=1), dtype=jnp.float64)
    return jnp.where(jnp.isfinite(predictions).all(), right, jnp.nan)


def loss(
    k_ss: Float[Array, "n_s n_s"],
    k_ts: Float[Array, "n_t n_s"],
    y_support: Float[Array, "n_s c"],
    y_target: Float[Array, "n_t c"],
    *,
    ridge: float,
) -> Float[Array, ""]:
    """Half mean squared error of kernel ridge regression from support to target.

    0.5 * mean((k_ts (k_ss + ridge * tr(k_ss)/n_s * I)^-1 y_s - y_t)^2), the mean over targets and classes.

    Args:
      k_ss: (n_s, n_s) symmetric positive definite Gram matrix of the support set.
      k_ts: (n_t, n_s), rows are targets.
      y_support: (n_s, c) centred one-hot or learned labels.
      y_target: (n_t, c) centred one-hot labels.
      ridge: > 0, dimensionless, relative to the mean diagonal of k_ss.
    Returns:
      Scalar, float64.
    Raises:
      UserError: shapes disagree, ridge <= 0, or JAX's x64 flag is off.
    Source: paper eq. (1); relative ridge and the mean as in the authors' notebook.
    """
    return _loss_and_predictions(k_ss, k_ts, y_support, y_target, ridge)[0]


def condition(k_ss: Float[Array, "n_s n_s"], *, ridge: float) -> dict:
    """How well `solve` can be trusted: the spectrum of k_ss beside the ridge and beside the rounding of its dtype.

    Args:
      k_ss, ridge: as `solve`.
    Returns:
      Floats: 'smallest_eigenvalue' of k_ss in units of its mean diagonal, as ridge is; 'ridge_share', the part that
      ridge has in the smallest eigenvalue of k_ss + ridge (above 1: k_ss itself is not positive definite);
      'condition_number' of k_ss + ridge; 'rounding_error', an estimate from above, though no bound, of how far the
      rounding of k_ss moves predictions: condition number times the dtype's epsilon.
    Raises:
      UserError: as `solve`; NumericalError: k_ss is not finite, or k_ss + ridge not positive definite.
    """
    _check_system(k_ss, ridge)
    values = np.asarray(k_ss, np.float64)
    scale = np.trace(values) / len(values)
    if not np.isfinite(values).all() or not scale > 0:
        raise checks.NumericalError(
            f"k_ss: expected finite numbers with a trace > 0, got a mean diagonal of {scale}; "
            "look at the images, or set kernel.dtype=float64"
        )
    eigenvalues = np.linalg.eigvalsh(values) / scale
    smallest, largest = float(eigenvalues[0]) + ridge, float(eigenvalues[-1]) + ridge
    if not smallest > 0:
        raise checks.NumericalError(
            f"k_ss + ridge: expected it positive definite, got a smallest eigenvalue of {smallest:.1e} times the mean "
            "diagonal; raise ridge or set kernel.dtype=float64"
        )
    return {
        "smallest_eigenvalue": smallest - ridge,
        "ridge_share": ridge / smallest,
        "condition_number": largest / smallest,
        "rounding_error": largest / smallest * float(jnp.finfo(k_ss.dtype).eps),
    }


@partial(jax.jit, static_argnames=("ridge", "rkhs_weight"))
def value_and_cotangents(k_ss, k_ts, y_support, y_target, *, ridge, rkhs_weight=0.0):
    """The loss, the predictions, and the loss's derivatives with respect to both Gram matrices and the labels.

    Args:
      k_ss, k_ts, y_support, y_target, ridge: as `loss`.
      rkhs_weight: >= 0; the derivatives are those of the loss plus half of it times `squared_norm`.
    Returns:
      ((loss, predictions (n_t, c)), (ct_ss (n_s, n_s), ct_ts (n_t, n_s), g_ys (n_s, c))).
    Source: paper section 2.1, the backward pass.
    """
    grad = jax.grad(_with_norm, argnums=(0, 1, 2), has_aux=True)
    cotangents, found = grad(k_ss, k_ts, y_support, y_target, ridge, rkhs_weight)
    return found, cotangents


@partial(jax.jit, static_argnames="ridge")
def squared_norm(k_ss, y_support, *, ridge):
    """y' (k_ss + ridge * tr(k_ss) / n_s * I)^-1 y, the mean over the columns y of the labels; scalar, float64.

    The squared RKHS norm of the function that `predict` predicts with, but for the ridge's part in it.

    Args:
      k_ss, y_support, ridge: as `solve`.
    """
    return jnp.sum(y_support * solve(k_ss, y_support, ridge=ridge)) / y_support.shape[1]


def _with_norm(k_ss, k_ts, y_support, y_target, ridge, rkhs_weight):
    found = _loss_and_predictions(k_ss, k_ts, y_support, y_target, ridge)
    if not rkhs_weight:
        return found[0], found
    return found[0] + rkhs_weight / 2 * squared_norm(k_ss, y_support, ridge=ridge), found


def _loss_and_predictions(k_ss, k_ts, y_support, y_target, ridge):
    predictions = predict(k_ss, k_ts, y_support, ridge=ridge)
    return half_mse(predictions, y_target), predictions


def _check_predictions(predictions, y_target):
    if predictions.ndim != 2:
        raise checks.UserError(f"predictions: expected (n_t, c), got {predictions.shape}")
    if predictions.shape != y_target.shape:
        raise checks.UserError(f"y_target: expected {predictions.shape}, got {y_target.shape}")


def _check(k_ss, y_support, ridge):
    if y_support.ndim != 2 or k_ss.shape != (len(y_support), len(y_support)):
        raise checks.UserError(
            f"krr: expected k_ss (n_s, n_s) and y_support (n_s, c), got {k_ss.shape} and {y_support.shape}"
        )
    _check_system(k_ss, ridge)


def _check_system(k_ss, ridge):
    checks.positive("ridge", ridge)
    if k_ss.ndim != 2 or len(k_ss) != k_ss.shape[1]:
        raise checks.UserError(f"krr: expected k_ss (n_s, n_s), got {k_ss.shape}")
    if not jax.config.jax_enable_x64:
        raise checks.UserError(
            "krr: solves in float64, but JAX's x64 flag is off; call jax.config.update('jax_enable_x64', True)"
        )
