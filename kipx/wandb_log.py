"""Weights & Biases as a mirror of metrics.jsonl; the one file that knows wandb, which it loads only where asked to.

All that wandb does is done in a thread of its own, from a queue, so no step waits for it. Whatever it raises ends the
mirror with one line on stderr, never the run. A resumed run keeps its W&B run, and sends what that does not have yet.
"""

import contextlib
import io
import json
import os
import pathlib
import queue
import shlex
import sys
import threading
import uuid
from functools import partial

import numpy as np

from kipx import artifacts, checks, track
from kipx.engine import hosts
from kipx.notes import note
from kipx.report import folders

MODES = ("auto", "online", "offline", "disabled")
KEPT = "wandb.json"  # in the run folder: the id of its W&B run
WAITING = 50_000  # rows that may wait for W&B; it is given up then
INIT_S = 60  # for the server to answer
INTERRUPTED_S = 10  # that a run that was stopped waits, at most
TEARDOWN_S = 2  # for a service that no longer answers


def build(*, mode, project, entity, group, finish_s):
    """The mirror that `logger=wandb` asks for.

    Args:
      mode: 'online', 'offline' (a folder for `wandb sync`), 'disabled', or 'auto': WANDB_MODE if it is set, else online
        where wandb finds a key, else offline.
      project, entity: where to, as W&B has them; entity None: the user's own.
      group: of runs; None: the sweep's folder, of a run in a sweep.
      finish_s: > 0, seconds that the end of a run waits for what is still to be sent.
    Returns:
      (folder, config, command) -> context manager that yields a kipx.track.Mirror.
    Raises:
      UserError: an unknown mode, or finish_s <= 0.
    """
    checks.one_of("logger.mode", mode, MODES)
    checks.positive("logger.finish_s", finish_s)
    if mode == "disabled":
        return track.nowhere
    return partial(_opened, mode=mode, finish_s=finish_s, where={"project": project, "entity": entity, "group": group})


@contextlib.contextmanager
def _opened(folder, config, command, *, mode, finish_s, where):
    if not hosts.leads():
        yield track.SILENT
        return
    items, broken = queue.Queue(WAITING), threading.Event()
    fail, send = partial(_fail, broken, folder, command), partial(_send, items, broken, folder, command)
    identified = threading.Event()
    begin = partial(_begin, pathlib.Path(folder), identified, config, command, mode, where)
    thread = threading.Thread(target=_work, args=(begin, items, broken, fail), name="kipx-wandb", daemon=True)
    thread.start()
    identified.wait()  # a short run would close its manifest while wandb still loads
    code, patience_s = 1, min(finish_s, INTERRUPTED_S)
    try:
        yield track.Mirror(lambda row: send(partial(_log, row)), lambda step, show: send(partial(_see, step, show)))
        code, patience_s = 0, finish_s
    finally:
        send(partial(_end, pathlib.Path(folder), command, code))
        send(None)
        thread.join(patience_s)
        if thread.is_alive() and not broken.is_set():
            fail(f"has not taken everything within {patience_s:g} s (logger.finish_s)")
        if thread.is_alive():
            _let_go()


def _send(items, broken, folder, command, item):
    """Puts an item into the queue; never waits."""
    if not broken.is_set():
        try:
            items.put_nowait(item)
        except queue.Full:
            _fail(broken, folder, command, f"is {WAITING} rows behind")


def _fail(broken, folder, command, reason):
    """Ends the mirror, with one line the first time."""
    if not broken.is_set():
        broken.set()
        typed = shlex.join(["kipx", command, f"resume={folder}", "logger=wandb"])
        note(
            f"logger=wandb: {reason}; the run goes on without it and {folder}/{artifacts.METRICS} is whole; "
            f"afterwards {typed} sends W&B what it lacks"
        )


