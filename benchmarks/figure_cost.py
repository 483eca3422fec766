"""Computes what sweeps/figure/ would take on the paper's data: operations counted, their rate measured.

    python benchmarks/figure_cost.py docs/figures/cost.md

Counted: a multiplication and an addition of each convolution and dense layer, three times for a training step (forward,
gradient of the weights, gradient of the inputs), once for each validation and test image. Measured: a training step of
the narrowest network of Figure 3 on 100 images of 32x32x3, in seconds of one core (CPU time, so that other work on the
machine does not count).
"""

import itertools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import yaml

from kipx.architecture import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, convnet, convvec, myrtle
from kipx.finite import losses, network, train

SWEEPS = pathlib.Path(__file__).parents[1] / "sweeps" / "figure"
IMAGE, CLASSES, BATCH, NETWORKS = (32, 32, 3), 10, 100, 3
STEPS, EVALUATIONS, VALIDATION, TEST = 5000, 10, 5000, 10_000
ARCHITECTURES = {
    "convnet": convnet(),
    "convvec": convvec(depth=3),
    "convvec8": convvec(depth=8),
    "myrtle": myrtle(depth=5),
}
WIDE = {"network.width": [1024]}
GRIDS = [  # figure, part, sweep, what its command line adds
    ("1", "networks", "1", {"run": range(4), **WIDE}),
    ("2", "normalizations", "2", WIDE),
    ("2", "Myrtle5", "2", {"network": ["myrtle"], "network.normalization": ["none"], **WIDE}),
    ("3", "left", "3", {"run": range(3), "trainer.loss": ["mse", "cross_entropy"], **WIDE}),
    ("3", "middle", "3", {}),
    ("3", "right", "3", {"step": [None]}),
    ("4", "", "4", WIDE),
]


def operations(architecture, width):
    """Operations of one image's way through a network."""
    (h, w, channels), total = IMAGE, 0
    for layer in architecture:
        if isinstance(layer, Conv):
            total += 2 * h * w * layer.size**2 * channels * width
            channels = width
        elif isinstance(layer, Dense):
            total += 2 * h * w * channels * (CLASSES if layer is architecture[-1] else width)
        elif isinstance(layer, AvgPool):
            h, w = h // layer.size, w // layer.size
        elif isinstance(layer, Flatten | GlobalAvgPool):
            channels, h, w = (channels * h * w if isinstance(layer, Flatten) else channels), 1, 1
    return total


def jobs(sweep, more):
    """The settings of each job of a sweep."""
    params = yaml.safe_load((SWEEPS / f"{sweep}.yaml").read_text())["hydra"]["sweeper"]["params"]
    grid = {key: str(values).split(",") for key, values in params.items()} | more
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def of_job(job):
    """Operations of one job, all its networks."""
    forward = operations(ARCHITECTURES[job.get("network", "convnet")], int(job["network.width"]))
    return NETWORKS * forward * (3 * BATCH * STEPS + EVALUATIONS * VALIDATION + TEST)


def rate(width=64, steps=3):
    """Operations in a second of one core."""
    own = network(convnet(), width=width)
    recipe = {"factor": 0.1, "momentum": 0.9, "l2": 1e-3, "batch_size": BATCH, "steps": STEPS}
    trainer = train.build(own, losses.build("mse", label_scale=1.0), **recipe)
    x = jax.random.normal(jax.random.key(0), (1, BATCH, *IMAGE), jnp.float32)
    y = jnp.zeros((1, BATCH, CLASSES), jnp.float32)
    state = trainer.start(jnp.zeros(1, int), jax.random.split(jax.random.key(1), 1), x, y)
    found = []
    for _ in range(4):  # the first compiles
        began = time.process_time()
        jax.block_until_ready(trainer.advance(state, x[None], y, 0, steps))
        found.append(3 * BATCH * steps * operations(convnet(), width) / (time.process_time() - began))
    return max(found[1:])


def main():
    speed = rate()
    lines = [
        "# What Figures 1 to 4 take on CIFAR-10",
        "",
        "Computed, not measured, by `python benchmarks/figure_cost.py docs/figures/cost.md`: operations counted,",
        f"divided by the {speed / 1e9:.0f} Gflop/s of one core that a training step of the ConvNet of width 64 was",
        "measured at. 5,000 steps of 100 images, 3 networks a job, 10 validations on 5,000 images; to distil the sets",
        "is not in it. A GPU's speed is an assumption.",
        "",
        "| figure | part | jobs | operations | two cores, hours | a GPU at 100 Tflop/s, hours |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for figure, part, sweep, more in GRIDS:
        found = jobs(sweep, more)
        total = sum(map(of_job, found))
        hours = total / speed / 2 / 3600, total / 1e14 / 3600
        lines.append(f"| {figure} | {part} | {len(found)} | {total:.2g} | {hours[0]:,.0f} | {hours[1]:.2g} |")
    per_step = 3 * BATCH * operations(convnet(), 1024)
    lines += [
        "",
        f"One step of one network of width 1024: {per_step:.2g} operations, {per_step / speed / 2:.0f} s on two cores.",
    ]
    pathlib.Path(sys.argv[1]).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
