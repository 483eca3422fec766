"""Sampling KIP: a family of kernels, one of which is drawn at each step, and all of which the set is measured under."""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from kipx import checks, evaluate
from kipx.engine import Engine

_MEANS = ("test_accuracy", "test_mse")
_DRAW = 0x5A3D  # folded into a step's key, apart from what the sampler folds in


class Member(NamedTuple):
    """A kernel of a family.

    Attributes:
      name: as in the metrics; None for the one kernel of a run that samples none.
      weight: >= 0, relative to the family's sum; a member of weight 0 is measured and never drawn.
      kernel_fn: from `kipx.kernel.build`.
      engine: kipx.engine.Engine of that kernel.
    """

    name: str | None
    weight: float
    kernel_fn: Callable
    engine: Engine


def check(members):
    """Returns the members of a family if there are any, with sound names and weights, else raises UserError."""
    for member in members:
        if not re.fullmatch(r"\w+", str(member.name)):
            raise checks.UserError(
                f"kernel.members: expected names of letters, digits and underscores, got {member.name!r}"
            )
        checks.not_negative(f"kernel.members.{member.name}.weight", member.weight)
    total = sum(member.weight for member in members)
    if not total > 0:
        raise checks.UserError("kernel.members: expected at least one member of weight > 0, got none")
    if total == float("inf"):
        raise checks.UserError("kernel.members: expected weights with a finite sum, got larger ones; scale them down")
    return members


def step(members, steps):
    """One step under one member, drawn by the state's key and number: a resumed run draws the same.

    Args:
      members: list of Member.
      steps: of each member, State -> (State, metrics), from `kipx.distill.build`.
    Returns:
      State -> (State, metrics), of a family with the drawn member's name as `kernel`.
    Source: paper section 3.2.
    """
    if members[0].name is None:
        return steps[0]
    bounds = np.cumsum(_shares(members))[:-1]

    def sampled(state):
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), _DRAW)
        drawn = int(np.searchsorted(bounds, float(jax.random.uniform(key)), side="right"))
        state, metrics = steps[drawn](state)
        return state, {**metrics, "kernel": members[drawn].name}

    return sampled


def evaluation(members, x_test, y_test, *, ridge, keep=False):
    """Builds the evaluation of support sets under every member.

    Args:
      members: list of Member.
      x_test, y_test, ridge, keep: as for `kipx.evaluate.build`.
    Returns:
      (x_support, y_support) -> metrics as from `kipx.evaluate.build`; of a family all of them for each member, as
      'test_accuracy_<name>', and of accuracy and error the means by weight.
    Source: paper section 3.2, figure 1.
    """
    built = [evaluate.build(member.engine, x_test, y_test, ridge=ridge, keep=keep) for member in members]
    if members[0].name is None:
        return built[0]

    def measure(x_support, y_support):
        each = [under(x_support, y_support) for under in built]
        means = {key: float(np.dot(_shares(members), [one[key] for one in each])) for key in _MEANS}
        named = {f"{key}_{m.name}": one[key] for m, one in zip(members, each, strict=True) for key in one}
        return {**means, **named}

    return measure


def rows(metrics):
    """(what, percent) for each member that metrics tell of, to be printed; none where one kernel was measured."""
    found = {key.removeprefix("test_accuracy_"): v for key, v in metrics.items() if key.startswith("test_accuracy_")}
    return [(f"under {name}", f"{value:.1%}") for name, value in found.items()]


def _shares(members):
    weights = np.array([member.weight for member in members], float)
    return weights / weights.sum()
