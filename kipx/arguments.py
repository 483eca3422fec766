"""What each command takes: the schema of its config, and the keyword arguments that a config becomes."""

import importlib
import os

from kipx import centroids, checks, support, track
from kipx.analysis.subject import Kernel
from kipx.config import CALL, build
from kipx.data import cache, folder
from kipx.engine import sharded
from kipx.report import folders
from kipx.sampled import Member, check

KINDS = ("ntk", "nngp")
_DATASET = {"load": CALL, "pools": int, "path": str | None, "data_dir": str | None, "raw_dir": str | None}
_KERNEL = {"architecture": CALL, "depth": int, "kind": str, "dtype": str, "backend": str}
_FAMILY = {**_KERNEL, "members": {"*": {"weight": float, **_KERNEL}}}
del _FAMILY["architecture"]
_KERNELS = (_FAMILY, _KERNEL)
_PROGRESS = {"progress": bool}
_WANDB = {"mode": str, "project": str, "entity": str | None, "group": str | None, "finish_s": float}
_LOGGER = (_PROGRESS, {**_PROGRESS, **_WANDB})
DISTILL = {
    "seed": int,
    "steps": int,
    "ridge": float,
    "rkhs_weight": float | None,
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
    "logger": _LOGGER,
}
PLAN = {**DISTILL, "plan": {"devices": int | None, "calibration_s": float}}
_WHERE = {"project": str | None, "entity": str | None}
REPORT = {"run": str, "table": str, "out": str | None, "html": bool, "to": str | None, "wandb": _WHERE}
LABEL_SOLVE = {
    **{key: DISTILL[key] for key in ("seed", "ridge", "resume", "dataset", "preprocess", "kernel", "support")},
    "form": CALL,
    **{key: DISTILL[key] for key in ("target", "engine", "logger")},
    "checkpoint": {"every_s": float},
}
PREPARE = {"dataset": _DATASET}
TRANSFER = {
    "run": str,
    "step": int | None,
    "seed": int,
    "networks": int,
    "baselines": list,
    "dataset": _DATASET,
    "preprocess": dict | None,
    "network": {"architecture": CALL, "depth": int | None, "width": int, "parameterization": str, "normalization": str},
    "trainer": {
        "loss": str,
        "label_scale": float,
        "factor": float,
        "momentum": float,
        "l2": float,
        "batch_size": int,
        "steps": int,
        "centred": bool,
        "evaluations": int,
        "validation": int,
    },
    "augment": CALL,
    "checkpoint": {"every_s": float},
    "resume": str | None,
    "logger": _LOGGER,
}
EXPORT = {"run": str, "format": str, "out": str | None}
SOURCE = {"path": str, "labels": {"path": str | None, "kind": str | None}, "entry": int}
IMPORT_OWN = {**SOURCE, "seed": int | None, "ridge": float, "dataset": _DATASET, "kernel": _KERNELS}
IMPORT = {**IMPORT_OWN, "preprocess": CALL}
EVALUATE = {"run": str, "ridge": float, "dataset": _DATASET, "kernel": _KERNELS, "engine": CALL}

ANALYZE = {
    **{key: EVALUATE[key] for key in ("run", "ridge", "dataset", "kernel", "engine")},
    "question": str,
    "out": str | None,
    "seed": int,
    "baseline": {"draws": int},
    "test_images": int | None,
    "kernels": {"*": _KERNEL},
}


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
    checks.one_of(f"{path}.kind", section["kind"], KINDS)
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
        # runs of version 0.1.0 have neither
        "rkhs_weight": checks.not_negative("rkhs_weight", values.get("rkhs_weight") or 0.0),
        "tested_from": values["checkpoint"].get("tested_from") or 0,
    }


def _of_a_run(values):
    """What distill and label-solve have in common."""
    return {
        "load": load(values),
        "fit": fit(values),
        "members": members(values["kernel"], values["engine"]),
        "draw": build(values["support"], "support"),
        "seed": values["seed"],
        "ridge": values["ridge"],
        "batch_size": values["target"]["batch_size"],
        "every_s": values["checkpoint"]["every_s"],
        **_shown(values["logger"]),
    }


