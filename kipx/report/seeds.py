"""Runs that are equal but for their seed, as one number with its spread."""

import collections
import json

import numpy as np

from kipx.report import folders
from kipx.report.tables import mean_and_spread

_NO_SETTING = ("seed", "steps", "engine", "logger", "resume", "checkpoint", "baseline")


def best(runs):
    """The cell of the setting with the highest mean test accuracy.

    Args:
      runs: list of kipx.report.runs.Run that have been measured.
    Returns:
      '97.3 ± 0.1 (5 seeds)', the spread being the sample standard deviation, with the step of runs that have not ended;
      '' without runs.
    """
    settings = collections.defaultdict(dict)
    for run in runs:
        settings[_setting(run)].setdefault(run.config["seed"], run)
    groups = [list(by_seed.values()) for by_seed in settings.values()]
    group = max(groups, key=lambda group: np.mean([run.measured[1] for run in group]), default=None)
    return "" if group is None else _cell(group)


def _setting(run):
    """All that decides a run's number but its seed: its config, but for where its data lie, and how far it is."""
    decisive = {key: value for key, value in run.config.items() if key not in _NO_SETTING}
    decisive["dataset"] = folders.anywhere(run.config["dataset"])
    return json.dumps(decisive, sort_keys=True, default=str), run.finished, run.measured[0]


def _cell(group):
    shares = [run.measured[1] for run in group]
    more = [f"{len(group)} seed{'s' if len(group) > 1 else ''}"]
    if not group[0].finished:
        more.append(f"step {group[0].measured[0]} of {group[0].steps}")
    return f"{mean_and_spread(shares)} ({', '.join(more)})"
