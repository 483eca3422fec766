"""kipx transfer: how well finite networks train on a distilled set, beside sets that nobody learned."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kipx import artifacts, checks, support, track
from kipx.commands import keep, stop, training
from kipx.data import check_set
from kipx.finite import train
from kipx.kernel.layers import check_images
from kipx.report import folders
from kipx.report.tables import mean_and_spread, span

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
    data: Any  # the kipx.data.Dataset of them


def run(
    folder,
    *,
    networks,
    seed,
    recipe,
    evaluations,
    every_s,
    show,
    overrides,
    config,
    mirrored=track.nowhere,
    **posed,
):
    """Trains networks on each set, chooses the step by validation images, and reads the test images once.

    Args:
      folder: the run folder.
      networks: >= 1, starts that each set is trained from; all sets have the same starts.
      seed: >= 0.
      recipe: {'network', 'loss', and the arguments of kipx.finite.train.build}.
      evaluations: >= 1, times that the validation images are read, evenly spaced; the best one is taken.
      every_s, show, overrides, config, mirrored: as for `kipx distill`.
      **posed: as for `pose`.
    Returns:
      Summary, as in summary.json.
    Raises:
      UserError: as `pose`; NumericalError: a loss that is not finite; StorageError: a file cannot be written;
      Stopped: after SIGINT or SIGTERM, state saved.
    """
    checks.integer("networks", networks, at_least=1, at_most=checks.MANY)
    checks.integer("trainer.evaluations", evaluations, at_least=1, at_most=checks.MANY)
    checks.positive("checkpoint.every_s", every_s)
    trainer, steps = train.build(**recipe), recipe["steps"]
    with keep.alone(folder):
        problem = pose(seed=checks.integer("seed", seed, at_least=0), **posed)
        check_images(recipe["network"].architecture, *[problem.x.shape[1:]] * 2)
        start = training.start(trainer, problem, networks, jax.random.key(seed))
        keep.begin(folder, problem.data, config=config, overrides=overrides)
        with stop.resumable("transfer", folder), mirrored(folder, config, "transfer") as mirror:
            kept = keep.Run(pathlib.Path(folder), config, every_s, show, mirror)
            opened = keep.open_run(kept, start, steps=steps, title="transfer", measured="validation")
            with stop.signals() as caught, opened as keeper:
                last = training.run(trainer, problem, start, keeper, training.Pace(steps, evaluations, every_s, caught))
            return _conclude(kept, trainer, problem, last, _origin(config, posed["distilled"]))


def pose(*, distilled, load, baselines, augment, validation, seed):
    """Decides what networks are trained on and measured with.

    Args:
      distilled: kipx.artifacts.Distilled.
      load: () -> Dataset.
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
    classes = data.classes
    check_set(data, distilled.images.shape[1:], len(distilled.class_names))
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
        data,
    )


def _per_class(n, classes):
    if n % classes:
        raise checks.UserError(
            f"baselines: a set of {n} images has no equal share for each of {classes} classes; set baselines=[]"
        )
    return n // classes


def _conclude(kept, trainer, problem, last, origin):
    """The summary: of each set its networks' accuracy on the test images at the chosen step."""
    config = kept.config
    images, classes = problem.test
    accuracy = training.accuracy(trainer, last.networks._replace(variables=last.best.variables), images, classes)
    by_set = (_by_set(values, problem) for values in (accuracy, last.networks.rate))
    found = zip(problem.names, *by_set, last.best.accuracy, last.best.step, strict=True)
    of = config["trainer"]
    summary = {
        "network": folders.architecture(config["network"]["architecture"]),
        **{key: config["network"][key] for key in ("width", "parameterization", "normalization")},
        **{key: of[key] for key in ("loss", "label_scale", "factor", "l2", "centred", "steps", "batch_size")},
        "augment": config["augment"]["rate"],
        "run": config["run"],
        "step": config["step"],
        **origin,
        **_said_by_the_kernel(config["run"], config["step"]),
        "images": problem.x.shape[1],
        "classes": problem.y.shape[2],
        "seed": config["seed"],
        "sets": {name: _reached(*of_set) for name, *of_set in found},
    }
    artifacts.write_json(kept.folder / "summary.json", summary)
    artifacts.write_manifest(kept.folder, config=config, parents=[config["run"]])
    return summary


def _by_set(values, problem):
    return np.asarray(values, np.float64).reshape(len(problem.names), -1)


def _reached(accuracies, rates, validation, step):
    """What the summary says of one set."""
    return {
        "test_accuracy": float(accuracies.mean()),
        **({"test_accuracy_std": float(accuracies.std(ddof=1))} if len(accuracies) > 1 else {}),
        "test_accuracies": accuracies.tolist(),
        "validation_accuracy": float(validation),
        "chosen_step": int(step),
        "learning_rates": rates.tolist(),
    }


def table(folder, summary):
    """Title, rows and closing line of the table that a run ends with; accuracies in percent."""
    augmented = f", {summary['augment']:.0%} augmented" if summary["augment"] else ""
    title = (
        f"{summary['network']}, width {summary['width']}, {summary['parameterization']} parameterization, "
        f"normalization {summary['normalization']}; {summary['images']} images, {summary['preprocessing']}{augmented}; "
        f"{summary['loss']}, label scale {summary['label_scale']:g}, {summary['steps']} steps; seed {summary['seed']}"
    )
    rows = []
    for name, one in summary["sets"].items():
        reached = f"{mean_and_spread(one['test_accuracies'])}%"
        rates = span(one["learning_rates"])
        rows.append((name, reached, f"{len(one['test_accuracies'])}", f"{one['chosen_step']}", rates))
    said = summary.get("kernel_test_accuracy")
    kernel = "" if said is None else f"kernel ridge regression from the set: {said:.1%}\n"
    return title, rows, f"{kernel}run folder: {folder}"


def _origin(config, distilled):
    """What the set's images went through, by the name that was typed, for it or for its run; and what made the set.

    A file that names nothing says no more than whether they are whitened; sets that were imported have no maker.
    """
    run = config["run"]
    of_run = artifacts.read_config(run) if (pathlib.Path(run) / artifacts.CONFIG).is_file() else {}
    section = config["preprocess"] or of_run.get("preprocess")
    whitened = "whitened" if distilled.preprocessing.whitening.size else "not whitened"
    made_by = "label-solve" if "form" in of_run else "distill" if "steps" in of_run else None
    name = section["_target_"].rpartition(".")[2] if section else whitened
    return {"preprocessing": name, **({"made_by": made_by} if made_by else {})}


def _said_by_the_kernel(run, step):
    """The test accuracy that the run itself measured, last of all or at a step; nothing if it is no run."""
    said = [r["test_accuracy"] for r in track.rows(run) if "test_accuracy" in r and step in (None, r["step"])]
    said = [share for share in said if isinstance(share, float) and 0 <= share <= 1]
    return {"kernel_test_accuracy": said[-1]} if said else {}


COLUMNS = ("set", ">test accuracy", ">networks", ">chosen step", ">learning rate")
