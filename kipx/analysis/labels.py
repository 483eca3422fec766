"""What do learned labels say? As a matrix, how spread they are, and which classes they mix."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kipx.report.pictures import as_png, words
from kipx.report.tables import Table

MIXED = 3  # classes named in the table


def answer(subject):
    """What the labels of each class's images say of the others, and the whole matrix as a picture.

    Args:
      subject: kipx.analysis.subject.Subject.
    Returns:
      (kipx.report.tables.Table, PNG as bytes).
    Source: paper Figure 6.
    """
    labels, names = subject.learned.labels, subject.distilled.class_names
    began = subject.at(0).labels if 0 in subject.steps else None
    return _table(labels, began, names), _picture(labels, began, names)


def entropy(labels):
    """How spread each label is over the classes.

    Learned labels are no probabilities: the 1 / classes that centring took is given back, what is negative then counts
    as nothing, and the rest is divided by its sum. A one-hot label has 0 bits, one of all classes alike log2(classes).

    Args:
      labels: (n, classes), centred.
    Returns:
      (n,) bits; not a number where no entry is positive.
    """
    positive = np.maximum(labels + 1 / labels.shape[1], 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = positive / positive.sum(axis=1, keepdims=True)
        return -np.where(shares == 0, 0, shares * np.log2(shares)).sum(axis=1) + 0.0


def _table(labels, began, names):
    classes, bits = labels.argmax(axis=1), entropy(labels)
    rows = []
    for c in np.unique(classes):
        mean = labels[classes == c].mean(axis=0)
        others = [k for k in np.argsort(-mean, kind="stable") if k != c]
        most, least = [k for k in others[:MIXED] if mean[k] > 0], others[: -MIXED - 1 : -1]
        numbers = str(sum(classes == c)), f"{mean[c]:+.2f}", f"{bits[classes == c].mean():.2f}"
        rows.append((names[c], *numbers, _said(mean, names, most), _said(mean, names, least)))
    notes = [
        "Entries are of centred labels, means over the images whose largest entry is that class; mixed with: the "
        "largest positive others; entropy in bits, of what is positive once 1 / "
        f"{labels.shape[1]} is given back: 0 is one-hot, {np.log2(labels.shape[1]):.2f} all classes alike."
    ]
    if began is not None:
        moved = int((began.argmax(axis=1) != classes).sum())
        notes.append(f"{moved} of {len(labels)} labels have their largest entry at another class than at step 0.")
    columns = ("class", ">images", ">own entry", ">entropy", "mixed with", "set apart from")
    return Table("Labels (Figure 6)", columns, rows, tuple(notes))


def _said(mean, names, classes):
    return ", ".join(f"{names[k]} {mean[k]:+.2f}" for k in classes)


def _picture(labels, began, names):
    shown = [("learned", labels)] if began is None else [("step 0", began), ("learned", labels)]
    figure = Figure(figsize=(0.8 + 4.2 * len(shown), 1.2 + min(8.0, max(3.0, 0.3 * len(labels)))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    limit = max(np.abs(matrix).max() for _, matrix in shown) or 1
    for axis, (title, matrix) in zip(axes, shown, strict=True):
        drawn = axis.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("class")
        if len(names) <= 20:
            shown_names = [words(name, 24) for name in names]
            axis.set_xticks(range(len(names)), shown_names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes[0].set_ylabel("image")
    figure.colorbar(drawn, ax=list(axes), label="entry of the centred label", shrink=0.9)
    return as_png(figure)
