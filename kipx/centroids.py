"""Support sets that stand for each class by its centres: the baselines that need no learning of images."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from kipx import checks
from kipx.support import check_counts


def kmeans(*, per_class: int):
    """Starts from the centroids of `per_class` clusters of each class; for one, the class's mean image.

    Args, Returns, Raises: as `kipx.support.natural`; the key decides where the clusters start.
    Source: Lloyd 1982, by scikit-learn.
    """
    from sklearn.cluster import KMeans  # not on every machine that has JAX
    from sklearn.exceptions import ConvergenceWarning

    def centres(key, images):
        start = int(jax.random.randint(key, (), 0, 2**31 - 1))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", ConvergenceWarning)
                return KMeans(per_class, n_init=1, random_state=start).fit(images).cluster_centers_
        except ConvergenceWarning as warning:  # fewer images that differ
            raise checks.UserError(
                f"support.per_class: expected at most as many clusters as images of a class differ, got {per_class}; "
                f"lower it ({checks.reason(warning)})"
            ) from warning

    return _of_each_class(centres, per_class)


def herding(*, per_class: int):
    """Starts from the training images, `per_class` of each class, whose mean is nearest to that of the class.

    One is added after the other, each the one that brings the mean nearest.

    Args, Returns, Raises: as `kipx.support.natural`; the key decides nothing.
    Source: Welling 2009, in the greedy form of Rebuffi et al. 2017.
    """

    def nearest(_, images):
        mean, chosen = images.mean(axis=0), []
        for count in range(1, per_class + 1):
            means = (images[chosen].sum(axis=0) + images) / count
            distances = np.linalg.norm(means - mean, axis=1)
            distances[chosen] = np.inf
            chosen.append(int(distances.argmin()))
        return images[chosen]

    return _of_each_class(nearest, per_class)


def _of_each_class(choose, per_class):
    checks.integer("support.per_class", per_class, at_least=1)

    def draw(key, images, labels, classes):
        check_counts(labels, classes, per_class)
        rows = np.asarray(images).reshape(len(images), -1)
        keys = jax.random.split(key, classes)
        chosen = [choose(keys[c], rows[labels == c]) for c in range(classes)]
        pixels = np.concatenate(chosen).reshape(-1, *images.shape[1:])
        return jnp.asarray(pixels, jnp.float32), np.repeat(np.arange(classes), per_class)

    return draw
