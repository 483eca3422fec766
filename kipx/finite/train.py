"""Training of finite networks on support sets by SGD with momentum: all networks at once, a stretch of steps a call.

A network is one start (of a seed) trained on one set. Every array of a state has the networks as its first axis; they
are spread over the local devices. How many others there are changes a network's numbers by rounding alone.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from kipx import checks
from kipx.finite.empirical import largest_curvature

IMAGES_FOR_THE_RATE = 50
EVALUATED_AT_ONCE = 50  # images, so that the windows of a convolution stay small


class Network(NamedTuple):
    """All that one network carries from step to step."""

    set: Any  # which set it is trained on
    key: Any  # of its batches
    rate: Any  # learning rate at step 0
    variables: Any  # parameters, and the running statistics of batch normalization
    start: Any  # what they were at step 0, where outputs are centred; else {}
    optimizer: Any  # optax state


class Trainer(NamedTuple):
    """Functions of networks; `x` is (sets, n, h, w, c) and `y` (sets, n, classes), or x (versions, sets, ...).

    Attributes:
      start: (sets (k,) int, keys (k,), x, y) -> Network of k.
      advance: (Network, versions of x, y, first, steps) -> (Network, losses (k,)); step i sees version i % versions,
        and the losses are those of the last step, before its update.
      outputs: (Network, images (n, h, w, c)) -> (k, n, classes).
    """

    start: Any
    advance: Any
    outputs: Any


def build(network, loss, *, factor, momentum, l2, batch_size, steps, centred=False):
    """Builds the training of networks.

    Args:
      network: from `kipx.finite.network`.
      loss: (outputs, labels) -> scalar, from `kipx.finite.losses`.
      factor: > 0; the learning rate is this times the largest stable one, 2 (1 + momentum) over the largest curvature
        of the loss at the start, on up to 50 of the set's own images; it falls to 0 by a cosine.
      momentum: in [0, 1).
      l2: >= 0; l2 / 2 times the squared norm of all parameters is part of the loss.
      batch_size: images of a step; where a set has more, each epoch takes them in a new order and leaves out the rest.
      steps: of the whole training, for the cosine.
      centred: whether a network's outputs at its start are taken off its outputs.
    Returns:
      Trainer, its functions jitted.
    Raises:
      UserError: a number out of its range.
    Source: paper section 3.3; the authors' nn_training notebook, which finds the stable rate on validation images.
      Images that were learned can be far larger than those, and then it is not stable. Centring: RFAD, Loo et al. 2022.
    """
    checks.positive("trainer.factor", factor)
    checks.integer("trainer.batch_size", batch_size, at_least=1)
    rule, apply = _rule(momentum, l2, steps), partial(_outputs, network)

    def start(pair, x, y):
        which, key = pair
        key_start, key_rate, key_batches = jax.random.split(key, 3)
        x, y = x[which][:IMAGES_FOR_THE_RATE], y[which][:IMAGES_FOR_THE_RATE]
        variables = network.init(key_start, x[:1])
        origin = variables if centred else {}
        parameters = variables["params"]
        curvature = largest_curvature(
            lambda p: apply({**variables, "params": p}, origin, x, train=True)[0],
            lambda outputs: loss(outputs, y),
            parameters,
            key_rate,
        )
        rate = factor * 2 * (1 + momentum) / curvature
        return Network(which, key_batches, rate, variables, origin, rule.init(parameters))

    def advance(one, x, y, first, steps):
        y = y[one.set]
        take = _batches(one.key, len(y), min(batch_size, len(y)))

        def step(i, carry):
            variables, optimizer, _ = carry
            places = take(i)
            images, labels = x[i % len(x), one.set][places], y[places]

            def measure(parameters):
                outputs, moved = apply({**variables, "params": parameters}, one.start, images, train=True)
                return loss(outputs, labels), moved

            (value, moved), gradient = jax.value_and_grad(measure, has_aux=True)(variables["params"])
            updates, optimizer = rule.update(gradient, optimizer, variables["params"])
            updates = jax.tree.map(lambda leaf: one.rate * leaf, updates)
            return {**moved, "params": optax.apply_updates(variables["params"], updates)}, optimizer, value

        carry = one.variables, one.optimizer, jnp.zeros((), jnp.float32)
        variables, optimizer, value = jax.lax.fori_loop(first, first + steps, step, carry)
        return one._replace(variables=variables, optimizer=optimizer), value

    def outputs(one, images):
        def of_one(image):
            return apply(one.variables, one.start, image[None], train=False)[0][0]

        return jax.lax.map(of_one, images, batch_size=EVALUATED_AT_ONCE)

    start, advance, outputs = (jax.jit(over_networks(function)) for function in (start, advance, outputs))
    return Trainer(lambda sets, keys, x, y: start((sets, keys), x, y), advance, outputs)


def _rule(momentum, l2, steps):
    """Updates at a rate of 1 at step 0."""
    if checks.not_negative("trainer.momentum", momentum) >= 1:
        raise checks.UserError(f"trainer.momentum: expected a number from 0 to below 1, got {momentum}")
    checks.not_negative("trainer.l2", l2)
    fall = optax.cosine_decay_schedule(-1.0, checks.integer("trainer.steps", steps, at_least=1))
    return optax.chain(optax.add_decayed_weights(l2), optax.trace(momentum), optax.scale_by_schedule(fall))


def over_networks(function):
    """Maps function(network, *shared) over the networks' axis, spread over the local devices.

    Where they do not divide the networks, the last one is trained more than once. On a CPU the networks of a device go
    one after the other, elsewhere all at once: on a CPU a batch of small matrix products gains nothing.
    """

    def mapped(networks, *shared):
        count = len(jax.tree.leaves(networks)[0])
        devices = jax.local_devices()[:count]
        mesh = Mesh(np.asarray(devices), ("networks",))
        each = math.ceil(count / len(devices))
        at_once = None if devices[0].platform == "cpu" else each
        places = np.minimum(np.arange(each * len(devices)), count - 1)

        def of_a_device(networks, *shared):
            return jax.lax.map(lambda one: function(one, *shared), networks, batch_size=at_once)

        first, every = PartitionSpec("networks"), PartitionSpec()
        specs = {"in_specs": (first, *(every for _ in shared)), "out_specs": first}
        spread = jax.shard_map(of_a_device, mesh=mesh, check_vma=False, **specs)
        found = spread(jax.tree.map(lambda leaf: leaf[places], networks), *shared)
        return jax.tree.map(lambda leaf: leaf[:count], found)

    return mapped


def _batches(key, n, size):
    """Builds take(i): the places of step i's images."""
    if size == n:
        return lambda i: jnp.arange(n)
    each = n // size  # batches of an epoch

    def take(i):
        order = jax.random.permutation(jax.random.fold_in(key, i // each), n)
        return jax.lax.dynamic_slice(order, ((i % each) * size,), (size,))

    return take


def _outputs(network, variables, start, x, *, train):
    """(outputs, moved statistics): outputs less those at the start, if there is one."""
    statistics = [name for name in variables if name != "params"] if train else []
    outputs, moved = network.apply(variables, x, train=train, mutable=statistics)
    if start:
        at_start, _ = network.apply(start, x, train=train, mutable=statistics)
        outputs = outputs - at_start
    return outputs, moved
