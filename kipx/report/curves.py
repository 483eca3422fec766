"""Curves over steps, as pictures that a page holds."""

import io

import matplotlib

from kipx.report.page import data_uri
from kipx.report.pictures import chart, scale_of_steps, words

ACCURACIES = {
    "test_accuracy": "test",
    "validation_accuracy": "validation",
    "train_accuracy": "train, of the batch",
}
LOSSES = {"test_mse": "test", "train_loss": "train, of the batch"}
NORMS = {"train_rkhs_norm": "before the step"}
LABELLED = 12  # lines in a legend, at most


def series(rows, names):
    """{name: (steps, values)} of the keys of `names` that rows of metrics have."""
    found = {}
    for key, name in names.items():
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            found[name] = tuple(zip(*points, strict=True))
    return found


def uri(found, y_label, *, percent=False, log=False):
    """Draws lines over steps.

    Args:
      found: {name: (steps, values)}.
      y_label: of the axis; percent: whether values are shares, drawn in percent; log: whether the axis is logarithmic.
    Returns:
      SVG as a data URI; the same for the same lines.
    """
    figure, (axis,) = chart()
    colors = matplotlib.colormaps["tab10" if len(found) <= 10 else "viridis"]
    for i, (name, (steps, values)) in enumerate(found.items()):
        color = colors(i) if len(found) <= 10 else colors(i / len(found))
        marker = "o" if len(steps) <= 20 else None
        axis.plot(
            steps,
            [100 * v if percent else v for v in values],
            marker=marker,
            ms=3,
            lw=1.3,
            color=color,
            label=words(name),
        )
    scale_of_steps(axis, sorted({step for steps, _ in found.values() for step in steps}))
    axis.set(xlabel="step", ylabel=words(y_label), **({"yscale": "log"} if log else {}))
    if len(found) <= LABELLED:
        axis.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "kipx", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return data_uri(buffer.getvalue(), "image/svg+xml")
