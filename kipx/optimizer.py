"""Optimizers of the support set. First order ones are from optax; builders return an Optimizer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kipx import checks, objective
from kipx import gauss_newton as newton

SCHEDULES = ("constant", "cosine")


class Optimizer(NamedTuple):
    """What the builders of this module return.

    Attributes:
      objective: (engine, ridge=, rkhs_weight=, targets=) -> what it must know of the loss, as `kipx.objective.kip`.
      rule: (steps, learned, label_rate) -> optax transformation of {'images', 'labels'}; labels stay fixed unless
        learned, and are learned at a rate of their own unless that is None.
      jacobian: whether a step holds the Jacobian of the predictions.
    """

    objective: Callable
    rule: Callable
    jacobian: bool = False


def adam(*, learning_rate: float, schedule: str = "constant", b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
    """Adam, for images and, at its own rate if one is given, for labels.

    Args:
      learning_rate: > 0, in units of preprocessed pixels.
      schedule: 'constant', or 'cosine' to fall to 0 at the last step.
      b1, b2: in [0, 1), decay of the first and second moment.
      eps: > 0.
    Returns:
      Optimizer.
    Source: Kingma and Ba 2015; the authors' KIP notebook uses Adam at a constant rate.
    """
    checks.below_one("optimizer.b1", b1)
    checks.below_one("optimizer.b2", b2)
    checks.positive("optimizer.eps", eps)
    return _first_order(lambda rate: optax.adam(rate, b1=b1, b2=b2, eps=eps), learning_rate, schedule)


def sgd(*, learning_rate: float, schedule: str = "constant", momentum: float = 0.9):
    """Stochastic gradient descent with momentum.

    Args:
      learning_rate, schedule: as `adam`.
      momentum: in [0, 1).
    Returns:
      Optimizer.
    """
    checks.below_one("optimizer.momentum", momentum)
    return _first_order(lambda rate: optax.sgd(rate, momentum=momentum), learning_rate, schedule)


def gauss_newton(
    *,
    learning_rate: float = 1.0,
    schedule: str = "cosine",
    damping: float = 0.01,
    last_damping: float = 0.001,
    largest_change: float = 0.3,
):
    """Damped Gauss-Newton steps of images and labels together: fewer by far than of first order, each a little dearer.

    Args:
      learning_rate: in (0, 1], the part of a step that is taken.
      schedule: of the learning rate, as `adam`.
      damping: > 0, relative to the mean curvature, at the first step; see `kipx.gauss_newton.step`.
      last_damping: > 0, where it has come to after the last step, by equal factors from step to step.
      largest_change: > 0, root mean square of the images' change in one step, in units of preprocessed pixels; a
        larger one is scaled down, labels with it.
    Returns:
      Optimizer.
    Raises:
      UserError: an argument that is none; from its rule: a rate for labels, which have none of their own.
    Source: `kipx.gauss_newton`; not in the paper.
    """
    checks.positive("optimizer.learning_rate", learning_rate)
    if learning_rate > 1:
        raise checks.UserError(f"optimizer.learning_rate: expected a number in (0, 1], got {learning_rate}")
    numbers = {"damping": damping, "last_damping": last_damping, "largest_change": largest_change}
    for name, number in numbers.items():
        checks.positive(f"optimizer.{name}", number)
    checks.one_of("optimizer.schedule", schedule, SCHEDULES)

    def rule(steps, learned, label_rate):
        if label_rate is not None:
            raise checks.UserError(
                f"labels.learning_rate: expected null with optimizer=gauss_newton, which takes images and labels in "
                f"one step, got {label_rate}"
            )
        decay = optax.exponential_decay(damping, max(steps, 1), last_damping / damping)
        rate = _cosine(learning_rate, steps) if schedule == "cosine" else optax.constant_schedule(learning_rate)
        return _gauss_newton(rate, decay, largest_change, learned)

    return Optimizer(newton.kip, rule, jacobian=True)


def _gauss_newton(rate, damping, largest_change, learned):
    """The optax transformation; rate and damping are functions of the step, and its state is the steps done."""

    def update(gradients, steps, parameters, *, linearization):
        change = newton.step(linearization, damping(steps), learned=learned)
        share = rate(steps)
        length = share * jnp.sqrt(jnp.mean(change["images"] ** 2))
        share *= jnp.minimum(1.0, largest_change / jnp.maximum(length, jnp.finfo(length.dtype).tiny))

        def scaled(parameter, leaf):
            return (share * leaf.reshape(parameter.shape)).astype(parameter.dtype)

        return jax.tree.map(scaled, parameters, change), steps + 1

    return optax.GradientTransformationExtraArgs(lambda parameters: jnp.zeros([], jnp.int32), update)


def joint(images, labels=None):
    """One optax transformation for {'images', 'labels'}; without one for the labels they stay fixed."""
    labels = optax.set_to_zero() if labels is None else labels
    return optax.partition({"images": images, "labels": labels}, {"images": "images", "labels": "labels"})


def _first_order(transformation, learning_rate, schedule):
    checks.positive("optimizer.learning_rate", learning_rate)
    checks.one_of("optimizer.schedule", schedule, SCHEDULES)

    def rule(steps, learned, label_rate):
        rates = learning_rate, learning_rate if label_rate is None else label_rate
        images, labels = (transformation(_cosine(r, steps) if schedule == "cosine" else r) for r in rates)
        return joint(images, labels if learned else None)

    return Optimizer(objective.kip, rule)


def _cosine(rate, steps):
    return optax.cosine_decay_schedule(rate, max(steps, 1))
