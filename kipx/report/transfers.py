"""The runs of `kipx transfer` in a folder, read without trust."""

import pathlib
from typing import NamedTuple

from kipx import artifacts, checks, track
from kipx.report import folders

DISTILLED = "distilled"


class Transfer(NamedTuple):
    """One run of transfer.

    Attributes:
      name: its folder, seen from the one that was searched.
      config: resolved, nested dicts.
      summary: of summary.json; {} where the run has not ended.
      rows: of metrics.jsonl.
      command: that starts it, as typed but for local paths.
      device: what it ran on; '' where that is not known.
      message: of a job of a sweep, why it has not ended; '' where nothing is said.
      path: its folder.
      resumed: of resumed.jsonl.
    """

    name: str
    config: dict
    summary: dict
    rows: list
    command: str
    device: str
    message: str = ""
    path: pathlib.Path = pathlib.Path()
    resumed: list = ()

    @property
    def finished(self):
        """Whether its networks have been measured with the test images."""
        return "sets" in self.summary

    @property
    def source(self):
        """The name of the run whose set it took."""
        return pathlib.PurePath(self.config["run"]).name

    @property
    def dataset(self):
        """Its data set's name, of a published one as in `dataset=<name>`."""
        return folders.dataset(self.config)

    @property
    def step(self):
        """The checkpoint of that run, None for its last set."""
        return self.config["step"]

    @property
    def loss(self):
        """What the networks were trained to."""
        return self.config["trainer"]["loss"]

    @property
    def width(self):
        """Channels of each hidden layer."""
        return self.config["network"]["width"]

    @property
    def per_class(self):
        """Images a class, where all sets have equal shares."""
        return self.summary["images"] // self.summary["classes"]

    @property
    def network(self):
        """Its architecture in words, such as 'convnet depth 2'."""
        return self.summary["network"]

    def accuracies(self, name=DISTILLED):
        """Of each network trained on a set, its test accuracy; () if there is no such set."""
        return tuple(self.summary["sets"].get(name, {}).get("test_accuracies", ()))


def find(folder):
    """Reads every run of transfer in a folder and below it; other runs are passed over.

    Args:
      folder: a run folder, a sweep's, or one that holds such folders.
    Returns:
      (list of Transfer in the order of their names, list of messages, one for each folder that could not be read).
    Raises:
      UserError: no such folder.
    """
    return folders.each(folder, (artifacts.CONFIG, artifacts.METRICS, "summary.json"), _read)


def _read(path, name):
    config = folders.config(path)
    if not folders.is_transfer(config):
        return None
    summary, metrics = folders.json_object(path / "summary.json"), path / artifacts.METRICS
    rows = track.read(metrics) if metrics.is_file() else []
    command, resumed = folders.command("transfer", folders.typed(path)), folders.resumed(path)
    device = folders.device(path, resumed)
    run = Transfer(name, config, _checked(summary), rows, command, device, _message(path), path, resumed)
    checks.integer("network.width", run.width, at_least=1)
    if not all(isinstance(text, str) for text in (config["run"], run.loss, run.dataset, summary.get("network", ""))):
        raise checks.UserError(f"{artifacts.CONFIG} names no run, loss or data set")
    if run.step is not None:
        checks.integer("step", run.step, at_least=0)
    if not all(isinstance(row, dict) for row in rows):
        raise checks.UserError(f"{artifacts.METRICS}: a row is no object")
    return run


def _message(path):
    return str(folders.json_object(path / artifacts.JOB).get("message", ""))


def _checked(summary):
    """The summary, its accuracies being sound, or {} if the run has not ended."""
    for name, one in summary.get("sets", {}).items():
        if not one["test_accuracies"]:
            raise checks.UserError(f"summary.json: {name} has no networks")
        for share in (one["validation_accuracy"], one["test_accuracy"], *one["test_accuracies"]):
            checks.share(f"summary.json: {name}: accuracy", share)
        for rate in (one["chosen_step"], min(one["learning_rates"]), max(one["learning_rates"])):
            checks.not_negative(f"summary.json: {name}: chosen step or learning rate", rate)
    if "sets" in summary:
        for count in ("images", "classes"):
            checks.integer(f"summary.json: {count}", summary[count], at_least=1)
        checks.share("summary.json: kernel_test_accuracy", summary.get("kernel_test_accuracy", 0))
        _ = summary["network"], summary["preprocessing"]
    return summary
