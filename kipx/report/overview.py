"""The page of a sweep, or of any folder of runs: how they differ, what they reached, what is not done."""

import collections

from kipx import checks
from kipx.report import curves, frames, listing, pages, sweeps
from kipx.report.page import Page
from kipx.report.pictures import spread
from kipx.report.tables import Table, duration, percent


def build(folder, found, trained, troubles, hrefs):
    """The Page of a folder of runs.

    Args:
      folder: pathlib.Path that was searched.
      found: list of kipx.report.runs.Run; trained: of kipx.report.transfers.Transfer.
      troubles: lines on what could not be read.
      hrefs: {name of a run: where its page or folder is, seen from the folder}.
    """
    jobs = sweeps.read(folder)
    both = [*found, *trained]
    return Page(
        title=folder.resolve().name,
        lead=_lead(found, trained, jobs),
        facts=_facts(found),
        warnings=troubles,
        frames=_frames(found),
        figures=_figures(found),
        tables=_tables(found, trained, jobs),
        details=[_shared(both), _devices(both), *([pages.environment(both[0].path)] if both else [])],
        links=[(sweeps.FILE, sweeps.FILE, "the sweep as Hydra composed it")] if jobs else [],
        hrefs=hrefs,
    )


def _lead(found, trained, jobs):
    parts = [
        f"{len(some)} run{'s' if len(some) > 1 else ''} of kipx {name}"
        for name, some in (("distill or label-solve", found), ("transfer", trained))
        if some
    ]
    counts = collections.Counter(job.state for job in jobs)
    ended = [f"{count} of {len(jobs)} jobs {state}" for state, count in counts.items()]
    return "; ".join([*([", ".join(parts)] if parts else []), *ended])


def _facts(found):
    measured = [run for run in found if run.measured]
    facts = []
    if measured:
        best = max(measured, key=lambda run: run.measured[1])
        facts.append((f"{percent(best.measured[1])}%", f"best test accuracy, run {best.name}"))
    facts.append((str(len(found)), f"runs, {sum(run.finished for run in found)} of them ended"))
    return [*facts, (duration(sum(run.time_s for run in found)), "time of all steps")] if found else []


def _figures(found):
    made = []
    for key, title, label, drawn in (
        ("test_accuracy", "Test accuracy", "test accuracy (percent)", {"percent": True}),
        ("train_loss", "Loss of the batch", "half mean squared error", {"log": True}),
    ):
        lines = {}
        for run in found:
            lines.update(curves.series([] if run.labels_solved else run.rows, {key: run.name}))
        if lines:
            made.append((title, curves.uri(lines, label, **drawn)))
    return made


def _frames(found):
    """The last images of each run that has as many as the first, one after the other."""
    shown = []
    for run in (found[i] for i in spread(len(found), frames.TIMES)):
        try:
            own = frames.last(run.path)
        except checks.UserError:
            continue
        if not shown or len(own.names) == len(shown[0].names):
            shown.append(own._replace(labels=[f"run {run.name}"]))
    if not shown:
        return None
    labels, sheets = ([getattr(one, part)[0] for one in shown] for part in ("labels", "sheets"))
    names = [one[0] if len(set(one)) == 1 else "" for one in zip(*(own.names for own in shown), strict=True)]
    more = "" if len(shown) == len(found) else f" ({len(shown)} of {len(found)})"
    note = f"The last images of each run that has as many as the first{more}; named where all labels say the same."
    return shown[0]._replace(labels=labels, sheets=sheets, names=names, note=note)


def _tables(found, trained, jobs):
    """Those that have rows."""
    undone = [job for job in jobs if job.state != sweeps.DONE]
    parts = (_undone, undone), (listing.build, found), (listing.of_transfers, trained)
    return [make(some) for make, some in parts if some]


def _undone(jobs):
    rows = [(str(job.number), " ".join(job.overrides), job.state, job.message, job.command) for job in jobs]
    return Table("Jobs that are not done", ("job", "overrides", "state", "why", "what runs it alone"), rows)


def _shared(both):
    """What all configs say alike."""
    flat = [listing.settings(run.config) for run in both]
    rows = [(key, value) for key, value in (flat[0] if flat else {}).items() if {o.get(key) for o in flat} == {value}]
    return Table("Config that all share", ("key", "value"), rows)


def _devices(both):
    """Costs and where they arose, run by run."""
    rows = []
    for run in both:
        times = [row["step_time_s"] for row in run.rows if "step_time_s" in row]
        rows.append((run.name, duration(sum(times)), f"{sum(times) / len(times):.2g} s" if times else "", run.device))
    return Table("Costs", ("run", ">time of steps", ">mean step", "on"), rows)
