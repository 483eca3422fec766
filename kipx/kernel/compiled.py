"""The covariances of many pairs of images on CPU threads, in single precision, as a differentiable JAX function.

Each pair is computed by itself (see `pairs`), so that memory does not grow with their number. The work is cut in the
same way for any number of threads, and gradients are added in a fixed order: results do not depend on the core count.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.experimental.buffer_callback import buffer_callback

from kipx.kernel import pairs, planes, pools
from kipx.kernel.plan import Image, make_plan, operations, pad, unpad
from kipx.kernel.planes import entry

ROW_CHUNKS, COLUMN_CHUNKS = 4, 16
SMALL = 10**6  # of `operations`, under a millisecond: not worth waking a thread for


def build(architecture, kind):
    """Builds the kernel of the layers below Flatten or GlobalAvgPool, its mean over positions included.

    Args:
      architecture: tuple of layers, checked, that does not begin with Flatten.
      kind: 'ntk' or 'nngp'.
    Returns:
      Function of float32 images (n1, h, w, c), (n2, h, w, c) -> (nngp, ntk), each (n1, n2); ntk is 0 for 'nngp'.
    """
    kinds = 2 if kind == "ntk" else 1

    @jax.custom_vjp
    def covariances(x1, x2):
        shape = jax.ShapeDtypeStruct((2, x1.shape[0], x2.shape[0]), jnp.float32)
        return tuple(_call(partial(_gram, architecture, kinds), shape)(x1, x2))

    def forward(x1, x2):
        wanted = tuple(() if x.perturbed else None for x in (x1, x2))  # known while tracing: structure, no values
        return covariances(x1.value, x2.value), (x1.value, x2.value, wanted)

    def backward(residuals, cts):
        x1, x2, wanted = residuals
        ct = jnp.stack([jnp.zeros(c.shape, c.dtype) if isinstance(c, SymbolicZero) else c for c in cts])
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (x1, x2))
        return tuple(_call(partial(_vjp, architecture, kinds, wanted[0] is not None), shapes)(x1, x2, ct))

    covariances.defvjp(forward, backward, symbolic_zeros=True)
    return covariances


def _call(function, shapes):
    """Wraps function(*arrays), which returns arrays of the given shapes, for JAX."""

    def fill(_, out, *arrays):
        results = function(*(np.asarray(a) for a in arrays))
        for buffer, result in zip(jax.tree.leaves(out), jax.tree.leaves(results), strict=True):
            np.asarray(buffer)[...] = result

    return buffer_callback(fill, shapes, vmap_method="sequential")


def _gram(architecture, kinds, x1, x2):
    """(2, n1, n2) covariances and tangent kernels."""
    own, plan = _plans(architecture, x1.shape[1:3])
    images1, images2 = (_images(own, plan, x) for x in (x1, x2))
    out = np.zeros((2, len(x1), len(x2)), np.float32)
    _parallel(_entries()[0], out[0].size, out[0].size, plan, images1, images2, False, kinds, out)
    return out


def _vjp(architecture, kinds, both, x1, x2, ct):
    """Gradients in the shapes of x1 (0 unless `both`) and x2."""
    own, plan = _plans(architecture, x1.shape[1:3])
    images1, images2 = (_images(own, plan, x) for x in (x1, x2))
    rows, columns = _edges(len(x1), ROW_CHUNKS), _edges(len(x2), COLUMN_CHUNKS)
    parts1 = _parts(images1, len(columns) - 1) if both else _parts(images1, 1, n=1)
    parts2 = _parts(images2, len(rows) - 1)
    tiles = (len(rows) - 1) * (len(columns) - 1)
    arguments = (plan, images1, images2, False, kinds, ct, both, rows, columns, parts1, parts2)
    _parallel(_entries()[1], tiles, ct[0].size, *arguments)
    g1 = unpad(_own_vjp(own, images1, parts1), plan, x1.shape) if both else 0
    return g1, unpad(_own_vjp(own, images2, parts2), plan, x2.shape)


def _own_vjp(own, images, parts):
    """Gradient of a set's pixels, from parts of it and of its standard deviations' gradient."""
    total = Image(*(np.sum(part, axis=0, keepdims=True) for part in parts))
    if own is not None:
        n = len(images.pixels)
        ct, edges = np.zeros((2, n, n), np.float32), np.arange(n + 1)
        arguments = (own, images, images, True, 1, ct, True, edges, np.array([0, 1]), total, total)
        _parallel(_entries()[1], n, n, *arguments)
    return total.pixels[0]


@lru_cache
def _plans(architecture, sides):
    """Plans of an image with itself, for its variances alone, and of a pair of images."""
    return make_plan(architecture, sides, radius=-1), make_plan(architecture, sides, radius=0)


def _images(own, plan, x):
    """Image of a set, its maps of standard deviations filled."""
    images = Image(pad(x, plan), np.zeros((len(x), 2, plan.entries[1]), np.float32))
    if own is not None:
        out = np.zeros((2, len(x), len(x)), np.float32)
        _parallel(_entries()[0], len(x), len(x), own, images, images, True, 1, out)
    return images


def _parts(images, parts, n=None):
    """Zeros for `parts` partial gradients of a set of images, or of its first n."""
    return Image(*(np.zeros((parts, n or len(a), *a.shape[1:]), np.float32) for a in images))


def _edges(n, most):
    """Edges of at most `most` ranges that cover n, as even as possible."""
    return np.linspace(0, n, min(n, most) + 1).astype(np.int64)


def _parallel(function, tasks, count, plan, *arguments):
    """Calls function(first, last, plan, *arguments, scratch) for ranges of tasks, on one thread per core.

    On the caller's thread alone where all `count` pairs are quickly done.
    """
    most = min(2 * _cores(), 1 + count * operations(plan) // SMALL)
    ranges = list(pairwise(_edges(tasks, most).tolist()))

    def run(first, last):
        function(first, last, plan, *arguments, pairs.scratch(plan))

    if len(ranges) == 1:
        run(0, tasks)
    else:
        list(_threads(_cores()).map(run, *zip(*ranges, strict=True)))


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@lru_cache
def _threads(cores):
    return ThreadPoolExecutor(cores, thread_name_prefix="kipx-kernel")


@lru_cache
def _entries():
    """(fill, pull), compiled once a machine: kept on disk under a key that holds the fingerprint."""
    fingerprint = _fingerprint()

    @entry
    def fill(first, last, plan, images1, images2, own, kinds, out, work):
        """Kernels of the pairs first, ..., last - 1, into out (2, n1, n2); with `own` of each image with itself."""
        for n in range(first, last):
            i, j = (n, n) if own else (n // out.shape[2], n % out.shape[2])
            image1, image2 = Image(images1.pixels[i], images1.stds[i]), Image(images2.pixels[j], images2.stds[j])
            out[0, i, j], out[1, i, j] = pairs.forward(plan, image1, image2, own, kinds, work)
        return fingerprint

    @entry
    def pull(first, last, plan, images1, images2, own, kinds, cts, both, rows, columns, parts1, parts2, work):
        """Adds gradients of sum(cts * kernels) over tiles of pairs to partial gradients; with `own` i is j.

        A tile's pairs go to the part of images1 of its columns and to the part of images2 of its rows. Pairs whose
        cotangents are 0 are passed over, and without `both` images1 are.
        """
        for tile in range(first, last):
            r, c = (tile, 0) if own else (tile // (len(columns) - 1), tile % (len(columns) - 1))
            for i in range(rows[r], rows[r + 1]):
                to = (c, i) if both else (0, 0)
                image1, gradient1 = Image(images1.pixels[i], images1.stds[i]), Image(parts1.pixels[to], parts1.stds[to])
                for j in range(i, i + 1) if own else range(columns[c], columns[c + 1]):
                    if own or cts[0, i, j] != 0 or cts[1, i, j] != 0:
                        part = 0 if own else r
                        image2 = Image(images2.pixels[j], images2.stds[j])
                        gradient2 = Image(parts2.pixels[part, j], parts2.stds[part, j])
                        pairs.forward(plan, image1, image2, own, kinds, work)
                        ct = cts[0, i, j], cts[1, i, j]
                        pairs.backward(plan, image1, image2, own, kinds, *ct, both, gradient1, gradient2, work)
        return fingerprint

    return fill, pull


def _fingerprint():
    """Number made of the compiled functions' code and constants: numba itself looks at the caller's file alone."""
    digest = hashlib.sha256()
    for module in (planes, pools, pairs):
        for name, value in sorted(vars(module).items()):
            code = getattr(getattr(value, "py_func", None), "__code__", None)
            if code is not None:
                digest.update(repr((name, code.co_code, code.co_consts, code.co_names)).encode())
            elif isinstance(value, np.generic):
                digest.update(repr((name, value)).encode())
    return int.from_bytes(digest.digest()[:6])
