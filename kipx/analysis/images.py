"""What did the images become? Each beside what it began as, in pixel space."""

import numpy as np

from kipx.analysis.subject import start
from kipx.report.pictures import support_png
from kipx.report.tables import Table


def answer(subject):
    """How images differ from what they began as, class by class, and a picture of both, clipped to the data's range.

    Args:
      subject: kipx.analysis.subject.Subject.
    Returns:
      (kipx.report.tables.Table, PNG as bytes).
    Raises:
      UserError: there is no checkpoint of step 0.
    Source: paper Figures 5 and 6.
    """
    distilled, data = subject.distilled, subject.data
    began, limits = start(subject), (float(data.x_train.min()), float(data.x_train.max()))
    initial, learned = distilled.preprocessing.invert(began.images), distilled.pixels
    classes = began.labels.argmax(axis=1)
    found = changes(initial, learned, limits)
    picture = support_png(initial, learned, began.labels, distilled.class_names, limits=limits)
    return _table(found, classes, distilled.class_names, limits), picture


def changes(initial, learned, limits):
    """How far each image is from what it began as.

    Args:
      initial, learned: (n, h, w, c) pixels.
      limits: (lowest, highest) value of the data's pixels.
    Returns:
      {'change': |learned - initial| / |initial|, Euclidean norms; 'correlation': over pixels, not a number of an image
      of one shade; 'variation': sum of absolute differences of neighbouring pixels, learned over initial; 'outside':
      share of learned pixels beyond the limits}, each (n,).
    """
    before, after = (x.reshape(len(x), -1).astype(float) for x in (initial, learned))
    moved = [x - x.mean(axis=1, keepdims=True) for x in (before, after)]
    norms = [np.linalg.norm(x, axis=1) for x in (*moved, before)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "change": np.linalg.norm(after - before, axis=1) / norms[2],
            "correlation": (moved[0] * moved[1]).sum(axis=1) / (norms[0] * norms[1]),
            "variation": _variation(learned) / _variation(initial),
            "outside": ((after < limits[0]) | (after > limits[1])).mean(axis=1),
        }


def _variation(images):
    return sum(np.abs(np.diff(images, axis=axis)).sum(axis=(1, 2, 3)) for axis in (1, 2))


def _table(found, classes, names, limits):
    rows = [
        (
            names[c],
            str(sum(classes == c)),
            f"{found['change'][classes == c].mean():.2f}",
            f"{found['correlation'][classes == c].mean():.2f}",
            f"{found['variation'][classes == c].mean():.2f}",
            f"{100 * found['outside'][classes == c].mean():.1f}",
        )
        for c in np.unique(classes)
    ]
    columns = ("class", ">images", ">change", ">correlation", ">variation", ">outside (percent)")
    notes = (
        "In pixel space, means over the images of a class: |learned - initial| / |initial|; correlation of the two; "
        "total variation, learned over initial; pixels outside the data's range, "
        f"{limits[0]:g} to {limits[1]:g}, to which the picture is clipped.",
    )
    return Table("Images, learned beside initial (Figures 5 and 6)", columns, rows, notes)
