"""What each command takes: the schema of its config, and the keyword arguments that a config becomes."""

import importlib
import os

from kipx import artifacts, checks
from kipx.config import CALL, build
from kipx.data import cache, folder
from kipx.engine import sharded
from kipx.sampled import Member, check

MAY_CHANGE = ("steps", "engine", "logger")  # of a run that is resumed
_DATASET = {"load": CALL, "pools": int, "path": str | None, "data_dir": str | None, "raw_dir": str | None}
_KERNEL = {"architecture": CALL, "depth": int, "kind": str, "dtype": str, "backend": str}
_FAMILY = {**_KERNEL, "members": {"*": {"weight": float, **_KERNEL}}}
del _FAMILY["architecture"]
_KERNELS = (_FAMILY, _KERNEL)
DISTILL = {
    "seed": int,
    "steps": int,
    "ridge": float,
    "resume": str | None,
    "dataset": _DATASET,
    "preprocess": CALL,
    "kernel": _KERNELS,
    "support": CALL,
    "augment": CALL,
    "labels": {"init": str, "learned": bool, "learning_rate": float | None},
    "target": {"batch_size": int},
    "baseline": {"draws": int},
    "engine": CALL,
    "optimizer": CALL,
    "checkpoint": {"every_s": float, "tested_from": int | None},
    "logger": {"progress": bool},
}
PLAN = {**DISTILL, "plan": {"devices": int | None, "calibration_s": float}}
REPORT = {"run": str, "table": str, "out": str | None}
LABEL_SOLVE = {
    **{key: DISTILL[key] for key in ("seed", "ridge", "resume", "dataset", "preprocess", "kernel", "support")},
    "form": CALL,
    **{key: DISTILL[key] for key in ("target", "engine", "logger")},
    "checkpoint": {"every_s": float},
}
PREPARE = {"dataset": _DATASET}
EVALUATE = {"run": str, "ridge": float, "dataset": _DATASET, "kernel": _KERNELS, "engine": CALL}


def kernel(section, path="kernel"):
    """The kernel_fn of a kernel section.

    Raises:
      UserError: an unknown choice, or a section of several kernels where one is needed.
    """
    if "members" in section:
        raise checks.UserError(f"{path}: expected one kernel, got a family of {', '.join(section['members'])}")
    architecture = build(section["architecture"], f"{path}.architecture")
    modules = {"kipx": "kipx.kernel", "neural_tangents": "kipx.kernel.neural_tangents"}
    backend = checks.one_of(f"{path}.backend", section["backend"], tuple(modules))
    checks.one_of(f"{path}.kind", section["kind"], ("ntk", "nngp"))
    checks.one_of(f"{path}.dtype", section["dtype"], ("float32", "float64"))
    if backend == "neural_tangents":
        _check_compiler()
    return importlib.import_module(modules[backend]).build(architecture, section["kind"], section["dtype"])


def members(section, engine):
    """The kernels of a kernel section with their engines, in the order of their names; one kernel is a family of one.

    Args:
      section: of one kernel, or of several.
      engine: section of the engine, of which each kernel gets its own.
    Returns:
      [kipx.sampled.Member].
    """
    if "members" not in section:
        kernel_fn = kernel(section)
        return [Member(None, 1.0, kernel_fn, build(engine, "engine", kernel_fn=kernel_fn))]
    found = []
    for name, member in sorted(section["members"].items()):
        kernel_fn = kernel(member, f"kernel.members.{name}")
        found.append(Member(name, member["weight"], kernel_fn, build(engine, "engine", kernel_fn=kernel_fn)))
    return check(found)


def _check_compiler():
    """Refuses neural-tangents where XLA would end the process: JAX 0.10 miscompiles its gradient through pools."""
    import jax

    if jax.__version_info__ < (0, 11) and "algsimp" not in os.environ.get("XLA_FLAGS", ""):
        raise checks.UserError(
            f"kernel.backend: JAX {jax.__version__} crashes on neural_tangents' gradients; take Python >= 3.12, "
            "which gets a newer JAX, or set XLA_FLAGS=--xla_disable_hlo_passes=algsimp"
        )


def distill(values):
    """Arguments of `kipx.commands.distill.run`, built and thereby checked before anything is written."""
    checks.positive("ridge", values["ridge"])
    checks.one_of("labels.init", values["labels"]["init"], ("onehot", "solved"))
    return {
        **_of_a_run(values),
        "augment": build(values["augment"], "augment"),
        "labels": values["labels"],
        "optimizer": build(values["optimizer"], "optimizer"),
        "steps": values["steps"],
        "draws": values["baseline"]["draws"],
        "tested_from": values["checkpoint"].get("tested_from") or 0,  # runs of version 0.1.0 have none
    }


