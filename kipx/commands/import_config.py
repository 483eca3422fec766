"""The config of kipx import: what was typed, and what a set of kipx's own says of itself."""

import pathlib
import re
from importlib import resources

from omegaconf import OmegaConf

from kipx import checks
from kipx.merged import with_run

_RELEASED = re.compile(r"ConvNet3?_ssize\d+_(zca|nozca)_(l|nol)_(aug|noaug)_ckpt\d+\.npz")
_CONDENSED = re.compile(r"res_(DC|DSA|DM)_\w+ipc\.pt")


def complete(cfg, saved, overrides):
    """The config of import, what a set of kipx's own says of itself filled in where nothing else was typed.

    Args:
      cfg: as composed.
      saved: the config that the set holds; None of a set of others, of which all has to be typed.
      overrides: as typed.
    Raises:
      UserError: data set or preprocessing are not given where the set does not say, or given where it has its own.
    """
    if saved is None:
        check_told(cfg, cfg.path)
        return OmegaConf.create({**OmegaConf.to_container(cfg), "seed": None})
    typed = {override.lstrip("+~").partition("=")[0].partition(".")[0] for override in overrides}
    if "preprocess" in typed:
        raise checks.UserError(f"preprocess: {cfg.path} holds what its images were preprocessed with; leave it out")
    open_unless_typed = {"kernel", "ridge"} - typed
    chosen = {key: value for key, value in OmegaConf.to_container(cfg).items() if key not in open_unless_typed}
    return with_run(OmegaConf.create(chosen), saved, keys=("dataset", "kernel", "ridge", "seed"))


def check_told(cfg, path):
    """Refuses a set of others whose data set or preprocessing is not given."""
    if "load" not in cfg.dataset:
        raise checks.UserError(
            f"dataset: expected the one that {path} is distilled from, got none; give dataset="
            f"{'|'.join(_options('dataset'))}"
        )
    if cfg.get("preprocess") is None:
        raise checks.UserError(
            f"preprocess: {path} does not say how its images were preprocessed, and without that a set is useless; "
            f"give preprocess={'|'.join(_options('preprocess'))}{_suggested(path)}"
        )


def _options(group):
    files = (resources.files("kipx.conf") / group).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def _suggested(path):
    """What the name of a file suggests, in brackets; a suggestion is not followed unless it is typed."""
    name = pathlib.Path(path).name
    released, condensed = _RELEASED.fullmatch(name), _CONDENSED.fullmatch(name)
    if released:
        return f" (its name, one of the paper's, suggests {'zca' if released[1] == 'zca' else 'standardize'})"
    return f" (its name, one of {condensed[1]}'s, suggests normalize)" if condensed else ""
