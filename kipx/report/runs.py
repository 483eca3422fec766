"""The runs of distill and label-solve in a folder, read without trust; those of transfer are for `transfers`."""

import pathlib
from typing import NamedTuple

from kipx import artifacts, checks, track
from kipx.report import folders


class Run(NamedTuple):
    """One run of distill or of label-solve.

    Attributes:
      name: its folder, seen from the one that was searched.
      config: resolved, nested dicts.
      rows: of metrics.jsonl.
      summary: of summary.json; {} where the run has not ended.
      command: that starts it, as typed but for local paths.
      device: what it ran on; '' where that is not known.
      path: its folder.
      resumed: of resumed.jsonl.
    """

    name: str
    config: dict
    rows: list
    summary: dict
    command: str
    device: str
    path: pathlib.Path
    resumed: list

    @property
    def later(self):
        """Commands that it went on with to other steps, each of which ends in a comment, '# at step 100'."""
        changes = [row for row in self.resumed if self.command and "steps" in row]
        return [f"kipx distill resume=FOLDER steps={row['steps']} # at step {row['step']}" for row in changes]

    @property
    def labels_solved(self):
        """Whether label-solve made it."""
        return "form" in self.config

    @property
    def steps(self):
        """Steps that it is to have; 0 for label-solve."""
        return self.config.get("steps", 0)

    @property
    def finished(self):
        """Whether it has all its steps and a summary."""
        return "test_accuracy" in self.summary and self.summary.get("steps", 0) >= self.steps

    @property
    def measured(self):
        """(step, test accuracy) of the last evaluation, None without one."""
        if self.finished:
            return self.steps, self.summary["test_accuracy"]
        if self.labels_solved:
            return None  # its rows before are of the labels to start with
        tested = [(row["step"], row["test_accuracy"]) for row in self.rows if "test_accuracy" in row]
        return tested[-1] if tested else None

    @property
    def time_s(self):
        """Seconds of all its steps, evaluations not counted; of label-solve, those it states."""
        return sum(row.get("step_time_s", 0) for row in self.rows) or self.summary.get("time_s", 0)

    @property
    def dataset(self):
        """Its data set's name, of a published one as in `dataset=<name>`."""
        return folders.dataset(self.config)

    @property
    def per_class(self):
        """Support images a class."""
        return self.config["support"]["per_class"]

    @property
    def depth(self):
        """Of the kernel's architecture; None of several."""
        return self.at("kernel", "architecture", "depth")

    @property
    def kernel(self):
        """Its kernel in words, such as 'NTK of convnet depth 3'; of several, their names."""
        section = self.config["kernel"]
        if section.get("members"):
            return " + ".join(section["members"])
        return f"{section['kind'].upper()} of {folders.architecture(section['architecture'])}"

    def at(self, *keys):
        """A value of the config, None where it has none."""
        found = self.config
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def option(self, *keys):
        """The function that a section of the config names, such as 'zca'."""
        return (self.at(*keys, "_target_") or "").rpartition(".")[2]


def find(folder):
    """Reads every run in a folder and below it, those of transfer left out.

    Args:
      folder: a run folder, a sweep's, or one that holds such folders.
    Returns:
      (list of Run in the order of their names, list of messages, one for each folder that could not be read).
    Raises:
      UserError: no such folder.
    """
    return folders.each(folder, (artifacts.CONFIG, artifacts.METRICS, artifacts.SUPPORT, "summary.json"), _read)


def _read(path, name):
    config = folders.config(path)
    if folders.is_transfer(config):
        return None
    metrics = path / artifacts.METRICS
    rows = [_checked(row, artifacts.METRICS) for row in track.read(metrics)] if metrics.is_file() else []
    summary = _checked({"step": 0, **folders.json_object(path / "summary.json")}, "summary.json")
    resumed = folders.resumed(path)
    command = _command(path, config, resumed)
    run = Run(name, config, rows, summary, command, folders.device(path, resumed), path, resumed)
    checks.integer("seed", config["seed"], at_least=0)
    checks.integer("steps", run.steps, at_least=0)
    checks.integer("support.per_class", run.per_class, at_least=1)
    checks.not_negative("augment.rate", run.at("augment", "rate") or 0)
    if not run.dataset or not run.kernel:
        raise checks.UserError(f"{artifacts.CONFIG} names no data set or kernel")
    return run


def _checked(row, file):
    """The row, its step and numbers being sound."""
    if not isinstance(row, dict) or "step" not in row:
        raise checks.UserError(f"{file}: a row has no step: {str(row)[:40]}")
    checks.integer(f"{file}: step", row["step"], at_least=0)
    for key in ("test_accuracy", "step_time_s", "time_s"):
        checks.not_negative(f"{file}: {key}", row.get(key, 0))
    return row


def _command(path, config, resumed):
    """What to type to repeat the run, with the steps that it was given at first."""
    overrides = folders.typed(path)
    if overrides is not None and "steps" in config:
        first = next((row["steps_before"] for row in resumed if "steps" in row), config["steps"])
        overrides = [o for o in overrides if not o.startswith("steps=")] + [f"steps={first}"]
    return folders.command("distill" if "steps" in config else "label-solve", overrides)
