"""The paper's Table 1 beside ours."""

import collections

from kipx.report import paper, seeds
from kipx.report.tables import Table


def build(runs):
    """Puts runs beside the paper's numbers.

    A cell of ours is the mean over the seeds of runs that are equal otherwise, with its sample standard deviation. Runs
    that have not ended count with their last evaluation, and the cell tells the step.

    Args:
      runs: list of kipx.report.runs.Run.
    Returns:
      kipx.report.tables.Table.
    Source: paper, Table 1.
    """
    cells = collections.defaultdict(list)
    for run in runs:
        if run.measured and (column := _column(run)):
            cells[run.dataset, run.per_class, column].append(run)
    rows = []
    for (dataset, per_class), numbers in paper.TABLE1.items():
        ours = [seeds.best(cells[dataset, per_class, column]) for column in paper.COLUMNS]
        rows.append((paper.TITLES[dataset], str(per_class), *numbers, *ours))
    columns = (
        "data set",
        ">images a class",
        *(f">paper: {name}" for name in paper.COLUMNS),
        *(f">ours: {name}" for name in paper.COLUMNS),
    )
    return Table("Table 1: test accuracy in percent", columns, rows, _NOTES)


_NOTES = (
    "As in the paper labels are learned and, for ConvNet, sets in colour are whitened and the others standardized; "
    "FC is of any depth; aug is augmentation of some or all targets.",
    "Ours: mean ± standard deviation over seeds. A run that has not ended counts with its last evaluation; its step "
    "stands beside it. Where several settings were run, the one with the best test accuracy is shown.",
)


def _column(run):
    """The column of Table 1 that a run belongs to, None for any other run."""
    network, augmented = run.option("kernel", "architecture"), (run.at("augment", "rate") or 0) > 0
    if run.at("kernel", "kind") != "ntk":
        return None
    convnet = network == "convnet" and run.at("kernel", "architecture", "prepend_conv") and run.depth == 3
    convnet = convnet and run.option("preprocess") == ("zca" if run.dataset in paper.COLOUR else "standardize")
    if run.labels_solved:
        return paper.LS if convnet and run.option("support") == "natural" else None
    if not run.steps or not run.at("labels", "learned"):
        return None
    if network == "fc":
        return paper.KIP_FC if augmented else None
    return (paper.KIP_AUGMENTED if augmented else paper.KIP) if convnet else None
