"""How well does the set do under kernels other than the one that it was distilled with?"""

import numpy as np

from kipx.analysis.subject import accuracy
from kipx.report import charts
from kipx.report.tables import Table, mean_and_spread, percent


def answer(subject):
    """Test accuracy under each kernel, beside that of natural images of the same number.

    Args:
      subject: kipx.analysis.subject.Subject.
    Returns:
      (kipx.report.tables.Table, PNG as bytes).
    Source: paper section 3.2, Figure 1.
    """
    found = [
        (
            kernel,
            accuracy(subject, kernel, subject.learned),
            [accuracy(subject, kernel, one) for one in subject.natural],
        )
        for kernel in sorted(subject.kernels, key=lambda kernel: not kernel.own)
    ]
    return _table(found, subject), charts.png(
        [_panel(found, kind) for kind in dict.fromkeys(k.kind for k, *_ in found)]
    )


def _table(found, subject):
    rows = [
        (
            kernel.name,
            kernel.kind,
            "yes" if kernel.own else "",
            percent(learned),
            mean_and_spread(natural),
            f"{100 * (learned - np.mean(natural)):+.1f}",
        )
        for kernel, learned, natural in found
    ]
    columns = ("kernel", "kind", "distilled with", ">learned", ">natural", ">ahead")
    notes = (
        f"Test accuracy in percent on {subject.tested} at ridge {subject.ridge:g}; natural: mean ± standard deviation "
        f"over {len(subject.natural)} draws of as many training images.",
    )
    return Table("Accuracy under other kernels (Figure 1)", columns, rows, notes)


def _panel(found, kind):
    shown = [one for one in found if one[0].kind == kind]
    names = [kernel.name.replace(" depth ", "\n") for kernel, *_ in shown]
    ranges = [(min(natural), max(natural)) for *_, natural in shown]
    series = [
        charts.Series("learned", names, [learned for _, learned, _ in shown], []),
        charts.Series("natural, mean and range", names, [float(np.mean(natural)) for *_, natural in shown], ranges),
    ]
    return charts.Panel(kind, "images", charts.NAMES, "kernel, depth", series)
