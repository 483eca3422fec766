"""Finite networks: the same architecture tuple that has an infinite-width kernel, at a width, trained by SGD.

from kipx.architecture import convnet
from kipx.finite import network
net = network(convnet(depth=2), width=64, classes=10)
variables = net.init(key, x)
logits = net.apply(variables, x)
"""

from kipx.finite.network import network

__all__ = ["network"]
