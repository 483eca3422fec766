"""The paper's Figures 1 to 4, each as a table and a row of charts, of runs of transfer."""

from kipx import checks
from kipx.report import charts, points
from kipx.report.charts import Panel, Series
from kipx.report.points import KRR, LAST, LOSS, NETWORK, NORMALIZATION, SET, STEP, WIDTH

_KIP_STEPS = "KIP steps"


def figure1(networks, kernels, evaluated):
    """Sets of one or of several kernels, under each kernel and with each network.

    Args:
      networks: list of kipx.report.points.Point, of finite networks.
      kernels: the same, of what each set reaches under its own kernel.
      evaluated: the same, from kipx.report.evaluations, of each set under each kernel.
    Returns:
      (kipx.report.tables.Table, list of kipx.report.charts.Panel).
    Source: paper, Figure 1.
    """
    table = points.pivot("Figure 1: sampled and single kernels", [*evaluated, *networks], NETWORK)
    shown = [(KRR, evaluated)] if evaluated else []
    shown += [(loss, _where(networks, LOSS, loss)) for loss in points.values(networks, LOSS)]
    panels = [Panel(loss, SET, charts.NAMES, "architecture", _lines(found, SET, NETWORK)) for loss, found in shown]
    return table, panels


def figure2(networks, kernels, evaluated):
    """Normalizations and another architecture, over checkpoints.

    Args, Returns: as `figure1`.
    Source: paper, Figure 2.
    """
    networks, kernels = _needed(_at_checkpoints(networks), "step=<a checkpoint>"), _at_checkpoints(kernels)
    table = points.pivot("Figure 2: variations of the network", [*networks, *kernels], STEP)
    panels = []
    for loss in points.values(networks, LOSS):
        found = [_with(point, "variation", _variation(point, networks)) for point in _where(networks, LOSS, loss)]
        series = [*_lines(found, "variation", STEP), *_dashed(kernels, STEP)]
        panels.append(Panel(loss, "network", charts.STEPS, _KIP_STEPS, series))
    return table, panels


def figure3(networks, kernels, evaluated):
    """Settings of the distillation over checkpoints; widths over checkpoints; widths on sets without checkpoints.

    Args, Returns: as `figure1`.
    Source: paper, Figure 3.
    """
    table = points.pivot("Figure 3: checkpoints and widths", [*networks, *kernels], STEP)
    stepped, last = _at_checkpoints(networks), _where(networks, STEP, LAST)
    panels = []
    if stepped:
        width = max(points.values(stepped, WIDTH), key=lambda w: (len(_settings(stepped, w)), w))
        shown = [_with(p, "setting", _setting(p)) for p in _where(stepped, WIDTH, width)]
        title = f"settings of KIP, width {width}"
        panels.append(Panel(title, "set, loss", charts.STEPS, _KIP_STEPS, _lines(shown, "setting", STEP)))
        name, loss = max(_settings(stepped), key=lambda s: len(points.values(_of(stepped, *s), WIDTH)))
        own = _dashed(_at_checkpoints(_where(kernels, SET, name)), STEP)
        series = [*_lines(_of(stepped, name, loss), WIDTH, STEP), *own]
        panels.append(Panel(f"{_words(name)}, {loss}", "width", charts.STEPS, _KIP_STEPS, series, ordered=True))
    if last:
        shown = [_with(p, "setting", _setting(p)) for p in last]
        flat = _flat(_where(kernels, STEP, LAST), points.values(last, WIDTH))
        title = ", ".join(map(_words, points.values(last, SET)))
        panels.append(
            Panel(title, "set, loss", charts.WIDTHS, "width (channels)", [*_lines(shown, "setting", WIDTH), *flat])
        )
    return table, panels


def figure4(networks, kernels, evaluated):
    """Learned images against the natural ones that they started from, over hyperparameters and checkpoints.

    Args, Returns: as `figure1`.
    Source: paper, Figure 4.
    """
    networks = _at_checkpoints(networks)
    _needed(_where(networks, STEP, 0), "step=0, the natural images,")
    table = points.pivot("Figure 4: hyperparameters", networks, STEP, ("KIP step 0 is the natural images.",))
    start = {_hyperparameters(point): point.mean for point in _where(networks, STEP, 0)}
    panels = []
    for loss in points.values(networks, LOSS):
        series = []
        for step in points.values(networks, STEP):
            found = [p for p in _where(_where(networks, LOSS, loss), STEP, step) if _hyperparameters(p) in start]
            if step and found:
                natural = [start[_hyperparameters(point)] for point in found]
                series.append(Series(str(step), natural, [point.mean for point in found], []))
        x_label = f"natural images: {charts.ACCURACY}"
        panels.append(Panel(loss, _KIP_STEPS, charts.ACCURACIES, x_label, series, ordered=True))
    return table, panels


def _lines(found, of, along):
    """A Series for each value of one setting, along another."""
    series = []
    for value in points.values(found, of):
        own = {point.at(along): point for point in _where(found, of, value)}
        x = points.values(own.values(), along)
        ranges = [(min(own[at].accuracies), max(own[at].accuracies)) for at in x]
        several = any(len(own[at].accuracies) > 1 for at in x)
        series.append(Series(_words(value), x, [own[at].mean for at in x], ranges if several else []))
    return series


def _dashed(kernels, along):
    """What kernel ridge regression reaches, of one set."""
    x = points.values(kernels, along) if len(points.values(kernels, SET)) == 1 else []
    own = {point.at(along): point.mean for point in kernels}
    return [Series(KRR, x, [own[at] for at in x], [], plain=True)] if x else []


def _flat(kernels, widths):
    """The same for sets without checkpoints, over all widths."""
    return [Series(KRR, [widths[0], widths[-1]], [kernels[0].mean] * 2, [], plain=True)] if len(kernels) == 1 else []


def _where(found, key, value):
    return [point for point in found if point.at(key) == value]


def _at_checkpoints(found):
    return [point for point in found if isinstance(point.at(STEP), int)]


def _needed(found, what):
    if not found:
        raise checks.UserError(f"table: this figure is of runs of kipx transfer with {what} among them, got none")
    return found


def _of(found, name, loss):
    return _where(_where(found, SET, name), LOSS, loss)


def _settings(found, width=None):
    """The sets and losses that there are, of all widths or of one, in order."""
    kept = found if width is None else _where(found, WIDTH, width)
    return sorted({(point.at(SET), point.at(LOSS)) for point in kept})


def _setting(point):
    short = {"mean squared error": "mse"}
    return f"{_words(point.at(SET))}, {short.get(point.at(LOSS), point.at(LOSS))}"


def _variation(point, among):
    """A normalization, or the name of an architecture that is not that of most."""
    usual = max(points.values(among, NETWORK), key=lambda name: len(_where(among, NETWORK, name)))
    normalization = point.at(NORMALIZATION)
    plain = normalization == "none"
    if point.at(NETWORK) == usual:
        return f"{usual}" if plain else f"{normalization} normalization"
    return f"{point.at(NETWORK)}" if plain else f"{point.at(NETWORK)}, {normalization} normalization"


def _hyperparameters(point):
    return str({key: value for key, value in point.settings.items() if key != STEP})


def _with(point, key, value):
    return point._replace(settings={**point.settings, key: value})


def _words(value):
    return str(value).replace("_", " ")
