"""What `kipx evaluate` measured in a folder: sets under kernels, read without trust."""

import pathlib

from kipx import checks
from kipx.report import folders, points

FILE = "evaluation.json"


def find(folder):
    """Reads every evaluation under one kernel in a folder and below it.

    Args:
      folder: of one evaluation, of a sweep of them, or one that holds such folders.
    Returns:
      (list of kipx.report.points.Point, whose sets are paths as typed; list of messages, one for each folder that could
      not be read).
    """
    return folders.each(folder, (FILE,), _read)


def _read(path, name):
    found = folders.json_object(path / FILE)
    if "members" in found["kernel"]:
        return None
    network = folders.architecture(found["kernel"]["architecture"])
    settings = {points.SET: str(pathlib.PurePath(found["run"])), points.NETWORK: network, points.LOSS: points.KRR}
    return points.Point(settings, (checks.share(f"{FILE}: test accuracy", found["test_accuracy"]),))
