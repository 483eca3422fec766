"""All devices at once: each takes some rows of the Gram matrix, block by block; gradients are summed over devices.

The support set is on every device, targets are dealt out. Of the symmetric matrix the tiles on and above the diagonal
are dealt out evenly. Over many hosts it is the same program (see `hosts`); each host gets the whole result.
"""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kipx.engine import Engine, Layout, blocks, check_inputs, hosts
from kipx.engine.blockwise import functions
from kipx.kernel import KEPT

DEVICES = "devices"
ROWS, ALL = PartitionSpec(DEVICES), PartitionSpec()
TILES_EACH = 4  # at least, of a symmetric matrix: fewer could not be dealt out evenly


def build(
    kernel_fn,
    block_size=None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
):
    """Builds an Engine over a mesh of all devices of all hosts.

    Args:
      kernel_fn: (x1, x2=None) -> (n1, n2), from `kipx.kernel.build`.
      block_size: as for `kipx.engine.blockwise.build`, on each device.
      coordinator, num_processes, process_id: as for `kipx.engine.hosts.connect`.
    Returns:
      Engine; each host gets the whole result.
    Raises:
      UserError: block_size is not two integers >= 1, or the hosts do not find each other.
    Source: paper section 2.1, over devices in place of workers.
    """
    block_size = blocks.check_size(block_size)
    hosts.connect(coordinator, num_processes, process_id)
    mesh = Mesh(np.array(jax.devices()), (DEVICES,))
    (rows_gram, rows_vjp, rows_with_jacobian), (symmetric_gram, symmetric_vjp) = _compiled(kernel_fn, mesh, block_size)

    def gram(x1, x2=None):
        check_inputs(x1, x2)
        if x2 is None:
            return _here(symmetric_gram, _place(x1, mesh, ALL))
        return by_rows(rows_gram, x1, x2)

    def with_jacobian(x1, x2):
        check_inputs(x1, x2)
        return by_rows(rows_with_jacobian, x1, x2)

    def by_rows(function, x1, x2):
        whole = _here(function, _deal(x1, mesh), _place(x2, mesh, ALL))
        return jax.tree.map(lambda rows: rows[: x1.shape[0]], whole)

    def vjp(x1, x2, cotangent):
        check_inputs(x1, x2, cotangent)
        if x2 is None:
            return _here(symmetric_vjp, _place(x1, mesh, ALL), _place(cotangent, mesh, ALL))
        return _here(rows_vjp, _deal(x1, mesh), _place(x2, mesh, ALL), _deal(cotangent, mesh))

    return Engine(gram, vjp, partial(layout(kernel_fn, block_size), devices=mesh.size), with_jacobian)


