"""kipx distill: from a data set to a folder with a support set that carries it."""

import pathlib
import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kipx import (
    checkpoints,
    checks,
    cost,
    distill,
    evaluate,
    label_solve,
    machine,
    sampled,
    support,
    track,
)
from kipx.commands import keep, posing, solving, stop
from kipx.engine import hosts
from kipx.report.pictures import support_png
from kipx.report.tables import natural_draws


class Problem(NamedTuple):
    """What a run works on, all of it decided before the first step."""

    split: posing.Split
    initial: jax.Array  # (n_s, h, w, c) support images at step 0
    labels: jax.Array  # (n_s, classes) support labels at step 0
    start: distill.State
    step: object
    evaluate: object  # (x_support, y_support) -> metrics
    draws: list  # natural support sets to compare with
    tested_from: int  # of the steps that it stops at, the first to be tested


def run(folder, *, steps, every_s, show, overrides, config, mirrored=track.nowhere, **posed):
    """Distils a data set into a run folder, from the folder's last checkpoint if it has one.

    Args:
      folder: where to; made if it is not there.
      steps, every_s, **posed: as for `pose`.
      show: whether to show progress.
      overrides: as typed, for a new run; None for one to go on with, whose folder exists.
      config: resolved config, nested dicts.
      mirrored: (folder, config, command) -> context manager of a kipx.track.Mirror.
    Returns:
      Summary, as in summary.json.
    Raises:
      UserError: as `pose`; nothing has been written then.
      Stopped: after SIGINT or SIGTERM; NumericalError: the numbers gave out; EngineError: a process or a worker of the
        engine failed; StorageError: a file cannot be written. The state is saved in all of them, as far as it can be.
    """
    with keep.alone(folder):
        problem = pose(steps=steps, every_s=every_s, **posed)
        keep.begin(folder, problem.split.data, config=config, overrides=overrides)
        kept = keep.Run(pathlib.Path(folder), config, every_s, show)
        with stop.resumable("distill", folder):
            if posed["labels"]["init"] == "solved":
                problem = _with_solved_labels(kept, problem, posed["members"], posed["ridge"])
            with mirrored(folder, config, "distill") as mirror:
                kept = kept._replace(mirror=mirror)
                return _conclude(kept, problem, _learn(kept, problem, steps))


