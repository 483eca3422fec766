"""Networks spread over the local devices, or over the cores of a CPU: a thread for each, one network at a time.

Loops over networks and steps are Python's, and JAX runs ahead of them: inside XLA's own loops, convolutions on a CPU
take tens of times as long. Programs for several devices at once, as of `jax.shard_map`, go one after the other there.
"""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp

from kipx import machine


def over_devices(function, networks, *shared):
    """The results of function(network, *shared), for all networks.

    Args:
      function: made of jitted functions; takes and returns pytrees of arrays.
      networks: pytree of (k, ...), at least one network.
      shared: pytrees of arrays that all networks see.
    Returns:
      Pytree of (k, ...), on the first device.
    """
    k, places = len(jax.tree.leaves(networks)[0]), _places()

    def take(which):
        seen = jax.device_put(shared, places[which])
        ones = (jax.tree.map(lambda leaf: leaf[i], networks) for i in range(which, k, len(places)))  # noqa: B023
        return [function(jax.device_put(one, places[which]), *seen) for one in ones]

    with ThreadPoolExecutor(len(places), thread_name_prefix="kipx-networks") as threads:
        taken = list(threads.map(take, range(min(k, len(places)))))
    found = jax.device_put([taken[i % len(places)][i // len(places)] for i in range(k)], places[0])
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def _places():
    """The device of each thread."""
    devices = jax.local_devices()
    return devices if devices[0].platform != "cpu" else devices[:1] * machine.cores()
