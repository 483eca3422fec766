"""The covariances of many pairs of images on CPU threads as a differentiable JAX function.

Each pair is computed by itself (see `pairs`), so that memory does not grow with their number but where each pair's own
gradient is asked for. The work is cut in the same way for any number of threads, and gradients are added in a fixed
order: results do not depend on the core count.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import pairwise
from types import CodeType, FunctionType

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.experimental.buffer_callback import buffer_callback

from kipx import machine
from kipx.kernel import angles, head, offsets, pairs, planes, pools
from kipx.kernel.angles import entry
from kipx.kernel.plan import Gradient, Image, make_plan, operations, pad, unpad

ROW_CHUNKS, COLUMN_CHUNKS = 4, 16
SMALL = 10**6  # of `operations`, under a millisecond: not worth waking a thread for


def serves(architecture, shape, dtype):
    """Whether the compiled loops can take these layers on images (h, w, c).

    They always can, but a ReLU behind the mean wants them in double precision.
    """
    return jax.config.jax_enable_x64 or not head.bends(architecture)


def pair_bytes(architecture, shape):
    """Memory that grows with every pair of images: none."""
    return 0


def jacobian_bytes(architecture, shape, dtype):
    """Memory that grows with every pair in `build_each`: its gradient, twice, and maps of its second image."""
    _, plan = _plans(architecture, shape[:2], np.dtype(dtype))
    pixels, stds = shape[2] * plan.entries[0], plan.entries[1]
    return 16 * (pixels + stds) + 2 * np.dtype(dtype).itemsize * pixels + 16 * stds


def build(architecture, kind):
    """Builds the kernel of the layers below Flatten or GlobalAvgPool, its mean over positions included.

    Args:
      architecture: tuple of layers, checked, that does not begin with Flatten.
      kind: 'ntk' or 'nngp'.
    Returns:
      Function of images (n1, h, w, c), (n2, h, w, c) of one dtype -> (nngp, ntk), each (n1, n2); ntk is 0 for 'nngp'.
    """
    kinds = 2 if kind == "ntk" else 1

    @jax.custom_vjp
    def covariances(x1, x2):
        shape = jax.ShapeDtypeStruct((2, x1.shape[0], x2.shape[0]), x1.dtype)
        return tuple(_call(partial(_gram, architecture, kinds), shape)(x1, x2))

    def forward(x1, x2):
        wanted = tuple(() if x.perturbed else None for x in (x1, x2))  # known while tracing: structure, no values
        return covariances(x1.value, x2.value), (x1.value, x2.value, wanted)

    def backward(residuals, cts):
        x1, x2, wanted = residuals
        ct = jnp.stack([jnp.zeros(c.shape, c.dtype) if isinstance(c, SymbolicZero) else c for c in cts])
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (x1, x2))
        return tuple(_call(partial(_vjp, architecture, kinds, wanted[0] is not None), shapes)(x1, x2, ct))

    covariances.defvjp(forward, backward, symbolic_zeros=True)
    return covariances


def build_each(architecture, kind):
    """Builds the same kernel with the gradient of each pair by itself.

    Args:
      architecture, kind: as for `build`.
    Returns:
      Function of images (n1, h, w, c), (n2, h, w, c) and cotangents (2, n1, n2) of nngp and ntk, no pair's both 0 ->
      (nngp, ntk), and (n1, n2, h, w, c), what each pair's cotangents give its image of the second set.
    """
    kinds = 2 if kind == "ntk" else 1

    def covariances_and_gradients(x1, x2, ct):
        shape = x1.shape[0], x2.shape[0]
        shapes = tuple(jax.ShapeDtypeStruct(sides, x1.dtype) for sides in ((2, *shape), (*shape, *x2.shape[1:])))
        kernels, gradients = _call(partial(_each, architecture, kinds), shapes)(x1, x2, ct)
        return tuple(kernels), gradients

    return covariances_and_gradients


def _call(function, shapes):
    """Wraps function(*arrays), which returns arrays of the given shapes, for JAX."""

    def fill(_, out, *arrays):
        results = function(*(np.asarray(a) for a in arrays))
        for buffer, result in zip(jax.tree.leaves(out), jax.tree.leaves(results), strict=True):
            np.asarray(buffer)[...] = result

    return buffer_callback(fill, shapes, vmap_method="sequential")


def _gram(architecture, kinds, x1, x2):
    """(2, n1, n2) covariances and tangent kernels."""
    own, plan = _plans(architecture, x1.shape[1:3], x1.dtype)
    out = np.zeros((2, len(x1), len(x2)), x1.dtype)
    _fill(plan, _images(own, plan, x1), _images(own, plan, x2), False, kinds, out)
    return out


def _vjp(architecture, kinds, both, x1, x2, ct):
    """Gradients in the shapes of x1 (0 unless `both`) and x2."""
    own, plan = _plans(architecture, x1.shape[1:3], x1.dtype)
    images1, images2 = (_images(own, plan, x) for x in (x1, x2))
    rows, columns = _tiles(len(x1), len(x2))
    parts1 = _parts(images1, len(columns) - 1) if both else _parts(images1, 1, n=1)
    parts2 = _parts(images2, len(rows) - 1)
    _pull(plan, images1, images2, False, kinds, np.array(ct), both, parts1, parts2)
    g1 = unpad(_own_vjp(own, images1, parts1), plan, x1.shape) if both else 0
    return g1, unpad(_own_vjp(own, images2, parts2), plan, x2.shape)


def _each(architecture, kinds, x1, x2, ct):
    """(2, n1, n2) covariances and tangent kernels, and each pair's gradient in the shape of its image of x2."""
    own, plan = _plans(architecture, x1.shape[1:3], x1.dtype)
    images1, images2 = (_images(own, plan, x) for x in (x1, x2))
    kernels, parts = np.array(ct), _parts(images2, len(x1))
    _pull(plan, images1, images2, False, kinds, kernels, False, _parts(images1, 1, n=1), parts, each=True)
    pairs1 = Gradient(*(part.reshape(1, -1, *part.shape[2:]) for part in parts))
    repeated = Image(*(np.concatenate([maps] * len(x1)) for maps in images2))
    gradients = unpad(_own_vjp(own, repeated, pairs1), plan, (kernels[0].size, *x2.shape[1:]))
    return kernels, gradients.reshape(len(x1), *x2.shape)


