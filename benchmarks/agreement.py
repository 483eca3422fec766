"""Writes the table of agreement between kipx's kernels and neural-tangents' float64.

    python benchmarks/agreement.py docs/agreement.md

Values: largest error over largest entry. Gradients: L2 norm of the error over the norm, for a random cotangent.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from kipx.architecture import convnet, convvec, fc, myrtle
from kipx.kernel import build, neural_tangents

CASES = [
    ("convnet", convnet(depth=2), (8, 8, 1)),
    ("convnet", convnet(depth=3), (14, 14, 1)),
    ("convnet, no first conv", convnet(depth=2, prepend_conv=False), (9, 7, 3)),
    ("convvec", convvec(depth=3), (9, 7, 3)),
    ("fc", fc(depth=3), (8, 8, 3)),
    ("myrtle", myrtle(depth=5), (9, 7, 3)),
]


def differentiated(kernel_fn):
    def both(x1, x2, cotangent):
        k, pull = jax.vjp(lambda x: kernel_fn(x1, x), x2)
        return k, pull(cotangent.astype(k.dtype))[0]

    return jax.jit(both)


def row(name, architecture, shape, kind):
    rng = np.random.default_rng(0)
    x1, x2, cotangent = rng.normal(size=(3, *shape)), rng.normal(size=(4, *shape)), rng.normal(size=(3, 4))
    oracle = differentiated(neural_tangents.build(architecture, kind, "float64"))
    truth = oracle.__wrapped__(x1, x2, jnp.asarray(cotangent))  # not compiled: JAX 0.10 crashes when it frees that
    cells = [name, "x".join(map(str, shape)), kind]
    for dtype in ("float32", "float64"):
        k, g = differentiated(build(architecture, kind, dtype))(x1, x2, cotangent)
        cells.append(f"{float(jnp.abs(k - truth[0]).max() / jnp.abs(truth[0]).max()):.0e}")
        cells.append(f"{float(jnp.linalg.norm(g - truth[1]) / jnp.linalg.norm(truth[1])):.0e}")
    return "| " + " | ".join(cells) + " |"


def main(path):
    jax.config.update("jax_enable_x64", True)
    lines = [
        "# Agreement with neural-tangents",
        "",
        "kipx's kernels against neural-tangents 0.6.5 in float64 on 3 x 4 random normal images, by `make agreement`.",
        "Values: largest error over largest entry. Gradients: norm of the error over the norm, for a random cotangent.",
        "",
        "| architecture | image | kernel | value, float32 | gradient, float32 | value, float64 | gradient, float64 |",
        "|---|---|---|--:|--:|--:|--:|",
        *(row(*case, kind) for case in CASES for kind in ("ntk", "nngp")),
        "",
        "Where two patches are equal, neural-tangents itself is off by about 1e-9 in float64: rounding makes their",
        "correlation slightly less than 1, where the angle's derivative is unbounded. kipx counts correlations within",
        "rounding of 1 as 1, and the tests hold it there against a slow version in extended precision instead.",
    ]
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
