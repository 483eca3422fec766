"""The run folder: written atomically, read back without trust."""

import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import yaml

from kipx import checks
from kipx.preprocess import Preprocessing

SUPPORT, CONFIG, OVERRIDES, METRICS, MANIFEST, JOB = (
    "support.npz",
    "config.yaml",
    "overrides.yaml",
    "metrics.jsonl",
    "manifest.json",
    "job.json",
)
_PREFIX = "preprocessing_"


class Distilled(NamedTuple):
    """A distilled set with all that is needed to use it.

    Attributes:
      images: (n, h, w, c) float32, as distilled: what the kernel sees.
      pixels: (n, h, w, c) float64, the same images before preprocessing; not clipped.
      labels: (n, classes) float64, centred; learned labels are no classes, their largest entry names one.
      class_names: one for each class.
      preprocess: new (n, h, w, c) pixels -> float32, preprocessed as the training images were.
      preprocessing: the fitted map itself, which also inverts.
      config: what was distilled from what: `dataset`, `kernel`, `ridge`, `seed`.
    """

    images: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    class_names: tuple
    preprocess: Callable
    preprocessing: Preprocessing
    config: dict


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
    arrays = _read_npz(path)
    preprocessing = Preprocessing(*(arrays[_PREFIX + field] for field in Preprocessing._fields))
    images, labels = (arrays["images"], arrays["labels"]) if step is None else _at(folder, step)
    if images.ndim != 4 or labels.shape != (len(images), len(arrays["class_names"])) or not np.isfinite(images).all():
        raise checks.UserError(
            f"{path}: expected finite images (n, h, w, c), labels (n, classes), got {images.shape} and {labels.shape}"
        )
    names = tuple(str(name) for name in arrays["class_names"])
    config = _parse(str(arrays["config"]), path)
    pixels = preprocessing.invert(images)
    return Distilled(images, pixels, labels, names, preprocessing.apply, preprocessing, config)


def _at(folder, step):
    from kipx import checkpoints  # orbax takes a second

    return checkpoints.support_at(folder, step)


def _read_npz(path):
    needed = ["images", "labels", "class_names", "config", *(_PREFIX + field for field in Preprocessing._fields)]
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, AttributeError, KeyError, zipfile.BadZipFile) as error:
        raise checks.UserError(f"{path}: is torn or no npz ({error}); take it from the run again") from error
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise checks.UserError(
            f"{path}: is not a set that kipx distilled: it lacks {', '.join(missing)}; "
            "without its preprocessing a set cannot be used"
        )
    return arrays


def save_support(folder, images, labels, *, preprocessing, class_names, config):
    """Writes support.npz; equal contents give equal bytes."""
    buffer = io.BytesIO()
    arrays = {_PREFIX + field: np.asarray(value) for field, value in preprocessing._asdict().items()}
    np.savez(
        buffer,
        images=np.asarray(images),
        labels=np.asarray(labels),
        class_names=np.asarray(class_names),
        config=np.asarray(yaml.safe_dump(config)),
        **arrays,
    )
    write(pathlib.Path(folder) / SUPPORT, buffer.getvalue())


def write(path, content):
    """Writes text or bytes so that the file is either the old one or the whole new one."""
    path = pathlib.Path(path)
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path, value):
    """Writes a value as indented JSON, atomically."""
    write(path, json.dumps(value, indent=2) + "\n")


def create(folder, *, config, overrides):
    """Opens a run folder: what runs, with what, where.

    Args:
      folder: made if it is not there.
      config: resolved config, nested dicts.
      overrides: as typed.
    Raises:
      UserError: the folder already holds a run.
    """
    folder = pathlib.Path(folder)
    if (folder / CONFIG).exists():
        raise checks.UserError(
            f"{folder}: already holds a run; go on with resume={folder}, or set another hydra.run.dir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "environment.json", environment())
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
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise checks.UserError(f"{path}: its config is torn or no YAML; take it from a backup") from error
    if not isinstance(config, dict):
        raise checks.UserError(f"{path}: expected the config of a run, got {type(config).__name__}")
    return config


def write_manifest(folder, *, config, parents=()):
    """Writes manifest.json: the sha256 of every other file in the folder, the config, the runs it came from."""
    folder = pathlib.Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, JOB))
    sums = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    write_json(folder / MANIFEST, {"files": sums, "config": config, "parents": list(parents)})


def environment():
    """Versions, device and commit that a number depends on."""
    import jax

    packages = ("kipx", "jax", "jaxlib", "numpy", "optax", "flax", "orbax-checkpoint", "hydra-core")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
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
    source = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
