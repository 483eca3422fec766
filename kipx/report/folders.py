"""Folders of runs, read without trust: what is damaged or foreign is named, and the rest is reported."""

import itertools
import pathlib
import re
import shlex

from kipx import artifacts, checks, track, untrusted

DAMAGE = (checks.UserError, OSError, ValueError, TypeError, KeyError, AttributeError)
_LOCAL = ("hydra.", "dataset.data_dir=", "dataset.raw_dir=", "resume=")  # overrides that say where, not what


def each(folder, names, read):
    """Reads every folder that holds one of some files, in a folder and below it.

    Args:
      folder: a run folder, a sweep's, or one that holds such folders.
      names: of files.
      read: (path, its name seen from `folder`) -> what stands there, or None for what is no concern of the caller's.
    Returns:
      (list of what was read in the order of the names, list of messages, one for each folder that could not be read).
    Raises:
      UserError: no such folder.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise checks.UserError(f"run: expected a folder of runs, got {folder}, which is none")
    paths = sorted({path.parent for name in names for path in folder.rglob(name)}, key=_by_number)
    found, troubles = [], []
    for path in paths:
        name = _name(path, folder)
        try:
            found.append(read(path, name))
        except DAMAGE as error:
            troubles.append(f"{name}: left out, no run that can be read ({checks.reason(error)})")
    return [one for one in found if one is not None], troubles


def config(path):
    """The config of a run folder, which must have one."""
    if not (path / artifacts.CONFIG).is_file():
        raise checks.UserError(f"it has no {artifacts.CONFIG}")
    return artifacts.read_config(path)


def is_transfer(config):
    """Whether a config is of `kipx transfer`."""
    return "trainer" in config and "networks" in config


def dataset(config):
    """A data set's name, of a published one as in `dataset=<name>`."""
    load = config["dataset"]["load"]
    return load.get("name") or load["_target_"].split(".")[-2]


def anywhere(section):
    """A data set's config without the folders that it lies in: the same files may move."""
    parts = {key: value for key, value in section.items() if key not in ("data_dir", "raw_dir")}
    return {key: anywhere(value) if isinstance(value, dict) else value for key, value in parts.items()}


def architecture(section):
    """An architecture's name in tables, such as 'convnet depth 3'."""
    name = section["_target_"].rpartition(".")[2]
    name = "convnet3" if section.get("prepend_conv") is False else name
    return f"{name} depth {section['depth']}" if "depth" in section else name


def json_object(path):
    """A JSON object; {} where there is none."""
    value = untrusted.from_json(path.read_bytes()) if path.is_file() else {}
    if not isinstance(value, dict):
        raise checks.UserError(f"{path.name}: expected an object, got {type(value).__name__}")
    return value


def summary(path):
    """What a run says of its end; {} where it has not ended, or goes on to further steps."""
    found, kept = json_object(path / "summary.json"), path / artifacts.CONFIG
    steps = artifacts.read_config(path).get("steps", 0) if kept.is_file() else 0
    return found if found.get("steps", steps) >= steps else {}


def typed(path):
    """The overrides that a run was started with, without those that say where things lie; None if that is not known."""
    kept = path / artifacts.OVERRIDES
    overrides = untrusted.from_yaml(kept.read_bytes()) if kept.is_file() else None
    if not isinstance(overrides, list):
        return None
    kept = [override for override in overrides if not override.lstrip("+~").startswith(_LOCAL)]
    return [re.sub(r"='(\d+)'$", r"=\1", override) for override in kept]  # kipx.app quotes options that are numbers


def command(name, overrides):
    """What to type; '' where the overrides are not known."""
    return "" if overrides is None else shlex.join(["kipx", name, *overrides])


def resumed(path):
    """The rows of a run folder's resumed.jsonl, one each time that the run went on; [] where it never did."""
    kept = path / artifacts.RESUMED
    rows = track.read(kept) if kept.is_file() else []
    for row in rows:
        for key in ("step", "steps_before", "steps"):
            checks.integer(f"{artifacts.RESUMED}: {key}", row.get(key, 0), at_least=0)
        if not isinstance(row.get("environment", {}), dict):
            raise checks.UserError(f"{artifacts.RESUMED}: expected an environment, got {str(row['environment'])[:40]}")
    return rows


def device(path, resumed):
    """What a run ran on at first and, by its rows of resumed.jsonl, later; '' where that is not known."""
    sittings = [json_object(path / artifacts.ENVIRONMENT), *(row.get("environment", {}) for row in resumed)]
    return ", then ".join(dict.fromkeys(filter(None, map(_device, sittings))))


def _device(found):
    devices = [str(device) for device in found.get("devices", [])]
    cores = f"{found['cpus']} cores" if set(devices) == {"cpu"} and "cpus" in found else ""
    counted = [f"{len(list(same))} x {device}" for device, same in itertools.groupby(devices)]
    return cores or ", ".join(counted)


def _by_number(path):
    """Jobs of a sweep in their order: 2 before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.parts]


def _name(path, folder):
    inside = path.relative_to(folder)
    return str(inside) if inside.parts else folder.resolve().name