def pose(
    *,
    load,
    fit,
    members,
    draw,
    augment,
    labels,
    optimizer,
    seed,
    steps,
    ridge,
    batch_size,
    draws,
    every_s,
    rkhs_weight=0.0,
    tested_from=0,
    available=None,
):
    """Decides all that a run works on, and refuses what cannot be run.

    Args:
      load: () -> Dataset.
      fit: training pixels -> Preprocessing.
      members: list of kipx.sampled.Member: the kernels, each with its engine.
      draw: from `kipx.support`: (key, images, labels, classes) -> (x_support, classes of them).
      augment: from `kipx.augment`: (training pixels, batch_size) -> change of a batch, or None.
      labels: {'init': 'onehot' or 'solved', 'learned': bool, 'learning_rate': float or None}.
      optimizer: kipx.optimizer.Optimizer.
      seed, steps, ridge, batch_size: integers >= 0, >= 0, a number > 0, and images in a batch of targets.
      draws: natural support sets in the closing comparison.
      rkhs_weight: as for `kipx.objective.kip`.
      every_s: seconds between checkpoints beside the scheduled ones.
      tested_from: the first scheduled step to be tested; the start and the last step always are.
      available: kipx.machine.Memory that the run may take; None for what there is.
    Returns:
      Problem.
    Raises:
      UserError: an argument that is none, data that do not fit it, or more memory needed than available.
    """
    _check_numbers(seed, steps, draws, every_s, tested_from, labels["learning_rate"])
    rule = optimizer.rule(steps, labels["learned"], labels["learning_rate"])
    data, available = load(), available or machine.memory()
    posing.check_images(members, data)
    change = augment(data.x_train, batch_size)  # before the fit, which may take a minute: it may refuse
    split = posing.preprocessed(data, fit, available)
    x_train, y_train = split.train
    key_support, key_sampler, key_draws = jax.random.split(jax.random.key(seed), 3)
    images, onehot = posing.start(key_support, draw, split)
    _check_steps(memory_needs(members, optimizer, data, len(images), batch_size), data, available)
    changed = {"batch_size": batch_size, "change": change, "apply": split.preprocessing.apply}
    sample = distill.class_balanced_batches(jnp.asarray(x_train), y_train, data.y_train, **changed)
    loss = partial(optimizer.objective, ridge=ridge, rkhs_weight=rkhs_weight, targets=x_train)
    start, step = _steps_of(members, loss, rule, sample)
    test = sampled.evaluation(members, *split.test, ridge=ridge)
    natural = _natural(key_draws, draws, len(images) // data.classes, split)
    begun = start(key_sampler, images, onehot)
    return Problem(split, images, onehot, begun, step, evaluate.remembering(test), natural, tested_from)


def _check_numbers(seed, steps, draws, every_s, tested_from, label_rate):
    checks.integer("seed", seed, at_least=0)
    checks.integer("steps", steps, at_least=0)
    checks.integer("baseline.draws", draws, at_least=0, at_most=checks.MANY)
    checks.positive("checkpoint.every_s", every_s)
    checks.integer("checkpoint.tested_from", tested_from, at_least=0)
    if label_rate is not None:
        checks.positive("labels.learning_rate", label_rate)


def _steps_of(members, objective, rule, sample):
    """How a run of KIP starts and goes on: (start, step)."""
    built = [distill.build(objective(member.engine), rule, sample) for member in members]
    return built[0][0], sampled.step(members, [step for _, step in built])


def _natural(key, draws, per_class, split):
    """Natural support sets (images, labels), of as many images a class as the set that is learned."""
    fewest = np.bincount(split.data.y_train, minlength=split.data.classes).min()
    if draws and fewest < per_class:
        raise checks.UserError(
            f"baseline.draws: natural sets of this size need {per_class} training images of each class, one has "
            f"{fewest}; set baseline.draws=0"
        )
    draw = support.natural(per_class=per_class)
    return [posing.start(each, draw, split) for each in jax.random.split(key, draws)]


def _with_solved_labels(kept, problem, members, ridge):
    form, targets = label_solve.least_norm(), problem.split.train
    solution, _ = solving.solve(kept, members, form, problem.initial, targets, ridge=ridge)
    start = problem.start._replace(labels=solution.labels)
    return problem._replace(labels=solution.labels, start=start)


def memory_needs(members, optimizer, data, n_support, n_target):
    """kipx.cost.Needs of steps and evaluations on a data set."""
    train, test = len(data.x_train), len(data.x_test)
    counts = {"n_support": n_support, "n_target": n_target, "n_train": train, "n_test": test, "classes": data.classes}
    kernels = [(member.kernel_fn, member.engine.layout) for member in members]
    return cost.of_steps(kernels, **counts, shape=data.x_train.shape[1:], jacobian=optimizer.jacobian)


def _check_steps(needs, data, available):
    """Refuses a run whose steps cannot fit in memory."""
    if available.device is None:
        pixels, _ = cost.of_data(data.x_train, data.x_test)
        cost.check_fits([pixels, *needs], available.host, "this machine")
    else:
        cost.check_fits(needs, available.device, "the device")


def _learn(kept, problem, steps):
    """From the last checkpoint, or from the start, to the last step."""

    def publish(state):
        write_support(kept, problem, state)
        kept.mirror.see(state.step, partial(_shown, problem, state))

    opened = keep.open_run(kept, problem.start, steps=steps, publish=publish)
    with stop.signals() as caught, opened as keeper:  # noted until the last checkpoint is on disk
        if keeper.state is None:
            keeper.record({"step": 0, **problem.evaluate(problem.start.images, problem.start.labels)})
            keeper.save(problem.start)
            kept.mirror.see(0, partial(_shown, problem, problem.start))
            stop.check(caught, "step 0")
        return _steps(problem, keeper, steps, kept.every_s, caught)


def _steps(problem, keeper, steps, every_s, caught):
    """The loop: a row after each step, a checkpoint at scheduled steps, every `every_s`, and however it ends.

    At scheduled steps, and however it ends, the set is written as well: a run that has not ended can be used.
    """
    saved = began = time.monotonic()
    state = problem.start if keeper.state is None else keeper.state
    try:
        for new, metrics in distill.run(state, problem.step, steps=steps):
            row = {"step": new.step, **metrics, "step_time_s": time.monotonic() - began}
            due = checkpoints.due(new.step, steps)
            if due and (new.step >= problem.tested_from or new.step == steps):
                row.update(_tested(problem, new))
            keeper.record(row)
            state = new  # good: its row is written
            if due or time.monotonic() - saved > every_s:
                keeper.save(state)
                saved = time.monotonic()
            if due and state.step < steps:  # the last one is written below; a set is never without a checkpoint
                keeper.publish(state)
            stop.check(caught, f"step {state.step}")
            began = time.monotonic()
    finally:
        keeper.save(state)
        keeper.publish(state)
    return state


def _tested(problem, state):
    """The evaluation of a step's state, whose failure names the step."""
    try:
        return problem.evaluate(state.images, state.labels)
    except checks.NumericalError as error:
        raise checks.NumericalError(f"step {state.step}: {error}, or lower optimizer.learning_rate") from error


def _conclude(kept, problem, state):
    """The summary; the leading process writes support.png, summary.json and the manifest beside support.npz."""
    summary = {"steps": state.step, **problem.evaluate(state.images, state.labels)}
    summary["initial_test_accuracy"] = problem.evaluate(problem.start.images, problem.start.labels)["test_accuracy"]
    drawn = [problem.evaluate(x, y)["test_accuracy"] for x, y in problem.draws]
    if drawn:
        summary["natural_draws"] = len(drawn)
        summary["natural_test_accuracy_mean"] = float(np.mean(drawn))
    if len(drawn) > 1:
        summary["natural_test_accuracy_std"] = float(np.std(drawn, ddof=1))
    if hosts.leads():
        write_results(kept, problem, state, summary)
    return summary


def write_results(kept, problem, state, summary):
    """Writes support.png, summary.json and manifest.json, when `write_support` has written the last set."""
    keep.close(kept, _shown(problem, state).picture, summary)


def _shown(problem, state):
    """The kipx.track.Shown of a state: its set below the initial one."""
    before, after = (problem.split.preprocessing.invert(x) for x in (problem.initial, state.images))
    labels, names = np.asarray(state.labels), problem.split.data.class_names
    return track.Shown(support_png(before, after, labels, names), after, labels, names)


def write_support(kept, problem, state):
    """Writes support.npz: the set as it is in that state."""
    keep.write_set(kept, problem.split, state.images, state.labels)


def table(folder, summary):
    """Title, rows and closing line of the table that a run ends with; accuracies in percent."""
    rows = [("initial images", f"{summary['initial_test_accuracy']:.1%}")]
    if "natural_draws" in summary:
        rows.append(natural_draws(summary))
    rows.append((f"distilled, {summary['steps']} steps", f"{summary['test_accuracy']:.1%}"))
    rows += sampled.rows(summary)
    return "test accuracy", rows, f"run folder: {folder}"
