"""The one loop: a pure step on a state, and the steps one after the other."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kipx import checks
from kipx.support import class_balanced


class State(NamedTuple):
    """All that a run carries from step to step."""

    step: int  # steps done
    key: Any  # of the sampler; each step folds its number in
    images: Any  # (n_s, h, w, c) float32
    labels: Any  # (n_s, classes) float64
    optimizer: Any  # optax state of {images, labels}


def build(objective, optimizer, sample):
    """Builds the start of a run and its step.

    Args:
      objective: (x_s, y_s, x_t, y_t) -> (metrics, g_images, g_labels), from `kipx.objective`, or with a
        linearization behind them, from `kipx.gauss_newton`.
      optimizer: optax transformation of {'images', 'labels'}, from a rule of `kipx.optimizer`.
      sample: (key) -> (x_target, y_target), a batch of targets.
    Returns:
      start: (key, images, labels) -> State at step 0.
      step: State -> (State, metrics), pure; metrics are floats of the support set before the update.
    Source: paper section 2.
    """

    optimizer = optax.with_extra_args_support(optimizer)

    @jax.jit
    def update(state, g_images, g_labels, linearization=None):
        parameters = {"images": state.images, "labels": state.labels}
        gradients = {"images": g_images, "labels": g_labels}
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, parameters, linearization=linearization)
        new = optax.apply_updates(parameters, updates)
        return state._replace(images=new["images"], labels=new["labels"], optimizer=optimizer_state)

    def start(key, images, labels):
        images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels, jnp.float64)
        return State(0, key, images, labels, optimizer.init({"images": images, "labels": labels}))

    def step(state):
        x_target, y_target = sample(jax.random.fold_in(state.key, state.step))
        metrics, *gradients = objective(state.images, state.labels, x_target, y_target)
        metrics = {name: float(value) for name, value in metrics.items()}
        new = update(state._replace(step=0), *gradients)
        return new._replace(step=state.step + 1), metrics

    return start, step


def run(state, step, *, steps):
    """Yields (state, metrics) after each step until `steps` are done.

    Raises:
      NumericalError: the loss or the new support set is not finite; what was yielded before is the last good state.
    """
    while state.step < steps:
        state, metrics = step(state)
        if not np.isfinite(metrics["train_loss"]) or not _finite(state.images, state.labels):
            raise checks.NumericalError(
                f"step {state.step}: the loss is {metrics['train_loss']} or the images or labels are not finite; "
                "raise ridge, set kernel.dtype=float64 or lower optimizer.learning_rate"
            )
        yield state, metrics


@jax.jit
def _finite(images, labels):
    return jnp.isfinite(images).all() & jnp.isfinite(labels).all()


def class_balanced_batches(x, y, classes_of, *, batch_size, change=None, apply=None):
    """Builds `sample(key)`: a fresh class-balanced batch of targets.

    Args:
      x: (n, h, w, c) preprocessed images.
      y: (n, c) labels.
      classes_of: (n,) int classes, to balance by.
      batch_size: 1 <= batch_size <= n.
      change: from `kipx.augment`: (key, places) -> (which of the batch, their new pixels); None for none.
      apply: preprocessing of these pixels, as that of x.
    Returns:
      (key) -> (x_target, y_target).
    Raises:
      UserError: a batch larger than the data.
    """
    n = x.shape[0]
    if checks.integer("target.batch_size", batch_size, at_least=1) > n:
        raise checks.UserError(f"target.batch_size: expected at most {n}, the training images, got {batch_size}")
    classes_of = jnp.asarray(classes_of)

    def sample(key):
        places = class_balanced(key, classes_of, batch_size)
        x_target, y_target = x[places], y[places]
        if change is None:
            return x_target, y_target
        chosen, pixels = change(jax.random.fold_in(key, 2), places)  # class_balanced has split off 0 and 1
        return x_target.at[chosen].set(apply(pixels)), y_target

    return sample
