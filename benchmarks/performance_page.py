"""The text of docs/performance.md around the figures of docs/results/kernel.json, and its picture."""

import matplotlib
import numpy as np

from kipx.architecture import AvgPool, Conv, convnet
from kipx.kernel import build
from kipx.kernel.layers import place

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TEXT = """# Performance

{machine}; Python {python}, JAX {jax}, neural-tangents {neural_tangents}. `make bench` measures all of this, both sides
alternating in one process, and writes this page from [results/kernel.json](results/kernel.json). Milliseconds a pair of
images, medians with the smallest and the largest of all runs; these machines are noisy, so trust the ratios.

{table}

neural-tangents runs as it comes, in float32 with JAX's x64 flag off, kipx as its own entry point runs it. *x64*: with
the flag on, neural-tangents computes partly in float64, for which XLA takes other convolutions, faster on a CPU.
*Block*: images a side of one call, neural-tangents' first. The gradient is with respect to one set of images.

{ratios}

A pair of 32x32x3 images takes {mflop:.0f} million operations forward, counted over the layers: {gflops:.0f} Gflop/s. A
large float32 matrix product reaches {product:.0f} Gflop/s on the same cores: the forward pass runs at {share:.0%} of
that roof. A square root counts as one operation here and takes the time of several.

The covariance alone (`kernel.kind=nngp`) takes {nngp_forward:.2f} times the forward pass of the tangent kernel and
{nngp_vjp:.2f} times its gradient. Double precision (`kernel.dtype=float64`) takes {float64_forward:.2f} and
{float64_vjp:.2f} times as long as single.

## Compile time

The loops are compiled once a machine, for every architecture and size, and kept on disk: forward and gradient take
{first:.1f} s the first time and {later:.1f} s later, tracing and the run included. Blocks have one shape, the last ones
filled up, so nothing is compiled twice.

## Memory

The most memory above the start while a second call runs, 28x28x1, `blockwise` with its own block size:

| | `gram` | `vjp` | images and matrices themselves |
|---|--:|--:|--:|
{memory}

## Why it is fast

**Most pairs of positions never matter.** A convolutional kernel follows the covariance of every two positions of two
images, 32^4 = 1,048,576 numbers at full size. But the flattened output needs only equal positions; a 2x2 pool at
offset d needs offsets 2d - 1, 2d and 2d + 1 below it; convolutions keep the offset and ReLUs are pointwise. Below
three pools only offsets up to 7 are needed, in each direction: {kept:,} pairs. Nothing is approximated.

![the pairs of positions that each stage of the ConvNet needs](offset_bands.png)

**Each offset goes through alone.** Between two pools the pairs at one offset (dy, dx) never meet those at another. So
the loop takes one offset of one pair of images, a plane of 32x32 numbers, through all layers up to the next pool while
it lies in the fastest cache, and keeps only the pooled sums. Going back, it computes the plane once more instead of
storing it. Nothing of full size ever reaches memory, and any number of pairs takes the memory of one. Only Gauss-Newton
asks for each pair's own gradient: {jacobian_kb:.0f} KB at 32x32x3 (`kernel_fn.jacobian_bytes`),
in blocks of 32 x 32 pairs.

**Planes are flat.** A plane lies in memory in the coordinates of the first image; the second image's maps are read
from a shifted start, so windows, ReLUs and products of pixels are long vector loops. Variances belong to one image and
are computed once for each, not for each pair.

**No column is wasted.** Below a global average pool every offset is needed, up to -31 and 31, and half of the columns
of all planes lie outside the second image. In flat maps the plane of (dy + 1, dx - stride) lies exactly there, and goes
along in the same loops.

**The backward pass is written by hand.** The derivative of a ReLU's covariance is the factor of its tangent kernel,
and a window sum is its own transpose.

The loops (`kipx/kernel/planes.py`) run on CPUs, in float32 and float64; covariances are in double precision inside
either way ([accuracy](accuracy.md)). Everywhere else the same sums are plain JAX (`kipx/kernel/layers.py`), which
the tests hold the loops against.
"""


