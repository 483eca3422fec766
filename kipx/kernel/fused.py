"""The covariances of many pairs of images on a GPU as a differentiable JAX function.

The layers between two pools are one CUDA kernel, forward and backward (see `cuda/walk.cuh`), and what passes between
them is all that reaches the GPU's memory: under a megabyte a pair at 32x32. Standard deviations belong to one image,
not to a pair (see `deviations`). Covariances are in double precision, for which the kernels need JAX's x64 flag.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental.buffer_callback import buffer_callback

from kipx.kernel import deviations, head, launch
from kipx.kernel.deviations import by_std, images
from kipx.kernel.stages import make_stages, make_tiles, supports

KINDS = jnp.float64, jnp.float32  # of covariances, of tangent kernels


def serves(architecture, shape, dtype):
    """Whether the GPU's kernels can take these layers on images (h, w, c)."""
    alone = dtype == "float32" and jax.config.jax_enable_x64 and not head.bends(architecture)
    return alone and supports(architecture, shape)


def pair_bytes(architecture, shape):
    """About the memory that a pair of images takes in a large block: its part of a gradient."""
    return 8 * sum(stage.quantities * stage.sides[0] * stage.sides[1] for stage in make_stages(architecture, shape))


def build(architecture, kind):
    """Builds the kernel of the layers below Flatten or GlobalAvgPool, its mean over positions included.

    Args:
      architecture: tuple of layers that `serves` accepts.
      kind: 'ntk' or 'nngp'.
    Returns:
      Function of float32 images (n1, h, w, c), (n2, h, w, c) -> (nngp, ntk), each (n1, n2); ntk is 0 for 'nngp'.
    """
    covariances, own = _of_pairs(architecture, kind), deviations.build(architecture)
    return lambda x1, x2: covariances(x1, x2, own(x1), own(x2))


def _of_pairs(architecture, kind):
    """The same given, for each set, float64 maps (n, h', w') of standard deviations before each ReLU."""
    kinds = 2 if kind == "ntk" else 1

    @jax.custom_vjp
    def covariances(x1, x2, stds1, stds2):
        stages = make_stages(architecture, x1.shape[1:])
        return _gram(stages, kinds, images(stages, x1, stds1), images(stages, x2, stds2))

    def forward(*arguments):
        values = jax.tree.map(lambda a: a.value, arguments, is_leaf=lambda a: hasattr(a, "perturbed"))
        wanted = tuple(() if x.perturbed else None for x in arguments[:2])  # known while tracing: structure, no values
        return covariances(*values), (values, wanted)

    def backward(residuals, cts):
        (x1, x2, stds1, stds2), wanted = residuals
        ct = [jnp.zeros(c.shape) if isinstance(c, SymbolicZero) else c for c in cts]
        stages = make_stages(architecture, x1.shape[1:])
        sets = images(stages, x1, stds1), images(stages, x2, stds2)
        (g1, logs1), (g2, logs2) = (jax.tree.map(jnp.zeros_like, pair) for pair in ((x1, stds1), (x2, stds2)))
        if wanted[0] is not None:
            g1, logs1 = _vjp(stages, kinds, *reversed(sets), [c.T for c in ct])
        if wanted[1] is not None:
            g2, logs2 = _vjp(stages, kinds, *sets, ct)
        return g1, g2, by_std(logs1, stds1), by_std(logs2, stds2)

    covariances.defvjp(forward, backward, symbolic_zeros=True)
    return covariances


def _gram(stages, kinds, images1, images2):
    """(n1, n2) covariances and tangent kernels."""
    last, tiles = stages[-1], make_tiles(stages, len(images1[0]), len(images2[0]), pulled=False)
    sums = [jax.ShapeDtypeStruct((*tiles.sides, last.planes[0]), kind) for kind in KINDS]
    call = buffer_callback(partial(launch.fill, stages, tiles, kinds), (sums, _room(tiles)), vmap_method="sequential")
    share = launch.share(last)
    sums, _ = call(images1, images2)
    return tuple((share * jnp.sum(k.astype(jnp.float64), axis=2)).astype(jnp.float32) for k in sums)


def _vjp(stages, kinds, images1, images2, ct):
    """Gradients of sum(ct * kernels) by the pixels of images2 (n2, h, w, c) and their log standard deviations."""
    tiles = make_tiles(stages, len(images1[0]), len(images2[0]), pulled=True)
    gradients = [
        jax.ShapeDtypeStruct((tiles.parts(stage), tiles.sides[1], max(1, stage.quantities), *stage.sides), jnp.float64)
        for stage in stages
    ]
    pull = partial(launch.pull, stages, tiles, kinds)
    call = buffer_callback(pull, (gradients, _room(tiles)), vmap_method="sequential")
    parts, _ = call(images1, images2, [c.astype(kind) for c, kind in zip(ct, KINDS, strict=True)])
    totals = [jnp.sum(part, axis=0) for part in parts]
    layers = [len(stage.convolutions) for stage in stages]
    logs = [t[:, q] for t, n in zip(totals, layers, strict=True) for q in range(n)]
    return jnp.moveaxis(totals[0][:, layers[0] :], 1, -1).astype(jnp.float32), logs


def _room(tiles):
    """Memory for the scratch of one tile, (nngp, ntk) each."""
    return [[jax.ShapeDtypeStruct((entries,), kind) for kind in KINDS] for entries in tiles.scratch]
