"""One device, bounded memory: the Gram matrix block by block, and each block's cotangent pulled back by itself.

Sets are cut into blocks of equal size, the last one padded with zeros, so one compilation serves all. The symmetric
matrix needs only the blocks on and above its diagonal, forward and backward.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kipx import checks
from kipx.engine import Engine, check_inputs

CPU_BYTES = 2**28  # for a block; a larger one is no faster
MOST = 32  # images a side of a block; the symmetric matrix saves nothing inside one


def build(kernel_fn, block_size=None):
    """Builds an Engine that holds one block's covariances at a time.

    Args:
      kernel_fn: (x1, x2=None) -> (n1, n2), from `kipx.kernel.build`.
      block_size: (rows, columns), the most images of x1 and x2 in one block; a set is cut into as few blocks as that
        allows, of equal size. Symmetric matrices are cut by the smaller of the two. None takes what fits, by
        `kernel_fn.pair_bytes`, into a quarter of the accelerator's memory that JAX may use.
    Returns:
      Engine.
    Raises:
      UserError: block_size is not two integers >= 1.
    Source: paper section 2.1, on one device.
    """
    block_size = None if block_size is None else check_block_size(block_size)

    @jax.jit
    def gram(x1, x2=None):
        check_inputs(x1, x2)
        rows, columns = block_size or fitting_block_size(kernel_fn, x1.shape[1:])
        if x2 is None:
            return _symmetric_gram(kernel_fn, x1, min(rows, columns))
        return _gram(kernel_fn, x1, x2, rows, columns)

    @jax.jit
    def vjp(x1, x2, cotangent):
        check_inputs(x1, x2, cotangent)
        rows, columns = block_size or fitting_block_size(kernel_fn, x1.shape[1:])
        if x2 is None:
            return _symmetric_vjp(kernel_fn, x1, cotangent, min(rows, columns))
        return _vjp(kernel_fn, x1, x2, cotangent, rows, columns)

    return Engine(gram, vjp)


def check_block_size(block_size):
    """Returns (rows, columns), or raises UserError."""
    if not isinstance(block_size, list | tuple) or len(block_size) != 2:
        raise checks.UserError(f"engine.block_size: expected [rows, columns] or null, got {block_size!r}")
    return tuple(checks.integer("engine.block_size", size, at_least=1) for size in block_size)


def fitting_block_size(kernel_fn, shape):
    """(rows, columns) of the largest square block of images (h, w, c) that fits the memory there is."""
    if not hasattr(kernel_fn, "pair_bytes"):
        return 16, 16
    size = MOST
    while size > 1 and size**2 * kernel_fn.pair_bytes(shape) > _block_bytes():
        size //= 2
    return size, size


def _block_bytes():
    """Memory for one block: of an accelerator the same share at any time, so that a resumed run has the same blocks."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["bytes_limit"] // 4 if stats else CPU_BYTES


def _gram(kernel_fn, x1, x2, rows, columns):
    blocks1, blocks2 = _blocks(x1, rows), _blocks(x2, columns)
    tiles = jax.lax.map(lambda a: jax.lax.map(lambda b: kernel_fn(a, b), blocks2), blocks1)
    return _join(tiles)[: x1.shape[0], : x2.shape[0]]


def _vjp(kernel_fn, x1, x2, cotangent, rows, columns):
    blocks1, blocks2 = _blocks(x1, rows), _blocks(x2, columns)
    tiles = _tiles(cotangent, blocks1, blocks2)

    def of_block(column):
        block2, cts = column

        def add(total, row):
            block1, ct = row
            k, pull = jax.vjp(lambda b: kernel_fn(block1, b), block2)
            return total + pull(ct.astype(k.dtype))[0], None

        return jax.lax.scan(add, jnp.zeros_like(block2), (blocks1, cts))[0]

    return _unblock(jax.lax.map(of_block, (blocks2, jnp.swapaxes(tiles, 0, 1))), x2)


def _symmetric_gram(kernel_fn, x, size):
    blocks = _blocks(x, size)
    i, j = np.triu_indices(blocks.shape[0])
    upper = jax.lax.map(lambda ij: kernel_fn(blocks[ij[0]], blocks[ij[1]]), (i, j))
    tiles = jnp.zeros((len(blocks), len(blocks), *upper.shape[1:]), upper.dtype).at[i, j].set(upper)
    k = jnp.triu(_join(tiles)[: x.shape[0], : x.shape[0]])
    return k + jnp.triu(k, 1).T


def _symmetric_vjp(kernel_fn, x, cotangent, size):
    """Each block above the diagonal also stands for its mirror image, whose cotangent it takes along."""
    blocks = _blocks(x, size)
    tiles = _tiles(cotangent, blocks, blocks)
    i, j = np.triu_indices(blocks.shape[0])
    mirrored = jnp.swapaxes(tiles[j, i], 1, 2) * (i < j)[:, None, None]

    def add(total, block):
        i, j, ct = block
        k, pull = jax.vjp(kernel_fn, blocks[i], blocks[j])
        g1, g2 = pull(ct.astype(k.dtype))
        return total.at[i].add(g1).at[j].add(g2), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(blocks), (i, j, tiles[i, j] + mirrored))
    return _unblock(total, x)


def _blocks(x, size):
    """(m, size', ...) blocks of x, the last padded with zeros; size' <= size, as even as possible."""
    n = x.shape[0]
    m = -(-n // size)
    size = -(-n // m)
    return jnp.pad(x, [(0, m * size - n)] + [(0, 0)] * (x.ndim - 1)).reshape(m, size, *x.shape[1:])


def _unblock(blocks, like):
    return blocks.reshape(-1, *like.shape[1:])[: like.shape[0]]


def _tiles(matrix, blocks1, blocks2):
    """(m1, m2, rows, columns) tiles of a matrix, padded with zeros."""
    (m1, rows), (m2, columns) = blocks1.shape[:2], blocks2.shape[:2]
    padding = [(0, m1 * rows - matrix.shape[0]), (0, m2 * columns - matrix.shape[1])]
    return jnp.swapaxes(jnp.pad(matrix, padding).reshape(m1, rows, m2, columns), 1, 2)


def _join(tiles):
    m1, m2, rows, columns = tiles.shape
    return jnp.swapaxes(tiles, 1, 2).reshape(m1 * rows, m2 * columns)
