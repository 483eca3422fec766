"""The support set as a picture: where it started beside what it became."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kipx import checks


def support_png(initial, learned, labels, class_names, *, most=20, limits=None):
    """Draws images of a support set, the initial above the learned, each under its class.

    Args:
      initial, learned: (n, h, w, c) pixels, any range.
      labels: (n, classes); an image is named after the largest.
      class_names: one for each class.
      most: images drawn, spread evenly over the set.
      limits: (black, white), to which pixels are clipped; None: each image is stretched to its own.
    Returns:
      PNG as bytes.
    """
    places = spread(len(learned), most)
    figure = Figure(figsize=(max(4, 1.0 * len(places)), 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(places), squeeze=False)
    for row, (images, title) in enumerate(((initial, "initial"), (learned, "learned"))):
        for axis, place in zip(axes[row], places, strict=True):
            axis.imshow(_stretch(images[place], limits), cmap="gray", interpolation="nearest", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        axes[row][0].set_ylabel(title)
    for axis, place in zip(axes[0], places, strict=True):
        axis.set_title(words(class_names[int(np.argmax(labels[place]))]), fontsize=9)
    return as_png(figure)


def labels_png(images, labels, class_names, *, most=20):
    """Draws the first images of a support set, each above its label as a bar for each class.

    Args:
      images, labels, class_names, most: as for `support_png`; an image is named after its label's largest entry.
    Returns:
      PNG as bytes.
    """
    places = spread(len(images), most)
    figure = Figure(figsize=(max(4, 1.0 * len(places)), 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(places), squeeze=False, sharey="row")
    for (above, below), place in zip(axes.T, places, strict=True):
        above.imshow(_stretch(images[place]), cmap="gray", interpolation="nearest")
        above.set_title(words(class_names[int(np.argmax(labels[place]))]), fontsize=9)
        below.bar(np.arange(len(class_names)), labels[place], color="black")
        for axis in (above, below):
            axis.set(xticks=[], yticks=[])
    axes[0][0].set_ylabel("image")
    axes[1][0].set_ylabel("label")
    return as_png(figure)


def words(text, most=80):
    """Text as it stands in a picture: in one line, not too long, and no formula, which may be a wrong one."""
    text = checks.printable(text)
    return (text if len(text) <= most else f"{text[: most - 3]}...").replace("$", r"\$")


def as_png(figure):
    """A matplotlib figure as the bytes of a PNG, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def chart(panels=1, **shared):
    """(a figure, its axes): a row of empty panels with a light grid."""
    figure = Figure(figsize=(4.6 * panels, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False, **shared)[0]
    for axis in axes:
        axis.grid(alpha=0.25, lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def scale_of_steps(axis, steps):
    """Makes a chart's x axis one of steps, which ascend: logarithmic, with 0; those far enough apart are named."""
    axis.set_xscale("symlog", linthresh=1)
    apart = (max(steps[-1], 2) ** (1 / 8)) if len(steps) else 1
    named = []
    for step in reversed(steps):
        if not named or step * max(apart, 1.6) <= named[-1]:
            named.append(step)
    axis.set_xticks(named, map(str, named))
    axis.minorticks_off()


def spread(count, most):
    """Of so many places at most `most`, evenly spread, the first and the last among them; an array of int."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))


def _stretch(image, limits=None):
    image = image if image.shape[-1] == 3 else image.mean(axis=-1)
    low, high = (image.min(), image.max()) if limits is None else limits
    return (np.clip(image, low, high) - low) / (high - low if high > low else 1)
