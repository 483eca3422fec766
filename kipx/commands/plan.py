"""kipx plan: what a run will take on this machine, found by rehearsing it without its kernel and timing some blocks.

The rehearsal is the run itself, on its own images, with an engine that only notes what it is asked for. So the plan
knows what a step is no better than the step does, and what it says of the kernel comes from blocks that were computed.
"""

import collections
import json
import math
import os
import pathlib
import statistics
import tempfile
import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kipx import artifacts, checkpoints, checks, cost, distill, label_solve, machine
from kipx.calibration import time_call
from kipx.commands import distill as command
from kipx.commands import keep
from kipx.engine import hosts

TRIES = 4  # of each part that is rehearsed; the first one compiles


class Part(NamedTuple):
    """A part of a run, rehearsed.

    Attributes:
      calls: of the engine, the first time and every time.
      rest_s: seconds of all else, warm; first_s: more than that the first time.
    """

    calls: list
    rest_s: float
    first_s: float


def run(folder, *, posed, devices, calibration_s, spread, config, began):
    """Plans a run and writes plan.json.

    Args:
      folder: where to; made if it is not there.
      posed: keyword arguments of `kipx.commands.distill.pose`.
      devices: None, or also what so many devices like one of this machine's would take.
      calibration_s: > 0, seconds to spend on the run's own blocks, about.
      spread: of each member, (n1, n2 or None, image shape, devices) -> kipx.engine.Layout on that many.
      config: resolved config, nested dicts.
      began: time.monotonic() when the command began.
    Returns:
      The plan, as in plan.json.
    Raises:
      UserError: as `pose`, or devices or calibration_s that is none.
    """
    if devices is not None:
        checks.integer("plan.devices", devices, at_least=1)
    checks.positive("plan.calibration_s", calibration_s)
    stages = {"start": time.monotonic() - began}
    problem, parts = _rehearse(posed, stages)
    times = _calibrate(posed["members"], parts, calibration_s)
    traces = _leave_traces(folder, problem, config)
    plan = _plan(problem, parts, times, stages, traces, posed)
    if devices is not None:
        many = [partial(layout, devices=devices) for layout in spread]
        totals = _totals(parts, times, many, stages, traces[0], posed)
        plan["with_devices"] = {"devices": devices, **totals}
    plan["load_average"] = list(os.getloadavg()) if hasattr(os, "getloadavg") else None
    if hosts.leads():
        artifacts.write_json(pathlib.Path(folder) / "plan.json", {**plan, "config": config})
    return plan


def _rehearse(posed, stages):
    """(Problem on engines that only count, {name: Part}); seconds are added to `stages`."""
    members, load, calls = posed["members"], posed["load"], []
    counted = [m._replace(engine=cost.counting(m.engine.layout, i, calls)[0]) for i, m in enumerate(members)]
    began = time.monotonic()

    def timed_load():
        data = load()
        stages["load"] = time.monotonic() - began
        return data

    problem = command.pose(**{**posed, "members": counted, "load": timed_load})
    stages["prepare"] = time.monotonic() - began - stages["load"]
    parts = {"once": Part(list(calls) + _solving(problem, posed), 0.0, 0.0)}
    steps = distill.run(problem.start, problem.step, steps=TRIES)
    step = _part(calls, lambda: next(steps))
    parts["step"] = step._replace(calls=_expected(step.calls, members))
    parts["evaluation"] = _part(calls, lambda: problem.evaluate(jnp.array(problem.initial), problem.labels))
    return problem, parts


def _solving(problem, posed):
    """Calls of Label Solve before the first step: like the first block of targets, as often as there are blocks."""
    if posed["labels"]["init"] != "solved":
        return []
    x_train, drawn = problem.split.train[0], [i for i, member in enumerate(posed["members"]) if member.weight > 0]
    block = jnp.asarray(x_train[: label_solve.BATCH])
    return [cost.Call("gram", block, problem.initial, i, math.ceil(len(x_train) / len(block))) for i in drawn]


