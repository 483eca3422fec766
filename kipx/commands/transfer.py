"""kipx transfer: how well finite networks train on a distilled set, beside sets that nobody learned."""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kipx import artifacts, checks, support
from kipx.commands import keep, stop, training
from kipx.finite import train

DISTILLED = "distilled"


class Problem(NamedTuple):
    """What networks are trained on and measured with; the images of all sets are preprocessed alike."""

    names: tuple  # of the sets, the distilled one first
    x: jax.Array  # (sets, n, h, w, c)
    y: jax.Array  # (sets, n, classes)
    versions: Any  # step -> (versions, sets, n, h, w, c), what is seen from that step on
    span: int  # steps until there are other versions
    validation: tuple  # (images, classes) to choose by
    test: tuple  # (images, classes), read once


def run(folder, *, networks, seed, recipe, evaluations, every_s, show, overrides, config, **posed):
    """Trains networks on each set, chooses the step by validation images, and reads the test images once.

    Args:
      folder: the run folder.
      networks: >= 1, starts that each set is trained from; all sets have the same starts.
      seed: >= 0.
      recipe: {'network', 'loss', and the arguments of kipx.finite.train.build}.
      evaluations: >= 1, times that the validation images are read, evenly spaced; the best one is taken.
      every_s, show, overrides, config: as for `kipx distill`.
      **posed: as for `pose`.
    Returns:
      Summary, as in summary.json.
    Raises:
      UserError: as `pose`; NumericalError: a loss that is not finite; Stopped: after SIGINT or SIGTERM, state saved.
    """
    checks.integer("networks", networks, at_least=1)
    checks.integer("trainer.evaluations", evaluations, at_least=1)
    checks.positive("checkpoint.every_s", every_s)
    problem = pose(seed=seed, **posed)
    if overrides is not None:
        artifacts.create(folder, config=config, overrides=overrides)
    trainer, steps = train.build(**recipe), recipe["steps"]
    start = training.start(trainer, problem, networks, jax.random.key(checks.integer("seed", seed, at_least=0)))
    seen = {"title": "transfer", "measured": "validation"}
    opened = keep.open_run(folder, start, steps=steps, config=config, show=show, **seen)
    with stop.signals() as caught, opened as keeper, stop.resumable("transfer", folder):
        last = training.run(trainer, problem, start, keeper, training.Pace(steps, evaluations, every_s, caught))
    return _conclude(pathlib.Path(folder), trainer, problem, last, config)


