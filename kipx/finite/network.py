"""Flax networks from an architecture, in standard or NTK parameterization, normalized or not."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from kipx import checks
from kipx.architecture import AvgPool, Conv, Dense, Flatten, Relu
from kipx.kernel.layers import check_layers

PARAMETERIZATIONS = ("standard", "ntk")
NORMALIZATIONS = ("none", "layer", "instance", "batch")


def network(architecture, *, width, classes=10, parameterization="standard", normalization="none"):
    """The finite network of an architecture, every hidden layer `width` channels wide.

    Weights start with variance w_std^2 / fan_in and biases with b_std^2 in both parameterizations. In 'standard' these
    are the parameters themselves; in 'ntk' the parameters start as standard normal and the layer scales them, so that
    the empirical NTK at the start approaches `kipx.kernel.build(architecture)` as the width grows.

    Args:
      architecture: tuple of layers that ends in Dense, from `kipx.architecture`.
      width: >= 1, channels of each hidden layer.
      classes: >= 1, outputs.
      parameterization: 'standard' or 'ntk'.
      normalization: before each ReLU: 'none', 'layer' over (h, w, c), 'instance' over (h, w), or 'batch'.
    Returns:
      flax.linen.Module: `init(key, x)` with x (n, h, w, c), `apply(variables, x, train=False)` -> (n, classes), and the
      method `features`, (n, features) before the last layer. With batch normalization, variables hold `batch_stats`
      too, which `apply(..., train=True, mutable=["batch_stats"])` moves.
    Raises:
      UserError: an unknown choice, a width below 1, or layers that cannot follow each other.
    Source: paper section 3.3 and appendix A; parameterizations as in Sohl-Dickstein et al. 2020, normalizations as in
      the authors' nn_training notebook.
    """
    *hidden, last = check_layers(architecture)
    if not isinstance(last, Dense):
        raise checks.UserError(f"architecture: expected a network that ends in Dense, got {last}")
    checks.one_of("network.normalization", normalization, NORMALIZATIONS)
    if normalization == "instance" and not any(isinstance(layer, Conv) for layer in hidden):
        raise checks.UserError(
            "network.normalization: instance averages over positions, of which this architecture has none; take layer"
        )
    return Network(
        tuple(hidden),
        last,
        checks.integer("network.width", width, at_least=1, at_most=2**16),
        checks.integer("classes", classes, at_least=1),
        checks.one_of("network.parameterization", parameterization, PARAMETERIZATIONS) == "ntk",
        normalization,
    )


class Network(nn.Module):
    """See `network`."""

    hidden: tuple
    last: Dense
    width: int
    classes: int
    scaled: bool
    normalization: str

    @property
    def architecture(self):
        """The tuple that it was made of."""
        return (*self.hidden, self.last)

    def setup(self):
        """Two parts, so that features can be had alone."""
        self.body = Body(self.hidden, self.width, self.scaled, self.normalization)
        self.readout = Weights(self.classes, 1, self.last.w_std, self.last.b_std, self.scaled)

    def features(self, x, train=False):
        """(n, features): what the last layer sees."""
        return self.body(x, train)

    def __call__(self, x, train=False):
        """(n, classes) outputs."""
        return self.readout(self.body(x, train))


class Body(nn.Module):
    """All layers below the readout."""

    layers: tuple
    width: int
    scaled: bool
    normalization: str

    @nn.compact
    def __call__(self, x, train):
        """(n, features) of (n, h, w, c)."""
        for layer in self.layers:
            if isinstance(layer, Conv | Dense):
                size = layer.size if isinstance(layer, Conv) else 1
                x = Weights(self.width, size, layer.w_std, layer.b_std, self.scaled)(x)
            elif isinstance(layer, Relu):
                x = nn.relu(_normalize(x, self.normalization, train))
            elif isinstance(layer, AvgPool):
                x = nn.avg_pool(x, (layer.size,) * 2, strides=(layer.size,) * 2)
            elif isinstance(layer, Flatten):
                x = x.reshape(len(x), -1)
            else:
                x = x.mean(axis=(1, 2))
        return x


class Weights(nn.Module):
    """Convolution of an odd size, zero padded; of size 1 a dense layer of the last axis."""

    features: int
    size: int
    w_std: float
    b_std: float
    scaled: bool

    @nn.compact
    def __call__(self, x):
        """(..., features) of (..., channels), in the precision of the parameters."""
        fan_in = self.size**2 * x.shape[-1]
        scale = self.w_std / math.sqrt(fan_in)
        normal = nn.initializers.normal
        weights = self.param("weights", normal(1.0 if self.scaled else scale), (fan_in, self.features), jnp.float32)
        biases = self.param("biases", normal(1.0 if self.scaled else self.b_std), (self.features,), jnp.float32)
        x = jnp.asarray(x, weights.dtype)
        product = x @ weights if self.size == 1 else _convolve(x, weights, self.size)
        return scale * product + self.b_std * _rows(biases, x) if self.scaled else product + _rows(biases, x)


def _rows(biases, x):
    return biases.reshape((1,) * (x.ndim - 1) + (-1,))


def _convolve(x, weights, size):
    kernel = weights.reshape(size, size, x.shape[-1], -1)
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _normalize(x, kind, train):
    if kind == "layer":
        return nn.LayerNorm(reduction_axes=range(1, x.ndim))(x)
    if kind == "instance" and x.ndim == 4:
        return nn.InstanceNorm()(x)
    if kind == "batch":
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return x
