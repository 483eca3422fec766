"""The run folder: written atomically, read back without trust."""

import hashlib
import importlib.metadata
import io
import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import yaml

from kipx import checks, machine, untrusted
from kipx.files import write
from kipx.preprocess import Preprocessing

SUPPORT, CONFIG, OVERRIDES = "support.npz", "config.yaml", "overrides.yaml"
ENVIRONMENT, RESUMED, METRICS = "environment.json", "resumed.jsonl", "metrics.jsonl"
MANIFEST, JOB, LOCK = "manifest.json", "job.json", ".lock"
_PREFIX = "preprocessing_"
_WHITENING = _PREFIX + "whitening"


class Distilled(NamedTuple):
    """A distilled set with all that is needed to use it.

    Attributes:
      images: (n, h, w, c) float32, as distilled: what the kernel sees.
      pixels: (n, h, w, c) float64, the same images before preprocessing; not clipped.
      labels: (n, classes) float64, centred; learned labels are no classes, their largest entry names one.
      class_names: one for each class.
      preprocess: new (n, h, w, c) pixels -> float32, preprocessed as the training images were.
      config: what was distilled from what: `dataset`, `kernel`, `ridge`, `seed`.
      preprocessing: that of `preprocess`, as arrays, which also inverts.
    """

    images: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    class_names: tuple
    preprocess: Callable
    config: dict
    preprocessing: Preprocessing


def load(path, *, step=None):
    """Reads a distilled set.

    Args:
      path: a run folder, or a support.npz.
      step: a checkpoint of the run folder, whose images and labels are taken; None for its last.
    Returns:
      Distilled.
    Raises:
      UserError: no such file, torn, or not one of kipx's. Nothing is ever unpickled.
    """
    folder, path = path, pathlib.Path(path)
    if path.is_dir():
        path = path / SUPPORT
    if not path.is_file():
        raise checks.UserError(f"run: expected a run folder with {SUPPORT} or an npz, got {path}")
    arrays = read_npz(path)
    if step is not None:
        from kipx import checkpoints  # orbax takes a second

        arrays["images"], arrays["labels"] = checkpoints.support_at(folder, step)
    return unpack(arrays, path)


def read_npz(path):
    """{name: array} of an npz.

    Raises:
      UserError: torn, no npz, or with objects; nothing is ever unpickled.
    """
    try:
        return untrusted.npz(path)
    except untrusted.Damaged as error:
        raise checks.UserError(f"{path}: is torn or no npz ({error}); take it from the run again") from error


def pack(images, labels, *, preprocessing, class_names, config):
    """{name: array} of a distilled set, as in support.npz."""
    return {
        "images": np.asarray(images),
        "labels": np.asarray(labels),
        "class_names": np.asarray(class_names),
        "config": as_text(config),
        **{_PREFIX + field: np.asarray(value) for field, value in preprocessing._asdict().items()},
    }


def as_text(config):
    """A config as the array that a set has."""
    return np.asarray(yaml.safe_dump(config))


def read_text(config, path):
    """The config, nested dicts, that `as_text` wrote into a set.

    Raises:
      UserError: torn, or no config.
    """
    return _parse(str(config), path)


def unpack(arrays, path):
    """The Distilled of what `pack` packed.

    Args:
      arrays: {name: array}; more names than those of `pack` do no harm.
      path: where they come from, for messages.
    Raises:
      UserError: an array is missing, or they do not fit together.
    """
    check_whole(arrays, path)
    images, labels = arrays["images"], arrays["labels"]
    fits = images.ndim == 4 and labels.shape == (len(images), len(arrays["class_names"]))
    if not fits or not _finite(images) or not _finite(labels):
        raise checks.UserError(
            f"{path}: expected finite images (n, h, w, c), labels (n, classes), got {images.shape} and {labels.shape}"
        )
    preprocessing = _preprocessing(arrays, path)
    names = tuple(str(name) for name in arrays["class_names"])
    config = read_text(arrays["config"], path)
    pixels = preprocessing.invert(images)
    return Distilled(images, pixels, labels, names, preprocessing.apply, config, preprocessing)


def check_whole(arrays, path):
    """Raises UserError if a set lacks an array."""
    needed = ("images", "labels", "class_names", "config", *(_PREFIX + field for field in Preprocessing._fields))
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise checks.UserError(
            f"{path}: is not a set that kipx distilled: it lacks {', '.join(missing)}; without its preprocessing a set "
            "cannot be used; kipx import reads those of others"
        )


def _finite(array):
    return np.issubdtype(array.dtype, np.number) and bool(np.isfinite(array).all())


