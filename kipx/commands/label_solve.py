"""kipx label-solve: the best labels for natural images, over the whole train set."""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kipx import artifacts, checks, sampled, support, track
from kipx.commands import keep, solving, stop
from kipx.engine import hosts
from kipx.report.pictures import labels_png


class Problem(NamedTuple):
    """What a run works on, all of it decided before anything is measured."""

    data: object  # kipx.data.Dataset
    preprocessing: object  # kipx.preprocess.Preprocessing
    images: jax.Array  # (n_s, h, w, c) support images
    onehot: jax.Array  # (n_s, classes) their centred one-hot labels
    targets: tuple  # (x_train, y_train)
    evaluate: object  # (x_support, y_support) -> metrics


def run(
    folder,
    *,
    load,
    fit,
    members,
    draw,
    form,
    seed,
    ridge,
    batch_size,
    every_s,
    show,
    overrides,
    config,
    mirrored=track.nowhere,
):
    """Solves for labels into a run folder, from the folder's last sums if it has some.

    Args:
      folder: where to; made if it is not there.
      load: () -> Dataset.
      fit: training pixels -> Preprocessing.
      members: list of kipx.sampled.Member: the kernels, each with its engine.
      draw: from `kipx.support`: (key, images, labels, classes) -> (x_support, classes of them).
      form: from `kipx.label_solve.least_norm` or `notebook`.
      seed, ridge, batch_size: an integer >= 0, a number > 0, and rows of k_ts held at once.
      every_s: seconds between savings of the sums.
      show: whether to show progress.
      overrides: as typed, for a new run; None for one to go on with, whose folder exists.
      config: resolved config, nested dicts.
      mirrored: (folder, config, command) -> context manager of a kipx.track.Mirror.
    Returns:
      Summary, as in summary.json.
    Raises:
      Stopped: after SIGINT or SIGTERM; NumericalError: the numbers gave out; EngineError: a process or a worker of the
        engine failed; StorageError: a file cannot be written. The state is saved in all of them, as far as it can be.
    """
    checks.integer("seed", seed, at_least=0)
    checks.integer("target.batch_size", batch_size, at_least=1)
    checks.positive("checkpoint.every_s", every_s)
    known = {"ridge": ridge, "batch": batch_size, "every_s": every_s, "show": show, "config": config}
    with keep.alone(folder):
        problem = _pose(load(), fit, members, draw, seed, ridge)
        if overrides is not None and hosts.leads():
            artifacts.create(folder, config=config, overrides=overrides)
        with stop.resumable("label-solve", folder), mirrored(folder, config, "label-solve") as mirror:
            return _solve(folder, problem, members, form, known, mirror)


def _solve(folder, problem, members, form, known, mirror):
    if hosts.leads():
        artifacts.write_config(folder, known["config"])  # of a run that goes on the engine may be another
    before = _before(folder, problem)
    mirror.log({"step": 0, **before})
    solution, time_s = solving.solve(folder, members, form, problem.images, *problem.targets, **known)
    after = {"train_loss": solution.train_loss, **problem.evaluate(problem.images, solution.labels)}
    track.rounding_watch()(after)
    return _conclude(folder, problem, solution, before, after, time_s, known["config"], mirror)


def _pose(data, fit, members, draw, seed, ridge):
    for member in members:
        jax.eval_shape(member.kernel_fn, np.zeros((1, *data.x_train.shape[1:])))  # refuses images that are too small
    preprocessing = fit(data.x_train)
    x_train, x_test = preprocessing.apply(data.x_train), preprocessing.apply(data.x_test)
    y_train, y_test = (support.one_hot(y, data.classes) for y in (data.y_train, data.y_test))
    key = jax.random.split(jax.random.key(seed), 3)[0]  # distill draws the same images
    images, classes = draw(key, x_train, data.y_train, data.classes)
    measure = sampled.evaluation(members, jnp.asarray(x_test), y_test, ridge=ridge, keep=True)
    onehot = support.one_hot(classes, data.classes)
    return Problem(data, preprocessing, images, onehot, (x_train, y_train), measure)


def _before(folder, problem):
    """Row 0 of the metrics, the one-hot labels'; measured once, though a run be resumed. The leading process's."""
    rows = track.rows(folder) if hosts.leads() else []
    whole = [row for row in rows if all(isinstance(row.get(key), float) for key in ("test_accuracy", "test_mse"))]
    known = next((row for row in whole if row["step"] == 0), None)
    if hosts.any_of(known is not None):
        return known
    row = {"step": 0, **problem.evaluate(problem.images, problem.onehot)}
    if hosts.leads():
        track.jsonl(folder)(row)
    return row


def _conclude(folder, problem, solution, before, after, time_s, config, mirror):
    """The summary; the leading process writes it with row 1, support.npz, support.png and the manifest."""
    if not hosts.leads():
        return {}
    row = {"step": 1, **after, "step_time_s": time_s}
    track.jsonl(folder, after=0)(row)
    mirror.log(row)
    initial = {f"initial_{key}": before[key] for key in ("test_accuracy", "test_mse")}
    solved = {"kept": solution.kept, "directions": len(problem.images), "residual": solution.residual}
    summary = {**after, **initial, "targets": len(problem.targets[0]), "time_s": time_s, "label_solve": solved}
    shown = _shown(problem, solution.labels)
    mirror.see(1, lambda: shown)
    keep.write_set(folder, problem, problem.images, solution.labels, config)
    keep.close(pathlib.Path(folder), shown.picture, summary, config)
    return summary


def _shown(problem, labels):
    pixels, names = problem.preprocessing.invert(problem.images), problem.data.class_names
    return track.Shown(labels_png(pixels, np.asarray(labels), names), pixels, np.asarray(labels), names)


def table(folder, summary):
    """Title, rows and closing lines of the table that a run ends with; accuracies in percent."""
    rows = [("labels", "test accuracy", "test mse")]
    for name, prefix in (("one-hot", "initial_"), ("solved", "")):
        rows.append((name, f"{summary[f'{prefix}test_accuracy']:.2%}", f"{summary[f'{prefix}test_mse']:.6f}"))
    rows += sampled.rows(summary)
    solved = summary["label_solve"]
    closing = f"{solved['kept']} of {solved['directions']} directions kept, residual {solved['residual']:.1e}"
    return f"Label Solve over {summary['targets']} targets", rows, f"{closing}\nrun folder: {folder}"