def layout(kernel_fn, block_size=None):
    """Returns (n1, n2 or None, image shape, devices) -> Layout of this engine on any number of devices.

    Args:
      kernel_fn, block_size: as for `build`.
    """
    block_size = blocks.check_size(block_size)

    def of(n1, n2, shape, devices):
        size = block_size or blocks.fitting_size(kernel_fn, shape)
        if n2 is None:
            m = _blocks_to_deal(n1, min(size), devices)
            rows = -(-n1 // m)
            m = -(-n1 // rows)
            return Layout(rows, rows, -(-(m * (m + 1) // 2) // devices) * devices, devices)
        each = blocks.layout(-(-n1 // devices), n2, size)
        return each._replace(count=each.count * devices, devices=devices)

    return of


@lru_cache(maxsize=KEPT)
def _compiled(kernel_fn, mesh, block_size):
    """gram, vjp and with_jacobian of two sets, gram and vjp of one with itself."""

    def size_of(x):
        return block_size or blocks.fitting_size(kernel_fn, x.shape[1:])

    return _by_rows(kernel_fn, mesh, size_of), _by_tiles(kernel_fn, mesh, size_of)


def _by_rows(kernel_fn, mesh, size_of):
    """gram, vjp and with_jacobian of two sets, compiled; the rows are dealt out."""
    over, compiled = _over(mesh)

    def tiles_of(function):
        return compiled(
            over(lambda a, b: _by_blocks(function, a, b, *size_of(b)), in_specs=(ROWS, ALL), out_specs=ROWS)
        )

    @compiled
    def vjp(x1, x2, cotangent):
        def local(a, b, ct):
            return jax.lax.psum(_vjp(kernel_fn, a, b, ct, *size_of(b)), DEVICES)

        return over(local, in_specs=(ROWS, ALL, ROWS), out_specs=ALL)(x1, x2, cotangent)

    return tiles_of(kernel_fn), vjp, tiles_of(functions(kernel_fn)["with_jacobian"])


def _by_tiles(kernel_fn, mesh, size_of):
    """gram and vjp of one set with itself, compiled; the tiles on and above the diagonal are dealt out."""
    over, compiled = _over(mesh)

    @compiled
    def gram(x):
        blocks1, i, j = _dealt(x, min(size_of(x)), mesh.size)
        k = over(partial(_tiles, kernel_fn), in_specs=(ALL, ROWS, ROWS), out_specs=ROWS)(blocks1, i, j)
        m = len(blocks1)
        return blocks.join_upper(k[: len(blocks.upper(m)[0])], m, x.shape[0])

    @compiled
    def vjp(x, cotangent):
        blocks1, i, j = _dealt(x, min(size_of(x)), mesh.size)
        cts = blocks.pad(blocks.cut_upper(cotangent, blocks1), len(i))

        def local(*arguments):
            return jax.lax.psum(_tiles_vjp(kernel_fn, *arguments), DEVICES)

        return blocks.uncut(over(local, in_specs=(ALL, ROWS, ROWS, ROWS), out_specs=ALL)(blocks1, i, j, cts), x)

    return gram, vjp


def _over(mesh):
    """shard_map over the mesh, and jit whose results are on every device."""
    everywhere = NamedSharding(mesh, ALL)
    return partial(jax.shard_map, mesh=mesh, check_vma=False), partial(jax.jit, out_shardings=everywhere)


def _dealt(x, size, devices):
    """Blocks of x, and (i, j) of the tiles of its symmetric matrix, filled up by tile (0, 0) for all devices alike."""
    m = _blocks_to_deal(x.shape[0], size, devices)
    blocks1 = blocks.cut(x, -(-x.shape[0] // m))
    i, j = blocks.upper(len(blocks1))
    more = (0, -len(i) % devices)
    return blocks1, np.pad(i, more), np.pad(j, more)


def _blocks_to_deal(n, size, devices):
    """Blocks of at most `size` that n images are cut into, so many that their tiles can be dealt out."""
    m = -(-n // size)
    while m * (m + 1) // 2 < TILES_EACH * devices and m < n:
        m += 1
    return m


def _deal(x, mesh):
    """Rows of x over the devices, the last ones filled up with zeros."""
    return _place(blocks.pad(x, -(-x.shape[0] // mesh.size) * mesh.size), mesh, ROWS)


def _place(x, mesh, spec):
    """An array that every host holds, on the mesh."""
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _here(function, *arguments):
    """What function(*arguments) leaves on every device, as arrays that are bound to none."""
    left = hosts.exchanged(function, *arguments)
    return jax.tree.map(lambda array: jnp.asarray(np.asarray(array.addressable_data(0))), left)


def _by_blocks(function, x1, x2, rows, columns):
    """(n1, n2, ...) matrix or matrices, one block of (rows, columns) after the other."""
    blocks1, blocks2 = blocks.cut(x1, rows), blocks.cut(x2, columns)
    tiles = jax.lax.map(lambda a: jax.lax.map(lambda b: function(a, b), blocks2), blocks1)
    return jax.tree.map(lambda tile: blocks.join(tile, x1.shape[0], x2.shape[0]), tiles)


def _vjp(kernel_fn, x1, x2, cotangent, rows, columns):
    """Gradient of sum(cotangent * gram(x1, x2)) with respect to x2, block by block."""
    blocks1, blocks2 = blocks.cut(x1, rows), blocks.cut(x2, columns)
    cotangents = blocks.cut_matrix(cotangent, blocks1, blocks2)

    def of_block(column):
        block2, cts = column

        def add(total, row):
            block1, ct = row
            return total + functions(kernel_fn)["second"](block1, block2, ct), None

        return jax.lax.scan(add, jnp.zeros_like(block2), (blocks1, cts))[0]

    return blocks.uncut(jax.lax.map(of_block, (blocks2, jnp.swapaxes(cotangents, 0, 1))), x2)


def _tiles(kernel_fn, blocks1, i, j):
    """(len(i), rows, rows) tiles (i, j) of the symmetric Gram matrix of blocks."""
    return jax.lax.map(lambda ij: kernel_fn(blocks1[ij[0]], blocks1[ij[1]]), (i, j))


def _tiles_vjp(kernel_fn, blocks1, i, j, cts):
    """Gradient of sum(cts * tiles) with respect to the blocks, which both i and j stand for."""

    def add(total, tile):
        i, j, ct = tile
        g1, g2 = functions(kernel_fn)["both"](blocks1[i], blocks1[j], ct)
        return total.at[i].add(g1).at[j].add(g2), None

    return jax.lax.scan(add, jnp.zeros_like(blocks1), (i, j, cts))[0]
