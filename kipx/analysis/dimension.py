"""Is the learned set of higher intrinsic dimension than natural images? Two-NN over checkpoints."""

import numpy as np
from scipy.spatial import distance

from kipx import checks
from kipx.report.pictures import as_png, chart, scale_of_steps
from kipx.report.tables import Table

DISCARDED = 0.1


def answer(subject):
    """The intrinsic dimension of the set at each checkpoint, beside that of natural images of the same number.

    Args:
      subject: kipx.analysis.subject.Subject.
    Returns:
      (kipx.report.tables.Table, PNG as bytes).
    Raises:
      UserError: fewer than three different images.
    Source: paper section 4, Figure 7.
    """
    learned = [(step, two_nn(subject.at(step).images)) for step in subject.steps]
    learned = learned or [(None, two_nn(subject.learned.images))]
    natural = [two_nn(one.images) for one in subject.natural]
    return _table(learned, natural, len(subject.learned.images)), _picture(learned, natural)


def two_nn(images, discarded=DISCARDED):
    """The intrinsic dimension of a set of points, by the ratios of their distances to their two nearest neighbours.

    The slope, through the origin, of -log(1 - F(mu)) over log(mu), where mu is the ratio of the second distance to the
    first and F its empirical distribution. Points equal to another are left out.

    Args:
      images: (n, ...), each one point.
      discarded: share of the largest ratios that is left out of the fit.
    Returns:
      float.
    Raises:
      UserError: fewer than two ratios to fit.
    Source: Facco et al., Estimating the intrinsic dimension of datasets by a minimal neighborhood information, 2017.
    """
    points = np.asarray(images, np.float64).reshape(len(images), -1)
    if len(points) < 3:
        raise _too_few(len(points))
    first, second = np.partition(distance.cdist(points, points), [1, 2], axis=1)[:, 1:3].T
    ratios = np.sort(second[first > 0] / first[first > 0])
    kept = int(len(ratios) * (1 - discarded))
    if kept < 2 or ratios[kept - 1] == 1:
        raise _too_few(len(ratios))
    x, y = np.log(ratios[:kept]), -np.log1p(-np.arange(1, kept + 1) / len(ratios))
    return float(x @ y / (x @ x))


def _too_few(count):
    return checks.UserError(
        f"question: dimension needs three or more different images, not all equally far from each other; got {count}"
    )


def _table(learned, natural, n):
    spread = f" ± {np.std(natural, ddof=1):.1f}" if len(natural) > 1 else ""
    rows = [("learned" if step is None else f"learned, step {step}", f"{value:.1f}") for step, value in learned]
    rows.append((f"natural, {len(natural)} draws", f"{np.mean(natural):.1f}{spread}"))
    notes = [f"Two-NN, of {n} images as the kernel sees them; ± is the standard deviation over draws."]
    if n < 100:
        notes.append(f"{n} images are few: the paper's Figure 7 is of 500. Trust differences larger than the ±.")
    return Table("Intrinsic dimension (Figure 7)", ("images", ">dimension"), rows, tuple(notes))


def _picture(learned, natural):
    figure, (axis,) = chart()
    if learned[0][0] is None:
        axis.plot([0], [learned[0][1]], "o", color="tab:blue", label="learned")
        axis.set_xticks([])
    else:
        steps, values = zip(*learned, strict=True)
        axis.set_xlabel("KIP steps")
        axis.plot(steps, values, "o-", ms=4, color="tab:blue", label="learned")
        scale_of_steps(axis, steps)
    axis.axhline(np.mean(natural), color="black", ls="--", lw=1, label="natural, mean and range over draws")
    axis.axhspan(min(natural), max(natural), color="black", alpha=0.1, lw=0)
    axis.set(title="Two-NN intrinsic dimension", ylabel="dimension")
    axis.legend(fontsize=8, frameon=False)
    return as_png(figure)