def _own_vjp(own, images, parts):
    """Gradient of a set's pixels, from parts of it and of its standard deviations' gradient."""
    total = Gradient(*(np.sum(part, axis=0, keepdims=True) for part in parts))
    if own is not None:
        _pull(own, images, images, True, 1, _alone(images), True, total, total)
    return total.pixels[0].astype(images.pixels.dtype)


@lru_cache
def _plans(architecture, sides, dtype):
    """Plans of an image with itself, for its variances alone, and of a pair of images."""
    return tuple(make_plan(architecture, sides, radius=radius, dtype=dtype) for radius in (-1, 0))


def _images(own, plan, x):
    """Image of a set, its maps of standard deviations filled."""
    n, entries = len(x), plan.entries[1]
    images = Image(pad(x, plan), np.zeros((n, entries)), np.zeros((n, entries)))
    if own is not None:
        _fill(own, images, images, True, 1, _alone(images))
    return images


def _alone(images):
    """(2, n, 1) zeros: room for the kernel of each image with itself."""
    return np.zeros((2, len(images.pixels), 1), images.pixels.dtype)


def _parts(images, parts, n=None):
    """Zeros for `parts` partial gradients of a set of images, or of its first n."""
    return Gradient(*(np.zeros((parts, n or len(a), *a.shape[1:])) for a in images[:2]))


def _tiles(n1, n2, each=False):
    """Edges of ranges of rows, with `each` of one row, and of columns; what they enclose is one task."""
    return _edges(n1, n1 if each else ROW_CHUNKS), _edges(n2, COLUMN_CHUNKS)


def _edges(n, most):
    """Edges of at most `most` ranges that cover n, as even as possible."""
    return np.linspace(0, n, min(n, most) + 1).astype(np.int64)


def _fill(plan, images1, images2, own, kinds, out):
    nothing = _parts(images1, 0)
    _parallel(plan, images1, images2, own, kinds, out, False, False, nothing, nothing)


