"""Optimizers of the support set, from optax. Builders return (steps, learning_rate=None) -> transformation."""

import optax

from kipx import checks


def adam(*, learning_rate: float, schedule: str = "constant", b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
    """Adam, for images and, at its own rate if one is given, for labels.

    Args:
      learning_rate: > 0, in units of preprocessed pixels.
      schedule: 'constant', or 'cosine' to fall to 0 at the last step.
      b1, b2: in [0, 1), decay of the first and second moment.
      eps: > 0.
    Returns:
      make(steps, learning_rate=None) -> optax.GradientTransformation.
    Source: Kingma and Ba 2015; the authors' KIP notebook uses Adam at a constant rate.
    """
    checks.below_one("optimizer.b1", b1)
    checks.below_one("optimizer.b2", b2)
    checks.positive("optimizer.eps", eps)
    return _optimizer(lambda rate: optax.adam(rate, b1=b1, b2=b2, eps=eps), learning_rate, schedule)


def sgd(*, learning_rate: float, schedule: str = "constant", momentum: float = 0.9):
    """Stochastic gradient descent with momentum.

    Args:
      learning_rate, schedule: as `adam`.
      momentum: in [0, 1).
    Returns:
      As `adam`.
    """
    checks.below_one("optimizer.momentum", momentum)
    return _optimizer(lambda rate: optax.sgd(rate, momentum=momentum), learning_rate, schedule)


def _optimizer(transformation, learning_rate, schedule):
    checks.positive("optimizer.learning_rate", learning_rate)
    checks.one_of("optimizer.schedule", schedule, ("constant", "cosine"))
    default = learning_rate

    def make(steps, learning_rate=None):
        rate = default if learning_rate is None else learning_rate
        return transformation(optax.cosine_decay_schedule(rate, max(steps, 1)) if schedule == "cosine" else rate)

    return make
