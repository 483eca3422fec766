"""kipx report: the runs in a folder, as a table and as pages."""

import pathlib
import shlex
from functools import partial

from kipx import artifacts, checks, manifest
from kipx.report import (
    charts,
    evaluations,
    figures,
    folders,
    listing,
    natural,
    overview,
    page,
    pages,
    points,
    runs,
    sweeps,
    table1,
    table2,
    transfers,
    wandb_report,
)
from kipx.report.tables import Table, markdown

PAGE = pathlib.Path("docs/results.md")
TABLES = {"runs": listing.build, "table1": table1.build, "times": listing.times, "natural": natural.build}
BEHIND = {"table1": (natural.build, listing.times, listing.commands)}  # what else a table's page has
NETWORKS = (table2.build, table2.listing)  # what the page of results and table2's have of runs of transfer
FIGURES = {name: getattr(figures, name) for name in ("figure1", "figure2", "figure3", "figure4")}


def run(run, *, table, out):
    """Reads the runs in a folder, and writes their table's page.

    Args:
      run: a run folder, a sweep's, or one that holds such folders.
      table: 'runs', 'table1', 'times', 'natural', or of runs of transfer 'table2', 'figure1' to 'figure4'.
      out: a Markdown file, a figure's picture beside it; None: docs/results.md for table1 where there is a folder docs
        and in it no such file but this command's, else none.
    Returns:
      (Table, messages of folders that could not be read and of a page that was kept, what was written or None).
    Raises:
      UserError: no such folder, no run in it, an unknown table, or a file that cannot be written.
    """
    if checks.one_of("table", table, (*TABLES, "table2", *FIGURES)) in FIGURES:
        return _figure(run, table, out)
    if table == "table2":
        return _table2(run, table, out)
    found, trained, troubles = _both(run)
    trained = trained if table in ("runs", "table1") else []
    jobs = sweeps.read(run) if table == "runs" else []
    if not found and not trained and not jobs:
        raise checks.UserError("; ".join([f"run: expected at least one run in {run}, got none", *troubles]))
    made = [TABLES[table](found), *(more(found) for more in BEHIND.get(table, ()))] if found else []
    more = {"runs": (listing.of_transfers,), "table1": NETWORKS}.get(table, ()) if trained else ()
    made += [make(trained) for make in more]
    path = pathlib.Path(out) if out else _page(table)
    kept = [] if out or path is None or _is_of(path, run, table) else [_kept(path, run)]
    if path and not kept:
        _write(path, _text(run, table, out, [*map(markdown, made)], troubles))
    first = made[0] if made else Table("Runs: none has begun", ("run",), [])
    said = [*troubles, *_undone(jobs), *kept]
    return _with_others(first, trained if found else []), said, None if kept else path


def write_pages(run):
    """Writes report.html of a folder of runs: of a run its page; of a sweep those of its runs as well, of others links.

    Of a sweep's runs a page that is newer than all else in its folder is left as it is.

    Args:
      run: as for `run`.
    Returns:
      (the page or None, messages on those that could not be written).
    """
    folder, whole, both = _found(run)
    alone = any(one.path == folder for one, _ in both)
    every = [] if alone or not sweeps.read(folder) else both
    due = [(one.path, partial(make, one)) for one, make in every if _is_old(one.path)]
    troubles = [trouble for path, make in due for trouble in _write_page(path, make)[1]]
    written, more = _write_page(folder, whole)
    return written, [*troubles, *more]


def publish(run, *, project, entity):
    """The same page as a Report of W&B, see kipx.report.wandb_report.publish.

    Args:
      run: as for `run`.
      project, entity: where to; None: where W&B has the runs.
    Returns:
      One line on where it is, and on how to publish it where it is not.
    Raises:
      UserError: wandb-workspaces is not installed, or the folder cannot be written to.
    """
    folder, whole, both = _found(run)
    try:
        page = whole()
    except folders.DAMAGE as error:
        return f"to=wandb: no Report ({_reason(error)})"
    path, url, reason = wandb_report.publish(page, [one for one, _ in both], folder, project=project, entity=entity)
    if url:
        return f"published at {url}"
    typed = shlex.join(["kipx", "report", f"run={run}", "to=wandb", *_given(project=project, entity=entity)])
    return f"written to {path}, not published ({reason}); once there is a key, WANDB_MODE=online {typed} does it"


def _given(**where):
    return [f"wandb.{key}={value}" for key, value in where.items() if value]


def _found(run):
    """(folder, () -> its Page, [(run in it, run -> its Page)])."""
    folder = pathlib.Path(run)
    found, trained, damaged = _both(folder)
    both = [*((one, pages.of_run) for one in found), *((one, pages.of_transfer) for one in trained)]
    for one, make in both:
        if one.path == folder:
            return folder, partial(make, one), [(one, make)]
    return folder, lambda: overview.build(folder, found, trained, damaged, _hrefs(folder, both)), both