def _preprocessing(arrays, path):
    """That of a set's arrays, if it fits the images."""
    found = Preprocessing(*(arrays[_PREFIX + field] for field in Preprocessing._fields))
    if found.whitening.ndim == 1:
        found = found._replace(whitening=_of_half(found.whitening))
    shape = arrays["images"].shape[1:]
    square = (int(np.prod(shape)),) * 2
    single = {found.unit_norm.shape, found.centre.shape, found.norm.shape} == {()}
    fits = found.mean.shape in (shape, shape[-1:]) and found.std.shape == shape[-1:] and single
    sound = all(_finite(array) for array in found._replace(unit_norm=found.mean))
    if not fits or not sound or found.whitening.shape not in ((0, 0), square):
        raise checks.UserError(
            f"{path}: expected finite preprocessing of images of {shape}, got a mean of {found.mean.shape}, "
            f"a deviation of {found.std.shape}, whitening of {found.whitening.shape}"
        )
    return found


def _of_half(half):
    """The symmetric matrix of its upper triangle, row by row; of a length that is none, of the wrong shape."""
    side = int((2 * len(half)) ** 0.5)
    if side * (side + 1) // 2 != len(half):
        return half[:, None]
    whole = np.zeros((side, side), half.dtype)
    whole[np.triu_indices(side)] = half
    return whole + np.triu(whole, 1).T


def save_support(folder, images, labels, *, preprocessing, class_names, config):
    """Writes support.npz; equal contents give equal bytes. Of the whitening, which is symmetric, it holds half."""
    arrays = pack(images, labels, preprocessing=preprocessing, class_names=class_names, config=config)
    whitening = arrays[_WHITENING]
    write(pathlib.Path(folder) / SUPPORT, npz_bytes({**arrays, _WHITENING: whitening[np.triu_indices(len(whitening))]}))


def npz_bytes(arrays):
    """An npz of {name: array} as bytes, equal for equal arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def write_json(path, value):
    """Writes a value as indented JSON, atomically."""
    write(path, json.dumps(value, indent=2) + "\n")


def create(folder, *, config, overrides, **known):
    """Opens a run folder: what runs, with what, where.

    Args:
      folder: made if it is not there.
      config: resolved config, nested dicts.
      overrides: as typed.
      **known: what environment.json holds beside `environment()`.
    Raises:
      UserError: the folder already holds a run.
    """
    folder = pathlib.Path(folder)
    if (folder / CONFIG).exists():
        raise checks.UserError(
            f"{folder}: already holds a run; go on with resume={folder}, or set another hydra.run.dir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ENVIRONMENT, {**environment(), **known})
    write(folder / OVERRIDES, yaml.safe_dump(list(overrides)))
    write_config(folder, config)


def write_config(folder, config):
    """Writes config.yaml: of a new run, or of one that goes on with other steps, engine or logger."""
    write(pathlib.Path(folder) / CONFIG, yaml.safe_dump({**config, "resume": None}, sort_keys=False))


def read_config(folder):
    """The resolved config of a run folder, nested dicts.

    Raises:
      UserError: the folder is not a run.
    """
    path = pathlib.Path(folder) / CONFIG
    if not path.is_file():
        raise checks.UserError(f"resume: expected a run folder, one with {CONFIG}, got {folder}")
    return _parse(path.read_bytes(), path)


def _parse(text, path):
    try:
        config = untrusted.from_yaml(text)
    except untrusted.Damaged as error:
        raise checks.UserError(f"{path}: its config is torn or no YAML ({error}); take it from a backup") from error
    if not isinstance(config, dict):
        raise checks.UserError(f"{path}: expected the config of a run, got {type(config).__name__}")
    if any("${" in text for text in untrusted.texts_in(config)):
        raise checks.UserError(f"{path}: its config has an interpolation, ${{...}}, which kipx never writes; remove it")
    return config


def write_manifest(folder, *, config, parents=()):
    """Writes manifest.json: the sha256 of every other file in the folder, the config, the runs it came from."""
    folder = pathlib.Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, JOB, LOCK))
    sums = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    write_json(folder / MANIFEST, {"files": sums, "config": config, "parents": list(parents)})


def environment():
    """Versions, device and commit that a number depends on."""
    import jax

    packages = ("kipx", "jax", "jaxlib", "numpy", "optax", "flax", "orbax-checkpoint", "hydra-core")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": machine.cores(),
        "devices": [device.device_kind for device in jax.devices()],
        "packages": {name: _version(name) for name in packages},
        "git_commit": _git_commit(),
        "command": [pathlib.Path(part).name for part in sys.orig_argv[:2]] + sys.orig_argv[2:],
    }


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit():
    """The commit of kipx's own repository, "-dirty" behind it where its code or configs are not as committed.

    None where kipx is installed, be it within somebody else's repository.
    """
    source = pathlib.Path(__file__).parents[1]
    try:
        top, commit = _git(source, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        if pathlib.Path(top).resolve() != source.resolve():
            return None
        return commit + ("-dirty" if _git(source, "status", "--porcelain", "kipx", "conf", "sweeps") else "")
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def _git(source, *words):
    return subprocess.run(["git", "-C", source, *words], capture_output=True, text=True, check=True).stdout
