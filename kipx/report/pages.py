"""The pages of single runs: of distill or label-solve, and of transfer."""

import shlex
import statistics

from kipx import artifacts, checks
from kipx.report import curves, folders, frames, listing
from kipx.report.page import Page, data_uri
from kipx.report.tables import Table, duration, natural_draws, percent

NAME = "report.html"
ANALYSIS = "analysis"


def of_run(run):
    """The Page of a run of distill or of label-solve.

    Args:
      run: kipx.report.runs.Run.
    """
    sheets, warnings = _frames(run)
    labels = "solved" if run.labels_solved else "learned" if run.at("labels", "learned") else "fixed"
    per_class = f"{run.per_class} image{'s' if run.per_class > 1 else ''} a class"
    made = "kipx label-solve" if run.labels_solved else "kipx distill"
    return Page(
        title=run.name,
        lead=f"{made}: {run.dataset}, {per_class}, {labels} labels; kernel {run.kernel}, {run.option('preprocess')}",
        facts=_facts(run),
        command="\n".join([run.command, *run.later]),
        warnings=[*_not_ended(run, made), *warnings],
        frames=sheets,
        figures=figures(run.rows),
        pictures=_analysis(run.path),
        tables=[_evaluations(run.rows)],
        details=[_config(run), _costs(run), environment(run.path), *_resumed(run)],
        links=_links(run.path),
    )


def of_transfer(run):
    """The Page of a run of transfer.

    Args:
      run: kipx.report.transfers.Transfer.
    """
    sets = run.summary.get("sets", {})
    facts = [(f"{percent(own['test_accuracy'])}%", f"test accuracy, {name}") for name, own in sets.items()]
    if "kernel_test_accuracy" in run.summary:
        facts.append((f"{percent(run.summary['kernel_test_accuracy'])}%", "kernel ridge regression, distilled"))
    return Page(
        title=run.name,
        lead=f"kipx transfer: finite networks trained on {run.source}, {run.dataset}; width {run.width}, {run.loss}",
        facts=facts,
        command=run.command,
        warnings=_not_ended(run, "kipx transfer"),
        figures=figures(run.rows, run.loss.replace("_", " ")),
        tables=[listing.of_transfers([run])],
        details=[_config(run), environment(run.path), *_resumed(run)],
        links=_links(run.path),
    )


def figures(rows, loss="half mean squared error"):
    """Curves of accuracy, loss and RKHS norm over steps, as figures of a Page; none of rows that have none."""
    accuracies = curves.series(rows, curves.ACCURACIES)
    found = [("Accuracy", curves.uri(accuracies, "accuracy (percent)", percent=True))] if accuracies else []
    for title, names, label in (("Loss", curves.LOSSES, loss), ("RKHS norm", curves.NORMS, "squared norm, relative")):
        lines = curves.series(rows, names)
        positive = all(value > 0 for _, values in lines.values() for value in values)
        found += [(title, curves.uri(lines, label, log=positive))] if lines else []
    return found


def environment(path):
    """What a run ran on, as a Table; empty where that is not known."""
    try:
        found = folders.json_object(path / artifacts.ENVIRONMENT)
    except folders.DAMAGE:
        found = {}
    return Table("Environment", ("", ""), [(key, _said(value)) for key, value in found.items()])


def _resumed(run):
    """[Table] of the steps at which a run went on, and on what; [] of one that never did."""
    rows = [(str(row["step"]), _said(row.get("environment", {}))) for row in run.resumed]
    return [Table("Resumed", (">at step", "environment"), rows)] if rows else []


def _facts(run):
    facts = []
    if run.measured:
        step, share = run.measured
        facts.append((f"{percent(share)}%", "test accuracy" if run.finished else f"test accuracy at step {step}"))
    if "initial_test_accuracy" in run.summary:
        facts.append((f"{percent(run.summary['initial_test_accuracy'])}%", "what it began with"))
    if "natural_test_accuracy_mean" in run.summary:
        facts.append(natural_draws(run.summary)[::-1])
    if run.steps:
        facts.append((f"{run.rows[-1]['step'] if run.rows else 0}", f"of {run.steps} steps"))
    return [*facts, (duration(run.time_s), "time of steps")]


def _not_ended(run, made):
    if run.finished:
        return []
    message = str(folders.json_object(run.path / artifacts.JOB).get("message", ""))
    typed = f"{made} {shlex.quote(f'resume={run.path}')}"
    return [f"It has not ended; go on with {typed}. {message}".strip()]


def _frames(run):
    """(Frames or None, why there are none)."""
    try:
        return frames.read(run.path), []
    except checks.UserError as error:
        return None, [f"Its images cannot be shown: {error}"]


def _evaluations(rows):
    tested = [row for row in rows if "test_accuracy" in row]
    cells = [
        (
            str(row["step"]),
            percent(row["test_accuracy"]),
            *(f"{row[key]:.5f}" if key in row else "" for key in ("test_mse", "train_loss")),
            f"{row['step_time_s']:.2g}" if "step_time_s" in row else "",
        )
        for row in tested
    ]
    columns = (">step", ">test accuracy", ">test mse", ">train loss", ">s a step")
    return Table("Evaluations", columns, cells, ("Accuracy in percent; losses are half mean squared errors.",))


def _config(run):
    return Table("Config", ("key", "value"), list(listing.settings(run.config).items()))


def _costs(run):
    times = [row["step_time_s"] for row in run.rows if "step_time_s" in row]
    sizes = {part: _bytes(run.path, part) for part in ("", "checkpoints")}
    rows = [("time of steps", duration(run.time_s))]
    if times:
        rows.append(("first step, which compiles", f"{times[0]:.2g} s"))
        rows.append(("median step", f"{statistics.median(times):.2g} s"))
    rows.append(("disk", f"{sizes[''] / 1e6:.1f} MB, of which checkpoints {sizes['checkpoints'] / 1e6:.1f} MB"))
    return Table("Costs", ("", ">"), rows)


def _bytes(path, part):
    return sum(file.stat().st_size for file in (path / part).rglob("*") if file.is_file())


def _analysis(path):
    """What kipx analyze has drawn; a link out of the folder would put what it leads to into the page."""
    found = sorted((path / ANALYSIS).glob("*.png"))
    drawn = [file for file in found if file.resolve().is_relative_to(path.resolve())]
    return [(f"kipx analyze: {file.stem}", data_uri(file.read_bytes(), "image/png")) for file in drawn]


def _links(path):
    files = [*sorted(path.iterdir()), *sorted((path / ANALYSIS).glob("*.md"))]
    shown = [file for file in files if file.name not in (NAME, ANALYSIS) and not file.name.startswith(".")]
    return [(str(file.relative_to(path)), file.relative_to(path), _size(file)) for file in shown]


def _size(file):
    return "folder" if file.is_dir() else f"{file.stat().st_size / 1000:,.1f} kB"


def _said(value):
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
