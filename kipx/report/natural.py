"""Natural images beside learned ones: the paper's claim that one learned image a class beats 100 natural ones."""

import collections

from kipx.report import paper, seeds
from kipx.report.tables import Table


def build(runs):
    """One row for each data set, kernel and preprocessing of runs without steps.

    Args:
      runs: list of kipx.report.runs.Run.
    Returns:
      kipx.report.tables.Table; in its last column the best run with one learned image a class.
    Source: paper section 3.1.
    """
    measured = [run for run in runs if run.measured and not run.labels_solved]
    natural = [run for run in measured if not run.steps and run.option("support") == "natural" and _one_hot(run)]
    sizes = sorted({run.per_class for run in natural})
    cells = collections.defaultdict(list)
    for run in natural:
        cells[_row(run), run.per_class].append(run)
    for run in measured:
        if run.steps and run.per_class == 1:
            cells[_row(run), "learned"].append(run)
    rows = [
        (*row, *(seeds.best(cells[row, column]) for column in (*sizes, "learned")))
        for row in dict.fromkeys(_row(run) for run in natural)
    ]
    columns = ("data set", "kernel", "preprocessing", *(f">{n} a class" for n in sizes), ">1 a class, learned")
    notes = ("Percent: mean ± standard deviation over seeds.",) if rows else ("No run has natural images as they are.",)
    return Table("Natural images: test accuracy", columns, rows, notes)


def _one_hot(run):
    return run.at("labels", "init") == "onehot"


def _row(run):
    path = run.at("dataset", "load", "path")
    name = paper.TITLES.get(run.dataset, run.dataset) if path is None else f"{run.dataset} {path}"
    return name, run.kernel, run.option("preprocess")
