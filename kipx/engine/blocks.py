"""How sets are cut into blocks, matrices into tiles, and how they are put together again.

Blocks of one set are of equal size, the last one padded with zeros, so one compilation serves all.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kipx import checks
from kipx.engine import Layout

CPU_BYTES = 2**28  # for a block; a larger one is no faster
MOST = 512  # images a side of a block: a call costs as much as hundreds of pairs
MOST_IN_LOOPS = 32  # where pairs are computed one by one; the symmetric matrix saves nothing inside a block


def check_size(block_size):
    """Returns (rows, columns) or None, as given, or raises UserError."""
    if block_size is None:
        return None
    if not isinstance(block_size, list | tuple) or len(block_size) != 2:
        raise checks.UserError(f"engine.block_size: expected [rows, columns] or null, got {block_size!r}")
    return tuple(checks.integer("engine.block_size", size, at_least=1) for size in block_size)


def fitting_size(kernel_fn, shape):
    """(rows, columns) of the largest square block of images (h, w, c) that fits the memory there is.

    Of an accelerator's that is the same share at any time, so that a resumed run has the same blocks.
    """
    if not hasattr(kernel_fn, "pair_bytes"):
        return 16, 16
    stats, pair = jax.local_devices()[0].memory_stats(), kernel_fn.pair_bytes(shape)
    room = stats["bytes_limit"] // 4 if stats else CPU_BYTES
    size = MOST if stats or pair else MOST_IN_LOOPS
    while size > 1 and size**2 * pair > room:
        size //= 2
    return size, size


def even(n, size):
    """(m, size') of the fewest blocks of at most `size` that hold n, as even as possible."""
    m = -(-n // size)
    return m, -(-n // m)


def layout(n1, n2, size):
    """Layout on one device of the matrix between n1 and n2 images in blocks of `size`; n2 is None where symmetric."""
    if n2 is None:
        m, rows = even(n1, min(size))
        return Layout(rows, rows, m * (m + 1) // 2, 1)
    (m1, rows), (m2, columns) = even(n1, size[0]), even(n2, size[1])
    return Layout(rows, columns, m1 * m2, 1)


@partial(jax.jit, static_argnums=1)
def cut(x, size):
    """(m, size', ...) blocks of x, the last padded with zeros; size' <= size, as even as possible."""
    m, size = even(x.shape[0], size)
    return pad(x, m * size).reshape(m, size, *x.shape[1:])


def pad(x, n):
    """x with zeros behind it, n rows in all."""
    return jnp.pad(x, [(0, n - x.shape[0])] + [(0, 0)] * (x.ndim - 1))


def uncut(blocks, like):
    """The set in the shape of `like` that was cut into these blocks."""
    return blocks.reshape(-1, *like.shape[1:])[: like.shape[0]]


@jax.jit
def cut_matrix(matrix, blocks1, blocks2):
    """(m1, m2, rows, columns) tiles of a matrix, padded with zeros."""
    (m1, rows), (m2, columns) = blocks1.shape[:2], blocks2.shape[:2]
    padding = [(0, m1 * rows - matrix.shape[0]), (0, m2 * columns - matrix.shape[1])]
    return jnp.swapaxes(jnp.pad(matrix, padding).reshape(m1, rows, m2, columns), 1, 2)


@partial(jax.jit, static_argnums=(1, 2))
def join(tiles, n1, n2):
    """(n1, n2, ...) matrix of (m1, m2, rows, columns, ...) tiles, without what was padded."""
    m1, m2, rows, columns, *rest = tiles.shape
    return jnp.swapaxes(tiles, 1, 2).reshape(m1 * rows, m2 * columns, *rest)[:n1, :n2]


def upper(m):
    """(i, j) of the tiles on and above the diagonal: all that a symmetric matrix needs."""
    return np.triu_indices(m)


@partial(jax.jit, static_argnums=(1, 2))
def join_upper(tiles, m, n):
    """(n, n) symmetric matrix from its tiles at `upper(m)`."""
    i, j = upper(m)
    k = jnp.zeros((m, m, *tiles.shape[1:]), tiles.dtype).at[i, j].set(tiles)
    k = jnp.triu(join(k, n, n))
    return k + jnp.triu(k, 1).T


@jax.jit
def cut_upper(cotangent, blocks):
    """Tiles of a cotangent at `upper(m)`, each with that of its mirror image, for which it also stands."""
    tiles = cut_matrix(cotangent, blocks, blocks)
    i, j = upper(blocks.shape[0])
    return tiles[i, j] + jnp.swapaxes(tiles[j, i], 1, 2) * (i < j)[:, None, None]
