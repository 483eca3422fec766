"""Writes the table of float32 against float64 over random architectures and hard inputs.

    python benchmarks/accuracy.py docs/accuracy.md      (`make accuracy`)

Values: largest error over largest entry. Gradients: norm of the error over the norm, for a random cotangent.
"""

import sys
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import kipx.kernel
from kipx.architecture import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Relu, convnet, convvec, myrtle
from kipx.kernel import build

ARCHITECTURES = 20
SHIPPED = (convnet(depth=3), convvec(depth=8), myrtle(depth=5))  # ntk, after the random ones
SIDE = 10


def random_architecture(rng):
    """Two or three blocks of one or two convolutions with ReLUs and pools, flat or averaged at the end."""
    layers = []
    for _ in range(rng.integers(1, 4)):
        for _ in range(rng.integers(1, 3)):
            layers += [Conv(int(rng.choice([1, 3, 3, 3, 5])), *deviations(rng)), Relu()]
        layers += [AvgPool(2)] * (rng.random() < 0.6)
    return (*layers, Flatten() if rng.random() < 0.7 else GlobalAvgPool(), Dense(*deviations(rng)))


def random_fully_connected(rng):
    """One to four hidden layers."""
    hidden = [(Dense(*deviations(rng)), Relu()) for _ in range(rng.integers(1, 5))]
    return (Flatten(), *(layer for pair in hidden for layer in pair), Dense(*deviations(rng)))


def deviations(rng):
    return float(rng.uniform(0.8, 2)), float(rng.choice([0, 0.1, 0.5]))


def inputs(rng):
    """{name: (x1, x2)}, float32, equal in shape."""
    shape = (3, SIDE, SIDE, int(rng.choice([1, 3])))
    x1, x2 = rng.normal(size=(2, *shape))
    background = np.where(rng.random((2, *shape)) < 0.7, -0.4, rng.normal(size=(2, *shape)))
    constant = np.broadcast_to(rng.normal(size=(2, shape[0], 1, 1, 1)), (2, *shape))
    pairs = {
        "random": (x1, x2),
        "equal images": (x1, x1),
        "shared constant background": background,
        "constant images": constant,
        "zero images": (np.zeros(shape), x2),
        "1000 times larger": (1000 * x1, 1000 * x2),
        "1000 times smaller": (x1 / 1000, x2 / 1000),
        "one large, one small": (1000 * x1, x2 / 1000),
        "near-identical, 1e-2 apart": (x1, x1 + 1e-2 * x2),
        "near-identical, 1e-4 apart": (x1, x1 + 1e-4 * x2),
        "one 1e-4 brighter": (x1, (1 + 1e-4) * x1),
        "constant but for 1e-5": (1000 + 0.01 * x1, 1000 + 0.01 * x2),
    }
    return {name: [np.asarray(x, np.float32) for x in pair] for name, pair in pairs.items()}


def differentiated(kernel_fn):
    def both(x1, x2, cotangent):
        k, pull = jax.vjp(kernel_fn, x1, x2)
        return k, pull(cotangent.astype(k.dtype))

    return jax.jit(both)


def errors(architecture, dense, kind, cases, rng):
    """{name: errors of value and gradient: compiled, fully connected, plain}."""
    exact, exact_dense = (differentiated(partial(kipx.kernel.plain.gram, one, kind)) for one in (architecture, dense))
    compiled, connected = (differentiated(build(one, kind)) for one in (architecture, dense))
    with mock.patch.object(kipx.kernel, "_mean", lambda *_: None):
        plain = differentiated(build(architecture, kind))
        plain(*next(iter(cases.values())), jnp.ones((3, 3), "float32"))  # traced while it is not compiled
    cotangent = jnp.asarray(rng.normal(size=(3, 3)), "float32")
    found = {name: [] for name in cases}
    for name, pair in cases.items():
        for single, double in ((compiled, exact), (connected, exact_dense), (plain, exact)):
            k, g = double(*(jnp.asarray(x, "float64") for x in pair), cotangent)
            k32, g32 = single(*pair, cotangent)
            assert np.isfinite(k32).all() and all(np.isfinite(x).all() for x in g32), (name, architecture)
            found[name] += [float(jnp.abs(k32 - k).max() / (jnp.abs(k).max() or 1)), apart(g32, g)]
    return found


def apart(a, b):
    size = sum(float(jnp.sum(y**2)) for y in b) ** 0.5
    return sum(float(jnp.sum((x - y) ** 2)) for x, y in zip(a, b, strict=True)) ** 0.5 / size if size else 0.0


def main(path):
    jax.config.update("jax_enable_x64", True)
    worst = {}
    for seed in range(ARCHITECTURES + len(SHIPPED)):
        rng, drawn = np.random.default_rng(seed), seed < ARCHITECTURES
        architecture = random_architecture(rng) if drawn else SHIPPED[seed - ARCHITECTURES]
        kind = ("ntk", "nngp")[seed % 2] if drawn else "ntk"
        found = errors(architecture, random_fully_connected(rng), kind, inputs(rng), rng)
        for name, row in found.items():
            worst[name] = np.maximum(worst.get(name, 0), row)
        print(seed, {name: [f"{e:.0e}" for e in row] for name, row in worst.items()}, flush=True)
    lines = [
        "# float32 against float64",
        "",
        f"The largest error over {ARCHITECTURES} random architectures of each kind, half of them ntk and half nngp,",
        "and over the ntk of ConvNet, depth 3, Conv-Vec8 and Myrtle5, on"
        f" images of {SIDE}x{SIDE}, by `make accuracy`. Values: largest error over largest entry. Gradients, with",
        "respect to both sets of images: norm of the error over the norm, for a random cotangent. *Compiled* are",
        "convolutional kernels on CPUs, *plain* the same in plain JAX, where neither the loops nor a GPU's kernels",
        "([gpu](gpu.md)) serve; *FC* are fully connected ones, everywhere. float64 is plain JAX's. It agrees with the",
        "compiled loops' and with neural-tangents' to 1e-15 ([agreement](agreement.md)).",
        "",
        "| input | value, compiled | gradient, compiled | value, FC | gradient, FC | value, plain | gradient, plain |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *("| " + " | ".join([name, *(f"{e:.0e}" for e in row)]) + " |" for name, row in worst.items()),
        "",
        "No entry was NaN or infinite. What is hard is patches that are nearly parallel, not equal: the derivative of",
        "their angle grows without bound as it closes, so rounding their correlation moves the tangent kernel by the",
        "square root of that rounding, and its gradient by more. Near-identical images are of this kind; so are",
        "constant images, whose patches differ in length but hardly in direction, and images so small that the bias",
        "outweighs them (here by 100 to 500 times). The compiled loops carry covariances in double precision and tell",
        "such patches apart. A fully connected kernel computes a block in double precision where two of its images",
        "are that near; that needs JAX's x64 flag, which `kipx` sets. Convolutions in plain JAX in float32 do neither,",
        "and there `kernel.dtype=float64` serves.",
    ]
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
