"""Fitted preprocessing on disk, so that the next run on the same images need not fit it again.

A file is named after the hash of the training images, the arguments and the code that fits. It may be deleted any time.
"""

import hashlib
import io
import json
import pathlib

import numpy as np

from kipx import files, preprocess, untrusted
from kipx.notes import note
from kipx.preprocess import Preprocessing


def remembering(fit, arguments, folder):
    """A `fit` with the same results that looks into a folder first, and leaves whitening there.

    A file that is damaged or cannot be written costs a note on stderr and a new fit. Nothing is ever unpickled.

    Args:
      fit: (n, h, w, c) pixels -> Preprocessing.
      arguments: what else decides the result, JSON's types.
      folder: made when something is written.
    Returns:
      (n, h, w, c) pixels -> Preprocessing.
    """

    def remembered(images):
        key = _key(np.asarray(images), arguments)
        path = pathlib.Path(folder) / f"{key}.npz"
        fitted = _read(path, key)
        if fitted is None:
            fitted = fit(images)
            if fitted.whitening.size:  # else fitted as fast as read
                _write(path, key, fitted)
        return fitted

    remembered.whitens = getattr(fit, "whitens", False)
    return remembered


def _key(images, arguments):
    known = hashlib.sha256(pathlib.Path(preprocess.__file__).read_bytes())
    known.update(json.dumps([arguments, images.dtype.str, images.shape], sort_keys=True).encode())
    known.update(np.ascontiguousarray(images).data)
    return known.hexdigest()


def _digest(key, fitted):
    content = hashlib.sha256(key.encode())
    for array in fitted:
        content.update(f"{array.dtype.str}{array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


def _read(path, key):
    if not path.is_file():
        return None
    try:
        found = untrusted.npz(path)
        fitted = Preprocessing(*(found[field] for field in Preprocessing._fields))
        if str(found["digest"]) == _digest(key, fitted):
            return fitted
        reason = "its content is not what was written"
    except (untrusted.Damaged, KeyError) as error:
        reason = str(error)
    note(f"{path} is damaged ({reason}); fitting again")
    return None


def _write(path, key, fitted):
    buffer = io.BytesIO()
    np.savez(buffer, digest=np.asarray(_digest(key, fitted)), **fitted._asdict())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, buffer.getvalue(), shared=True)
    except OSError as error:
        note(f"the fitted preprocessing cannot be kept in {path.parent} ({error}); the next run fits again")
