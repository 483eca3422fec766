"""Networks spread over the local devices: one on each at a time, all by the same compiled program.

Loops over networks and steps are Python's, and JAX runs ahead of them: inside XLA's own loops, convolutions on a CPU
take tens of times as long.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_EACH, _SAME = PartitionSpec("networks"), PartitionSpec()


def by_groups(function, networks, *shared):
    """The results of function(group of networks, *shared), for all networks.

    Args:
      function: made of functions of `on_each`; takes and returns pytrees whose leaves have a group's networks first.
      networks: pytree of (k, ...), at least one network.
      shared: pytrees of arrays that all networks see.
    Returns:
      Pytree of (k, ...), on the first device.
    """
    k, devices = len(jax.tree.leaves(networks)[0]), jax.local_devices()
    rounds = -(-k // len(devices))
    size = -(-k // rounds)  # of every group, that all may run the same compiled program
    mesh = Mesh(np.asarray(devices[:size]), ("networks",))
    placed = [jax.device_put(one, NamedSharding(mesh, _SAME)) for one in shared]
    found = []
    for first in range(0, rounds * size, size):
        own = jax.tree.map(lambda leaf: leaf[np.arange(first, first + size) % k], networks)  # noqa: B023
        with jax.set_mesh(mesh):
            found.append(function(jax.device_put(own, NamedSharding(mesh, _EACH)), *placed))
    return jax.tree.map(lambda *parts: jnp.concatenate([jax.device_put(p, devices[0]) for p in parts])[:k], *found)


def on_each(function):
    """Makes of function(network, *shared) the jitted one of a group, each device running it for its own network."""

    def of_one(network, *shared):
        found = function(jax.tree.map(lambda leaf: leaf[0], network), *shared)
        return jax.tree.map(lambda leaf: leaf[None], found)

    def of_group(group, *shared):
        specs = {"in_specs": (_EACH, *(_SAME for _ in shared)), "out_specs": _EACH}
        return jax.shard_map(of_one, check_vma=False, **specs)(group, *shared)  # on the mesh of `by_groups`

    return jax.jit(of_group)
