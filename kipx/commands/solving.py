"""Label Solve in a run folder: the sums over the train set are kept in a file, and a resumed run adds to them."""

import time

import numpy as np

from kipx import artifacts, checks, label_solve, track, untrusted
from kipx.commands import keep, stop
from kipx.engine import hosts

SUMS = "label_solve.npz"


def solve(run, members, form, x_support, targets, *, ridge, batch=label_solve.BATCH):
    """Solves for the labels of given images over all targets, from the folder's last sums if it has some.

    Args:
      run: kipx.commands.keep.Run.
      members: list of kipx.sampled.Member; of a family the loss is the mean by weight.
      form: from `kipx.label_solve.least_norm` or `notebook`.
      x_support, ridge, batch: as for `kipx.label_solve.solve`.
      targets: (x_target, y_target), likewise.
    Returns:
      (kipx.label_solve.Solution, seconds that the sums took, in all sittings).
    Raises:
      UserError: the sums are of another config, or cannot be read.
      Stopped: after SIGINT or SIGTERM; NumericalError, EngineError: as from the engine. The sums are saved in all.
    """
    drawn = [member for member in members if member.weight > 0]
    engines, weights = [member.engine for member in drawn], [member.weight for member in drawn]
    n, size = len(targets[0]), len(x_support) + targets[1].shape[1]
    sums, spent = _restore(run, (len(drawn), size, size), n)
    stream = label_solve.stream(engines, x_support, *targets, batch=batch, sums=sums)
    sums, spent = _streamed(run, stream, sums, spent, n)
    problem = label_solve.pose([engine.gram(x_support) for engine in engines], sums, weights, ridge=ridge)
    return label_solve.conclude(problem, form(problem), targets[1].size), spent


def _streamed(run, stream, sums, spent, n):
    """(sums of all targets, seconds spent); they are saved every `run.every_s` and however it ends."""
    began = saved = time.monotonic()
    done = 0 if sums is None else sums.done
    with stop.signals() as caught, track.counting("targets", n, done=done, show=run.show) as show_done:
        try:
            for sums in stream:
                show_done(sums.done)
                if time.monotonic() - saved > run.every_s:
                    _save(run, sums, spent + time.monotonic() - began)
                    saved = time.monotonic()
                stop.check(caught, f"target {sums.done} of {n}")
        finally:
            if sums is not None and sums.done > done:
                spent += time.monotonic() - began
                _save(run, sums, spent)
    return sums, spent


def _save(run, sums, spent):
    if hosts.leads():
        arrays = {"done": sums.done, "triangles": sums.triangles, "time_s": spent, "config": keep.identity(run.config)}
        artifacts.write(run.folder / SUMS, artifacts.npz_bytes(arrays))


def _restore(run, shape, n):
    """(the leading process's saved sums, seconds that they took); (None, 0) if it has none."""
    found = _read(run.folder / SUMS, shape, n, run.config) if hosts.leads() else None
    if not hosts.any_of(found is not None):
        return None, 0.0
    nothing = np.asarray(0), np.zeros(shape), np.asarray(0.0)
    done, triangles, spent = hosts.of_leader(nothing if found is None else found)
    if hosts.leads() and done < n:
        keep.note_resumed(run, 0)
    return label_solve.Sums(int(done), np.asarray(triangles)), float(spent)


def _read(path, shape, n, config):
    """(done, triangles, seconds) of the file, None if there is none."""
    if not path.exists():
        return None
    try:
        saved = untrusted.npz(path)
        found = tuple(saved[key] for key in ("done", "triangles", "time_s"))
    except (untrusted.Damaged, KeyError) as error:
        raise checks.UserError(f"resume: {path} cannot be read; remove it to sum up again ({error})") from error
    shapes, kinds = [array.shape for array in found], "".join(array.dtype.kind for array in found)
    sound = (shapes, kinds) == ([(), shape, ()], "iff") and bool(np.isfinite(found[1]).all())
    if str(saved.get("config")) != keep.identity(config) or not sound or not 0 <= int(found[0]) <= n:
        raise checks.UserError(
            f"resume: {path} is of another config than config.yaml; "
            "put the run's own config.yaml back, or start a new run"
        )
    return found