def page(results, picture="docs/offset_bands.png"):
    """Returns the page and draws its picture."""
    kept = draw(picture)
    cases = results["cases"]
    paper = [c for c in cases if c["name"] == "convnet" and c["block"] == 8 and not c["x64"]]
    forward_ms = paper[0]["kipx_forward_ms"][1]
    gflops = paper[0]["mflop_a_pair"] / forward_ms
    variants = results["variants"]
    return TEXT.format(
        machine="{processor}, {cores} cores".format(**results["machine"]),
        python=results["machine"]["python"],
        **results["versions"],
        table=table(cases),
        ratios="The paper's ConvNet, 8 x 8 pairs: " + "; ".join(map(ratio, paper)) + ".",
        mflop=paper[0]["mflop_a_pair"],
        gflops=gflops,
        product=results["matrix_product_gflops"][1],
        share=gflops / results["matrix_product_gflops"][1],
        **{
            f"{name}_{op}": variants[f"{name}_{op}_ms"][1] / variants[f"ntk_{op}_ms"][1]
            for name in ("nngp", "float64")
            for op in ("forward", "vjp")
        },
        **results["compile_s"],
        memory="\n".join(memory(n, m) for n, m in results["memory_mb"].items()),
        kept=kept,
        jacobian_kb=build(convnet()).jacobian_bytes((32, 32, 3)) / 1e3,
    )


def ratio(case):
    shape = "x".join(map(str, case["image"]))
    return f"{shape} {case['forward_ratio']:.0f} times forward, {case['vjp_ratio']:.0f} times the gradient"


def table(cases):
    head = "| | image | block | neural-tangents | kipx | ratio | neural-tangents, gradient | kipx, gradient | ratio |"
    return "\n".join([head, "|---|---|---|--:|--:|--:|--:|--:|--:|", *map(line, cases)])


def line(case):
    cells = [
        case["name"],
        "x".join(map(str, case["image"])) + (" x64" if case["x64"] else ""),
        f"{case['neural_tangents_block']}, {case['block']}",
    ]
    for op in ("forward", "vjp"):
        cells += [span(case[f"neural_tangents_{op}_ms"]), span(case[f"kipx_{op}_ms"]), f"**{case[f'{op}_ratio']:.3g}**"]
    return "| " + " | ".join(cells) + " |"


def span(values):
    low, middle, high = (f"{v:.3g}" for v in values)
    return f"{middle} ({low}-{high})"


def memory(n, row):
    return f"| 10 x {int(n):,} | {row['gram']:.1f} MB | {row['vjp']:.1f} MB | {row['inputs_and_outputs']:.1f} MB |"


def draw(path):
    """Draws the needed pairs of columns at each stage of the ConvNet on 32x32; returns how many pairs the first has."""
    placed = place(convnet(), (32, 32), radius=0)
    stages = [b[1] for i, (layer, b) in enumerate(placed) if i == 0 or isinstance(placed[i - 1][0], AvgPool)]
    figure, axes = plt.subplots(1, len(stages), figsize=(10, 3), width_ratios=[32, 20, 14, 10])
    for axis, band in zip(axes, stages, strict=True):
        needed = np.zeros((band.side, band.side))
        needed[band.first, band.second] = 1
        axis.imshow(needed, cmap="Blues", vmin=0, vmax=1.6)
        axis.set_title(f"side {band.side}, offsets to {band.radius}\n{len(band.first)} of {band.side**2}", fontsize=9)
        axis.set_xticks(np.arange(-0.5, band.side), [], minor=False)
        axis.set_yticks(np.arange(-0.5, band.side), [], minor=False)
        axis.grid(color="white", linewidth=0.3)
        axis.tick_params(length=0)
    axes[0].set_xlabel("column in image 2")
    axes[0].set_ylabel("column in image 1")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    assert isinstance(placed[0][0], Conv)
    return len(stages[0].first) ** 2
