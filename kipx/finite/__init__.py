"""Finite networks: the same architecture tuple that has an infinite-width kernel, at a width, trained by SGD.

>>> import jax
>>> from kipx.architecture import convnet
>>> x = jax.numpy.ones((1, 8, 8, 1), "float32")
>>> net = network(convnet(depth=2), width=16, classes=10)
>>> net.apply(net.init(jax.random.key(0), x), x).shape
(1, 10)
"""

from kipx.finite.network import network

__all__ = ["network"]
