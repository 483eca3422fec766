"""What a network is trained to: losses over outputs and the labels of a support set, learned or not."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import optax

from kipx import checks


@lru_cache(typed=True)  # an equal loss is the same function, so that what contains it is compiled once
def build(name, *, label_scale):
    """A loss of outputs and labels.

    Args:
      name: 'mse': half mean squared error to the labels; 'cross_entropy': to the class of the largest entry of each
        label; 'soft_cross_entropy': to the softmax of the labels.
      label_scale: > 0, what labels are multiplied with first; the class of the largest entry does not change.
    Returns:
      (outputs (n, classes), labels (n, classes)) -> scalar, the mean over images, and for 'mse' over classes too.
    Raises:
      UserError: an unknown name, or a scale that is not > 0.
    Source: paper appendix A; the authors' nn_training notebook has the first two. Scaled labels: RFAD, Loo et al. 2022.
    """
    losses = {"mse": _mse, "cross_entropy": _cross_entropy, "soft_cross_entropy": _soft_cross_entropy}
    loss = losses[checks.one_of("trainer.loss", name, tuple(losses))]
    scale = checks.positive("trainer.label_scale", label_scale)
    return lambda outputs, labels: loss(outputs, scale * labels)


def _mse(outputs, labels):
    return 0.5 * jnp.mean((outputs - labels) ** 2)


def _cross_entropy(outputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.argmax(labels, axis=1)).mean()


def _soft_cross_entropy(outputs, labels):
    return optax.softmax_cross_entropy(outputs, jax.nn.softmax(labels)).mean()
