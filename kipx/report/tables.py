"""A table, for the terminal and as Markdown."""

import re
from typing import NamedTuple

import numpy as np

from kipx import checks


class Table(NamedTuple):
    """Cells of text.

    Attributes:
      title: one line.
      columns: headings; those that begin with '>' are of numbers, and lean to the right.
      rows: tuples of as many cells.
      notes: lines below it.
    """

    title: str
    columns: tuple
    rows: list
    notes: tuple = ()


def markdown(table):
    """The table under a heading, its notes below, as Markdown ending with a newline."""
    return f"## {checks.printable(table.title)}\n\n{body(table)}"


def body(table):
    """The same without the heading."""
    names = [column.lstrip(">") for column in table.columns]
    rule = ["--:" if column.startswith(">") else "---" for column in table.columns]
    lines = [_line(names), _line(rule), *map(_line, table.rows), ""] if table.rows else []
    for note in table.notes:
        lines += [checks.printable(note), ""]
    return "\n".join(lines)


def _line(cells):
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text):
    """Text that stays in its cell, as text: in one line, no end of the cell in it, and no tag of HTML."""
    text = re.sub(r"(\\*)\|", r"\1\1\\|", checks.printable(text))
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)


def percent(share):
    """97.3 of 0.973."""
    return f"{100 * share:.1f}"


def mean_and_spread(shares):
    """'71.3 ± 0.2' of shares, in percent: their mean and sample standard deviation, which one alone does not have."""
    return percent(np.mean(shares)) + (f" ± {percent(np.std(shares, ddof=1))}" if len(shares) > 1 else "")


def natural_draws(summary):
    """('20 random natural draws', '68.5% ± 4.2') of a run's summary; one draw has no spread."""
    std = summary.get("natural_test_accuracy_std")
    mean = f"{percent(summary['natural_test_accuracy_mean'])}%"
    return f"{summary['natural_draws']} random natural draws", mean + ("" if std is None else f" ± {percent(std)}")


def span(numbers):
    """'0.1 to 0.2' from the smallest to the largest, '0.1' where they are one."""
    low, high = min(numbers), max(numbers)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def duration(time_s):
    """A time in the unit that suits it."""
    if time_s < 120:
        return f"{time_s:.0f} s"
    return f"{time_s / 60:.0f} min" if time_s < 7200 else f"{time_s / 3600:.1f} h"