def _work(begin, items, broken, fail):
    """The thread: opens the W&B run, and does one item after another until there is None."""
    try:
        run = begin()
        while (item := items.get()) is not None and not broken.is_set():
            item(run)
    except BaseException as error:  # wandb ends with SystemExit where its service failed
        lines = str(error).splitlines()
        fail(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
    finally:
        _tear_down()


def _tear_down():
    """Ends wandb's service; after that nothing of wandb is left to be done when Python exits."""
    with contextlib.suppress(BaseException):
        sys.modules["wandb"].teardown(exit_code=0)


def _let_go():
    """The same of a service that may never answer."""
    thread = threading.Thread(target=_tear_down, daemon=True)
    thread.start()
    thread.join(TEARDOWN_S)


def _begin(folder, identified, config, command, mode, where):
    """The W&B run of a run folder, opened; `identified` is set as soon as the folder has its wandb.json, or cannot."""
    try:
        record = folders.json_object(folder / artifacts.JOB)
        identity = _identity(folder, record)
    finally:
        identified.set()
    import wandb

    return wandb.init(
        project=where["project"],
        entity=where["entity"],
        group=where["group"] or identity["group"],
        job_type=command,
        name=" ".join(record["overrides"])[:128] if record.get("overrides") else folder.name,
        id=identity["id"],
        resume=None if "WANDB_SWEEP_ID" in os.environ else "allow",  # W&B's sweeps refuse it
        mode=_mode(mode),
        config=config,
        settings=wandb.Settings(console="off", init_timeout=INIT_S),
    )


def known(folder):
    """{'id', 'group'} of a run folder's W&B run; None where it has none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads((folder / KEPT).read_text())
        return {"id": str(kept["id"]), "group": kept.get("group")}
    return None


def _identity(folder, record):
    """{'id', 'group'} as kept in the folder; of a new run written before W&B is asked, so that it outlives a kill."""
    if kept := known(folder):
        return kept
    given = os.environ.get("WANDB_RUN_ID") if not record else None  # by the agent of a W&B sweep
    made = {"id": given or uuid.uuid4().hex[:8], "group": _sweep(folder) if record else None}
    artifacts.write_json(folder / KEPT, made)
    return made


def _sweep(folder):
    """The name of the folder of a job's sweep, in which Hydra writes what it sweeps over."""
    parents = folder.absolute().parents
    return next((parent.name for parent in parents if (parent / "multirun.yaml").is_file()), parents[0].name)


def _mode(mode):
    """As wandb.init takes it.

    Raises:
      UserError: online, and there is no key; wandb would ask on the terminal.
    """
    import wandb

    if mode == "offline" or (mode == "auto" and os.environ.get("WANDB_MODE")):
        return None if mode == "auto" else mode
    if wandb.login(prompt=False):
        return "online"
    if mode == "online":
        raise checks.UserError("found no key; run wandb login, or take logger.mode=offline")
    return "offline"


def unreachable():
    """Why W&B is not to be asked, in one line: WANDB_MODE says so, or there is no key; '' where it may be."""
    import wandb

    if (mode := os.environ.get("WANDB_MODE") or "online") not in ("online", "shared"):
        return f"WANDB_MODE is {mode}"
    return "" if wandb.login(prompt=False) else "wandb found no key"


def _log(row, run):
    """A row of metrics.jsonl under its names; W&B has those before starting_step already."""
    if row["step"] >= run.starting_step:
        run.log(row, step=row["step"])


def _see(step, show, run):
    """The support set at a step: a picture, its labels as a table, pixels and labels as histograms."""
    import PIL.Image
    import wandb

    if step < run.starting_step:
        return
    shown = show()
    labels = np.asarray(shown.labels)
    classes = [shown.class_names[place] for place in labels.argmax(axis=1)]
    rows = [[place, name, *label] for place, (name, label) in enumerate(zip(classes, labels.tolist(), strict=True))]
    seen = {
        "images": wandb.Image(PIL.Image.open(io.BytesIO(shown.picture)), caption=f"step {step}"),
        "labels": wandb.Table(columns=["image", "class", *map(str, shown.class_names)], data=rows),
        "histogram/pixels": wandb.Histogram(np.asarray(shown.pixels).ravel()),
        "histogram/labels": wandb.Histogram(labels.ravel()),
    }
    run.log(seen, step=step)


def _end(folder, command, code, run):
    """Finishes the W&B run; of a run that is done with its summary, and its folder as an artifact."""
    import wandb

    if code == 0 and (folder / artifacts.MANIFEST).is_file():
        run.summary.update(json.loads((folder / "summary.json").read_text()))
        artifact = wandb.Artifact(f"{command}-{run.id}", type="run", metadata={"manifest": artifacts.MANIFEST})
        artifact.add_dir(str(folder))  # copied: kipx report adds to the folder before an offline run is synced
        with contextlib.suppress(FileNotFoundError):
            artifact.remove(artifacts.LOCK)  # the run still holds it
        run.log_artifact(artifact)
    run.finish(exit_code=code)
