"""kipx report: the runs in a folder, as a table."""

import pathlib
import shlex

from kipx import artifacts, checks
from kipx.report import listing, natural, runs, table1
from kipx.report.tables import markdown

PAGE = pathlib.Path("docs/results.md")
TABLES = {"runs": listing.build, "table1": table1.build, "times": listing.times, "natural": natural.build}
BEHIND = {"table1": (natural.build, listing.times, listing.commands)}  # what else a table's page has


def run(run, *, table, out):
    """Reads the runs in a folder, and writes their table's page.

    Args:
      run: a run folder, a sweep's, or one that holds such folders.
      table: 'runs', 'table1', 'times' or 'natural'.
      out: a Markdown file; None: docs/results.md for table1 where there is a folder docs, else none.
    Returns:
      (Table, messages of folders that could not be read, path that was written or None).
    Raises:
      UserError: no such folder, no run in it, an unknown table, or a file that cannot be written.
    """
    make = TABLES[checks.one_of("table", table, tuple(TABLES))]
    found, troubles = runs.find(run)
    if not found:
        raise checks.UserError("; ".join([f"run: expected at least one run in {run}, got none", *troubles]))
    path = pathlib.Path(out) if out else _page(table)
    if path:
        tables = [make(found), *(more(found) for more in BEHIND.get(table, ()))]
        _write(path, _text(run, table, out, tables, troubles))
    return make(found), troubles, path


def _page(table):
    """The page of results, in a folder such as kipx's repository."""
    return PAGE if table == "table1" and PAGE.parent.is_dir() else None


def _text(run, table, out, tables, troubles):
    typed = ["kipx", "report", f"run={run}", f"table={table}", *([f"out={out}"] if out else [])]
    lines = ["# Results", "", f"Written by `{shlex.join(typed)}`.", "", *map(markdown, tables)]
    lines += ["## Left out", "", *(f"- {trouble}" for trouble in troubles)] if troubles else []
    return "\n".join(lines).rstrip() + "\n"


def _write(path, text):
    try:
        artifacts.write(path, text)
    except OSError as error:
        raise checks.UserError(f"out: cannot write {path} ({error.strerror})") from error
