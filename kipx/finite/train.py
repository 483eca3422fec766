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
      UserError: a number out of its range, or `centred` with batch normalization.
    Source: paper section 3.3; the authors' nn_training notebook, which finds the stable rate on validation images.
      Images that were learned can be far larger than those, and then it is not stable. Centring: RFAD, Loo et al. 2022.
    """
    checks.positive("trainer.factor", factor)
    checks.integer("trainer.batch_size", batch_size, at_least=1)
    _check_centring(network, centred)
    fall = optax.cosine_decay_schedule(1.0, checks.integer("trainer.steps", steps, at_least=1))
    return Trainer(
        network=network,
        loss=loss,
        rule=_rule(momentum, l2),
        rate=factor * 2 * (1 + momentum),
        fall=fall,
        batch_size=batch_size,
        centred=centred,
    )


class Trainer:
    """Functions of networks; `x` is (sets, n, h, w, c) and `y` (sets, n, classes), or x (versions, sets, ...)."""

    def __init__(self, *, network, loss, rule, rate, fall, batch_size, centred):
        """The arguments are what `build` made of its own."""
        self._network, self._loss, self._rule = network, loss, rule
        self._rate, self._fall = rate, fall  # where the curvature is 1; share of it at a step
        self._batch_size, self._centred = batch_size, centred
        self._begun, self._multiplied, self._stepped, self._put_out = (
            jax.jit(function) for function in (self._begin, self._multiply, self._step, self._outputs)
        )

    def start(self, sets, keys, x, y):
        """Network of k, for sets (k,) int and keys (k,)."""

        def start_one(pair, x, y):
            one, power = self._begun(pair, x)
            power = empirical.iterate(lambda power: self._multiplied(one, power, x, y), power)
            return one._replace(rate=self._rate / power.value)

        return spread.over_devices(start_one, (sets, keys), x, y)

    def advance(self, networks, x, y, first, steps):
        """Takes steps, of which step i sees version i % versions of x.

        Returns:
          (Network, losses (k,)), the losses being those of the last step, before its update.
        """

        def advance_one(one, x, y):
            moving, one = (np.int32(first), one.variables, one.optimizer), one._replace(variables={}, optimizer=())
            for _ in range(steps):
                moving, value = self._stepped(one, moving, x, y)
            return one._replace(variables=moving[1], optimizer=moving[2]), value

        return spread.over_devices(advance_one, networks, x, y)

    def outputs(self, networks, images):
        """(k, n, classes), of images (n, h, w, c)."""
        return spread.over_devices(self._put_out, networks, images)

    def _begin(self, pair, x):
        key_start, key_rate, key_batches = jax.random.split(pair[1], 3)
        variables = self._network.init(key_start, x[0, :1])
        parameters = variables["params"]
        rate = jnp.zeros((), jnp.float32)  # not known yet
        data, origin = jax.random.key_data(key_batches), variables if self._centred else {}
        one = Network(pair[0], data, rate, variables, origin, self._rule.init(parameters))
        return one, empirical.begin(parameters, key_rate)

    def _multiply(self, one, power, x, y):
        """On the images that the rate is found on."""
        x, y = (a[one.set][:IMAGES_FOR_THE_RATE] for a in (x, y))

        def outputs_of(parameters):
            return self._apply({**one.variables, "params": parameters}, one.start, x, train=True)[0]

        return empirical.multiply(outputs_of, lambda outputs: self._loss(outputs, y), one.variables["params"], power)

    def _step(self, one, moving, x, y):
        i, variables, optimizer = moving
        images, labels = self._batch(one, x[i % len(x), one.set], y[one.set], i)

        def measure(parameters):
            outputs, moved = self._apply({**variables, "params": parameters}, one.start, images, train=True)
            return self._loss(outputs, labels), moved

        (value, moved), gradient = jax.value_and_grad(measure, has_aux=True)(variables["params"])
        updates, optimizer = self._rule.update(gradient, optimizer, variables["params"])
        updates = jax.tree.map(partial(jnp.multiply, -one.rate * self._fall(i)), updates)
        return (i + 1, {**moved, "params": optax.apply_updates(variables["params"], updates)}, optimizer), value

    def _batch(self, one, images, labels, i):
        if self._batch_size >= len(labels):
            return images, labels
        places = _batches(jax.random.wrap_key_data(one.key), len(labels), self._batch_size)(i)
        return images[places], labels[places]

    def _outputs(self, one, images):
        return self._apply(one.variables, one.start, images, train=False)[0]

    def _apply(self, variables, start, x, *, train):
        """(outputs, moved statistics): outputs less those at the start, if there is one."""
        statistics = [name for name in variables if name != "params"] if train else []
        outputs, moved = self._network.apply(variables, x, train=train, mutable=statistics)
        if start:
            at_start, _ = self._network.apply(start, x, train=train, mutable=statistics)
            outputs = outputs - at_start
        return outputs, moved


def _check_centring(network, centred):
    """Outputs at the start by a batch's statistics and by those at step 0 are two functions, one for training alone."""
    if centred and network.normalization == "batch":
        raise checks.UserError(
            "trainer.centred: expected false with network.normalization=batch, where training and testing would take "
            "off different outputs, got true; take trainer.centred=false or network.normalization=layer"
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
