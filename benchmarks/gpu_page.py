"""The text of docs/gpu.md around what `benchmarks/gpu.py measure` wrote, on one GPU or several."""

import json
import pathlib

from kernel import operations

from kipx.architecture import convnet, myrtle
from kipx.kernel.stages import make_stages, make_tiles, own_stages

PEAK = {"NVIDIA H200": (67, 4.8), "NVIDIA H100 80GB HBM3": (67, 3.35)}  # float32 Tflop/s and TB/s by the data sheet
TEXT = """# On a GPU

`PYTHONPATH=. python benchmarks/gpu.py measure <json>` measures this on a machine with a GPU, CuPy and neural-tangents,
all sides alternating in one process, and `errors <json>` the last table; `python benchmarks/gpu.py page docs/gpu.md
{names}` writes this page. Microseconds a pair of images, medians with the
smallest and the largest.

{tables}

*Block*: images a side of one call; the bold figures say how much longer the other side takes than kipx. *Plain JAX* is
kipx without CuPy. neural-tangents runs as it comes, with JAX's x64 flag off; in blocks of 16 it is slower than in
blocks of 8. FC is a matrix product, which kipx asks for in float32 and neural-tangents leaves to XLA, whose default
there is TF32: faster, with ten bits of each factor. A call has a fixed cost of one to three milliseconds, which blocks
of 8 show. The gradient is with respect to one set of images, and includes the forward pass that it needs. {missing}

## How far from the limit

A pair of 32x32x3 images takes {mflop:.0f} million operations forward, a square root counted as one, and {megabytes:.2f}
MB that pass from one stage to the next through the GPU's memory, written and read. By the data sheet ({tflops} Tflop/s
in float32, {tb} TB/s) that is {compute_us:.2f} us and {bytes_us:.2f} us; a large float32 matrix product reaches
{product:.0f} Tflop/s here. The forward pass takes {forward:.2f} us, {times:.1f} times the larger of the two. What binds
it is instructions: by disassembly about 55 for each pair of positions and layer (65 before the rows were unrolled), few
of them fused multiply-adds: square roots, double precision, exchanges between lanes, loads and selections. That is
0.85 us if every cycle issued one.

## How

One CUDA kernel for all layers between two pools, compiled at the first call by CuPy and kept on disk
(`kipx/kernel/cuda`). A thread carries two columns of two planes (offsets 2k and 2k + 1) down the
rows of image b: what a window needs of earlier rows is in its registers, what it needs of other columns comes from
the neighbouring lanes. So no plane is ever stored, and only pooled columns leave the chip. The backward pass is the
same walk: each row is computed once more, and its cotangents follow a few rows behind, also in registers. What belongs
to one pixel of image b is added in shared memory, in one order, so that the same call gives the same bits.

Images up to 64 pixels wide with at most 4 channels, stages of up to three 3x3 convolutions with ReLUs, 2x2 pools, and a
gradient that fits a block's shared memory: ConvNet takes {small} KB of it at 32x32x3 and {large} KB at 64x64x3,
Myrtle10 {myrtle} KB at 32x32x3; an H100 or H200 has 227 KB, most other cards 99 KB. What else there is (Conv-Vec 8, FC,
float64, a GPU without CuPy) runs in plain JAX. The first call compiles for {compile_s:.0f} s, forward and gradient
together, as measured with all stages unrolled; only the first one is now.

Without a GPU the tests compile the same kernels for a CPU, and run them thread by thread (`tests/emulated.py`).

## Precision

Covariances are in double precision, what is added to them behind a ReLU in single. Relative errors in norm against
float64, ConvNet of depth 3, 16x16 images, values and gradients with respect to both sets:

| input | value, ntk | gradient, ntk | value, nngp | gradient, nngp |
|---|--:|--:|--:|--:|
{errors}

Images that differ by 1e-4 of their size are told apart in their values; in their gradients `kernel.dtype=float64` does.
"""


def write(page_path, *json_paths):
    """Writes the page; the first file's GPU is the one whose limits and errors are told."""
    every = [json.loads(pathlib.Path(path).read_text()) for path in json_paths]
    results, shape = every[0], (32, 32, 3)
    stages = make_stages(convnet(), shape)
    operations_, bytes_ = operations(convnet(), shape), 2 * 12 * sum(make_tiles(stages, 1, 1, pulled=False).scratch)
    tflops, tb = PEAK[results["device"]]
    compute_us, bytes_us = operations_ / tflops / 1e6, bytes_ / tb / 1e6
    forward = results["cases"][0]["kipx"]["forward_us"][1]
    text = TEXT.format(
        device=results["device"],
        names=" ".join(json_paths),
        tables="\n\n".join(map(table, every)),
        missing=missing([case for one in every for case in one["cases"]]),
        mflop=operations_ / 1e6,
        megabytes=bytes_ / 1e6,
        tflops=tflops,
        tb=tb,
        compute_us=compute_us,
        bytes_us=bytes_us,
        product=results["matrix_product_flops"] / 1e12,
        forward=forward,
        times=forward / max(compute_us, bytes_us),
        compile_s=results["compile_s"],
        small=shared_kb(convnet(), 32),
        large=shared_kb(convnet(), 64),
        myrtle=shared_kb(myrtle(depth=10), 32),
        errors="\n".join(
            f"| {name} | {' | '.join(f'{e:.0e}' for e in (*of['ntk'], *of['nngp']))} |"
            for name, of in results["errors"].items()
        ),
    )
    pathlib.Path(page_path).write_text(text)


def shared_kb(architecture, side):
    """Shared memory that a block of the gradient takes."""
    stages = *make_stages(architecture, (side, side, 3)), *own_stages(architecture, (side, side, 3))
    return max(stage.shared_bytes("backward") for stage in stages) // 1024


def table(results):
    """The figures of one GPU."""
    head = "| | image | | block | forward | | gradient | |\n|---|---|---|--:|--:|--:|--:|--:|"
    lines = "\n".join(row for case in results["cases"] for row in rows(case))
    return f"**{results['device']}**, {results.get('of', 'JAX ' + results['jax'])}:\n\n{head}\n{lines}"


def rows(case):
    """A line for each side of a case."""
    for side, label in (("kipx", "kipx"), ("plain", "plain JAX"), ("neural_tangents", "neural-tangents")):
        if "failed" in case[side]:
            continue
        cells = [label, str(case[side]["block"])]
        for op in ("forward_us", "vjp_us"):
            low, middle, high = case[side][op]
            ratio = middle / case["kipx"][op][1]
            cells += [f"{middle:.3g} ({low:.3g}-{high:.3g})", "" if side == "kipx" else f"**{ratio:.3g}**"]
        named = (case["name"], "x".join(map(str, case["image"]))) if side == "kipx" else ("", "")
        yield "| " + " | ".join([*named, *cells]) + " |"


def missing(cases):
    """Text: which cases of the benchmark have not been measured."""
    from gpu import CASES

    known = {(case["name"], tuple(case["image"]), case["kipx"]["block"]) for case in cases}
    left = [
        f"{name} at {'x'.join(map(str, shape))}" for name, _, shape, n, *_ in CASES if (name, shape, n) not in known
    ]
    return f"Not measured yet: {', '.join(left)}." if left else ""
