"""Configs that are made of two: what a command line says, and what the run says that it is about."""

from kipx import artifacts, checks

MAY_CHANGE = ("steps", "engine", "logger")  # of a run that is resumed
TRANSFER_MAY_CHANGE = ("logger",)


def with_run(cfg, saved, keys=("dataset", "kernel", "ridge")):
    """The config of evaluate, what it leaves open filled from the run: data set, kernel, ridge."""
    from omegaconf import OmegaConf

    chosen = {key: value for key, value in OmegaConf.to_container(cfg).items() if value is not None}
    data_dir = chosen.pop("dataset")["data_dir"] if "load" not in chosen["dataset"] else None
    known = {key: saved.get(key) for key in keys if key not in chosen}
    merged = OmegaConf.merge(known, chosen)
    if data_dir is not None:
        _find_data_in(merged, data_dir)
    return merged


def with_set(cfg, saved):
    """The config of transfer, what it leaves open filled from the run: data set and architecture."""
    from omegaconf import OmegaConf

    merged = with_run(cfg, saved, keys=("dataset",))
    for key in ("step", "resume", "preprocess"):  # null says something here
        merged.setdefault(key, None)
    if merged.network.get("architecture") is None:
        if merged.network.get("depth") is not None:
            raise checks.UserError("network.depth: the set's own architecture has its depth; name one, network=convnet")
        kernel = saved.get("kernel")
        if kernel is None:
            raise checks.UserError("network: the set does not name its kernel; name an architecture, network=convnet")
        if "members" in kernel:
            raise checks.UserError(
                f"network: the set was distilled with several kernels, {', '.join(kernel['members'])}; "
                "name an architecture, such as network=convnet"
            )
        merged.network.architecture = OmegaConf.create(kernel["architecture"])
    return merged


def _find_data_in(cfg, data_dir):
    """Points a resolved config to another folder of prepared data sets."""
    cfg.dataset.data_dir = data_dir
    if "data_dir" in cfg.dataset.load:
        cfg.dataset.load.data_dir = data_dir


def resumed(cfg, overrides, may_change=MAY_CHANGE):
    """The config of the run folder `cfg.resume`, with the overrides that a resumed run may have.

    Beside may_change that is dataset.data_dir: prepared data may lie elsewhere.

    Raises:
      UserError: the folder is no run, or an override is of something that may not change.
    """
    from omegaconf import OmegaConf

    saved = OmegaConf.create(artifacts.read_config(cfg.resume))
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        group = key.partition(".")[0]
        if group == "resume":
            continue
        if key == "dataset.data_dir":
            _find_data_in(saved, cfg.dataset.data_dir)
            continue
        if group not in may_change:
            raise checks.UserError(
                f"resume: a run goes on with its own config; only {', '.join(may_change)} can change, got {override!r}"
            )
        if key != group and not _has(saved, key):
            raise checks.UserError(f"resume: the run's {group} has no {key}; choose another with {group}=... first")
        OmegaConf.update(saved, key, OmegaConf.select(cfg, key), merge=False)
    return saved


def _has(saved, key):
    """Whether a config has a key, be its value null."""
    from omegaconf import DictConfig, OmegaConf

    section, _, name = key.rpartition(".")
    parent = OmegaConf.select(saved, section)
    return isinstance(parent, DictConfig) and name in parent
