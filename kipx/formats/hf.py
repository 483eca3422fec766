"""A folder that Hugging Face's `datasets` loads: pictures with metadata.jsonl, and the exact arrays beside them."""

import io
import json

import numpy as np
import PIL.Image

from kipx import checks
from kipx.formats import safetensors

SPLIT = "train"
DARK = 64  # levels; what stays below is no picture on a scale of 0 to 255, or hardly one


def files(distilled):
    """{name: bytes}: a PNG for each image, see `shown`; labels; the exact set as safetensors.

    `datasets.load_dataset(folder)` has columns image, label (the class) and soft_label (a number a class).

    Args:
      distilled: kipx.artifacts.Distilled.
    Raises:
      UserError: images of neither one nor three channels.
    """
    channels = distilled.pixels.shape[-1]
    if channels not in (1, 3):
        raise checks.UserError(f"format=hf: pictures have 1 or 3 channels, got images of {channels}; take npz or torch")
    names = [f"{place:05d}.png" for place in range(len(distilled.pixels))]
    rows = [
        {"file_name": name, "label": int(np.argmax(label)), "soft_label": [float(value) for value in label]}
        for name, label in zip(names, distilled.labels, strict=True)
    ]
    pictures = {f"{SPLIT}/{name}": _png(image) for name, image in zip(names, _levels(distilled), strict=True)}
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    return {**pictures, f"{SPLIT}/metadata.jsonl": text.encode(), **safetensors.files(distilled)}


def shown(distilled):
    """(low, high): the pixels that are black and white in pictures; 0 and 255, or of another scale the set's own ends.

    The scale is that of the training pixels, of which a set has the mean alone.
    """
    pixels, mean = distilled.pixels, distilled.preprocessing.mean
    if mean.min() >= 0 and mean.max() <= 255 and pixels.max() > DARK:
        return 0.0, 255.0
    return float(pixels.min()), float(pixels.max())


def _levels(distilled):
    low, high = shown(distilled)
    scale = 255 / (high - low) if high > low else 1.0
    return np.clip(np.rint((distilled.pixels - low) * scale), 0, 255).astype(np.uint8)


def _png(image):
    buffer = io.BytesIO()
    PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def front_matter(distilled, name):
    """What the data card of such a folder begins with, for the hub and for `datasets`: nested dicts."""
    labels = {str(place): class_name for place, class_name in enumerate(distilled.class_names)}
    features = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": labels}}},
        {"name": "soft_label", "sequence": "float64"},
    ]
    return {
        "pretty_name": f"{name}, distilled into {len(distilled.images)} images",
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "kipx"],
        "size_categories": ["n<1K" if len(distilled.images) < 1000 else "1K<n<10K"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": SPLIT, "path": f"{SPLIT}/*"}],
                "features": features,  # here, not in dataset_info, is where local folders' are read
            }
        ],
    }
