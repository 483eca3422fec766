"""kipx evaluate: the test accuracy of a distilled set, again or under another kernel."""

import contextlib
import pathlib

import jax.numpy as jnp

from kipx import checks, objective, sampled, support, track
from kipx.data import check_set
from kipx.report import folders

NORM = "rkhs_norm"
MORE_DIGITS = "name its kernel anew, kernel=<its name> kernel.dtype=float64,"  # the run's own has no single keys


def run(distilled, *, load, members, ridge):
    """Measures a distilled set on the test images of its data set.

    Args:
      distilled: kipx.artifacts.Distilled.
      load: () -> Dataset.
      members: list of kipx.sampled.Member: the kernels to measure with, each with its engine.
      ridge: > 0, dimensionless.
    Returns:
      Metrics as from `kipx.sampled.evaluation`, equal to what the run said if kernel, engine and ridge are the run's;
      and 'rkhs_norm', or of a family 'rkhs_norm_<name>', as `kipx.objective.kip` weighs it.
    Raises:
      UserError: the data set's images or classes are not those of the set.
    """
    checks.positive("ridge", ridge)
    data = load()
    check_set(data, distilled.images.shape[1:], len(distilled.class_names))
    x_test, y_test = distilled.preprocess(data.x_test), support.one_hot(data.y_test, data.classes)
    measure = sampled.evaluation(members, jnp.asarray(x_test), y_test, ridge=ridge)
    learned = jnp.asarray(distilled.images), jnp.asarray(distilled.labels)
    metrics = measure(*learned)
    track.rounding_watch(MORE_DIGITS)(metrics)
    return {**metrics, **_norms(members, learned, distilled.preprocess(data.x_train[: objective.UNIT_IMAGES]), ridge)}


def _norms(members, learned, x_train, ridge):
    found = ((m.name, objective.rkhs_norm(m.engine, *learned, targets=x_train, ridge=ridge)) for m in members)
    return {NORM if name is None else f"{NORM}_{name}": norm for name, norm in found}


def table(result, run):
    """Title, rows and closing line of what is printed; beside the number, what the run itself said."""
    rows = [("test accuracy", f"{result['test_accuracy']:.1%}"), ("test mse", f"{result['test_mse']:.6f}")]
    rows += sampled.rows(result)
    for name in (key.removeprefix(NORM) for key in result if key.startswith(NORM)):
        rows.append((f"squared RKHS norm{name.replace('_', ' under ', 1)}", f"{result[NORM + name]:.3g}"))
    with contextlib.suppress(*folders.DAMAGE):  # what it says is no part of what was measured
        said = folders.summary(pathlib.Path(run))["test_accuracy"]
        rows.append(("the run said", f"{checks.share('test_accuracy', said):.1%}"))
    return "kernel ridge regression from the distilled set", rows, f"run: {run}"