def _expected(calls, members):
    """Calls of a step under the member that was drawn, under each by its share."""
    total = sum(member.weight for member in members)
    shares = [member.weight / total for member in members]
    return [call._replace(member=i, share=share) for i, share in enumerate(shares) for call in calls if share > 0]


def _part(calls, function):
    """Part of what a function does, from TRIES calls of it."""
    times = []
    for _ in range(TRIES):
        calls.clear()
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    warm = statistics.median(times[1:])
    return Part(list(calls), warm, max(times[0] - warm, 0.0))


def _calibrate(members, parts, calibration_s):
    """{kind of call: kipx.calibration.Timed} of every kind there is."""
    calls = {call.kind: call for part in parts.values() for call in part.calls}
    allowed_s = calibration_s / len(calls)
    return {kind: time_call(members[c.member].engine, c, allowed_s=allowed_s) for kind, c in calls.items()}


def _leave_traces(folder, problem, config):
    """Writes all that a run leaves into a passing folder; returns seconds and bytes of each, of the leading process."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = jax.tree.map(_noisy, problem.start)
    row = {"step": 1, "train_loss": 1 / 3, "train_accuracy": 1 / 3, "step_time_s": 1 / 3}
    with tempfile.TemporaryDirectory(dir=folder) as passing:
        passing = pathlib.Path(passing)
        kept = keep.Run(passing, config, every_s=math.inf, show=False)
        with keep.open_run(kept, problem.start, steps=TRIES) as keeper:
            save_s = [_seconds(keeper.save, state._replace(step=k)) for k in range(TRIES)]
            record_s = [_seconds(keeper.record, row) for _ in range(TRIES)]
        saved = max((_size(path) for path in (passing / "checkpoints").glob("*")), default=0)
        metrics = _size(passing / "metrics.jsonl") // TRIES
        written_s = _seconds(_write, kept, problem, state) if hosts.leads() else 0.0
        support = _size(passing / "support.npz") + _size(passing / "support.png")
    times = {"record": statistics.median(record_s), "save": statistics.median(save_s), "close": written_s}
    tested = len(json.dumps(dict.fromkeys(problem.evaluate(problem.initial, problem.labels), 1 / 3)))
    return times, {"checkpoint": saved, "row": metrics, "tested": tested, "support": support}


def _write(kept, problem, state):
    command.write_support(kept, problem, state)
    command.write_results(kept, problem, state, {})


def _noisy(x):
    """Numbers that do not compress, of the same shape and type."""
    if not isinstance(x, jax.Array) or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return jnp.asarray(np.random.default_rng(0).normal(size=x.shape), x.dtype)


def _seconds(function, *arguments):
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def _size(path):
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _plan(problem, parts, times, stages, traces, posed):
    """What is known of the run on this machine."""
    layouts = [member.engine.layout for member in posed["members"]]
    names = [member.name for member in posed["members"]]
    calls = {name: [_told(*kind, names, layouts, times) for kind in _kinds(part)] for name, part in parts.items()}
    totals = _totals(parts, times, layouts, stages, traces[0], posed)
    return {
        "images": {
            "support": len(problem.initial),
            "target": posed["batch_size"],
            "train": len(problem.split.data.x_train),
            "test": len(problem.split.data.x_test),
            "shape": list(problem.initial.shape[1:]),
        },
        "steps": posed["steps"],
        "pairs": {name: _pairs(part, layouts) for name, part in parts.items()},
        "calls": calls,
        "devices": max(told["devices"] for part in calls.values() for told in part),
        **totals,
        "memory_bytes": _memory(problem, posed),
        "disk_bytes": _disk(traces[1], posed, **totals["counts"]),
    }


def _kinds(part):
    """[(call, how often)] of every kind of call in a part."""
    first, often = {}, collections.Counter()
    for call in part.calls:
        first.setdefault(call.kind, call)
        often[call.kind] += call.share
    return [(call, often[kind]) for kind, call in first.items()]


def _told(call, often, names, layouts, times):
    found, timed = layouts[call.member](*call.sizes), times[call.kind]
    n1, n2, _ = call.sizes
    return {
        "kernel": names[call.member],
        "name": call.name,
        "rows": n1,
        "columns": n2,
        "times": often,
        "block": [found.rows, found.columns],
        "blocks": found.count,
        "devices": found.devices,
        "pairs": found.pairs,
        "time_s": timed.time_s,
        "measured_pairs": timed.pairs,
        "repetitions": timed.repetitions,
    }


def _pairs(part, layouts):
    """Pairs that each pass of a part computes, padding included; of sampled kernels in the mean."""
    count = collections.Counter()
    for call in part.calls:
        count[call.name] += call.share * layouts[call.member](*call.sizes).pairs
    return {name: round(count[name]) for name in ("gram", "vjp", "with_jacobian")}


def _totals(parts, times, layouts, stages, traced, posed):
    """Seconds of the run's parts and of the whole, where calls are laid out in this way."""
    steps, draws = posed["steps"], posed["draws"]
    kernel = {name: sum(_kernel_s(call, layouts, times) for call in part.calls) for name, part in parts.items()}
    step, evaluation = (kernel[name] + parts[name].rest_s for name in ("step", "evaluation"))
    stops = checkpoints.scheduled_until(steps) + (not checkpoints.scheduled(steps))
    untested = min(max(posed["tested_from"], 1), steps) - 1
    tested = checkpoints.scheduled_until(steps - 1) - checkpoints.scheduled_until(untested) + 1 + (steps > 0)
    evaluations = tested + (steps > 0) + draws  # at the end the first support set again, and the natural draws
    loop = steps * (step + traced["record"])
    saves = stops + int(min(loop / posed["every_s"], steps))
    compiling = sum(t.first_s for t in times.values()) + sum(part.first_s for part in parts.values())
    seconds = {
        **stages,
        "prepare": stages["prepare"] + kernel["once"],
        "compile": compiling,
        "step": step,
        "step_kernel": kernel["step"],
        "evaluation": evaluation,
        "save": traced["save"],
        "close": traced["close"],
    }
    once = sum(seconds[name] for name in ("start", "load", "prepare", "compile", "close"))
    seconds["total"] = once + loop + evaluations * evaluation + saves * traced["save"]
    return {"time_s": seconds, "counts": {"evaluations": evaluations, "saves": saves, "checkpoints_kept": stops}}


