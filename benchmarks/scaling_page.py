"""The text of docs/scaling.md around the figures of engines.json, plan.json and gpu_h100.json in docs/results.

python benchmarks/scaling_page.py docs/results docs/scaling.md
"""

import json
import math
import pathlib
import statistics
import sys

from kipx import checkpoints, cost
from kipx.architecture import convnet
from kipx.engine import sharded
from kipx.kernel import build

STEPS, DRAWS, TEST, CLASSES = 50_000, 20, 10_000, 10
SHAPE = (32, 32, 3)
BANDWIDTH = 10e9  # bytes a second between devices, assumed

ENGINES = """# Scaling

{machine}. `make bench-engines` measures this, all sides
taking turns, and writes this page from [results/engines.json](results/engines.json).

Kernel and gradient of the paper's ConvNet between {targets} targets and {support} support images of {size}, in
blocks of {block} x {block}; seconds, medians of {rounds} rounds with the smallest and the largest, and how many times
faster than one core, round by round.

| | seconds | times faster |
|---|--:|--:|
{rows}

Two devices take {sharded:.2f} times less time than one device that has both cores; the compiled loops keep both cores
busy in either case, but wait for the last piece of each block. The pool with one worker, which has the cores and the
blocks of `blockwise`, takes {dispatch:.2f} times as long: the dispatch of {count} blocks in each pass is within the
noise. The two "cores" of this machine may be two threads of one, which bounds what any engine can win.
"""

PLAN = """
## What a run will take

`kipx plan` with the overrides of a run says it before the run: it rehearses the run with an engine that computes
nothing, which gives the work of a step and the time of all but the kernel, and times some blocks of the real engine on
the run's own images. `make bench-plan` ({machine}; load average {load}) holds
it against the run that follows ([results/plan.json](results/plan.json)); seconds, and what came as a share of what was
said:

| | overrides | a step: plan | run | | an evaluation: plan | run | | in all: plan | run | |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
{cases}

*In all* is the process from its first line to its last, imports and compilation included. The data are scikit-learn's
digits, made larger for the two other sizes; time does not depend on what images show.

With `plan.devices=N` every call of the engine is laid out as `engine=sharded` would on N devices (`engine=pool`: its
blocks dealt out), and takes the time of the busiest one: targets divide almost perfectly, the tiles of the symmetric
matrix are about four a device or more. Devices are taken to be as fast as one here, exchange to be free, and everything
else (solve, optimizer, sampling, start, files) to stay on one: that part bounds the gain.
"""

GROWTH = """
## How the cost grows

A step's kernel work, both matrices and both gradients, with the paper's ConvNet (two pools at 8x8, else three), one
channel, `engine=blockwise` on all cores; seconds, medians of up to three with the smallest and the largest.
{load}. *Pairs* are those computed, of each of the two passes.

| support | targets | pairs | {heads} |
|--:|--:|--:|{lines}
{rows}

Cost goes with the pairs: with the targets times the support, and with half the square of the support, which is the
larger part where there are more than twice as many support images as targets. Per pair,
from 8x8 to {largest}: {pair}. A pair of images of side s with m pools takes (2^(m+1) - 1)^2 offsets of s^2 positions,
so for one m it goes with the area s^2.
"""

PAPER = """
## A plan on paper: 50 images per class of CIFAR-10, 50,000 steps

One {device} has been measured ([gpu](gpu.md)); the rest is arithmetic, and what is assumed is marked so.

- {support} support images, {target:,} targets a step. *Assumed*: the paper's text does not give ConvNet's batch; 5,000
  is that of the authors' FC demo. Time goes almost in proportion to it.
- Pairs of a step: {target:,} x {support} = {ts:,}, and about {ss:,} of the symmetric matrix.
- A pair of 32x32x3 images takes {forward:.2f} us forward and {vjp:.2f} us for the gradient, which computes the kernel
  once more: measured, in large blocks.
- {evaluations} evaluations on {test:,} images ({due} checkpoints, {draws} natural draws, the first set again):
  {share:.1%} more.
- Beside the kernel (solve in float64, its gradient, Adam) a step takes {rest:.2g} s on this machine's two cores,
  measured; it stays on one device. *Assumed*: no faster on the GPU.
- Exchange a step: targets out {out:.0f} MB, gradients summed {back:.0f} MB. *Assumed*: 10 GB/s, not overlapped,
  {wire:.3f} s.

| 1 GPU | 8 GPUs | 256 GPUs | busy on 256 |
|--:|--:|--:|--:|
{row}

On 256 devices each has {each} targets a step, and {tiles} tiles of the symmetric matrix, so the kernel divides by
{by:.0f}; the rest of the step is what keeps the last column below 100%. `kipx plan dataset=cifar10 preprocess=zca
support.per_class=50 target.batch_size=5000 steps=50000 plan.devices=8` on one of the GPUs replaces what is assumed by
what is measured.
"""


def write(results, page_path):
    """Writes the page from what results there are."""
    found = {name: pathlib.Path(results) / f"{name}.json" for name in ("engines", "plan", "gpu_h100")}
    read = {name: json.loads(path.read_text()) for name, path in found.items() if path.is_file()}
    text = engines(read["engines"]) if "engines" in read else "# Scaling\n"
    text += planned(read["plan"]) + growth(read["plan"]) if "plan" in read else ""
    text += paper(read["gpu_h100"], **read["plan"]["paper"]) if {"plan", "gpu_h100"} <= set(read) else ""
    pathlib.Path(page_path).write_text(text)