def _shown(section):
    """What shows a run while it learns: `show`, whether there is progress, and `mirrored`."""
    wanted = {key: section[key] for key in _WANDB if key in section}
    if not wanted:
        return {"show": section["progress"], "mirrored": track.nowhere}
    from kipx import wandb_log

    return {"show": section["progress"], "mirrored": wandb_log.build(**wanted)}


def load(values):
    """() -> Dataset, that the config names."""
    return lambda: build(values["dataset"]["load"], "dataset.load")


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
    del posed["show"], posed["mirrored"]
    pool, size = values["engine"]["_target_"] == "kipx.engine.pool.build", values["engine"].get("block_size")
    spread = [m.engine.layout if pool else sharded.layout(m.kernel_fn, size) for m in posed["members"]]
    return {"posed": posed, "spread": spread, **values["plan"]}


def transfer(values, distilled):
    """Arguments of `kipx.commands.transfer.run`, built and thereby checked before anything is written."""
    from kipx.finite import losses  # flax takes a second

    recipe = dict(values["trainer"])
    evaluations, validation = recipe.pop("evaluations"), recipe.pop("validation")
    loss = losses.build(recipe.pop("loss"), label_scale=recipe.pop("label_scale"))
    known = {"natural": support.natural, "kmeans": centroids.kmeans, "herding": centroids.herding}
    return {
        "distilled": distilled,
        "load": load(values),
        "baselines": {name: known[checks.one_of("baselines", name, tuple(known))] for name in values["baselines"]},
        "augment": build(values["augment"], "augment"),
        "networks": values["networks"],
        "seed": values["seed"],
        "recipe": {"network": _network(values["network"], distilled), "loss": loss, **recipe},
        "evaluations": evaluations,
        "validation": validation,
        "every_s": values["checkpoint"]["every_s"],
        **_shown(values["logger"]),
    }


def _network(section, distilled):
    from kipx.finite import network

    choices = {key: section[key] for key in ("width", "parameterization", "normalization")}
    architecture = build(section["architecture"], "network.architecture")
    return network(architecture, classes=distilled.labels.shape[1], **choices)


def evaluate(values):
    """Arguments of `kipx.commands.evaluate.run`."""
    return {
        "load": load(values),
        "members": members(values["kernel"], values["engine"]),
        "ridge": values["ridge"],
    }


def analyze(values):
    """Arguments of `kipx.commands.analyze.run`."""
    return {
        "question": values["question"],
        "out": values.get("out"),
        "load": load(values),
        "kernels": _each_kind(values["kernels"], values["kernel"], values["engine"]),
        "ridge": values["ridge"],
        "seed": values["seed"],
        "draws": values["baseline"]["draws"],
        "test_images": values.get("test_images"),
    }


def _each_kind(others, own, engine):
    """[kipx.analysis.subject.Kernel] of every section, each as NTK and as NNGP; of equal ones the set's own stays."""
    members = own.get("members", {})
    mine = {f"kernel.members.{name}": section for name, section in members.items()} or {"kernel": own}
    named, found = {}, {}
    for path, section in {**mine, **{f"kernels.{name}": section for name, section in others.items()}}.items():
        checks.one_of(f"{path}.kind", section["kind"], KINDS)
        layers, name = repr(build(section["architecture"], path)), folders.architecture(section["architecture"])
        name = name if named.setdefault(name, layers) == layers else f"{name} ({path.rpartition('.')[2]})"
        for kind in KINDS:
            is_own = path in mine and kind == section["kind"]
            if (layers, kind) not in found or is_own:
                kernel_fn = kernel({**{key: section[key] for key in _KERNEL}, "kind": kind}, path)
                found[layers, kind] = Kernel(name, kind, is_own, build(engine, "engine", kernel_fn=kernel_fn))
    return list(found.values())


def prepare(values):
    """Arguments of `kipx.commands.prepare.run`; name None for a data set that needs no preparing."""
    section = values["dataset"]
    return {"name": section["load"].get("name"), "data_dir": section["data_dir"], "raw_dir": section["raw_dir"]}


def import_set(values):
    """Arguments of `kipx.commands.import_set.run`; of a set of kipx's own there is nothing to fit."""
    checks.positive("ridge", values["ridge"])
    return {
        "load": load(values),
        "fit": fit(values) if "preprocess" in values else None,
        "kind": values["labels"]["kind"],
    }
