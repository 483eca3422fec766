"""Where the numbers of a run go: metrics.jsonl, and a progress bar on a terminal or plain lines in a log."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kipx import checks, untrusted
from kipx.artifacts import METRICS
from kipx.files import storing, write
from kipx.notes import note

DOUBTFUL = 0.1  # of a prediction: its first digit


class Shown(NamedTuple):
    """A support set to be looked at."""

    picture: bytes  # PNG
    pixels: Any  # (n, h, w, c), not preprocessed
    labels: Any  # (n, classes)
    class_names: tuple


class Mirror(NamedTuple):
    """Where a run is shown beside its folder; neither function waits or raises.

    Attributes:
      log: row -> None; a row of metrics.jsonl.
      see: (step, () -> Shown) -> None; the function is called in another thread, if at all.
    """

    log: Callable
    see: Callable


SILENT = Mirror(lambda row: None, lambda step, show: None)


def nowhere(folder, config, command):
    """The context manager of a run that is shown nowhere.

    Args:
      folder: the run folder, which exists; config: resolved, nested dicts; command: that runs.
    """
    return contextlib.nullcontext(SILENT)


def jsonl(folder, *, after=-1):
    """Opens metrics.jsonl, cut back to rows of steps up to `after`, and returns log(row).

    Args:
      folder: the run folder.
      after: the last step to keep; a torn last line is dropped with the rest.
    Returns:
      row -> None; each row is on its way to the disk when the call returns.
    """
    path = pathlib.Path(folder) / METRICS
    if path.exists():
        write(path, "".join(json.dumps(row) + "\n" for row in rows(folder) if row["step"] <= after))

    def log(row):
        with storing(path), open(path, "a", opener=_own) as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    return log


def _own(path, flags):
    """Opens a file, but never another one that a link in its place leads to."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def rows(folder):
    """The rows of a run folder's metrics.jsonl that state their step; [] where there is none."""
    path = pathlib.Path(folder) / METRICS
    found = read(path) if path.is_file() else []
    return [row for row in found if type(row["step"]) is int]


def read(path):
    """The rows of a metrics.jsonl; a last line that is torn, as a kill leaves it, is left out.

    Raises:
      UserError: another line is torn, or is no row.
    """
    lines, rows = pathlib.Path(path).read_bytes().splitlines(keepends=True), []
    for number, line in enumerate(lines, 1):
        try:
            row = untrusted.from_json(line)
            rows.append({"step": row["step"], **row})
        except (untrusted.Damaged, TypeError, KeyError) as error:
            if number == len(lines) and not line.endswith(b"\n") and line.isascii():
                break
            raise checks.UserError(f"{path}: line {number} is no row of metrics; take it from a backup") from error
    return rows


def rounding_watch(advice="set kernel.dtype=float64"):
    """Builds watch(metrics): a line on stderr, the first time that a rounding error in them is above `DOUBTFUL`.

    Args:
      advice: what to type for more digits.
    """
    said = False

    def watch(metrics):
        nonlocal said
        worst = max((value for key, value in metrics.items() if key.startswith("rounding_error")), default=0.0)
        if worst > DOUBTFUL and not said:
            said = True
            note(
                f"rounding_error: expected at most {DOUBTFUL}, got {worst:.2g}: the kernel's precision limits "
                f"what is measured; {advice} or raise ridge"
            )

    return watch


@contextlib.contextmanager
def progress(total, *, done, show, title="distill", measured="test"):
    """Yields show_row(row): a live bar with loss, accuracy and time left, or plain lines where there is no terminal.

    Args:
      total: steps of the whole run.
      done: steps done before.
      show: False for silence.
      title: the command.
      measured: on which images accuracy is told: 'test' or 'validation'.
    """
    console, accuracy = Steady(stderr=True), f"{measured}_accuracy"
    if not show:
        yield lambda row: None
    elif not console.is_terminal:

        def show_line(row):
            if accuracy in row:
                console.print(_line(row, total, measured), highlight=False, soft_wrap=True)

        yield _while_seen(show_line)
    else:
        columns = (
            TextColumn(f"[bold]{title}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task, test = bar.add_task("compiling", total=total, completed=done), [""]

            def show_row(row):
                test[0] = f"{measured} {row[accuracy]:.1%}" if accuracy in row else test[0]
                loss = _loss(row, 4) or "compiling"
                bar.update(task, completed=row["step"], description=f"{loss} {test[0]}")

            yield _while_seen(show_row)


class Steady(Console):
    """A console whose broken pipe is an OSError like others, where rich would end the process."""

    def on_broken_pipe(self):
        """Is called by rich where it handles the error."""
        raise


def _while_seen(show):
    """What shows something, until it cannot: a terminal, a pipe or a log that is gone stops no run."""
    seen = True

    def shown(what):
        nonlocal seen
        try:
            if seen:
                show(what)
        except OSError:
            seen = False

    return shown


@contextlib.contextmanager
def counting(what, total, *, done, show, every_s=10.0):
    """Yields show_done(n): a live bar with the time left, or a plain line at most each `every_s` without a terminal.

    Args:
      what: is counted, a plural.
      total: of them; done: before; show: False for silence.
    """
    console = Steady(stderr=True)
    if not show:
        yield lambda n: None
    elif not console.is_terminal:
        began = said = time.monotonic()

        def show_line(n):
            nonlocal said
            if n == total or time.monotonic() - said >= every_s:
                said = time.monotonic()
                left = (said - began) / max(n - done, 1) * (total - n)
                console.print(f"{what} {n}/{total}  {left:.0f} s left", highlight=False, soft_wrap=True)

        yield _while_seen(show_line)
    else:
        columns = TextColumn(f"[bold]{what}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield _while_seen(lambda n: bar.update(task, completed=n))


def _line(row, total, measured):
    time = f"  {row['step_time_s']:.2g} s a step" if "step_time_s" in row else ""
    accuracy = row[f"{measured}_accuracy"]
    return f"step {row['step']}/{total}  {_loss(row, 5)}{measured} {accuracy:.1%}{time}"


def _loss(row, digits):
    loss = f"loss {row['train_loss']:.{digits}f}  " if "train_loss" in row else ""
    return loss + (f"train {row['train_accuracy']:.1%}  " if "train_accuracy" in row else "")
