"""Where the support set starts from, and class-balanced samples of a labelled set."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kipx import checks


def natural(*, per_class: int):
    """Starts from real training images, `per_class` of each class, grouped by class.

    Args:
      per_class: >= 1.
    Returns:
      (key, images (n, h, w, c), labels (n,) int, classes) -> (x_support, class of each (n_s,)).
    Raises:
      UserError: a class has fewer images than that.
    Source: paper section 2, "we initialize our support images to be a subset of natural images".
    """
    checks.integer("support.per_class", per_class, at_least=1, at_most=checks.MANY)

    def draw(key, images, labels, classes):
        check_counts(labels, classes, per_class)
        places = np.asarray(class_balanced(key, jnp.asarray(labels), per_class * classes))
        places = places[np.argsort(labels[places], kind="stable")]
        return jnp.asarray(images[places], jnp.float32), labels[places]

    return draw


def noise(*, per_class: int):
    """Starts from standard normal noise at the scale of the preprocessed images.

    Args, Returns: as `natural`; the pixels have the mean and standard deviation of `images` as a whole.
    """
    checks.integer("support.per_class", per_class, at_least=1, at_most=checks.MANY)

    def draw(key, images, labels, classes):
        shape = (per_class * classes, *images.shape[1:])
        pixels = images.mean() + images.std() * jax.random.normal(key, shape, jnp.float32)
        return pixels.astype(jnp.float32), np.repeat(np.arange(classes), per_class)

    return draw


def one_hot(labels, classes):
    """(n, classes) float64 one-hot labels minus 1 / classes, the paper's centring."""
    return jnp.asarray(np.eye(classes)[np.asarray(labels)] - 1 / classes)


def check_counts(labels, classes, per_class):
    """Raises UserError where a class has fewer than `per_class` images."""
    counts = np.bincount(labels, minlength=classes)
    if counts.min() < per_class:
        raise checks.UserError(
            f"support.per_class: expected at most {counts.min()}, the images of class {counts.argmin()}, "
            f"got {per_class}"
        )


@partial(jax.jit, static_argnames="size")
def class_balanced(key, labels, size):
    """Draws `size` places of `labels`, without replacement, as evenly over the classes as can be.

    Every image gets a random rank within its class; the lowest ranks are taken. Between classes of
    equal rank chance decides.

    Args:
      key: JAX key.
      labels: (n,) int.
      size: <= n.
    Returns:
      (size,) int places.
    """
    within, between = jax.random.split(key)
    order = jnp.lexsort((jax.random.uniform(within, labels.shape), labels))
    sorted_labels = labels[order]
    starts = jnp.searchsorted(sorted_labels, sorted_labels)
    rank = jnp.zeros(labels.shape, jnp.int32).at[order].set((jnp.arange(len(labels)) - starts).astype(jnp.int32))
    return jnp.lexsort((jax.random.uniform(between, labels.shape), rank))[:size]