def _of_a_run(values):
    """What distill and label-solve have in common."""
    return {
        "load": lambda: build(values["dataset"]["load"], "dataset.load"),
        "fit": fit(values),
        "members": members(values["kernel"], values["engine"]),
        "draw": build(values["support"], "support"),
        "seed": values["seed"],
        "ridge": values["ridge"],
        "batch_size": values["target"]["batch_size"],
        "every_s": values["checkpoint"]["every_s"],
        "show": values["logger"]["progress"],
    }


def fit(values):
    """Preprocessing's fit; what takes long is kept on disk, beside the data."""
    section = values["preprocess"]
    return cache.remembering(build(section, "preprocess"), section, folder(values["dataset"].get("data_dir")) / "cache")


def label_solve(values):
    """Arguments of `kipx.commands.label_solve.run`, built and thereby checked before anything is written."""
    checks.positive("ridge", values["ridge"])
    if "members" in values["kernel"] and values["form"]["_target_"] == "kipx.label_solve.notebook":
        raise checks.UserError("form: the notebook's is of one kernel, not of a family; take form=least_norm")
    return {**_of_a_run(values), "form": build(values["form"], "form")}


def plan(values):
    """Arguments of `kipx.commands.plan.run`; devices that are not there work as those of `sharded`, or as a pool."""
    if values["resume"] is not None:
        raise checks.UserError("resume: kipx plan is for new runs, expected null; take the run's own overrides")
    posed = distill(values)
    del posed["show"]
    pool, size = values["engine"]["_target_"] == "kipx.engine.pool.build", values["engine"].get("block_size")
    spread = [m.engine.layout if pool else sharded.layout(m.kernel_fn, size) for m in posed["members"]]
    return {"posed": posed, "spread": spread, **values["plan"]}


def evaluate(values):
    """Arguments of `kipx.commands.evaluate.run`."""
    return {
        "load": lambda: build(values["dataset"]["load"], "dataset.load"),
        "members": members(values["kernel"], values["engine"]),
        "ridge": values["ridge"],
    }


def prepare(values):
    """Arguments of `kipx.commands.prepare.run`; name None for a data set that needs no preparing."""
    section = values["dataset"]
    return {"name": section["load"].get("name"), "data_dir": section["data_dir"], "raw_dir": section["raw_dir"]}


def with_run(cfg, saved):
    """The config of evaluate, what it leaves open filled from the run: data set, kernel, ridge."""
    from omegaconf import OmegaConf

    chosen = {key: value for key, value in OmegaConf.to_container(cfg).items() if value is not None}
    data_dir = chosen.pop("dataset")["data_dir"] if "load" not in chosen["dataset"] else None
    known = {key: saved.get(key) for key in ("dataset", "kernel", "ridge") if key not in chosen}
    merged = OmegaConf.merge(known, chosen)
    if data_dir is not None:
        _find_data_in(merged, data_dir)
    return merged


def _find_data_in(cfg, data_dir):
    """Points a resolved config to another folder of prepared data sets."""
    cfg.dataset.data_dir = data_dir
    if "data_dir" in cfg.dataset.load:
        cfg.dataset.load.data_dir = data_dir


def without_steps(cfg):
    """The config of label-solve without what a debug file says of distill's steps."""
    from omegaconf import OmegaConf

    kept = {key: value for key, value in OmegaConf.to_container(cfg).items() if key not in ("steps", "baseline")}
    return OmegaConf.create(kept)


def resumed(cfg, overrides):
    """The config of the run folder `cfg.resume`, with the overrides that a resumed run may have.

    Beside MAY_CHANGE that is dataset.data_dir: prepared data may lie elsewhere.

    Raises:
      UserError: the folder is no run, or an override is of something other than steps, engine or logger.
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
        if group not in MAY_CHANGE:
            raise checks.UserError(
                f"resume: a run goes on with its own config; only {', '.join(MAY_CHANGE)} can change, got {override!r}"
            )
        if key != group and OmegaConf.select(saved, key) is None:
            raise checks.UserError(f"resume: the run's {group} has no {key}; choose another with {group}=... first")
        OmegaConf.update(saved, key, OmegaConf.select(cfg, key), merge=False)
    return saved
