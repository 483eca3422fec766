"""From a composed config to plain keyword arguments, in one place, every key, type and target checked."""

import difflib
import functools
import importlib
import inspect
import re
import types
import typing
from importlib import resources

from kipx import checks

CALL = object()  # in a schema: a section with a `_target_`


def plain(cfg, schema):
    """Resolves a config to nested dicts, after checking it against its schema and its targets' signatures.

    Args:
      cfg: DictConfig, or nested dicts.
      schema: {key: type or nested schema} of what stands beside the sections with a `_target_`; a tuple of schemas is
        for a section of several kinds, and {'*': schema} for one whose keys are the user's.
    Returns:
      Nested dicts of plain values. With `debug`, which the files of conf/debug/ set, those files' keys that the schema
      lacks are left out: they are for several commands.
    Raises:
      UserError: an unknown or missing key, a wrong type, or a `_target_` that is not kipx's own.
    """
    from omegaconf import OmegaConf  # not needed to build what a run folder's config says
    from omegaconf.errors import OmegaConfBaseException

    cfg = OmegaConf.create(cfg)
    spare = _of_debug() - schema.keys() if cfg.get("debug") else set()
    # keys first, since what an unknown one holds may not resolve
    _check_keys([key for key in cfg if key not in spare], schema, "")
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise checks.UserError(f"config: {checks.reason(error)}") from error
    values = {key: value for key, value in values.items() if key not in spare}
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
    _check_call(section, path)
    target, given = _target(section, path), {key: value for key, value in section.items() if key != "_target_"}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.default is parameter.empty and name not in {**more, **given}:
            raise checks.UserError(f"{path}.{name}: expected a value, got none")
    return target(**more, **given)


def _check_keys(values, schema, prefix):
    for key in values:
        if key not in schema:
            raise checks.UserError(
                f"{prefix}{key}: unknown key{_nearest(key, schema)}; kipx <command> --help lists them"
            )


def _check(values, schema, prefix):
    schema = dict.fromkeys(values, schema["*"]) if "*" in schema else schema
    _check_keys(values, schema, prefix)
    for key, expected in schema.items():
        path, value = f"{prefix}{key}", values.get(key)
        if expected is CALL:
            _check_call(value, path)
        elif isinstance(expected, dict | tuple):
            if not isinstance(value, dict):
                raise checks.UserError(f"{path}: expected one of its options, {path}=..., got {checks.said(value)}")
            kinds = expected if isinstance(expected, tuple) else (expected,)
            _check(value, max(kinds, key=lambda kind: len(kind.keys() & value.keys())), f"{path}.")
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
        names[list] = "a list"
        wanted = " or ".join(names.get(kind, str(kind)) for kind in kinds)
        raise checks.UserError(f"{path}: expected {wanted}, got {checks.said(value)}")


def _target(section, path):
    if not isinstance(section, dict):
        raise checks.UserError(
            f"{path}: expected one of its options, {path.partition('.')[0]}=..., got {checks.said(section)}"
        )
    name, known = section.get("_target_"), _builders(path.partition(".")[0])
    if name not in known:
        raise checks.UserError(
            f"{path}._target_: expected a function of kipx, {' or '.join(known)}, got {checks.said(name)}"
        )
    module, _, function = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise checks.UserError(f"{path}._target_: there is no {name}") from error


@functools.cache
def _builders(group):
    """The functions that the files of a group name: no other is ever called, whatever a run folder's config says."""
    names = {"kernels": ("kernel",), "network": ("network", "kernel")}.get(group, (group,))  # also a set's own
    files = [file for name in names for file in (resources.files("kipx.conf") / name).iterdir()]
    texts = [file.read_text() for file in files if file.name.endswith(".yaml")]
    return tuple(
        sorted({name for text in texts for name in re.findall(r"^ *_target_: (kipx\.\S+)", text, re.MULTILINE)})
    )


@functools.cache
def _of_debug():
    """The keys that the files of conf/debug/ set."""
    files = (resources.files("kipx.conf") / "debug").iterdir()
    texts = [file.read_text() for file in files if file.name.endswith(".yaml")]
    return frozenset(key for text in texts for key in re.findall(r"^(\w+):", text, re.MULTILINE))


def _nearest(key, known):
    near = difflib.get_close_matches(str(key), [str(one) for one in known], n=1)
    return f", did you mean {near[0]}" if near else ""
