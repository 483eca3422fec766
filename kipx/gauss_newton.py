"""Gauss-Newton for KIP: a step from the Jacobian of the predictions, for little more than their gradient costs.

A step of KIP spends its time on the gradients of the kernel, one for each pair of a target and a support image. First
order methods see their sum alone. Kept apart they give the Jacobian of the predictions, and the change of the support
set that makes the linearized loss least is a problem of linear least squares: conjugate gradients solve it in less time
than the kernel takes.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from kipx import checks, krr, objective

ITERATIONS, TOLERANCE = 200, 1e-3  # of conjugate gradients: at most, and of the residual's norm
PROBES = 8  # random signs that estimate the trace of J'J


class Norm(NamedTuple):
    """The root of the predictor's squared RKHS norm, and how it changes: residuals beside those of the predictions.

    Attributes:
      level: sqrt(n_t weight), what the root is multiplied with.
      inverse: (n_s, n_s) L^-1, of the Cholesky factor L of k_ss + ridge.
      root: (n_s, classes) L^-1 y_s; the sum of its squares is y_s' (k_ss + ridge)^-1 y_s.
    """

    level: Float[Array, ""]
    inverse: Float[Array, "n_s n_s"]
    root: Float[Array, "n_s classes"]

    def push(self, k_ss, labels):
        """(n_s, classes): what changes of k_ss + ridge and of the labels do to level * root."""
        factor = jnp.tril(self.inverse @ k_ss @ self.inverse.T)  # L^-1 times L's change, once its diagonal is halved
        factor -= jnp.diag(jnp.diag(factor)) / 2
        return self.level * (self.inverse @ labels - factor @ self.root)


class Linearization(NamedTuple):
    """How KRR's residuals for a batch of targets change with the support set, to first order, all in float64.

    The residuals are f - y_t, of the predictions f, and where the predictor's RKHS norm has a weight, its root
    below. Half the sum of their squares, over n_t * classes, is the loss.

    A change of the set is {'images': (n_s, pixels), 'labels': (n_s, classes)}. Jacobians begin with the image that they
    are with respect to: products with them then read memory in order, which is several times as fast.

    Attributes:
      jacobian_ss: (n_s, n_s, pixels), of k_ss[i, j] with respect to image j alone at [j, i]; k_ss[j, j] counts half.
      jacobian_ts: (n_s, n_t, pixels), of k_ts[t, j] with respect to support image j at [j, t].
      alpha: (n_s, classes) dual coefficients: f = k_ts alpha.
      beta: (n_t, n_s): f = beta y_s.
      ridge: as for `kipx.krr.solve`.
      norm: Norm, or None where it has no weight.
      residuals: (n_t, classes), or (n_t + n_s, classes) with a Norm.
    """

    jacobian_ss: Float[Array, "n_s n_s pixels"]
    jacobian_ts: Float[Array, "n_s n_t pixels"]
    alpha: Float[Array, "n_s classes"]
    beta: Float[Array, "n_t n_s"]
    ridge: Float[Array, ""]
    norm: Norm | None
    residuals: Float[Array, "rows classes"]

    def push(self, change):
        """J change, in the shape of the residuals: what a change of the support set does to them."""
        k_st, half = (jnp.einsum("jtp,jp->jt", j, change["images"]) for j in (self.jacobian_ts, self.jacobian_ss))
        k_ss = half + half.T
        k_ss += self.ridge * jnp.trace(k_ss) / len(k_ss) * jnp.eye(len(k_ss))
        f = k_st.T @ self.alpha + self.beta @ (change["labels"] - k_ss @ self.alpha)
        return f if self.norm is None else jnp.concatenate([f, self.norm.push(k_ss, change["labels"])])

    def pull(self, cotangent):
        """J' cotangent: the gradient of sum(cotangent * residuals), as a change is."""
        like = {"images": self.jacobian_ts[:, 0], "labels": self.alpha}
        return jax.linear_transpose(self.push, like)(cotangent)[0]