def _both(folder):
    """(runs of distill and label-solve, runs of transfer, messages of folders that are neither)."""
    (found, troubles), (trained, more) = runs.find(folder), transfers.find(folder)
    return found, trained, list(dict.fromkeys([*troubles, *more]))


def _undone(jobs):
    return sweeps.lines(jobs) if any(job.state != sweeps.DONE for job in jobs) else []


def _hrefs(folder, both):
    """{name: its page, or its folder where it has none}."""
    paths = {one.name: one.path.relative_to(folder) for one, _ in both}
    return {name: at / pages.NAME if (folder / at / pages.NAME).is_file() else at for name, at in paths.items()}


def _is_old(path):
    """Whether a page is not there, or older than a file or folder beside it."""
    own = path / pages.NAME
    reports = (pages.NAME, wandb_report.NAME, artifacts.MANIFEST)
    others = [part for part in path.iterdir() if part.name not in reports]
    return not own.is_file() or any(part.stat().st_mtime > own.stat().st_mtime for part in others)


def _write_page(path, make):
    """(the page or None, messages)."""
    name = path / pages.NAME
    try:
        artifacts.write(name, page.render(make()))
        manifest.enter(path, [pages.NAME])
    except folders.DAMAGE as error:
        return None, [f"{name}: not written ({_reason(error)})"]
    return name, []


def _reason(error):
    return getattr(error, "strerror", None) or checks.reason(error)


def _table2(run, table, out):
    """The same for Table 2, from the runs of transfer."""
    found, troubles = transfers.find(run)
    if not found:
        raise checks.UserError("; ".join([f"run: expected runs of kipx transfer in {run}, got none", *troubles]))
    made = [make(found) for make in NETWORKS]
    if out:
        _write(pathlib.Path(out), _text(run, table, out, map(markdown, made), troubles))
    return made[0], troubles, out


def _figure(run, table, out):
    """The same for one of the paper's figures, from the runs of transfer that have ended."""
    found, troubles = transfers.find(run)
    networks = points.of_networks(found)
    if not networks:
        none = f"run: expected runs of kipx transfer in {run} that have ended, got none"
        raise checks.UserError("; ".join([none, *troubles]))
    measured, more = evaluations.find(run)
    troubles += [*more, *(_unfinished(one) for one in found if not one.finished)]
    made, panels = FIGURES[table](*points.with_names(networks, points.of_kernels(found), measured))
    if out:
        picture = pathlib.Path(out).with_suffix(".png")
        if pathlib.Path(out) == picture:
            raise checks.UserError(f"out: expected a Markdown file, beside which the picture is put, got {out}")
        _write(picture, charts.png(panels))
        typed = "\n".join(["## Commands", "", *(f"    {command}" for command in points.commands(found)), ""])
        parts = [f"![{made.title}]({picture.name})\n", markdown(made._replace(title="Numbers")), typed]
        _write(pathlib.Path(out), _text(run, table, out, parts, troubles, made.title))
    return made, troubles, out


def _unfinished(transfer):
    """That a run has not ended, and what it said."""
    said = transfer.message.partition(";")[0].splitlines()  # what follows is what to do, and folders
    return f"{transfer.name}: left out, {said[0] if said else 'it has not ended'}"


def _with_others(table, trained):
    """The table with a note of the runs of transfer that stand in the same folder."""
    if not trained:
        return table
    note = (
        f"Beside them {len(trained)} runs of kipx transfer, {trained[0].name} the first: run=<their folder> lists them."
    )
    return table._replace(notes=(*table.notes, note))


def _page(table):
    """The page of results, in a folder such as kipx's repository."""
    return PAGE if table == "table1" and PAGE.parent.is_dir() else None


def _is_of(path, run, table):
    """Whether a page may be written anew: it is not there, or this command wrote it."""
    if not path.is_file():
        return not path.exists()
    ours = f"Written by `{_typed(run, table)}"
    return any(line.startswith((f"{ours}`", f"{ours} ")) for line in path.read_text(errors="replace").splitlines()[:3])


def _kept(path, run):
    return f"{path}: kept, since its third line does not say that it is written from run={run}; out={path} replaces it"


def _typed(run, table, out=None):
    where = [f"out={out}"] if out else []
    return shlex.join(["kipx", "report", f"run={pathlib.PurePath(run)}", f"table={table}", *where])


def _text(run, table, out, parts, troubles, title="Results"):
    lines = [f"# {title}", "", f"Written by `{_typed(run, table, out)}`.", "", *parts]
    lines += ["## Left out", "", *(f"- {trouble}" for trouble in troubles)] if troubles else []
    return "\n".join(lines).rstrip() + "\n"


def _write(path, text):
    try:
        artifacts.write(path, text)
    except OSError as error:
        raise checks.UserError(f"out: cannot write {path} ({error.strerror})") from error