def _kernel_s(call, layouts, times):
    return call.share * times[call.kind].pair_s * cost.rounds(layouts[call.member](*call.sizes))


def _memory(problem, posed):
    """What takes how many bytes, on the host before the steps and on each device then; and what there is."""
    data, available = problem.split.data, machine.memory()
    needs = command.memory_needs(posed["members"], posed["optimizer"], data, len(problem.initial), posed["batch_size"])
    whitening = problem.split.preprocessing.whitening
    before = cost.of_data(data.x_train, data.x_test, whitening.size > 0)
    return {
        "prepare": [{"what": need.what, "bytes": need.memory_bytes} for need in before],
        "steps": [{"what": need.what, "bytes": need.memory_bytes} for need in needs],
        "whitening": whitening.nbytes,
        "available_host": available.host,
        "available_device": available.device,
    }


def _disk(bytes_each, posed, *, evaluations, saves, checkpoints_kept):
    tested = evaluations - posed["draws"] - (posed["steps"] > 0)  # the others leave no row
    disk = {
        "checkpoints": checkpoints_kept * bytes_each["checkpoint"],
        "metrics": posed["steps"] * bytes_each["row"] + tested * bytes_each["tested"],
        "support": bytes_each["support"],
    }
    return {**disk, "total": sum(disk.values())}
