"""The images of a run over time, a sheet for each checkpoint."""

import io

import numpy as np
from PIL import Image

from kipx import artifacts, checkpoints
from kipx.report.page import Frames
from kipx.report.pictures import spread

IMAGES, TIMES, COLUMNS = 50, 20, 10  # at most
_NOTE = "Pixels, from the darkest to the brightest of the images that it began with; each is named after its label."


def read(folder):
    """The Frames of a run folder: at its checkpoints, if it has any, and at the end.

    Args:
      folder: with a support.npz.
    Returns:
      kipx.report.page.Frames: at most 50 images at 21 times, evenly spread over those there are.
    Raises:
      UserError: there is no set, or it cannot be read.
    """
    steps = checkpoints.steps(folder)
    return _frames(folder, [steps[i] for i in spread(len(steps), TIMES)])


def last(folder):
    """The same, of the end alone."""
    shown = _frames(folder, checkpoints.steps(folder)[:1])
    return shown._replace(labels=shown.labels[-1:], sheets=shown.sheets[-1:])


def _frames(folder, steps):
    """At these checkpoints, and at the end."""
    own = artifacts.load(folder)
    places = spread(len(own.images), IMAGES)
    times = [own.preprocessing.invert(checkpoints.support_at(folder, step)[0][places]) for step in steps]
    times.append(own.pixels[places])
    limits = float(times[0].min()), float(times[0].max())
    columns = min(COLUMNS, len(places))
    names = [str(own.class_names[c]) for c in own.labels[places].argmax(axis=1)]
    labels = [*(f"step {step}" for step in steps), "the end"]
    return Frames(labels, [sheet(pixels, columns, limits) for pixels in times], columns, names, _NOTE)


def sheet(pixels, columns, limits):
    """Images in rows, a transparent line to the right of each and below.

    Args:
      pixels: (n, h, w, c); of other than three channels their mean is drawn.
      columns: images in a row.
      limits: (black, white), to which pixels are clipped.
    Returns:
      PNG as bytes, ceil(n / columns) * (h + 1) by columns * (w + 1) pixels.
    """
    n, h, w, c = pixels.shape
    low, high = limits
    shades = np.clip((pixels - low) / (high - low if high > low else 1), 0, 1)
    shades = shades if c == 3 else shades.mean(axis=-1, keepdims=True)
    cells = np.zeros((-(-n // columns) * columns, h + 1, w + 1, shades.shape[-1] + 1), np.uint8)
    cells[:n, :h, :w, :-1], cells[:n, :h, :w, -1] = np.round(255 * shades), 255
    rows = cells.reshape(-1, columns, *cells.shape[1:]).swapaxes(1, 2)
    buffer = io.BytesIO()
    Image.fromarray(rows.reshape(-1, columns * (w + 1), cells.shape[-1])).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
