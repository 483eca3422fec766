"""Training of finite networks on support sets by SGD with momentum: all networks, a stretch of steps a call.

A network is one start (of a seed) trained on one set. Every array of a state has the networks as its first axis; they
are spread over the local devices, or over a CPU's cores, and how many others there are changes none of a network's
numbers. A step is one jitted call, and nothing is read back before the end of a stretch.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kipx import checks
from kipx.finite import empirical, spread

IMAGES_FOR_THE_RATE = 50


class Network(NamedTuple):
    """All that one network carries from step to step."""

    set: Any  # which set it is trained on
    key: Any  # of its batches, its data: a typed key takes JAX off its fast path at every call
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


@lru_cache(maxsize=4, typed=True)  # equal trainings are compiled once, as in a sweep over sets
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
      Trainer.
    Raises:
      UserError: a number out of its range.
    Source: paper section 3.3; the authors' nn_training notebook, which finds the stable rate on validation images.
      Images that were learned can be far larger than those, and then it is not stable. Centring: RFAD, Loo et al. 2022.
    """
    checks.positive("trainer.factor", factor)
    checks.integer("trainer.batch_size", batch_size, at_least=1)
    rule, apply = _rule(momentum, l2), partial(_outputs, network)
    fall = optax.cosine_decay_schedule(1.0, checks.integer("trainer.steps", steps, at_least=1))

    def measured(one, x, y):
        """The outputs of parameters, and the loss of outputs, on the images that the rate is found on."""
        x, y = (a[one.set][:IMAGES_FOR_THE_RATE] for a in (x, y))

        def outputs_of(parameters):
            return apply({**one.variables, "params": parameters}, one.start, x, train=True)[0]

        return outputs_of, lambda outputs: loss(outputs, y)

    @jax.jit
    def begin(pair, x):
        key_start, key_rate, key_batches = jax.random.split(pair[1], 3)
        variables = network.init(key_start, x[0, :1])
        parameters = variables["params"]
        rate = jnp.zeros((), jnp.float32)  # not known yet
        data, origin = jax.random.key_data(key_batches), variables if centred else {}
        one = Network(pair[0], data, rate, variables, origin, rule.init(parameters))
        return one, empirical.begin(parameters, key_rate)

    @jax.jit
    def multiply(pair, x, y):
        one, power = pair
        return empirical.multiply(*measured(one, x, y), one.variables["params"], power)

    @jax.jit
    def step(one, moving, x, y):
        i, variables, optimizer = moving
        images, labels = x[i % len(x), one.set], y[one.set]
        if batch_size < len(labels):
            places = _batches(jax.random.wrap_key_data(one.key), len(labels), batch_size)(i)
            images, labels = images[places], labels[places]

        def measure(parameters):
            outputs, moved = apply({**variables, "params": parameters}, one.start, images, train=True)
            return loss(outputs, labels), moved

        (value, moved), gradient = jax.value_and_grad(measure, has_aux=True)(variables["params"])
        updates, optimizer = rule.update(gradient, optimizer, variables["params"])
        updates = jax.tree.map(partial(jnp.multiply, -one.rate * fall(i)), updates)
        return (i + 1, {**moved, "params": optax.apply_updates(variables["params"], updates)}, optimizer), value

    @jax.jit
    def outputs(one, images):
        return apply(one.variables, one.start, images, train=False)[0]

    def start_one(pair, x, y):
        one, power = begin(pair, x)
        power = empirical.iterate(lambda power: multiply((one, power), x, y), power)
        return one._replace(rate=factor * 2 * (1 + momentum) / power.value)

    def advance(networks, x, y, first, steps):
        def advance_one(one, x, y):
            moving, one = (np.int32(first), one.variables, one.optimizer), one._replace(variables={}, optimizer=())
            for _ in range(steps):
                moving, value = step(one, moving, x, y)
            return one._replace(variables=moving[1], optimizer=moving[2]), value

        return spread.over_devices(advance_one, networks, x, y)

    return Trainer(
        lambda sets, keys, x, y: spread.over_devices(start_one, (sets, keys), x, y),
        advance,
        lambda networks, images: spread.over_devices(outputs, networks, images),
    )


def _rule(momentum, l2):
    """What the learning rate is to be multiplied with, taken off the parameters."""
    checks.below_one("trainer.momentum", momentum)
    checks.not_negative("trainer.l2", l2)
    return optax.chain(optax.add_decayed_weights(l2), optax.trace(momentum))


def _batches(key, n, size):
    """Builds take(i): the places of step i's images."""
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
