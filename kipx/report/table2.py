"""The paper's Table 2 beside ours: finite networks trained on distilled sets."""

import collections

from kipx.report import paper
from kipx.report.tables import Table, mean_and_spread, percent, span
from kipx.report.transfers import DISTILLED

COLUMNS = ("KIP to NN", "LS to NN", "natural", "kmeans", "herding")
_MADE_BY = {"distill": "KIP to NN", "label-solve": "LS to NN"}


def build(transfers):
    """Puts runs of transfer beside the paper's numbers.

    A cell of ours is the run whose networks were best on the validation images, and its accuracy on the test images:
    mean and sample standard deviation over its networks, their width and their loss.

    Args:
      transfers: list of kipx.report.transfers.Transfer.
    Returns:
      kipx.report.tables.Table.
    Source: paper, Table 2.
    """
    cells = collections.defaultdict(list)
    for run in transfers:
        if run.finished and _is_the_papers(run):
            for name in run.summary["sets"]:
                column = _MADE_BY.get(run.summary.get("made_by")) if name == DISTILLED else name
                cells[run.dataset, run.per_class, column].append((run, name))
    rows = [
        (paper.TITLES[dataset], str(per_class), *numbers, *(_cell(cells[dataset, per_class, c]) for c in COLUMNS))
        for (dataset, per_class), numbers in paper.TABLE2.items()
    ]
    columns = (*(f">paper: {name}" for name in paper.TABLE2_COLUMNS), *(f">ours: {name}" for name in COLUMNS))
    return Table(
        "Table 2: test accuracy of finite networks in percent", ("data set", ">images a class", *columns), rows, _NOTES
    )


_NOTES = (
    "ConvNet; sets in colour are whitened, the others standardized. The paper's networks are 1,024 channels wide; its "
    "numbers are the best over settings, checkpoints, and learned (*) or fixed labels. DC/DSA: Zhao et al. 2021.",
    "Ours: the run that was best on validation images, mean ± standard deviation over its networks. natural, kmeans "
    "and herding are sets of the same size that nobody learned, trained on alike.",
)


def _is_the_papers(run):
    """Whether it is ConvNet on a set preprocessed as the paper's."""
    whitened = run.summary["preprocessing"] == "zca"
    return run.network == "convnet depth 3" and whitened == (run.dataset in paper.COLOUR)


def _cell(found):
    """'71.3 ± 0.2 (3 networks, width 64, mse)' of the best on validation images; '' of none."""
    if not found:
        return ""
    run, name = max(found, key=lambda one: one[0].summary["sets"][one[1]]["validation_accuracy"])
    own = run.summary["sets"][name]
    count = len(own["test_accuracies"])
    networks = f"{count} network{'s' if count > 1 else ''}"
    return f"{mean_and_spread(own['test_accuracies'])} ({networks}, width {run.width}, {run.loss})"


def listing(transfers):
    """One row a run and set: the command that repeats it, its settings, what it reached.

    Args, Returns: as `build`.
    """
    rows = [
        (
            run.name,
            f"`{run.command}`",
            name,
            percent(own["validation_accuracy"]),
            mean_and_spread(own["test_accuracies"]),
            str(own["chosen_step"]),
            span(own["learning_rates"]),
            run.device,
        )
        for run in transfers
        if run.finished
        for name, own in run.summary["sets"].items()
    ]
    columns = ("run", "command", "set", ">validation", ">test", ">chosen step", ">learning rate", "on")
    return Table("Networks: how to repeat each", columns, rows)
