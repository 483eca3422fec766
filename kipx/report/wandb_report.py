"""A page as a Report of Weights & Biases: its texts and tables as they stand, its curves and images as W&B's panels.

The one file that knows wandb-workspaces, which it loads only where asked to. Panels show what `logger=wandb` sent of
the runs; texts and tables need nothing of that.
"""

import contextlib
import json
import pathlib
import re
import shlex

from kipx import artifacts, checks, manifest, wandb_log
from kipx.report import curves, folders, pages, tables

NAME = "report.wandb.json"
TITLE = 128  # characters, at most
_PICTURE = re.compile(r"!\[.*?\]\(.*?\)\n*")


def blocks(page, runs):
    """What a Report says.

    Args:
      page: kipx.report.page.Page.
      runs: list of kipx.report.runs.Run or transfers.Transfer that it is about.
    Returns:
      list of wandb_workspaces.reports.v2 blocks.
    Raises:
      UserError: wandb-workspaces is not installed.
    """
    wr = _library()
    ids = {run.name: known["id"] for run in runs if (known := wandb_log.known(run.path))}
    made = [wr.CalloutBlock(text=text) for text in [*page.warnings, *_unknown(runs, ids)]]
    made += [wr.UnorderedList(items=[f"{number} {what}" for number, what in page.facts])] if page.facts else []
    made += [wr.CodeBlock(code=page.command)] if page.command else []
    made += _panels(wr, runs, list(ids.values())) if ids else []
    made += [wr.MarkdownBlock(text=text) for text in (*_analysis(runs), *map(tables.markdown, page.tables))]
    for table in page.details:
        made.append(wr.H2(text=table.title, collapsed_blocks=[wr.MarkdownBlock(text=tables.body(table))]))
    files = [f"{text} ({what})" for text, _, what in page.links]
    return made + ([wr.H2(text="Files"), wr.UnorderedList(items=files)] if files else [])


def publish(page, runs, folder, *, project, entity):
    """Writes what a Report says into report.wandb.json, and publishes it where W&B can be reached.

    Args:
      page, runs: as for `blocks`.
      folder: to write into; what it was published as is kept there, and published again stays the same Report.
      project, entity: where to; None: where the runs are, else kipx and the key's own.
    Returns:
      (path of what was written, URL or None, why it was not published).
    Raises:
      UserError: wandb-workspaces is not installed, or the file cannot be written.
    """
    wr, made = _library(), blocks(page, runs)
    project = project or _of_runs(runs, "project") or "kipx"
    entity = entity or _of_runs(runs, "entity")
    said = {"title": page.title[:TITLE], "description": page.lead, "project": project, "blocks": made}
    path, known = pathlib.Path(folder) / NAME, _published(pathlib.Path(folder) / NAME)
    _write(path, wr.Report(entity=entity or "", **said), known)
    try:
        if reason := wandb_log.unreachable():
            return path, None, reason
        report = wr.Report(**({"entity": entity} if entity else {}), **said)
        report.id = known.get("id", "")
        report.save()
    except Exception as error:  # of wandb, pydantic, the network
        return path, None, str(error).partition("\n")[0] or type(error).__name__
    _write(path, report, {"id": report.id, "url": report.url})
    return path, report.url, ""


def _library():
    try:
        import wandb_workspaces.reports.v2 as library
    except ImportError as error:
        raise checks.UserError("to=wandb: wandb-workspaces is not installed; pip install wandb-workspaces") from error
    return library


def _write(path, report, known):
    """As W&B's API takes it; the library says it in no other way than by this method."""
    model = report._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    where = {"title": report.title, "description": report.description, "project": report.project}
    try:
        artifacts.write_json(path, {**known, **where, "entity": report.entity, "spec": spec})
        manifest.enter(path.parent, [path.name])
    except OSError as error:
        raise checks.UserError(f"to=wandb: cannot write {path} ({error.strerror})") from error


def _published(path):
    """{'id', 'url'} of an earlier time; {} without one."""
    with contextlib.suppress(*folders.DAMAGE):
        found = folders.json_object(path)
        return {key: str(found[key]) for key in ("id", "url")}
    return {}


def _of_runs(runs, key):
    """What the first run whose config has it says of where W&B has it."""
    sections = [run.config.get("logger") for run in runs]
    found = [section.get(key) for section in sections if isinstance(section, dict)]
    return next((str(value) for value in found if value), None)


def _unknown(runs, ids):
    """What is said of runs that W&B does not have."""
    lacking = [run for run in runs if run.name not in ids]
    if not lacking:
        return []
    typed = shlex.join(["kipx", _command(lacking[0]), f"resume={lacking[0].path}", "logger=wandb"])
    return [f"W&B has no curves and images of {len(lacking)} of {len(runs)} runs; {typed} sends those of the first."]


def _command(run):
    if folders.is_transfer(run.config):
        return "transfer"
    return "label-solve" if run.labels_solved else "distill"


def _panels(wr, runs, ids):
    """Curves and images of the runs that W&B has, and of several how they differ."""
    from wandb_workspaces import expr

    keys = {key for run in runs for row in run.rows for key in row}
    lines = [
        wr.LinePlot(title=title, x="Step", y=shown, log_y=log, layout=wr.Layout(w=12, h=8))
        for title, names, log in (("Accuracy", curves.ACCURACIES, False), ("Loss", curves.LOSSES, True))
        if (shown := [key for key in names if key in keys])
    ]
    axes = {"gallery_axis": "step"} if len(ids) == 1 else {"grid_x_axis": "step", "grid_y_axis": "run"}
    images = wr.MediaBrowser(title="Images", media_keys=["images"], layout=wr.Layout(w=24, h=8), **axes)
    config = [wr.RunComparer(diff_only=True, layout=wr.Layout(w=24, h=8))] if len(ids) > 1 else []
    which = wr.Runset(name="Runs", filters=[expr.Metric("ID").isin(ids)])
    return [
        wr.H2(text="Images and curves"),
        wr.PanelGrid(runsets=[which], panels=[images, *lines, *config], hide_run_sets=len(ids) == 1),
    ]


def _analysis(runs):
    """What kipx analyze has written of a single run, without its pictures."""
    if len(runs) != 1:
        return []
    found = sorted((runs[0].path / pages.ANALYSIS).glob("*.md"))
    return [_PICTURE.sub("", file.read_text(errors="replace")) for file in found]
