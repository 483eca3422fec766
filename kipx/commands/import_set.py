"""kipx import: a distilled set that others made, with the preprocessing that they used, as a run folder."""

import hashlib
import pathlib

import numpy as np

from kipx import artifacts, checks, formats, support
from kipx.report.pictures import labels_png

KINDS = ("centred", "probabilities", "logits")


def run(folder, arrays, *, load, fit, kind, overrides, config):
    """Writes the run folder of a set that was read by `kipx.formats.read`.

    Args:
      folder: where to; made if it is not there.
      arrays: {name: array}.
      load, fit, kind: as for `complete`.
      overrides: as typed; config: resolved, nested dicts, with `path` and, of the set, `dataset`, `kernel`, `ridge`.
    Returns:
      kipx.artifacts.Distilled.
    Raises:
      UserError: as `complete`; nothing has been written then.
    """
    files = [config["path"], *([config["labels"]["path"]] if _has_labels_file(config) else [])]
    parents = [{"file": pathlib.Path(file).name, "sha256": _sha256(file)} for file in files]
    kept = {key: config[key] for key in ("dataset", "kernel", "ridge", "seed")} | _source(arrays, parents[0], config)
    found = complete(arrays, config["path"], load=load, fit=fit, kind=kind, config=kept)
    artifacts.create(folder, config=config, overrides=overrides)
    artifacts.save_support(
        folder,
        found.images,
        found.labels,
        preprocessing=found.preprocessing,
        class_names=found.class_names,
        config=kept,
    )
    artifacts.write(folder / "support.png", labels_png(found.pixels, found.labels, found.class_names))
    artifacts.write_manifest(folder, config=config, parents=parents)
    return found


def read(path, *, load, fit, config, labels=None, kind=None, entry=0):
    """Reads a distilled set of others, or of kipx's own, and writes nothing.

    Args:
      path, labels, entry: as for `kipx.formats.read`.
      load, fit, kind, config: as for `complete`.
    Returns:
      kipx.artifacts.Distilled.
    Raises:
      UserError: as `kipx.formats.read` and `complete`.
    """
    found = formats.read(path, labels=labels, entry=entry)
    return complete(found, path, load=load, fit=fit, kind=kind, config=config)


def complete(arrays, path, *, load, fit, config, kind=None):
    """A set with the preprocessing and class names that its file lacks; one of kipx's own lacks nothing.

    Args:
      arrays: {name: array}, as from `kipx.formats.read`.
      path: for messages.
      load: () -> kipx.data.Dataset, that it is distilled from.
      fit: (n, h, w, c) pixels -> Preprocessing; what the set was preprocessed with.
      config: what Distilled is to say of it; None: what a set of kipx's own says.
      kind: of labels (n, classes) that the file does not tell the kind of: 'centred', as they are; 'probabilities',
        from which 1 / classes is taken; 'logits', whose softmax are probabilities.
    Returns:
      kipx.artifacts.Distilled.
    Raises:
      UserError: images or labels are not of the data set's shape, or of no kind that was stated.
    """
    if kind is not None and "soft_labels" not in arrays:
        raise checks.UserError(f"labels.kind: is for soft labels of an unknown kind, {path} has others; leave it out")
    if formats.is_own(arrays):
        return artifacts.unpack(arrays if config is None else {**arrays, "config": artifacts.as_text(config)}, path)
    data = load()
    images = _images(arrays["images"], data.x_train.shape[1:], path)
    labels = _labels(arrays, len(images), data.classes, kind, path)
    names, preprocessing = data.class_names, fit(data.x_train)
    packed = artifacts.pack(images, labels, preprocessing=preprocessing, class_names=names, config=config)
    return artifacts.unpack(packed, path)


def table(folder, distilled, arrays):
    """Title, rows and closing line of what is printed."""
    size = "x".join(map(str, distilled.images.shape[1:]))
    rows = [("images", f"{len(distilled.images)} of {size}"), ("classes", str(len(distilled.class_names)))]
    if arrays.get("entries", 1) > 1:
        rows.append(("sets in the file", f"{int(arrays['entries'])}, of which entry= takes one"))
    return "imported", rows, f"run folder: {folder}\nits test accuracy: kipx evaluate run={folder}"


def _has_labels_file(config):
    return config["labels"]["path"] not in (None, "by_class")


def _source(arrays, file, config):
    """Where a set of others came from; {} of one that kipx distilled."""
    if not formats.is_own(arrays):
        return {"source": file}
    saved = artifacts.read_text(arrays["config"], config["path"])
    return {"source": saved["source"]} if "source" in saved else {}


def _sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def _images(images, shape, path):
    """float32, if they are of the data set's shape."""
    if images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise checks.UserError(
            f"{path}: expected images (n, h, w, c) = (n, {', '.join(map(str, shape))}), as the data set's, "
            f"got {images.shape}; is it another dataset=, or another order of axes?"
        )
    if not np.issubdtype(images.dtype, np.floating) or not np.isfinite(images).all():
        raise checks.UserError(f"{path}: expected preprocessed images of finite numbers, got {images.dtype}")
    return images.astype(np.float32)


def _labels(arrays, n, classes, kind, path):
    """(n, classes) float64, centred."""
    if "soft_labels" in arrays:
        return _soft(_of_shape(arrays["soft_labels"], n, classes, path), kind, path)
    labels = arrays["labels"]
    if labels.ndim == 0:  # by_class
        if n % classes:
            raise checks.UserError(f"labels.path: expected equally many images of {classes} classes, got {n}")
        labels = np.repeat(np.arange(classes), n // classes)
    labels = _of_shape(labels, n, classes, path)
    return np.asarray(support.one_hot(labels, classes)) if labels.ndim == 1 else labels.astype(np.float64)


def _of_shape(labels, n, classes, path):
    """The labels, if they are class numbers of the data set, or finite (n, classes)."""
    numbers = labels.shape == (n,) and np.issubdtype(labels.dtype, np.integer)
    soft = labels.shape == (n, classes) and np.issubdtype(labels.dtype, np.floating)
    if not numbers and not soft:
        raise checks.UserError(
            f"{path}: expected labels ({n},) of class numbers or ({n}, {classes}), as the data set has {classes} "
            f"classes, got {labels.dtype} {labels.shape}"
        )
    if numbers and (labels.min() < 0 or labels.max() >= classes):
        raise checks.UserError(
            f"{path}: expected class numbers 0 to {classes - 1}, got {labels.min()} to {labels.max()}"
        )
    if soft and not np.isfinite(labels).all():
        raise checks.UserError(f"{path}: expected finite labels, got NaN or inf")
    return labels


def _soft(labels, kind, path):
    """Centred labels of soft ones; probabilities add up to 1."""
    if kind is None:
        raise checks.UserError(
            f"labels.kind: {path} has soft labels and does not say of which kind; give labels.kind={'|'.join(KINDS)}"
        )
    checks.one_of("labels.kind", kind, KINDS)
    labels = labels.astype(np.float64)
    if kind == "centred":
        return labels
    if kind == "logits":
        labels = np.exp(labels - labels.max(axis=1, keepdims=True))
        labels /= labels.sum(axis=1, keepdims=True)
    if labels.min() < 0 or not np.allclose(labels.sum(axis=1), 1, atol=1e-3):
        raise checks.UserError(f"labels.kind: expected probabilities, which add up to 1, got others in {path}")
    return labels - 1 / labels.shape[1]