def _pull(plan, images1, images2, own, kinds, ct, both, parts1, parts2, each=False):
    """Adds to the parts of gradients, and leaves the kernels in place of their cotangents."""
    _parallel(plan, images1, images2, own, kinds, ct, True, both, parts1, parts2, each=each)


def _parallel(plan, images1, images2, own, kinds, kernels, *arguments, each=False):
    """Calls the compiled loops for all tiles, on one thread per core; on the caller's alone where that is quick."""
    rows, columns = _tiles(*kernels.shape[1:], own or each)
    tiles = (len(rows) - 1) * (len(columns) - 1)
    most = min(2 * machine.cores(), 1 + kernels[0].size * operations(plan) // SMALL)
    ranges = list(pairwise(_edges(tiles, most).tolist()))

    def run(first, last):
        fixed = plan, images1, images2, own, kinds, kernels, rows, columns, *arguments
        _loops()(first, last, *fixed, pairs.scratch(plan))

    if len(ranges) == 1:
        run(0, tiles)
    else:
        list(_threads(machine.cores()).map(run, *zip(*ranges, strict=True)))


@lru_cache
def _threads(cores):
    return ThreadPoolExecutor(cores, thread_name_prefix="kipx-kernel")


@lru_cache
def _loops():
    """The one compiled function, compiled once a machine: kept on disk under a key that holds the fingerprint."""
    fingerprint = _fingerprint()

    @entry
    def loops(
        first, last, plan, images1, images2, own, kinds, kernels, rows, columns, pull, both, parts1, parts2, work
    ):
        """Fills `kernels` (2, n1, n2) in a range of tiles; with `pull` adds gradients of sum(kernels * cts) as well.

        `kernels` then held the cotangents. A tile's pairs go to the part of images1 of its columns and to the part
        of images2 of its rows. Pairs whose cotangents are 0 are passed over, and without `both` images1 are. With
        `own` each image is taken with itself, kernels are (2, n, 1) and parts are one.
        """
        for tile in range(first, last):
            r, c = tile // (len(columns) - 1), tile % (len(columns) - 1)
            for i in range(rows[r], rows[r + 1]):
                image1 = Image(images1.pixels[i], images1.stds[i], images1.inverses[i])
                for column in range(columns[c], columns[c + 1]):
                    j, part = (i, 0) if own else (column, r)
                    ct_nngp, ct_ntk = kernels[0, i, column], kernels[1, i, column]
                    if pull and not own and ct_nngp == 0 and ct_ntk == 0:
                        continue
                    image2 = Image(images2.pixels[j], images2.stds[j], images2.inverses[j])
                    kernel = pairs.forward(plan, image1, image2, own, kinds, work)
                    if pull:
                        to = (c, i) if both else (0, 0)
                        gradient1 = Gradient(parts1.pixels[to], parts1.log_stds[to])
                        gradient2 = Gradient(parts2.pixels[part, j], parts2.log_stds[part, j])
                        pairs.backward(
                            plan, image1, image2, own, kinds, ct_nngp, ct_ntk, both, gradient1, gradient2, work
                        )
                    kernels[0, i, column], kernels[1, i, column] = kernel
        return fingerprint

    return loops


def _fingerprint():
    """Number made of the compiled functions' code and constants; numba itself looks at the caller's file alone."""
    digest = hashlib.sha256()
    for module in (angles, offsets, planes, pools, pairs):
        for name, value in sorted(vars(module).items()):
            function = getattr(value, "py_func", value)
            if isinstance(function, FunctionType):
                digest.update(repr((name, _spelled(function.__code__), _options(value))).encode())
            elif isinstance(value, np.generic | tuple):
                digest.update(repr((name, value)).encode())
    return int.from_bytes(digest.digest()[:6])


def _spelled(code):
    """What a function does, without where it is."""
    constants = [_spelled(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return code.co_code, constants, code.co_names


def _options(function):
    """How it is compiled, in one order in every process."""
    given = getattr(function, "targetoptions", {}).items()
    return sorted((option, sorted(how) if isinstance(how, set) else how) for option, how in given)
