"""What a run leaves in its folder while it learns: checkpoints, metrics, and how far it is. One process writes."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from kipx import artifacts, checkpoints, checks, files, track
from kipx.data import fingerprint
from kipx.engine import hosts
from kipx.report import folders

DATA = "data_sha256"  # in environment.json


class Run(NamedTuple):
    """A run's folder, and how it is kept there."""

    folder: pathlib.Path
    config: dict  # resolved, nested
    every_s: float  # seconds between savings beside the scheduled ones
    show: bool  # whether there is progress
    mirror: track.Mirror = track.SILENT  # sees its rows and its sets


class Keeper(NamedTuple):
    """How a run leaves its traces.

    Attributes:
      state: the last one saved, None if there is none.
      record: row -> None, for metrics.jsonl and the progress bar.
      save: state -> None, a checkpoint.
      publish: state -> None, the set as it is then, to be used.
    """

    state: Any
    record: Callable
    save: Callable
    publish: Callable


@contextlib.contextmanager
def alone(folder):
    """Holds a run folder, in which no other run may be at work; the leading process does, for all of the run's.

    Raises:
      UserError: another run is at work there, or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        refused = _held(stack, folder) if hosts.leads() else None
        if hosts.any_of(refused is not None):
            raise refused or checks.UserError(f"{folder}: the leading process could not have it")
        yield


def _held(stack, folder):
    """None once the folder is held until the stack ends; what to raise if it cannot be."""

    def busy(holder):
        raise checks.UserError(f"{folder}: another run is at work there ({holder}); let it end, or set another folder")

    try:
        stack.enter_context(files.held(pathlib.Path(folder) / artifacts.LOCK, busy=busy))
    except checks.StorageError as error:
        return checks.UserError(f"{error}, or set another folder")
    except checks.UserError as error:
        return error


def begin(folder, data, *, config, overrides):
    """Opens the folder of a new run on a Dataset; that of a run to go on with, whose overrides are None, is there.

    Raises:
      UserError: the folder already holds a run, or the run to go on with began on other data.
    """
    if overrides is None:
        return _check_same(folder, data)
    if hosts.leads():
        artifacts.create(folder, config=config, overrides=overrides, **{DATA: fingerprint(data)})


def _check_same(folder, data):
    """Refuses other data than the run began on, where that is known."""
    began = None
    if hosts.leads():
        with contextlib.suppress(*folders.DAMAGE):
            began = folders.json_object(pathlib.Path(folder) / artifacts.ENVIRONMENT).get(DATA)
    if hosts.any_of(began is not None and began != fingerprint(data)):
        raise checks.UserError(
            f"resume: {folder} began on other data: images, labels or class names are not those of {DATA} in "
            f"{artifacts.ENVIRONMENT}; put the data set back as it was, or start a new run"
        )


def note_resumed(run, step):
    """Adds a row to resumed.jsonl: from what step a run goes on, to how many where that is new, and on what.

    The folder's config.yaml is still that of the sitting before.
    """
    before, now = (config.get("steps") for config in (artifacts.read_config(run.folder), run.config))
    changed = {} if before == now else {"steps_before": before, "steps": now}
    row = {"step": step, **changed, "environment": artifacts.environment()}
    path = run.folder / artifacts.RESUMED
    rows = path.read_bytes() if path.is_file() else b""
    artifacts.write(path, rows + (json.dumps(row) + "\n").encode())


@contextlib.contextmanager
def open_run(run, start, *, steps, publish=lambda state: None, **seen):
    """Opens the Keeper of a run; in a process that does not lead, of none.

    Args:
      run: Run; its mirror gets the rows that are there, then each new one.
      start: distill.State, for its structure.
      steps: of the whole run.
      publish: state -> None, as in Keeper.
      **seen: title and measure of the progress, as for `kipx.track.progress`.
    Yields:
      Keeper; its state is the leading process's.
    Raises:
      UserError: the checkpoint is of another config, or has more than `steps`.
    """
    if not hosts.leads():
        yield Keeper(_shared(None, start), *(lambda _: None,) * 3)
        return
    origin = identity(run.config)
    with checkpoints.open_manager(run.folder) as manager:
        state = checkpoints.restore(manager, start, config_hash=origin)
        done = -1 if state is None else state.step
        if done > steps:
            raise checks.UserError(f"steps: expected at least {done}, the steps already done, got {steps}")
        rows = track.rows(run.folder)
        _check_whole(run.folder, done, rows)
        if state is not None:
            note_resumed(run, done)
        if done < steps:
            with files.storing(manifest := run.folder / artifacts.MANIFEST):
                manifest.unlink(missing_ok=True)  # of an end that is no longer one
        artifacts.write_config(run.folder, run.config)  # not before the checkpoint has been accepted
        log = track.jsonl(run.folder, after=done)
        for row in rows:
            if row["step"] <= done:
                run.mirror.log(row)
        watch = track.rounding_watch()
        with track.progress(steps, done=max(done, 0), show=run.show, **seen) as show_row:

            def record(row):
                log(row)
                watch(row)
                run.mirror.log(row)
                show_row(row)

            save = partial(checkpoints.save, manager, config_hash=origin)
            yield Keeper(_shared(state, start), record, save, publish)


def _check_whole(folder, done, rows):
    """Refuses to go on where what a run leaves behind it is gone: it would begin anew, over what there is."""
    ended = [name for name in (artifacts.SUPPORT, "summary.json") if (folder / name).exists()]
    if done < 0 and ended:
        raise checks.UserError(
            f"resume: {folder} has {ended[0]} but no checkpoint; put its checkpoints back, or set another hydra.run.dir"
        )
    if done >= 0 and not rows:
        raise checks.UserError(
            f"{folder / artifacts.METRICS}: expected rows to step {done}, got none; take it from a backup"
        )


def _shared(state, start):
    """The leading process's state, None if it has none."""
    if not hosts.any_of(state is not None):
        return None
    return checkpoints.from_host(hosts.of_leader(checkpoints.to_host(start if state is None else state)), start)


def identity(config):
    """A hash of all that decides the numbers: the config without what a resumed run may change."""
    decisive = {key: value for key, value in config.items() if key not in ("steps", "engine", "logger", "resume")}
    decisive["dataset"] = folders.anywhere(config["dataset"])
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def write_set(run, split, images, labels):
    """Writes support.npz of a Run; the set is one of a kipx.commands.posing.Split."""
    kept = {key: run.config[key] for key in ("dataset", "kernel", "ridge", "seed")}
    described = {"preprocessing": split.preprocessing, "class_names": split.data.class_names, "config": kept}
    artifacts.save_support(run.folder, images, labels, **described)


def close(run, picture, summary):
    """Writes support.png, summary.json and, of all there is then, manifest.json."""
    artifacts.write(run.folder / "support.png", picture)
    artifacts.write_json(run.folder / "summary.json", summary)
    artifacts.write_manifest(run.folder, config=run.config)
