"""Which eigenvectors of the Gram matrix carry the accuracy? Five contiguous bands, learned beside natural images."""

import numpy as np

from kipx import checks
from kipx.analysis.subject import share_right
from kipx.report.pictures import as_png, chart
from kipx.report.tables import Table, percent

BANDS = 5


def answer(subject):
    """Test accuracy from each band alone, at ridge zero, under each kernel of the subject's that is an NTK.

    Args:
      subject: kipx.analysis.subject.Subject.
    Returns:
      (kipx.report.tables.Table, PNG as bytes).
    Raises:
      UserError: fewer images than bands.
    Source: paper section 4, Figure 8.
    """
    n = len(subject.learned.images)
    if n < BANDS:
        raise checks.UserError(f"question: spectrum needs at least {BANDS} images, one for each band, got {n}")
    kernels = [kernel for kernel in subject.kernels if kernel.kind == "ntk"]
    found = {
        kernel.name: {
            "natural": np.mean([_accuracies(subject, kernel, one) for one in subject.natural], axis=0),
            "learned": _accuracies(subject, kernel, subject.learned),
        }
        for kernel in kernels
    }
    rounded = [kernel.name for kernel in kernels if _rounded(subject.grams(kernel, subject.learned)[0])]
    return _table(found, subject, rounded), _picture(found)


def bands(k_ss, k_ts, y_support, count=BANDS):
    """Predictions from contiguous bands of eigenvectors, those of the largest eigenvalues first; their sum is KRR's.

    Band b predicts k_ts V_b diag(1 / lambda_b) V_b^T y_s, at ridge zero.

    Args:
      k_ss: (n_s, n_s) symmetric Gram matrix; k_ts: (n_t, n_s); y_support: (n_s, c).
      count: <= n_s; where it does not divide n_s the first bands have one eigenvector more.
    Returns:
      (count, n_t, c) float64.
    Source: paper section 4, "Spectral Analysis".
    """
    values, vectors = np.linalg.eigh(k_ss)
    parts = np.array_split(np.arange(len(values))[::-1], count)
    return np.stack([k_ts @ (vectors[:, p] / values[p]) @ (vectors[:, p].T @ y_support) for p in parts])


def _accuracies(subject, kernel, of):
    """Of each band, and of all together."""
    k_ss, k_ts = subject.grams(kernel, of)
    each = bands(k_ss, k_ts, of.labels)
    return np.array([share_right(one, subject.y_test) for one in (*each, each.sum(axis=0))])


def _rounded(k_ss):
    """Whether the smallest eigenvalues are of the size of float32's rounding."""
    values = np.linalg.eigvalsh(k_ss)
    return values[0] <= len(values) * np.finfo(np.float32).eps * values[-1]


def _table(found, subject, rounded):
    rows = [(name, images, *map(percent, shares)) for name, of in found.items() for images, shares in of.items()]
    width = 100 // BANDS
    columns = ("kernel", "images", *(f">{i * width}-{(i + 1) * width}%" for i in range(BANDS)), ">all")
    notes = [
        f"Test accuracy in percent on {subject.tested} from one band of eigenvectors alone, largest eigenvalues first, "
        f"at ridge zero; natural: the mean over {len(subject.natural)} draws of as many training images."
    ]
    if rounded:
        notes.append(f"Under {', '.join(rounded)} the last band's eigenvalues are of the size of float32's rounding.")
    return Table("Accuracy by band of the spectrum (Figure 8)", columns, rows, tuple(notes))


def _picture(found):
    figure, axes = chart(len(found), sharey=True)
    places = np.arange(BANDS)
    for axis, (name, of) in zip(axes, found.items(), strict=True):
        for shift, (images, color) in enumerate((("natural", "lightsteelblue"), ("learned", "tab:blue"))):
            axis.bar(places + 0.4 * (shift - 0.5), 100 * of[images][:BANDS], 0.4, color=color, label=images)
        axis.set_xticks(places, [f"{20 * i}-{20 * (i + 1)}" for i in places])
        axis.set(title=name, xlabel="eigenvalues, largest first (percent)")
    axes[0].set_ylabel("test accuracy (percent)")
    axes[0].legend(fontsize=8, frameon=False)
    return as_png(figure)
