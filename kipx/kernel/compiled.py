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

from kipx.kernel import pairs, planes
from kipx.kernel.plan import Image, make_plan, pad, unpad
from kipx.kernel.planes import entry

ROW_CHUNKS, COLUMN_CHUNKS = 4, 16


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
    cuts = _cuts(out[0].size, ROW_CHUNKS * COLUMN_CHUNKS)
    _parallel(_entries()[0], [(plan, images1, images2, False, kinds, *cut, out) for cut in cuts])
    return out


def _vjp(architecture, kinds, both, x1, x2, ct):
    """Gradients in the shapes of x1 (0 unless `both`) and x2."""
    own, plan = _plans(architecture, x1.shape[1:3])
    images1, images2 = (_images(own, plan, x) for x in (x1, x2))
    rows, columns = _cuts(len(x1), ROW_CHUNKS), _cuts(len(x2), COLUMN_CHUNKS)
    parts1 = [_zeros_like(images1, None if both else 1) for _ in columns]
    parts2 = [_zeros_like(images2) for _ in rows]
    tasks = [
        (plan, images1, images2, False, kinds, ct, both, row, column, part1, part2)
        for row, part2 in zip(rows, parts2, strict=True)
        for column, part1 in zip(columns, parts1, strict=True)
    ]
    _parallel(_entries()[1], tasks)
    g1 = unpad(_own_vjp(own, images1, parts1), plan, x1.shape) if both else 0
    return g1, unpad(_own_vjp(own, images2, parts2), plan, x2.shape)


def _own_vjp(own, images, parts):
    """Gradient of a set's pixels, from parts of it and of its standard deviations' gradient."""
    total = Image(*(np.sum(part, axis=0) for part in zip(*parts, strict=True)))
    if own is not None:
        n = len(images.pixels)
        ct = np.zeros((2, n, n), np.float32)
        tasks = [(own, images, images, True, 1, ct, True, cut, cut, total, total) for cut in _cuts(n, COLUMN_CHUNKS)]
        _parallel(_entries()[1], tasks)
    return total.pixels


@lru_cache
def _plans(architecture, sides):
    """Plans of an image with itself, for its variances alone, and of a pair of images."""
    return make_plan(architecture, sides, radius=-1), make_plan(architecture, sides, radius=0)


def _images(own, plan, x):
    """Image of a set, its maps of standard deviations filled."""
    images = Image(pad(x, plan), np.zeros((len(x), 2, plan.entries[1]), np.float32))
    if own is not None:
        out = np.zeros((2, len(x), len(x)), np.float32)
        cuts = _cuts(len(x), COLUMN_CHUNKS)
        _parallel(_entries()[0], [(own, images, images, True, 1, *cut, out) for cut in cuts])
    return images


def _zeros_like(images, n=None):
    return Image(*(np.zeros((n or len(a), *a.shape[1:]), np.float32) for a in images))


def _cuts(n, most):
    """At most `most` ranges (first, last) that cover n, as even as possible."""
    edges = np.linspace(0, n, min(n, most) + 1).astype(int).tolist()
    return list(pairwise(edges))


def _parallel(function, tasks):
    """Calls function(*task, scratch) for every task on one thread per core; a task begins with its plan."""

    def run(some):
        work = pairs.scratch(tasks[0][0])
        for task in some:
            function(*task, work)

    groups = [tasks[first:last] for first, last in _cuts(len(tasks), 2 * _cores())]
    list(_threads(_cores()).map(run, groups))


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
    def fill(plan, images1, images2, own, kinds, first, last, out, work):
        """Kernels of the pairs first, ..., last - 1, into out (2, n1, n2); with `own` of each image with itself."""
        for n in range(first, last):
            i, j = (n, n) if own else (n // out.shape[2], n % out.shape[2])
            image1, image2 = Image(images1.pixels[i], images1.stds[i]), Image(images2.pixels[j], images2.stds[j])
            out[0, i, j], out[1, i, j] = pairs.forward(plan, image1, image2, own, kinds, work)
        return fingerprint

    @entry
    def pull(plan, images1, images2, own, kinds, cts, both, rows, columns, gradients1, gradients2, work):
        """Adds gradients of sum(cts * kernels) over the pairs rows x columns; with `own` of each image with itself.

        Pairs whose cotangents are 0 are passed over, and without `both` gradients1 is not touched.
        """
        for i in range(rows[0], rows[1]):
            first = i if both else 0
            gradient1 = Image(gradients1.pixels[first], gradients1.stds[first])
            image1 = Image(images1.pixels[i], images1.stds[i])
            for j in range(i, i + 1) if own else range(columns[0], columns[1]):
                if own or cts[0, i, j] != 0 or cts[1, i, j] != 0:
                    image2 = Image(images2.pixels[j], images2.stds[j])
                    gradient2 = Image(gradients2.pixels[j], gradients2.stds[j])
                    pairs.forward(plan, image1, image2, own, kinds, work)
                    ct = cts[0, i, j], cts[1, i, j]
                    pairs.backward(plan, image1, image2, own, kinds, *ct, both, gradient1, gradient2, work)
        return fingerprint

    return fill, pull


def _fingerprint():
    """Number made of the compiled functions' code and constants: numba itself looks at the caller's file alone."""
    digest = hashlib.sha256()
    for module in (planes, pairs):
        for name, value in sorted(vars(module).items()):
            code = getattr(getattr(value, "py_func", None), "__code__", None)
            if code is not None:
                digest.update(repr((name, code.co_code, code.co_consts, code.co_names)).encode())
            elif isinstance(value, np.generic):
                digest.update(repr((name, value)).encode())
    return int.from_bytes(digest.digest()[:6])