def engines(result):
    """What the engines took, side by side."""
    from engines import BLOCK, ROUNDS, SUPPORT, TARGETS
    from engines import SHAPE as shape

    took = {name: [sum(t) for t in rounds] for name, rounds in result["seconds"].items()}
    base, both = took["blockwise, one core"], took["blockwise, two cores"]
    rows = []
    for name, times in took.items():
        ratios = [b / t for b, t in zip(base, times, strict=True)]
        rows.append(f"| {name} | {span(times)} | **{statistics.median(ratios):.2f}** {bounds(ratios)} |")
    one, sharded_times = took["pool, one worker of two cores"], took["sharded, two devices"]
    return ENGINES.format(
        machine=result["machine"],
        targets=TARGETS,
        support=SUPPORT,
        size="x".join(map(str, shape)),
        block=BLOCK,
        rounds=ROUNDS,
        rows="\n".join(rows),
        sharded=statistics.median(b / t for b, t in zip(both, sharded_times, strict=True)),
        dispatch=statistics.median(p / b for p, b in zip(one, both, strict=True)),
        count=-(-TARGETS // BLOCK) * -(-SUPPORT // BLOCK),
    )


def planned(result):
    """What was planned beside what came."""
    rows = []
    for name, case in result["cases"].items():
        cells = [name, " ".join(f"`{o}`" for o in case["overrides"])]
        for what in ("step", "evaluation", "total"):
            said, came = case["plan"][what], case["run"][what]
            cells += [f"{said:.3g}", f"{came:.3g}", f"**{came / said:.2f}**"]
        rows.append("| " + " | ".join(cells) + " |")
    loads = [load for case in result["cases"].values() for load in case["load_average"].values()]
    return PLAN.format(machine=result["machine"], load=f"{min(loads):.1f}-{max(loads):.1f}", cases="\n".join(rows))


def growth(result):
    """A step's kernel work by images and side."""
    rows = result["growth"]
    sides = sorted({row["side"] for row in rows})
    at = {(r["side"], r["support"], r["targets"]): r for r in rows}
    lines = []
    for support, targets in sorted({key[1:] for key in at}):
        cells = [span(at[side, support, targets]["seconds"]) for side in sides]
        lines.append(f"| {support} | {targets} | {at[sides[0], support, targets]['pairs']:,} | {' | '.join(cells)} |")
    pair = ", ".join(f"{statistics.median(_pair_ms(r) for r in rows if r['side'] == side):.2g} ms" for side in sides)
    return GROWTH.format(
        load="Load average {:.1f} before all of `make bench-plan` and {:.1f} after".format(*result["load_average"]),
        heads=" | ".join(f"{side}x{side}" for side in sides),
        lines="--:|" * len(sides),
        rows="\n".join(lines),
        largest=f"{sides[-1]}x{sides[-1]}",
        pair=pair,
    )


def _pair_ms(row):
    return 1e3 * statistics.median(row["seconds"]) / row["pairs"]


def paper(gpu, sizes, operations_a_pair, beside_the_kernel_s):
    """The plan for GPUs of the kind that has been measured."""
    support, target = sizes
    of = sharded.layout(build(convnet()), (32, 32))
    case = next(c for c in gpu["cases"] if c["name"] == "convnet" and c["image"] == list(SHAPE))
    forward, vjp = (case["kipx"][op][1] for op in ("forward_us", "vjp_us"))
    kernel = {n: 1e-6 * (forward + vjp) * pairs(of, support, target, n) for n in (1, 8, 256)}
    due = sum(checkpoints.due(step, STEPS) for step in range(STEPS + 1))
    evaluations = due + DRAWS + 1
    share = evaluations * TEST * support * forward / (STEPS * (target * support + support**2 / 2) * (forward + vjp))
    out, back = (4 * math.prod(SHAPE) * n for n in (target, support))
    wire, tiles = (out + back) / BANDWIDTH, of(support, None, SHAPE, 256)
    steps = {n: s + beside_the_kernel_s + (wire if n > 1 else 0) for n, s in kernel.items()}
    cells = [f"{days(STEPS * s * (1 + share))} ({s:.3g} s a step)" for s in steps.values()]
    return PAPER.format(
        device=gpu["device"],
        support=support,
        target=target,
        ts=support * target,
        ss=of(support, None, SHAPE, 1).pairs,
        forward=forward,
        vjp=vjp,
        evaluations=evaluations,
        test=TEST,
        due=due,
        draws=DRAWS,
        share=share,
        rest=beside_the_kernel_s,
        out=out / 1e6,
        back=back / 1e6,
        wire=wire,
        row=f"| {' | '.join(cells)} | {kernel[256] / steps[256]:.0%} |",
        each=-(-target // 256),
        tiles=tiles.count // 256,
        by=kernel[1] / kernel[256],
    )


def pairs(of, support, target, devices):
    """Pairs of one pass that the busiest of so many devices computes."""
    return sum(cost.rounds(of(*call, SHAPE, devices)) for call in ((support, None), (target, support)))


def days(seconds):
    """Text: days, or hours where they are few."""
    return f"{seconds / 86400:.1f} days" if seconds > 2 * 86400 else f"{seconds / 3600:.1f} hours"


def span(values):
    """Text: median with the smallest and the largest."""
    return f"{statistics.median(values):.2f} {bounds(values)}" if len(values) > 1 else f"{values[0]:.2f}"


def bounds(values):
    """Text: smallest and largest."""
    return f"({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    write(*sys.argv[1:])
