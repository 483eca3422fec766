"""All runs, one a row: how they differ, how far they are, what they reached when, and how to repeat them."""

import itertools

from kipx.report.points import Point, cell
from kipx.report.tables import Table, duration, percent

_TWICE = ("dataset.load.", "dataset.data_dir", "dataset.raw_dir", "resume", "logger", "checkpoint.")
MINUTE_S = 60


def build(runs):
    """One row a run: where its config differs from the others', steps, test accuracy, time of the steps.

    Args:
      runs: list of kipx.report.runs.Run.
    Returns:
      kipx.report.tables.Table.
    """
    flat = _with_families([settings(run.config) | {"dataset": run.dataset} for run in runs], runs)
    differing = _differing(flat)
    rows = [
        (run.name, *(one.get(key, "") for key in differing), *_reached(run))
        for run, one in zip(runs, flat, strict=True)
    ]
    return Table("Runs", ("run", *differing, ">step", ">test accuracy", ">time of steps"), rows)


def of_transfers(transfers):
    """One row a run of transfer: where its config differs from the others', and what each of its sets reached.

    Args:
      transfers: list of kipx.report.transfers.Transfer.
    Returns:
      kipx.report.tables.Table.
    """
    flat = [settings(run.config) for run in transfers]
    differing = _differing(flat)
    sets = list(dict.fromkeys(itertools.chain(*(run.summary.get("sets", {}) for run in transfers))))
    rows = [
        (run.name, *(one.get(key, "") for key in differing), *_trained(run, sets))
        for run, one in zip(transfers, flat, strict=True)
    ]
    columns = ("run", *differing, ">networks", *(f">{name}" for name in sets))
    notes = ("Test accuracy in percent of each set's networks: mean ± sample standard deviation.",)
    return Table("Runs of transfer", columns, rows, notes)


def _trained(run, sets):
    if not run.finished:
        return ("not ended", *("" for _ in sets))
    each = [Point({}, run.accuracies(name)) for name in sets]
    return (str(run.config["networks"]), *(cell(point) if point.accuracies else "" for point in each))


def commands(runs):
    """One row a run: the command that repeats it, its seed, what it reached, in what time, on what.

    Args, Returns: as `build`.
    """
    typed = [", then ".join(f"`{line}`" for line in (run.command, *run.later) if line) for run in runs]  # for Markdown
    rows = [
        (run.name, command, str(run.config["seed"]), *_reached(run), run.device)
        for run, command in zip(runs, typed, strict=True)
    ]
    columns = ("run", "command", ">seed", ">step", ">test accuracy", ">time of steps", "on")
    return Table("How to repeat each", columns, rows)


def times(runs):
    """Test accuracy at the start, at each doubling of the time of the steps from a minute on, and at the end.

    A cell is the last evaluation up to then; runs of less than two minutes are left out.

    Args, Returns: as `build`.
    """
    long = [run for run in runs if run.rows and run.measured and run.time_s >= 2 * MINUTE_S]
    most = max((run.time_s for run in long), default=0)
    ends = list(itertools.takewhile(lambda t: t <= most, (MINUTE_S * 2**k for k in itertools.count())))
    rows = [(run.name, *_at(run, [0, *ends]), f"{percent(run.measured[1])} ({duration(run.time_s)})") for run in long]
    columns = ("run", ">start", *(f">{duration(end)}" for end in ends), ">last")
    notes = ("Percent, by the time of the steps alone; each is the last evaluation up to then.",)
    return Table("Test accuracy at each doubling of time", columns, rows, notes if rows else ("No run is so long.",))


def _at(run, ends):
    """The last test accuracy up to each time in seconds; '' after the run's end."""
    clock = list(itertools.accumulate(row.get("step_time_s", 0) for row in run.rows))
    tested = [(t, row["test_accuracy"]) for t, row in zip(clock, run.rows, strict=True) if "test_accuracy" in row]
    for end in ends:
        before = [share for t, share in tested if t <= end]
        yield percent(before[-1]) if before and end <= clock[-1] else ""


def _reached(run):
    done = run.rows[-1]["step"] if run.rows else 0
    step = str(run.steps) if run.finished else f"{done} of {run.steps}"
    step = ("solved" if run.finished else "not solved") if run.labels_solved else step
    share = "" if run.measured is None else percent(run.measured[1])
    if run.measured and not run.finished:
        share += f" at {run.measured[0]}"
    return step, share, duration(run.time_s)


def settings(config):
    """{dotted key: value} of a config, what is said twice or decides nothing left out."""
    return {key: value for key, value in _pairs(config, "") if not key.startswith(_TWICE)}


def _with_families(flat, runs):
    """Settings, those of kernels as one where families of several members, or a family and a kernel, stand together."""
    families = {frozenset(key for key in one if key.startswith("kernel.members.")) for one in flat}
    if len(families) < 2:
        return flat
    others = [{key: value for key, value in one.items() if not key.startswith("kernel.")} for one in flat]
    return [one | {"kernel": run.kernel} for one, run in zip(others, runs, strict=True)]


def _differing(flat):
    """The keys that do not have one value in all of them."""
    keys = dict.fromkeys(itertools.chain(*flat))
    return [key for key in keys if len({one.get(key) for one in flat}) > 1]


def _pairs(section, prefix):
    for key, value in section.items():
        path = prefix.rstrip(".") if key == "_target_" else f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _pairs(value, f"{path}.")
        elif not path.endswith(".architecture.depth"):
            yield path, _said(value) if key == "_target_" else str(value)


def _said(target):
    """The function, or its module where all of a kind have the same name."""
    *_, module, function = target.split(".")
    return module if function in ("build", "load") else function
