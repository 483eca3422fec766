"""From a composed config to plain keyword arguments, in one place, every key, type and target checked."""

import difflib
import importlib
import inspect
import os
import types
import typing

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kipx import artifacts, checks

MAY_CHANGE = ("steps", "engine", "logger")  # of a run that is resumed
CALL = object()  # a section with a `_target_`
_DATASET = {"load": CALL, "pools": int, "path": str | None}
_KERNEL = {"architecture": CALL, "depth": int, "kind": str, "dtype": str, "backend": str}
DISTILL = {
    "seed": int,
    "steps": int,
    "ridge": float,
    "resume": str | None,
    "dataset": _DATASET,
    "preprocess": CALL,
    "kernel": _KERNEL,
    "support": CALL,
    "labels": {"init": str, "learned": bool, "learning_rate": float | None},
    "target": {"batch_size": int},
    "baseline": {"draws": int},
    "engine": CALL,
    "optimizer": CALL,
    "checkpoint": {"every_s": float},
    "logger": {"progress": bool},
}
EVALUATE = {"run": str, "ridge": float, "dataset": _DATASET, "kernel": _KERNEL, "engine": CALL}


def plain(cfg, schema):
    """Resolves a config to nested dicts, after checking it against its schema and its targets' signatures.

    Args:
      cfg: DictConfig, or nested dicts.
      schema: {key: type or nested schema} of what stands beside the sections with a `_target_`.
    Returns:
      Nested dicts of plain values.
    Raises:
      UserError: an unknown or missing key, a wrong type, or a `_target_` that is not kipx's own.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.create(cfg), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise checks.UserError(f"config: {str(error).splitlines()[0]}") from error
    _check(values, schema, "")
    return values


def build(section, path, **more):
    """Calls the section's `_target_` with the section's values; signatures are the schema.

    Args:
      section: dict with `_target_`, as from `plain`.
      path: the section's name, for messages.
      **more: arguments that no config holds, such as a kernel_fn.
    Returns:
      What the target returns.
    """
    target = _target(section, path)
    return target(**more, **{key: value for key, value in section.items() if key != "_target_"})


def kernel(section):
    """The kernel_fn of a kernel section."""
    architecture = build(section["architecture"], "kernel.architecture")
    modules = {"kipx": "kipx.kernel", "neural_tangents": "kipx.kernel.neural_tangents"}
    backend = checks.one_of("kernel.backend", section["backend"], tuple(modules))
    checks.one_of("kernel.kind", section["kind"], ("ntk", "nngp"))
    checks.one_of("kernel.dtype", section["dtype"], ("float32", "float64"))
    if backend == "neural_tangents":
        _check_compiler()
    return importlib.import_module(modules[backend]).build(architecture, section["kind"], section["dtype"])


def _check_compiler():
    """Refuses neural-tangents where XLA would end the process: JAX 0.10 miscompiles its gradient through pools."""
    import jax

    if jax.__version_info__ < (0, 11) and "algsimp" not in os.environ.get("XLA_FLAGS", ""):
        raise checks.UserError(
            f"kernel.backend: JAX {jax.__version__} crashes on neural_tangents' gradients; take Python >= 3.12, "
            "which gets a newer JAX, or set XLA_FLAGS=--xla_disable_hlo_passes=algsimp"
        )


def _check(values, schema, prefix):
    for key in values:
        if key not in schema:
            raise checks.UserError(
                f"{prefix}{key}: unknown key{_nearest(key, schema)}; kipx <command> --help lists them"
            )
    for key, expected in schema.items():
        path, value = f"{prefix}{key}", values.get(key)
        if expected is CALL:
            _check_call(value, path)
        elif isinstance(expected, dict):
            if not isinstance(value, dict):
                raise checks.UserError(f"{path}: expected one of its options, {path}=..., got {value!r}")
            _check(value, expected, f"{path}.")
        else:
            _check_type(path, value, expected)


def _check_call(section, path):
    signature = inspect.signature(_target(section, path)).parameters
    hints = {name: p.annotation for name, p in signature.items() if p.annotation is not inspect.Parameter.empty}
    for key, value in section.items():
        if key == "_target_":
            continue
        if key not in signature:
            raise checks.UserError(f"{path}.{key}: unknown key{_nearest(key, signature)}")
        if key in hints:
            _check_type(f"{path}.{key}", value, hints[key])


def _check_type(path, value, expected):
    kinds = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    fits = any(
        (kind is type(None) and value is None)
        or (kind is float and isinstance(value, int | float) and not isinstance(value, bool))
        or (kind is not float and type(value) is kind)
        for kind in kinds
    )
    if not fits:
        names = {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "null"}
        wanted = " or ".join(names.get(kind, str(kind)) for kind in kinds)
        raise checks.UserError(f"{path}: expected {wanted}, got {value!r}")


def _target(section, path):
    name = section.get("_target_") if isinstance(section, dict) else section
    if not isinstance(name, str) or not name.startswith("kipx."):
        raise checks.UserError(f"{path}._target_: expected a function of kipx, got {name!r}")
    module, _, function = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise checks.UserError(f"{path}._target_: there is no {name}") from error
    if not inspect.isfunction(found) or not found.__module__.startswith("kipx."):
        raise checks.UserError(f"{path}._target_: expected a function of kipx, got {name!r}")
    return found


def _nearest(key, known):
    near = difflib.get_close_matches(key, list(known), n=1)
    return f", did you mean {near[0]}" if near else ""


def distill(values):
    """Arguments of `kipx.commands.distill.run`, built and thereby checked before anything is written."""
    checks.positive("ridge", values["ridge"])
    checks.one_of("labels.init", values["labels"]["init"], ("onehot",))
    kernel_fn = kernel(values["kernel"])
    return {
        "load": lambda: build(values["dataset"]["load"], "dataset.load"),
        "fit": build(values["preprocess"], "preprocess"),
        "kernel_fn": kernel_fn,
        "engine": build(values["engine"], "engine", kernel_fn=kernel_fn),
        "draw": build(values["support"], "support"),
        "labels": values["labels"],
        "optimizer": build(values["optimizer"], "optimizer"),
        "seed": values["seed"],
        "steps": values["steps"],
        "ridge": values["ridge"],
        "batch_size": values["target"]["batch_size"],
        "draws": values["baseline"]["draws"],
        "every_s": values["checkpoint"]["every_s"],
        "show": values["logger"]["progress"],
    }


def evaluate(values):
    """Arguments of `kipx.commands.evaluate.run`."""
    return {
        "load": lambda: build(values["dataset"]["load"], "dataset.load"),
        "engine": build(values["engine"], "engine", kernel_fn=kernel(values["kernel"])),
        "ridge": values["ridge"],
    }


def with_run(cfg, saved):
    """The config of evaluate, what it leaves open filled from the run: data set, kernel, ridge."""
    chosen = {key: value for key, value in OmegaConf.to_container(cfg).items() if value is not None}
    return OmegaConf.merge({key: saved.get(key) for key in ("dataset", "kernel", "ridge") if key not in chosen}, chosen)


def resumed(cfg, overrides):
    """The config of the run folder `cfg.resume`, with the overrides that a resumed run may have.

    Raises:
      UserError: the folder is no run, or an override is of something other than steps, engine or logger.
    """
    saved = OmegaConf.create(artifacts.read_config(cfg.resume))
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        group = key.partition(".")[0]
        if group == "resume":
            continue
        if group not in MAY_CHANGE:
            raise checks.UserError(
                f"resume: a run goes on with its own config; only {', '.join(MAY_CHANGE)} can change, got {override!r}"
            )
        if key != group and OmegaConf.select(saved, key) is None:
            raise checks.UserError(f"resume: the run's {group} has no {key}; choose another with {group}=... first")
        OmegaConf.update(saved, key, OmegaConf.select(cfg, key), merge=False)
    return saved
