"""Does the set stay ahead of the images that it began as when hyperparameters change? KRR's in place of networks'."""

from kipx import checks
from kipx.analysis.subject import accuracy, start
from kipx.report import charts
from kipx.report.pictures import spread
from kipx.report.tables import Table, percent

RIDGES = (1e-6, 1e-2, 1e-1, 1.0)
CHECKPOINTS = 8  # at most, as in the paper


def answer(subject):
    """Test accuracy at checkpoints against that of the set at step 0, for each kernel and ridge.

    Args:
      subject: kipx.analysis.subject.Subject.
    Returns:
      (kipx.report.tables.Table, PNG as bytes).
    Raises:
      UserError: there is no checkpoint of step 0, or none after it.
    Source: paper Figure 4, with kernel and ridge for its networks' rate, loss and the like; the figure itself is
      `kipx transfer -m +figure=4`.
    """
    start(subject)
    later = [step for step in subject.steps if step]
    if not later:
        raise checks.UserError("question: robustness needs a checkpoint after step 0; give a run that has learned")
    steps = [0, *(later[i] for i in spread(len(later), CHECKPOINTS))]
    found = {
        (kernel, ridge): [accuracy(subject, kernel, subject.at(step), ridge=ridge) for step in steps]
        for kernel in subject.kernels
        for ridge in RIDGES
    }
    return _table(found, steps, subject), charts.png(_panels(found, steps))


def _table(found, steps, subject):
    rows = [
        (kernel.name, kernel.kind, f"{ridge:g}", *map(percent, shares)) for (kernel, ridge), shares in found.items()
    ]
    columns = ("kernel", "kind", ">ridge", *(f">step {step}" for step in steps))
    ahead = [share > shares[0] for shares in found.values() for share in shares[1:]]
    notes = (
        f"Test accuracy of kernel ridge regression in percent on {subject.tested}; step 0 is the set it began as. "
        f"Later sets are ahead of it in {sum(ahead)} of {len(ahead)} cases.",
        "The paper's Figure 4 trains networks with other hyperparameters: kipx transfer -m +figure=4 run=<folder>.",
    )
    return Table("Accuracy over hyperparameters and checkpoints (after Figure 4)", columns, rows, notes)


def _panels(found, steps):
    x_label = f"set at step 0: {charts.ACCURACY}"
    panels = []
    for kind in dict.fromkeys(kernel.kind for kernel, _ in found):
        shares = [each for (kernel, _), each in found.items() if kernel.kind == kind]
        series = [
            charts.Series(str(step), [each[0] for each in shares], [each[i] for each in shares], [])
            for i, step in enumerate(steps)
            if step
        ]
        panels.append(charts.Panel(kind, "KIP steps", charts.ACCURACIES, x_label, series, ordered=True))
    return panels
