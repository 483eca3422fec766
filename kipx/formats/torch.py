"""What PyTorch's users read and write: DC's and DSA's .pt, the images and labels of MTT and DD-Ranking, kipx's own.

All images are (n, c, h, w) there. Source, as read in the repositories:
- VICO-UoE/DatasetCondensation, main.py: {'data': [[images, labels], one for each experiment], 'accs_all_exps': ...},
  labels (n,) int64, images normalized as get_dataset in utils.py does; DSA and DM alike.
- GeorgeCazenavette/mtt-distillation, distill.py: images_best.pt and labels_best.pt, a tensor each.
- NUS-HPC-AI-Lab/DD-Ranking, README.md and ddranking/metrics: images.pt, and labels.pt (n,) or (n, classes); soft ones
  are logits to it, and without any it takes images in the order of their classes, equally many of each.
"""

import numpy as np

from kipx import artifacts, checks, preprocess, untrusted
from kipx.formats import npz, pt

FILE, OWN = "set.pt", "kipx"


def files(distilled):
    """{name: bytes}: kipx's own set.pt with everything, and what peers read, in their normalization.

    Args:
      distilled: kipx.artifacts.Distilled.
    """
    images, classes = peers_images(distilled), np.argmax(distilled.labels, axis=1).astype(np.int64)
    return {
        FILE: pt.to_bytes(_own(distilled)),
        "dc.pt": pt.to_bytes({"data": [[images, classes]], "accs_all_exps": {}}),
        "images.pt": pt.to_bytes(images),
        "labels.pt": pt.to_bytes(classes),
        "soft_labels.pt": pt.to_bytes(distilled.labels.astype(np.float32)),
    }


def peers_images(distilled):
    """(n, c, h, w) float32, normalized as peers normalize the data set, or by its own mean where they have none."""
    own, name = distilled.preprocessing, _name(distilled)
    if name in preprocess.CODES:
        stated = preprocess.Preprocessing(*(255 * np.asarray(values) for values in preprocess.CODES[name]))
        return _to_torch(stated.apply(distilled.pixels))
    return _to_torch(((distilled.pixels - own.mean) / own.std).astype(np.float32))


def normalization(distilled):
    """What `peers_images` did, in words."""
    own, name = distilled.preprocessing, _name(distilled)
    if name in preprocess.CODES:
        mean, std = preprocess.CODES[name]
        return f"as pixels / 255 by the mean {list(mean)} and deviation {list(std)} of DC's code"
    mean = f"mean {np.round(own.mean, 3).tolist()}" if own.mean.ndim == 1 else "mean image"
    return f"by the training images' {mean} and deviation {np.round(own.std, 3).tolist()}"


def _name(distilled):
    return distilled.config["dataset"]["load"].get("name")


def _own(distilled):
    """kipx's own: everything channels first, whitening too."""
    found, own = npz.arrays(distilled), distilled.preprocessing
    order = _channels_first(distilled.images.shape[1:])
    return {
        "format": OWN,
        "images": _to_torch(found["images"]),
        "pixels": _to_torch(found["pixels"]),
        "labels": found["labels"],
        "classes": found["classes"],
        "class_names": list(distilled.class_names),
        "mean": own.mean.reshape(-1, 1, 1) if own.mean.ndim == 1 else _to_torch(own.mean),
        "std": own.std.reshape(-1, 1, 1),
        "whitening": own.whitening[np.ix_(order, order)] if own.whitening.size else own.whitening,
        "unit_norm": bool(own.unit_norm),
        "centre": float(own.centre),
        "norm": float(own.norm),
        "config": str(found["config"]),
    }


def read(path, entry):
    """Reads kipx's own, one of DC's with its experiments, or a tensor of images.

    Args:
      path: pathlib.Path.
      entry: which of DC's experiments.
    Returns:
      {name: array}, see `kipx.formats`; without labels where it holds images alone.
    Raises:
      UserError: damaged, with something other than plain values and tensors, or of another layout.
    """
    value = pt.read(path)
    try:
        if isinstance(value, dict) and value.get("format") == OWN:
            return _from_own(value)
        if isinstance(value, dict) and isinstance(value.get("data"), list):
            return _from_dc(value["data"], entry)
        if isinstance(value, np.ndarray) and value.ndim == 4:
            return {"images": _from_torch(value)}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise checks.UserError(
            f"{path}: expected what kipx export or DC wrote, got it damaged ({checks.reason(error)})"
        ) from error
    raise checks.UserError(
        f"{path}: expected images (n, c, h, w), DC's {{'data': [[images, labels], ...]}} or what kipx export wrote, "
        f"got {_said(value)}"
    )


def labels_of(path):
    """{'labels': class numbers (n,)} or {'soft_labels': (n, classes)} of a file with a tensor.

    Raises:
      UserError: damaged, or with something else.
    """
    value = pt.read(path)
    if not isinstance(value, np.ndarray) or value.ndim not in (1, 2):
        raise checks.UserError(f"labels.path: expected labels (n,) or (n, classes) in {path}, got {_said(value)}")
    return _labelled(value)


def _labelled(labels):
    return {"labels" if labels.ndim == 1 else "soft_labels": labels}


def _from_dc(experiments, entry):
    if entry >= len(experiments):
        raise checks.UserError(f"entry: expected at most {len(experiments) - 1}, the last of DC's sets, got {entry}")
    images, labels = experiments[entry]
    return {"images": _from_torch(images), **_labelled(labels), "entries": np.asarray(len(experiments))}


def _from_own(value):
    images = _from_torch(value["images"])
    back = np.argsort(_channels_first(images.shape[1:]))
    mean, whitening = value["mean"].transpose(1, 2, 0), value["whitening"]
    found = {
        "mean": mean.reshape(-1) if mean.shape[:2] == (1, 1) else mean,
        "std": value["std"].reshape(-1),
        "whitening": whitening[np.ix_(back, back)] if whitening.size else whitening,
        "unit_norm": np.asarray(bool(value["unit_norm"])),
        "centre": np.asarray(float(value["centre"])),
        "norm": np.asarray(float(value["norm"])),
    }
    packed = artifacts.pack(
        images,
        value["labels"],
        preprocessing=preprocess.Preprocessing(**found),
        class_names=untrusted.texts(value["class_names"]),
        config={},
    )
    return {**packed, "config": untrusted.texts([value["config"]])[0]}


def _channels_first(shape):
    """Where each number of a flattened (c, h, w) image stands in the flattened (h, w, c) one."""
    return np.arange(np.prod(shape)).reshape(shape).transpose(2, 0, 1).reshape(-1)


def _to_torch(images):
    """(n, h, w, c) or (h, w, c) with channels first."""
    return np.ascontiguousarray(np.moveaxis(images, -1, -3))


def _from_torch(images):
    return np.ascontiguousarray(np.moveaxis(images, -3, -1))


def _said(value):
    if isinstance(value, np.ndarray):
        return f"a tensor {value.shape}"
    if not isinstance(value, dict):
        return type(value).__name__
    return f"a dict of {', '.join(key if isinstance(key, str) else checks.said(key) for key in value)[:80]}"
