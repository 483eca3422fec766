"""The jobs that a sweep is of: the grid of its overrides, as Hydra's own sweeper lays it out."""

import itertools
import math

from kipx import checks

MOST = 100_000  # jobs


def jobs(hydra):
    """The overrides of each job, in order.

    Args:
      hydra: the section of that name of the sweep's config, as a mapping.
    Returns:
      list of tuples of text, each what the job's own command line would have; [] of another sweeper than Hydra's own.
    Raises:
      UserError: overrides that Hydra cannot read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # a tenth of a second, and not for help
    from hydra.errors import HydraException

    if not hydra["sweeper"]["_target_"].endswith(".BasicSweeper"):
        return []
    params = hydra["sweeper"].get("params") or {}
    typed = [*(f"{key}={value}" for key, value in params.items()), *hydra["overrides"]["task"]]
    values = {}
    try:
        for override in OverridesParser.create().parse_overrides(typed):
            key = override.get_key_element()
            swept = override.sweep_string_iterator() if override.is_sweep_override() else None
            each = itertools.islice(swept or [override.get_value_element_as_str()], MOST + 1)
            values[key] = [f"{key}={value}" for value in each]
    except HydraException as error:
        raise checks.UserError(f"overrides: {error}") from error
    if math.prod(map(len, values.values())) > MOST:
        raise checks.UserError(f"overrides: expected a sweep of at most {MOST} jobs, got more")
    return list(itertools.product(*values.values()))
