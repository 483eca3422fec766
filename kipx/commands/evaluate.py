"""kipx evaluate: the test accuracy of a distilled set, again or under another kernel."""

import contextlib
import pathlib

import jax.numpy as jnp

from kipx import checks, sampled, support, track
from kipx.data import check_set
from kipx.report import folders


def run(distilled, *, load, members, ridge):
    """Measures a distilled set on the test images of its data set.

    Args:
      distilled: kipx.artifacts.Distilled.
      load: () -> Dataset.
      members: list of kipx.sampled.Member: the kernels to measure with, each with its engine.
      ridge: > 0, dimensionless.
    Returns:
      Metrics as from `kipx.sampled.evaluation`; equal to what the run said if kernel, engine and ridge are the run's.
    Raises:
      UserError: the data set's images or classes are not those of the set.
    """
    checks.positive("ridge", ridge)
    data = load()
    check_set(data, distilled.images.shape[1:], len(distilled.class_names))
    x_test, y_test = distilled.preprocess(data.x_test), support.one_hot(data.y_test, data.classes)
    measure = sampled.evaluation(members, jnp.asarray(x_test), y_test, ridge=ridge)
    metrics = measure(jnp.asarray(distilled.images), jnp.asarray(distilled.labels))
    track.rounding_watch()(metrics)
    return metrics


def table(result, run):
    """Title, rows and closing line of what is printed; beside the number, what the run itself said."""
    rows = [("test accuracy", f"{result['test_accuracy']:.1%}"), ("test mse", f"{result['test_mse']:.6f}")]
    rows += sampled.rows(result)
    with contextlib.suppress(*folders.DAMAGE):  # what it says is no part of what was measured
        said = folders.json_object(pathlib.Path(run) / "summary.json")["test_accuracy"]
        rows.append(("the run said", f"{checks.share('test_accuracy', said):.1%}"))
    return "kernel ridge regression from the distilled set", rows, f"run: {run}"
