"""What is asked about: a distilled set, its checkpoints, as many natural images, and kernels to measure with."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kipx import checks, krr, support
from kipx.artifacts import Distilled
from kipx.data import Dataset
from kipx.engine import Engine


class Set(NamedTuple):
    """A support set.

    Attributes:
      images: (n, h, w, c) float32, preprocessed: what the kernel sees.
      labels: (n, classes) float64, centred.
    """

    images: np.ndarray
    labels: np.ndarray


class Kernel(NamedTuple):
    """A kernel to measure with.

    Attributes:
      name: of its architecture, such as 'convnet depth 2'.
      kind: 'ntk' or 'nngp'.
      own: whether the set was distilled with it.
      engine: kipx.engine.Engine.
    """

    name: str
    kind: str
    own: bool
    engine: Engine


class Subject(NamedTuple):
    """All that questions are answered from.

    Attributes:
      distilled: the set as it was read.
      learned: the same as a Set.
      natural: tuple of Set: training images drawn at random, as many as were learned, as evenly over classes as can be.
      steps: tuple of int: its checkpoints, () where there are none.
      at: step -> Set.
      data: kipx.data.Dataset that it was distilled from.
      y_test: (n, classes) centred labels of the test images that accuracies are of.
      tested: what those are, in words.
      kernels: tuple of Kernel.
      ridge: > 0, dimensionless.
      grams: (Kernel, Set) -> (k_ss (n, n), k_ts (test images, n)), float64; computed once for each pair.
    """

    distilled: Distilled
    learned: Set
    natural: tuple
    steps: tuple
    at: Callable
    data: Dataset
    y_test: np.ndarray
    tested: str
    kernels: tuple
    ridge: float
    grams: Callable


def build(distilled, data, *, steps, at, kernels, ridge, seed, draws, test_images):
    """Puts together what questions are answered from.

    Args:
      distilled, data, steps, kernels, ridge: as in Subject.
      at: step -> (images, labels).
      seed: >= 0, of the natural images.
      draws: >= 1, sets of natural images.
      test_images: >= 1, of the data set's the first so many are measured with; None for all.
    Returns:
      Subject.
    Raises:
      UserError: a number that is none of these.
    """
    checks.positive("ridge", ridge)
    checks.integer("baseline.draws", draws, at_least=1, at_most=checks.MANY)
    total = len(data.x_test)
    tested = total if test_images is None else min(checks.integer("test_images", test_images, at_least=1), total)
    key = jax.random.key(checks.integer("seed", seed, at_least=0))
    natural = (_natural(jax.random.fold_in(key, i), distilled, data) for i in range(draws))
    return Subject(
        distilled=distilled,
        learned=Set(distilled.images, distilled.labels),
        natural=tuple(natural),
        steps=tuple(steps),
        at=functools.cache(lambda step: Set(*at(step))),
        data=data,
        y_test=np.asarray(support.one_hot(data.y_test[:tested], data.classes)),
        tested=f"all {total} test images" if tested == total else f"the first {tested} of {total} test images",
        kernels=tuple(kernels),
        ridge=ridge,
        grams=_remembering(distilled.preprocess(data.x_test[:tested])),
    )


def accuracy(subject, kernel, of, *, ridge=None):
    """The test accuracy of kernel ridge regression from a Set.

    Args:
      ridge: > 0; None for the subject's.
    Returns:
      In [0, 1]; not a number where the Gram matrix is not positive definite.
    Source: paper eq. (1).
    """
    k_ss, k_ts = subject.grams(kernel, of)
    predictions = krr.predict(k_ss, k_ts, jnp.asarray(of.labels), ridge=subject.ridge if ridge is None else ridge)
    return share_right(np.asarray(predictions), subject.y_test)


def share_right(predictions, y_test):
    """The share of predictions (n, classes) whose largest entry is the label's; not a number if one is none."""
    if not np.isfinite(predictions).all():
        return float("nan")
    return float(np.mean(predictions.argmax(axis=1) == y_test.argmax(axis=1)))


def start(subject):
    """The Set that a run began with.

    Raises:
      UserError: there is no checkpoint of step 0.
    """
    if 0 not in subject.steps:
        raise checks.UserError(
            "question: this one compares with what the set began as, and needs the checkpoint of step 0; give the run "
            "folder of a kipx distill"
        )
    return subject.at(0)


def _natural(key, distilled, data):
    places = np.asarray(support.class_balanced(key, jnp.asarray(data.y_train), len(distilled.images)))
    places = places[np.argsort(data.y_train[places], kind="stable")]
    labels = np.asarray(support.one_hot(data.y_train[places], data.classes))
    return Set(distilled.preprocess(data.x_train[places]), labels)


def _remembering(x_test):
    """(Kernel, Set) -> the Gram matrices of the set with itself and with the test images, each computed once."""
    known, x_test = {}, jnp.asarray(x_test)

    def grams(kernel, of):
        key = kernel.name, kernel.kind, id(of)
        if key not in known:
            known[key] = of, *_pair(kernel, jnp.asarray(of.images), x_test)  # with `of`, whose id stays its own
        return known[key][1:]

    return grams


def _pair(kernel, images, x_test):
    try:
        return tuple(np.asarray(kernel.engine.gram(*x), np.float64) for x in ((images,), (x_test, images)))
    except checks.UserError as error:
        raise checks.UserError(
            f"kernels: {kernel.name} does not suit ({error}); leave it out, as in ~kernels.convnet, or change its "
            "depth, as in kernels.convnet.depth=1"
        ) from error
