"""kipx label-solve: the best labels for natural images, over the whole train set."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from kipx import artifacts, checks, sampled, track
from kipx.commands import keep, posing, solving, stop
from kipx.engine import hosts
from kipx.report.pictures import labels_png


class Problem(NamedTuple):
    """What a run works on, all of it decided before anything is measured."""

    split: posing.Split
    images: jax.Array  # (n_s, h, w, c) support images
    onehot: jax.Array  # (n_s, classes) their centred one-hot labels
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
    with keep.alone(folder):
        problem = _pose(load(), fit, members, draw, seed, ridge)
        keep.begin(folder, problem.split.data, config=config, overrides=overrides)
        with stop.resumable("label-solve", folder), mirrored(folder, config, "label-solve") as mirror:
            kept = keep.Run(pathlib.Path(folder), config, every_s, show, mirror)
            return _solve(kept, problem, members, form, ridge=ridge, batch=batch_size)


def _solve(kept, problem, members, form, **how):
    if hosts.leads():
        artifacts.write_config(kept.folder, kept.config)  # of a run that goes on the engine may be another
    before = _before(kept.folder, problem)
    if hosts.leads():
        kept.mirror.log({"step": 0, **before})
    solution, time_s = solving.solve(kept, members, form, problem.images, problem.split.train, **how)
    after = {"train_loss": solution.train_loss, **problem.evaluate(problem.images, solution.labels)}
    track.rounding_watch()(after)
    return _conclude(kept, problem, solution, before, after, time_s) if hosts.leads() else {}


def _pose(data, fit, members, draw, seed, ridge):
    posing.check_images(members, data)
    split = posing.preprocessed(data, fit)
    key = jax.random.split(jax.random.key(seed), 3)[0]  # distill draws the same images
    images, onehot = posing.start(key, draw, split)
    measure = sampled.evaluation(members, *split.test, ridge=ridge, keep=True)
    return Problem(split, images, onehot, measure)


def _before(folder, problem):
    """Row 0 of the metrics, the one-hot labels', measured once; of a resumed run the leading process alone has it."""
    rows = track.rows(folder) if hosts.leads() else []
    whole = [row for row in rows if all(isinstance(row.get(key), float) for key in ("test_accuracy", "test_mse"))]
    known = next((row for row in whole if row["step"] == 0), None)
    if hosts.any_of(known is not None):
        return known
    row = {"step": 0, **problem.evaluate(problem.images, problem.onehot)}
    if hosts.leads():
        track.jsonl(folder)(row)
    return row


def _conclude(kept, problem, solution, before, after, time_s):
    """The summary; it is written with row 1, support.npz, support.png and the manifest."""
    row = {"step": 1, **after, "step_time_s": time_s}
    track.jsonl(kept.folder, after=0)(row)
    kept.mirror.log(row)
    initial = {f"initial_{key}": before[key] for key in ("test_accuracy", "test_mse")}
    solved = {"kept": solution.kept, "directions": len(problem.images), "residual": solution.residual}
    summary = {**after, **initial, "targets": len(problem.split.train[0]), "time_s": time_s, "label_solve": solved}
    shown = _shown(problem, solution.labels)
    kept.mirror.see(1, lambda: shown)
    keep.write_set(kept, problem.split, problem.images, solution.labels)
    keep.close(kept, shown.picture, summary)
    return summary


def _shown(problem, labels):
    pixels, names = problem.split.preprocessing.invert(problem.images), problem.split.data.class_names
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
