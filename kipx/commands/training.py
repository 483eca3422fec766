"""The loop of kipx transfer: stretches of steps, validation at even distances, and the best networks kept."""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kipx import checks
from kipx.commands import stop

STRETCH_S = 2.0  # about what one call takes, so that signals are answered
IMAGES = 100  # that are measured in one call, for the memory
VERSIONS_BYTES = 2**27  # of augmented copies at once


class Best(NamedTuple):
    """The networks of each set at the step at which they were best on the validation images, on average."""

    accuracy: Any  # (sets,) validation accuracy
    step: Any  # (sets,)
    variables: Any  # (k, ...)


class Progress(NamedTuple):
    """What a checkpoint holds."""

    step: int
    networks: Any  # kipx.finite.train.Network of k = sets * networks of each
    best: Best


class Pace(NamedTuple):
    """When to stop for what."""

    steps: int
    evaluations: int
    every_s: float
    caught: list  # signals


def start(trainer, problem, networks, key):
    """Progress at step 0: every set has the same starts."""
    sets = jnp.repeat(jnp.arange(len(problem.names)), networks)
    keys = jnp.tile(jax.random.split(key, networks), len(problem.names))
    begun = trainer.start(sets, keys, problem.x, problem.y)
    zeros = jnp.zeros(len(problem.names))
    return Progress(0, begun, Best(zeros - 1, zeros.astype(int), begun.variables))


def run(trainer, problem, begun, keeper, pace):
    """Trains to the last step, from the last checkpoint if there is one; returns the last Progress.

    Raises:
      NumericalError: a loss that is not finite; it names the rate.
      Stopped: a signal was caught; the state is saved.
    """
    state, saved, length = keeper.state, time.monotonic(), 1
    try:
        if state is None:
            state = _measure(trainer, problem, begun, keeper, pace, {})
        while state.step < pace.steps:
            goal = next(s for s in _stops(pace) if s > state.step)
            count = min(goal - state.step, length, problem.span - state.step % problem.span)
            began = time.monotonic()
            networks, losses = trainer.advance(
                state.networks, problem.versions(state.step), problem.y, state.step, count
            )
            losses = np.asarray(losses)
            took = (time.monotonic() - began) / count
            _check(losses, networks, problem, state.step + count)
            new = state._replace(step=state.step + count, networks=networks)
            length = max(1, min(2 * length, int(STRETCH_S / took)))
            if new.step == goal:
                new = _measure(trainer, problem, new, keeper, pace, {"step_time_s": took, "losses": losses})
            state = new
            if time.monotonic() - saved > pace.every_s:
                keeper.save(state)
                saved = time.monotonic()
            stop.check(pace.caught, f"step {state.step}")
    finally:
        if state is not None:  # what has not been measured at step 0 begins anew
            keeper.save(state)
    return state


def _stops(pace):
    return [round(pace.steps * i / pace.evaluations) for i in range(1, pace.evaluations + 1)]


def _measure(trainer, problem, state, keeper, pace, more):
    """Reads the validation images, records a row, and keeps the networks of the sets that are better than ever."""
    sets = len(problem.names)
    answer = partial(stop.check, pace.caught, f"step {state.step}")
    found = np.asarray(accuracy(trainer, state.networks, *problem.validation, answer)).reshape(sets, -1)
    losses = np.reshape(more.pop("losses", []), (sets, -1))
    own = {
        name: {"validation_accuracy": found[i].tolist(), **({"train_loss": losses[i].tolist()} if losses.size else {})}
        for i, name in enumerate(problem.names)
    }
    loss = {"train_loss": float(losses[0].mean())} if losses.size else {}
    keeper.record({"step": state.step, **loss, "validation_accuracy": float(found[0].mean()), **more, "sets": own})
    better = jnp.asarray(found.mean(axis=1)) > state.best.accuracy
    of_each = jnp.repeat(better, found.shape[1])

    def newer(new, old):
        return jnp.where(of_each.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    best = Best(
        jnp.where(better, found.mean(axis=1), state.best.accuracy),
        jnp.where(better, state.step, state.best.step),
        jax.tree.map(newer, state.networks.variables, state.best.variables),
    )
    return state._replace(best=best)


def accuracy(trainer, networks, images, classes, between=lambda: None):
    """(k,) share of images whose largest output is their class; `between` is called between parts of the images."""
    size, right = min(IMAGES, len(images)), 0
    for at in range(0, len(images), size):
        first = min(at, len(images) - size)  # the last part is filled up from the front, so that one program serves all
        outputs = np.asarray(trainer.outputs(networks, images[first : first + size]))[:, at - first :]
        right = right + (outputs.argmax(axis=-1) == classes[at : first + size]).sum(axis=1)
        between()
    return right / len(images)


def _check(losses, networks, problem, step):
    if not np.isfinite(losses).all():
        at = int(np.argmin(np.isfinite(losses)))
        each = len(losses) // len(problem.names)
        raise checks.NumericalError(
            f"step {step}: the loss of network {at % each} on the {problem.names[at // each]} set is {losses[at]} with "
            f"learning rate {float(networks.rate[at]):.3g}; lower trainer.factor"
        )


def versions(x, distilled, data, augment, key):
    """(step -> versions of the sets that steps from there on see, steps until they are others).

    Without augmentation that is the sets as they are, always. With it each version has its share of images augmented,
    in pixel space, clipped to the range of the training images, and preprocessed again.
    """
    n = x.shape[1]
    change = augment(np.asarray(data.x_train), n)
    if change is None:
        return lambda step: x[None], np.iinfo(np.int32).max
    low, high = data.x_train.min(), data.x_train.max()
    pixels = [np.clip(distilled.preprocessing.invert(np.asarray(one)), low, high) for one in x]
    changes = [augment(own, n) for own in pixels]
    span = max(1, min(32, VERSIONS_BYTES // x.nbytes))

    def changed(one, at, index):
        chosen, new = changes[index](jax.random.fold_in(jax.random.fold_in(key, at), index), np.arange(n))
        return one.at[chosen].set(distilled.preprocess(np.asarray(new)))

    last = [None, None]

    def of(step):
        first = step - step % span
        if last[0] != first:
            made = [[changed(one, first + v, i) for i, one in enumerate(x)] for v in range(span)]
            last[:] = first, jnp.stack([jnp.stack(v) for v in made])
        return last[1]

    return of, span
