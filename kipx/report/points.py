"""What runs of transfer measured, one number with its spread for each setting, and tables of such numbers."""

import collections
import pathlib
import shlex
from typing import NamedTuple

import numpy as np

from kipx.report import sweeps
from kipx.report.tables import Table, percent

KRR = "kernel ridge regression"  # in place of a loss
SET, STEP, NETWORK, WIDTH, NORMALIZATION, LOSS = "set", "KIP step", "network", "width", "normalization", "loss"
LAST = "last"
LOSSES = {"mse": "mean squared error", "cross_entropy": "cross entropy", "soft_cross_entropy": "soft cross entropy"}
_OF_TRAINER = {
    "label scale": "label_scale",
    "factor of the stable rate": "factor",
    "momentum": "momentum",
    "L2": "l2",
    "outputs centred": "centred",
    "batch size": "batch_size",
    "training steps": "steps",
}


class Point(NamedTuple):
    """One number of a table.

    Attributes:
      settings: {what: value} of all that decides it.
      accuracies: of each network; of kernel ridge regression the one there is.
    """

    settings: dict
    accuracies: tuple

    @property
    def mean(self):
        """Of the networks' test accuracies."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self):
        """Their sample standard deviation, 0 of one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0

    def at(self, key):
        """The value of one setting, None if it has none."""
        return self.settings.get(key)


def of_networks(transfers):
    """A Point for each run of transfer that has ended, whose set is a path as typed; of equal settings the first."""
    points = [Point(_settings(run), run.accuracies()) for run in transfers if run.finished and run.accuracies()]
    return list({str(point.settings): point for point in reversed(points)}.values())[::-1]


def of_kernels(transfers):
    """A Point for what each set reaches under the kernel that it was distilled with."""
    found = {
        (run.config["run"], _step(run)): run.summary["kernel_test_accuracy"]
        for run in transfers
        if "kernel_test_accuracy" in run.summary
    }
    return [Point({SET: source, STEP: step, LOSS: KRR}, (share,)) for (source, step), share in found.items()]


def with_names(*lists):
    """The same lists of Points, each set's path cut to the shortest end that no other set has: a name, most often."""
    paths = {point.at(SET) for points in lists for point in points}
    names = {
        path: _name(pathlib.PurePath(path).parts, [pathlib.PurePath(other).parts for other in paths]) for path in paths
    }
    return [[point._replace(settings={**point.settings, SET: names[point.at(SET)]}) for point in ps] for ps in lists]


def _name(own, paths):
    """The end of a path; one that is itself an end of another is that one, seen from elsewhere."""
    others = [other for other in paths if own[-len(other) :] != other[-len(own) :]]
    ends = (own[-length:] for length in range(1, len(own) + 1))
    return "/".join(next((end for end in ends if all(other[-len(end) :] != end for other in others)), own))


def values(points, key):
    """The different values of a setting: numbers in order, then words in theirs; losses as in LOSSES."""
    found = {point.at(key): None for point in points if point.at(key) is not None}
    if key == LOSS:
        return sorted(found, key=lambda loss: [KRR, *LOSSES.values(), loss].index(loss))
    return sorted(found, key=lambda value: (isinstance(value, str), value))


def pivot(title, points, column, notes=()):
    """A table with a column for each value of one setting, and a row for each of the others' that there is.

    Args:
      title: one line.
      points: list of Point.
      column: the setting.
      notes: more lines below it.
    Returns:
      kipx.report.tables.Table; settings that all networks share stand below it.
    """
    trained = [point for point in points if point.at(LOSS) != KRR]
    keys = [key for key in trained[0].settings if key != column and len(values(points, key)) > 1]
    same = [key for key in trained[0].settings if key not in (*keys, column)]
    columns, cells = values(points, column), collections.defaultdict(dict)
    for point in _in_order(points, keys):
        row = tuple(_text(point.at(key)) for key in keys)
        cells[row].setdefault(point.at(column), cell(point))
    rows = [(*row, *(found.get(value, "") for value in columns)) for row, found in cells.items()]
    headings = (*keys, *(f">{value}" if isinstance(value, str) else f">{column} {value}" for value in columns))
    shared = ", ".join(f"{key} {_text(trained[0].at(key))}" for key in same)
    return Table(title, headings, rows, (*_notes(trained), f"All networks: {shared}.", *notes))


def cell(point):
    """'97.3 ± 0.1' percent; without a spread where there is one number."""
    spread = f" ± {percent(point.spread)}" if len(point.accuracies) > 1 else ""
    return f"{percent(point.mean)}{spread}"


def commands(transfers):
    """The commands that made the runs, those of a sweep as one, in the order of their folders."""
    together = collections.defaultdict(list)
    for run in transfers:
        sweep = run.path.parent
        together[sweep if (sweep / sweeps.FILE).is_file() else run.path].append(run)
    return [_as_one(runs) if runs[0].path != folder else runs[0].command for folder, runs in together.items()]


def _as_one(runs):
    """The command of a sweep, from those of its jobs."""
    together = collections.defaultdict(dict)
    for word in (word for run in runs for word in shlex.split(run.command)[2:]):
        key, _, value = word.partition("=")
        together[key][value] = None
    return shlex.join(["kipx", "transfer", "-m", *(f"{key}={','.join(values)}" for key, values in together.items())])


def _in_order(points, keys):
    """Points by their settings, those without one behind those with it."""
    order = {key: [*values(points, key), None] for key in keys}
    return sorted(points, key=lambda point: [order[key].index(point.at(key)) for key in keys])


def _notes(trained):
    counts = sorted({len(point.accuracies) for point in trained})
    over = " or ".join(map(str, counts))
    return (
        f"Test accuracy in percent: mean ± sample standard deviation over {over} networks, which differ in start. "
        "Bars in the picture reach from the worst network to the best.",
    )


def _settings(run):
    """Those of a run; one that its kipx did not have yet is None."""
    summary, trainer, network = run.summary, run.config["trainer"], run.config["network"]
    return {
        SET: run.config["run"],
        STEP: _step(run),
        "data set": run.dataset,
        "images": summary["images"],
        "preprocessing": summary["preprocessing"],
        NETWORK: run.network,
        WIDTH: run.width,
        "parameterization": network.get("parameterization"),
        NORMALIZATION: network.get("normalization"),
        LOSS: LOSSES.get(run.loss, run.loss),
        **{name: trainer.get(key) for name, key in _OF_TRAINER.items()},
        "augmentation rate": run.config.get("augment", {}).get("rate"),
        "seed": run.config.get("seed"),
    }


def _step(run):
    return LAST if run.step is None else run.step


def _text(value):
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
