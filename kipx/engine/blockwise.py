"""One device, bounded memory: the Gram matrix block by block, and each block's cotangent pulled back by itself.

The symmetric matrix needs only the blocks on and above its diagonal, forward and backward. Each block is one call of
one compiled program, here or elsewhere (see `pool`), and what comes back is added in the order of the blocks.
"""

import collections
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from kipx.engine import Engine, blocks, check_inputs
from kipx.kernel import KEPT, one_by_one

REMEMBERED = 4  # sets that stay cut: support set and targets, from the forward to the backward pass


def build(kernel_fn, block_size=None):
    """Builds an Engine that holds one block's covariances at a time.

    Args:
      kernel_fn: (x1, x2=None) -> (n1, n2), from `kipx.kernel.build`.
      block_size: (rows, columns), the most images of x1 and x2 in one block; a set is cut into as few blocks as that
        allows, of equal size. Symmetric matrices are cut by the smaller of the two. None takes what fits, by
        `kernel_fn.pair_bytes`, into a quarter of the accelerator's memory that JAX may use.
    Returns:
      Engine; its functions cannot be traced.
    Raises:
      UserError: block_size is not two integers >= 1.
    Source: paper section 2.1, on one device.
    """
    return over(Here(functions(kernel_fn)), kernel_fn, block_size)


def over(place, kernel_fn, block_size):
    """Builds an Engine whose blocks are computed at a place.

    Args:
      place: put(blocks (m, size, h, w, c)) -> what stands for them; evaluate(name, put1, put2, tasks) -> the results of
        that one of `functions` at tasks (i, j, ...) in their order: of block i of put1, block j of put2 and the rest;
        devices() -> how many work on them.
      kernel_fn, block_size: as for `build`.
    """
    whole = _InBlocks(place, kernel_fn, blocks.check_size(block_size))
    return Engine(whole.gram, whole.vjp, whole.layout, whole.with_jacobian)


class _InBlocks:
    """What an Engine does, with sets that stay cut for a while."""

    def __init__(self, place, kernel_fn, block_size):
        self._place, self._kernel_fn, self._block_size = place, kernel_fn, block_size
        self._remembered = collections.deque(maxlen=REMEMBERED)

    def layout(self, n1, n2, shape, devices=None):
        found = blocks.layout(n1, n2, self._size(shape))
        return found._replace(devices=devices or self._place.devices())

    def gram(self, x1, x2=None):
        check_inputs(x1, x2)
        if x2 is None:
            return self._own_gram(x1)
        return self._tile_by_tile("gram", x1, x2)

    def vjp(self, x1, x2, cotangent):
        check_inputs(x1, x2, cotangent)
        if x2 is None:
            return self._own_vjp(x1, cotangent)
        (put1, blocks1), (put2, blocks2) = self._put_both(x1, x2)
        cts = np.asarray(blocks.cut_matrix(cotangent, blocks1, blocks2))
        at = list(np.ndindex(cts.shape[:2]))
        pulled = self._place.evaluate("second", put1, put2, [(*ij, cts[ij]) for ij in at])
        return blocks.uncut(_total(((j, g) for (_, j), g in zip(at, pulled, strict=True)), len(blocks2)), x2)

    def with_jacobian(self, x1, x2):
        check_inputs(x1, x2)
        return self._tile_by_tile("with_jacobian", x1, x2)

    def _tile_by_tile(self, name, x1, x2):
        (put1, blocks1), (put2, blocks2) = self._put_both(x1, x2)
        shape = len(blocks1), len(blocks2)
        tiles = _stacked(self._place.evaluate(name, put1, put2, list(np.ndindex(shape))))
        return jax.tree.map(lambda t: blocks.join(t.reshape(*shape, *t.shape[1:]), len(x1), len(x2)), tiles)

    def _own_gram(self, x):
        put, cut, at = self._put_own(x)
        tiles = self._place.evaluate("gram", put, put, at)
        return blocks.join_upper(_stacked(tiles), len(cut), x.shape[0])

    def _own_vjp(self, x, cotangent):
        put, cut, at = self._put_own(x)
        cts = np.asarray(blocks.cut_upper(cotangent, cut))
        pulled = self._place.evaluate("both", put, put, [(*ij, ct) for ij, ct in zip(at, cts, strict=True)])
        terms = ((k, g) for ij, gs in zip(at, pulled, strict=True) for k, g in zip(ij, gs, strict=True))
        return blocks.uncut(_total(terms, len(cut)), x)

    def _size(self, shape):
        return self._block_size or blocks.fitting_size(self._kernel_fn, shape)

    def _put_both(self, x1, x2):
        rows, columns = self._size(x1.shape[1:])
        return self._put(x1, rows), self._put(x2, columns)

    def _put_own(self, x):
        """As `_put`, and where the tiles are that a symmetric matrix needs."""
        put, cut = self._put(x, min(self._size(x.shape[1:])))
        return put, cut, list(zip(*blocks.upper(len(cut)), strict=True))

    def _put(self, x, size):
        """What stands for the blocks of a set at the place, and the blocks."""
        for known, known_size, result in self._remembered:
            if known is x and known_size == size:
                return result
        cut = blocks.cut(jnp.asarray(x), size)
        result = self._place.put(cut), cut
        if isinstance(x, jax.Array):  # which nobody can change
            self._remembered.append((x, size, result))
        return result


def _stacked(tiles):
    """(m, rows, columns, ...) of m tiles; on the host, since XLA would compile thousands of them for minutes."""
    return jax.tree.map(lambda *each: jnp.asarray(np.stack(each)), *tiles)


def _total(terms, m):
    """(m, ...) sums of the terms (k, array), k < m, added in their order."""
    totals = [None] * m
    for k, term in terms:
        totals[k] = term if totals[k] is None else totals[k] + term
    return jnp.stack(totals)


class Here:
    """Blocks computed on this process's own device, one after the other."""

    def __init__(self, functions):
        self.functions = {name: jax.jit(function) for name, function in functions.items()}

    def devices(self):
        """One."""
        return 1

    def put(self, cut):
        """The blocks, each by itself."""
        return list(cut)

    def evaluate(self, name, put1, put2, tasks):
        """Yields the results in the tasks' order."""
        last = None
        for i, j, *rest in tasks:
            result = self.functions[name](put1[i], put2[j], *rest)
            jax.block_until_ready(last)  # one block ahead: any more would take memory and save no time
            last = result
            yield result


@lru_cache(maxsize=KEPT)  # jit compiles a function once, however often it is asked
def functions(kernel_fn):
    """What is done with a block: its tile of the Gram matrix, alone or with the gradient of each entry, and a tile's
    cotangent pulled back to one or both.
    """

    def second(block1, block2, ct):
        k, pull = jax.vjp(lambda b: kernel_fn(block1, b), block2)
        return pull(ct.astype(k.dtype))[0]

    def both(block1, block2, ct):
        k, pull = jax.vjp(kernel_fn, block1, block2)
        return pull(ct.astype(k.dtype))

    with_jacobian = getattr(kernel_fn, "with_jacobian", partial(one_by_one, kernel_fn))
    return {"gram": kernel_fn, "second": second, "both": both, "with_jacobian": with_jacobian}