def kip(engine, *, ridge, rkhs_weight=0.0, targets=None):
    """The KRR loss from support to a batch of targets, with its gradient and its Linearization.

    Args:
      engine, ridge, rkhs_weight, targets: as for `kipx.objective.kip`; the engine has with_jacobian.
    Returns:
      (x_support, y_support, x_target, y_target) -> (metrics, g_images, g_labels, Linearization).
    Raises:
      UserError: an engine without with_jacobian, or ridge <= 0.
    Source: paper eq. (1); for the method Nocedal and Wright 2006, chapter 10.
    """
    checks.positive("ridge", ridge)
    if engine.with_jacobian is None:
        raise checks.UserError("engine: optimizer=gauss_newton needs one with_jacobian, this one has none")
    unit = objective.weighed_unit(engine, rkhs_weight, targets)

    def value_and_grad(x_support, y_support, x_target, y_target):
        support = *_own(engine, x_support), y_support
        batch = *engine.with_jacobian(x_target, x_support), y_target
        measured, gradient, linearization = _linearize(support, batch, ridge=ridge, unit=unit, rkhs_weight=rkhs_weight)
        metrics = dict(zip(objective.METRICS, measured, strict=False))
        g_images = gradient["images"].reshape(x_support.shape).astype(x_support.dtype)
        return metrics, g_images, gradient["labels"], linearization

    return value_and_grad


def _own(engine, x):
    """A set's Gram matrix and its Jacobian, of which the diagonal, where both arguments are one image, counts half."""
    _, jacobian = engine.with_jacobian(x, x)
    halves, here = engine.vjp(x, None, jnp.eye(len(x))) / 2, jnp.arange(len(x))
    return engine.gram(x), jacobian.at[here, here].set(halves.astype(jacobian.dtype))


@partial(jax.jit, static_argnames=("ridge", "unit", "rkhs_weight"))
def _linearize(support, targets, *, ridge, unit, rkhs_weight):
    """(objective.METRICS, gradient, Linearization) of a batch; of each set its Gram matrix, Jacobian and labels."""
    (k_ss, jacobian_ss, y_support), (k_ts, jacobian_ts, y_target) = support, targets
    k_ts = k_ts.astype(jnp.float64)
    alpha = krr.solve(k_ss, y_support, ridge=ridge)
    beta = krr.solve(k_ss, k_ts.T, ridge=ridge).T
    jacobians = (_by_support_image(j) for j in (jacobian_ss, jacobian_ts))
    predictions = k_ts @ alpha
    measured = [krr.half_mse(predictions, y_target), krr.accuracy(predictions, y_target)]
    norm, residuals = None, predictions - y_target
    if rkhs_weight:
        norm = _norm(k_ss, y_support, ridge, jnp.sqrt(len(k_ts) * rkhs_weight * unit))
        residuals = jnp.concatenate([residuals, norm.level * norm.root])
        measured.append(unit * krr.squared_norm(k_ss, y_support, ridge=ridge))
    found = Linearization(*jacobians, alpha, beta, jnp.float64(ridge), norm, residuals)
    return measured, found.pull(residuals / predictions.size), found


def _norm(k_ss, y_support, ridge, level):
    inverse = solve_triangular(krr.cholesky(k_ss, ridge=ridge), jnp.eye(len(k_ss)), lower=True)
    return Norm(level, inverse, inverse @ y_support.astype(jnp.float64))


def _by_support_image(jacobian):
    n, n_s, *_ = jacobian.shape
    return jnp.swapaxes(jacobian.reshape(n, n_s, -1), 0, 1).astype(jnp.float64)


@partial(jax.jit, static_argnames="learned")
def step(linearization, damping, *, learned):
    """About the change that makes sum((J change + residuals)^2) + damping * curvature * sum(change^2) least.

    The curvature is the mean of the diagonal of J'J, estimated to some percent, so that damping has no unit. Conjugate
    gradients end where their residual is 1e-3 of what it was: the change is then some percent off, the sum less.

    Args:
      linearization: Linearization of n_t targets.
      damping: > 0.
      learned: whether labels change; else theirs is 0.
    Returns:
      {'images': (n_s, pixels), 'labels': (n_s, classes)}, float64.
    Source: Levenberg 1944, Marquardt 1963; by conjugate gradients as in Martens 2010.
    """
    freed = (lambda change: change) if learned else (lambda change: {**change, "labels": 0 * change["labels"]})

    def pull(cotangent):
        return freed(linearization.pull(cotangent))

    towards = pull(-linearization.residuals)
    curvature = _trace(pull, linearization.residuals) / sum(
        leaf.size for name, leaf in towards.items() if learned or name == "images"
    )

    def damped(change):
        return jax.tree.map(lambda a, b: a + damping * curvature * b, pull(linearization.push(change)), change)

    return cg(damped, towards, tol=TOLERANCE, maxiter=ITERATIONS)[0]


def _trace(pull, like):
    """Estimate of the trace of J J'; the same signs at each step, so that a run can be repeated."""
    signs = jax.random.rademacher(jax.random.key(0), (PROBES, *like.shape), like.dtype)
    squares = jax.tree.map(lambda leaf: jnp.sum(leaf**2), jax.lax.map(pull, signs))
    return sum(squares.values()) / PROBES