def pose(*, read, load, step, baselines, augment, validation, seed):
    """Decides what networks are trained on and measured with.

    Args:
      read: Dataset -> kipx.artifacts.Distilled.
      load: () -> Dataset.
      step: a checkpoint of the run that distilled, whose set is taken; None for its last set.
      baselines: {name: builder as in `kipx.support`} of sets of the same size, made of training images.
      augment: from `kipx.augment`.
      validation: >= 1, training images held out to choose by, at most a fifth of them; the distillation may have seen
        them as targets, baselines never have.
      seed: of baselines, validation images and augmentation.
    Returns:
      Problem.
    Raises:
      UserError: data that do not fit the set, or an argument that is none.
    """
    data = load()
    distilled = read(data)
    shape, classes = data.x_train.shape[1:], data.classes
    if distilled.images.shape[1:] != shape or distilled.labels.shape[1] != classes:
        raise checks.UserError(
            f"run: expected a set of {classes} classes of {shape} images, as the data set's, "
            f"got {distilled.labels.shape[1]} of {distilled.images.shape[1:]}"
        )
    key_held, key_draws, key_augment = jax.random.split(jax.random.key(seed), 3)
    count = min(checks.integer("trainer.validation", validation, at_least=1), max(len(data.x_train) // 5, 1))
    held = np.zeros(len(data.x_train), bool)
    held[np.asarray(support.class_balanced(key_held, jnp.asarray(data.y_train), count))] = True
    sets = {DISTILLED: (distilled.images, distilled.labels)}
    if baselines:
        rest = distilled.preprocess(data.x_train[~held]), data.y_train[~held]
        per_class = _per_class(len(distilled.images), classes)
        for key, (name, builder) in zip(jax.random.split(key_draws, len(baselines)), baselines.items(), strict=True):
            images, of = builder(per_class=per_class)(key, *rest, classes)
            sets[name] = images, support.one_hot(of, classes)
    x, y = (jnp.stack([jnp.asarray(one[i], jnp.float32) for one in sets.values()]) for i in (0, 1))
    versions, span = training.versions(x, distilled, data, augment, key_augment)
    return Problem(
        tuple(sets),
        x,
        y,
        versions,
        span,
        (jnp.asarray(distilled.preprocess(data.x_train[held])), data.y_train[held]),
        (jnp.asarray(distilled.preprocess(data.x_test)), data.y_test),
    )


def _per_class(n, classes):
    if n % classes:
        raise checks.UserError(
            f"baselines: a set of {n} images has no equal share for each of {classes} classes; set baselines=[]"
        )
    return n // classes


def _conclude(folder, trainer, problem, last, config):
    """The summary: of each set its networks' accuracy on the test images at the chosen step."""
    images, classes = problem.test
    accuracy = training.accuracy(trainer, last.networks._replace(variables=last.best.variables), images, classes)
    of = config["trainer"]
    summary = {
        "network": network_name(config["network"]),
        **{key: config["network"][key] for key in ("width", "parameterization", "normalization")},
        **{key: of[key] for key in ("loss", "label_scale", "factor", "l2", "centred", "steps", "batch_size")},
        "augment": config["augment"]["rate"],
        "run": config["run"],
        "images": problem.x.shape[1],
        "seed": config["seed"],
        "preprocess": config["preprocess"],
        "sets": {
            name: {
                "test_accuracy": float(own.mean()),
                "test_accuracy_std": float(own.std()),
                "test_accuracies": own.tolist(),
                "validation_accuracy": float(last.best.accuracy[i]),
                "chosen_step": int(last.best.step[i]),
                "learning_rates": rates.tolist(),
            }
            for i, (name, own, rates) in enumerate(
                zip(problem.names, _by_set(accuracy, problem), _by_set(last.networks.rate, problem), strict=True)
            )
        },
    }
    artifacts.write_json(folder / "summary.json", summary)
    artifacts.write_manifest(folder, config=config, parents=[config["run"]])
    return summary


def _by_set(values, problem):
    return np.asarray(values, np.float64).reshape(len(problem.names), -1)


def network_name(section):
    """An architecture's name in tables: ConvNet's builder and what decides its layers."""
    architecture = section["architecture"]
    more = [f"{key} {architecture[key]}" for key in ("depth",) if key in architecture]
    return " ".join([architecture["_target_"].rpartition(".")[2], *more])


def table(folder, summary):
    """Title, rows and closing line of the table that a run ends with; accuracies in percent."""
    title = (
        f"{summary['network']}, width {summary['width']}, {summary['parameterization']} parameterization, "
        f"normalization {summary['normalization']}; {summary['loss']}, label scale {summary['label_scale']:g}, "
        f"{summary['steps']} steps; seed {summary['seed']}"
    )
    rows = []
    for name, one in summary["sets"].items():
        count = len(one["test_accuracies"])
        spread = f" \u00b1 {100 * one['test_accuracy_std']:.1f}" if count > 1 else ""
        low, high = min(one["learning_rates"]), max(one["learning_rates"])
        rates = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        rows.append((name, f"{one['test_accuracy']:.1%}{spread}", f"{count}", f"{one['chosen_step']}", rates))
    return title, rows, f"{_kernel(summary['run'])}run folder: {folder}"


def _kernel(run):
    """What the run itself said of its set, if it is a run."""
    own = pathlib.Path(run) / "summary.json"
    said = json.loads(own.read_text())["test_accuracy"] if own.is_file() else None
    return "" if said is None else f"kernel ridge regression from the set: {said:.1%}\n"


COLUMNS = ("set", ">test accuracy", ">networks", ">chosen step", ">learning rate")
