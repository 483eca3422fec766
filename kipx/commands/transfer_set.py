"""The set that kipx transfer trains on: a run's, a support.npz, or a file of others with what it does not say."""

import pathlib

from kipx import arguments, artifacts, checks, config, formats, merged
from kipx.commands import import_config, import_set


def read(cfg):
    """Completes the config of transfer with what its set says of itself.

    Args:
      cfg: as composed, or of the run to resume.
    Returns:
      (resolved config, nested dicts; Distilled).
    Raises:
      UserError: the set cannot be read, does not say what it needs and nobody does, or says what was typed.
    """
    arrays = _arrays(pathlib.Path(checks.text("run", cfg.run)))
    if arrays is not None and not formats.is_own(arrays):
        return _of_others(cfg, arrays)
    if cfg.get("preprocess") is not None:
        raise checks.UserError(f"preprocess: {cfg.run} holds what its images were preprocessed with; leave it out")
    if arrays is None:
        distilled = artifacts.load(cfg.run, step=cfg.step)
    else:
        _check_no_step(cfg)
        distilled = artifacts.unpack(arrays, cfg.run)
    return config.plain(merged.with_set(cfg, distilled.config), arguments.TRANSFER), distilled


def _arrays(path):
    """Those of a file, None of a run folder."""
    if path.is_dir():
        return None
    if path.suffix not in formats.READERS or not path.is_file():
        raise checks.UserError(f"run: expected a run folder or a file of {', '.join(formats.READERS)}, got {path}")
    return formats.read(path)


def _of_others(cfg, arrays):
    """A set with the data set and preprocessing that were typed; the images are of its last step."""
    import_config.check_told(cfg, cfg.run)
    _check_no_step(cfg)
    values = config.plain(merged.with_set(cfg, {}), arguments.TRANSFER)
    distilled = import_set.complete(
        arrays,
        cfg.run,
        load=arguments.load(values),
        fit=arguments.fit(values),
        config={"dataset": values["dataset"]},
    )
    return values, distilled


def _check_no_step(cfg):
    if cfg.step is not None:
        raise checks.UserError(f"step: expected a run folder with checkpoints, got {cfg.run}")
