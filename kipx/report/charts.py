"""Charts of test accuracies: a row of panels, each with a few series of points and their ranges."""

import itertools
from typing import NamedTuple

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kipx.report.pictures import as_png, words

ACCURACY = "test accuracy (percent)"
STEPS, WIDTHS, NAMES, ACCURACIES = "steps", "widths", "names", "accuracies"  # kinds of x axis
_MARKERS = "osD^vPX*"


class Series(NamedTuple):
    """Points of one name.

    Attributes:
      label: in the legend.
      x: numbers, or names.
      y: shares in [0, 1].
      ranges: (lowest, highest) of what each y is the mean of; [] for none.
      plain: whether it is drawn as a dashed black line without points, for what others are compared with.
    """

    label: str
    x: list
    y: list
    ranges: list
    plain: bool = False


class Panel(NamedTuple):
    """One chart.

    Attributes:
      title: of it, and `legend` of its legend.
      kind: of its x axis: STEPS, WIDTHS, NAMES or ACCURACIES.
      x_label: with the unit.
      series: list of Series.
      ordered: whether the series are, by a quantity: their colors are then too.
    """

    title: str
    legend: str
    kind: str
    x_label: str
    series: list
    ordered: bool = False


def png(panels):
    """Draws panels side by side, all with the same scale of accuracy.

    Args:
      panels: list of Panel.
    Returns:
      PNG as bytes.
    """
    figure = Figure(figsize=(4.4 * len(panels), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        _draw(axis, panel)
    figure.axes[0].set_ylabel(ACCURACY if panels[0].kind != ACCURACIES else f"KIP images: {ACCURACY}")
    return as_png(figure)


def _draw(axis, panel):
    trained = [series for series in panel.series if not series.plain]
    for index, (series, color) in enumerate(zip(trained, _colors(len(trained), panel.ordered), strict=True)):
        x, y = _places(panel, series, index, len(trained)), _percent(series.y)
        linked = "-" if panel.kind in (STEPS, WIDTHS) else ""
        style = {"linestyle": linked, "marker": _MARKERS[index % len(_MARKERS)], "markersize": 5, "capsize": 2}
        axis.errorbar(x, y, yerr=_bars(series), label=words(series.label), color=color, lw=1.2, **style)
    for series in panel.series:
        if series.plain:
            axis.plot(series.x, _percent(series.y), color="black", linestyle="--", lw=1.2, label=words(series.label))
    _scale(axis, panel)
    axis.set_title(words(panel.title), fontsize=10)
    axis.set_xlabel(panel.x_label)
    axis.grid(alpha=0.25, lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(title=panel.legend, fontsize=8, title_fontsize=8, frameon=False, loc="upper center", **_below(panel))


def _below(panel):
    """The legend under the axis, where it covers nothing."""
    return {"bbox_to_anchor": (0.5, -0.16), "ncols": 2 if len(panel.series) < 7 else 3}


def _scale(axis, panel):
    if panel.kind == NAMES:
        names = _names(panel)
        axis.set_xticks(range(len(names)), map(words, names))
        axis.set_xlim(-0.5, len(names) - 0.5)
        return
    numbers = sorted({x for series in panel.series for x in series.x})
    if panel.kind == ACCURACIES:
        ends = _percent([numbers[0] - 0.01, numbers[-1] + 0.01])
        axis.plot(ends, ends, color="black", lw=0.8, linestyle=":")
        axis.annotate("equal", (ends[1], ends[1]), fontsize=8, ha="right", va="bottom")
    else:
        axis.set_xscale("symlog" if panel.kind == STEPS else "log", **({"linthresh": 1} if panel.kind == STEPS else {}))
        axis.set_xticks(numbers, map(str, numbers))
        axis.xaxis.set_minor_locator(NullLocator())


def _places(panel, series, index, count):
    """Where points stand: names a little apart, so that series do not cover each other."""
    if panel.kind == NAMES:
        names = _names(panel)
        return [names.index(name) + 0.12 * (index - (count - 1) / 2) for name in series.x]
    return _percent(series.x) if panel.kind == ACCURACIES else series.x


def _names(panel):
    return list(dict.fromkeys(itertools.chain(*(series.x for series in panel.series))))


def _colors(count, ordered):
    if ordered:
        return [colormaps["viridis"](0.9 * i / max(count - 1, 1)) for i in range(count)]
    return [colormaps["tab10"](i % 10) for i in range(count)]


def _bars(series):
    """Distances below and above each point, which matplotlib asks for."""
    both = zip(series.y, series.ranges, strict=True) if series.ranges else ()
    distances = [(max(y - low, 0), max(high - y, 0)) for y, (low, high) in both]
    return [_percent(side) for side in zip(*distances, strict=True)] or None


def _percent(shares):
    return [100 * share for share in shares]
