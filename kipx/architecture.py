"""Architectures as data: a tuple of layers, read as an infinite-width kernel or as a finite network.

    >>> from kipx.architecture import convnet
    >>> convnet(depth=1, prepend_conv=False)[:3]
    (Conv(size=3, w_std=1.4142135623730951, b_std=0.1), Relu(), AvgPool(size=2))

A new architecture is a function that returns such a tuple, and one YAML in `conf/kernel/`.
"""

from dataclasses import dataclass

from kipx import checks

DEEPEST = 1000  # nobody would live to see more compiled
W_STD, B_STD = 2**0.5, 0.1  # in every layer, the readout too: the authors' nn_training notebook


@dataclass(frozen=True)
class Conv:
    """Convolution, `size` x `size` (odd), stride 1, zero padded to keep the shape."""

    size: int
    w_std: float = W_STD
    b_std: float = B_STD

    def __post_init__(self):
        if checks.integer("Conv.size", self.size, at_least=1) % 2 == 0:
            raise checks.UserError(f"Conv.size: expected an odd integer, got {self.size}")
        _check_stds(self)


@dataclass(frozen=True)
class Dense:
    """Fully connected layer; before `Flatten` it acts on channels alone, like `Conv(1)`."""

    w_std: float = W_STD
    b_std: float = B_STD

    def __post_init__(self):
        _check_stds(self)


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True)
class AvgPool:
    """Average over `size` x `size` windows, stride `size`; rows and columns that fill no window are dropped."""

    size: int = 2

    def __post_init__(self):
        checks.integer("AvgPool.size", self.size, at_least=1)


@dataclass(frozen=True)
class GlobalAvgPool:
    """Average over all positions."""


@dataclass(frozen=True)
class Flatten:
    """All positions and channels as one vector."""


def _check_stds(layer):
    checks.positive("w_std", layer.w_std)
    checks.not_negative("b_std", layer.b_std)


def convnet(*, depth: int = 3, prepend_conv: bool = True, w_std: float = W_STD, b_std: float = B_STD):
    """The paper's ConvNet: conv + relu if `prepend_conv`, then depth x (conv, relu, 2x2 average pool), flatten, dense.

    Args:
      depth: >= 0, the number of pools; the image must be at least 2**depth on each side.
      prepend_conv: False gives ConvNet3, the variant of Zhao et al.
      w_std: > 0, weight standard deviation of every layer.
      b_std: >= 0, bias standard deviation of every layer.
    Returns:
      Tuple of layers.
    Source: paper section 2 and appendix A, as in the authors' nn_training notebook.
    """
    checks.integer("depth", depth, at_least=0, at_most=DEEPEST)
    conv = (Conv(3, w_std, b_std), Relu())
    return conv * bool(prepend_conv) + (*conv, AvgPool(2)) * depth + (Flatten(), Dense(w_std, b_std))


def convvec(*, depth: int, w_std: float = W_STD, b_std: float = B_STD):
    """Conv-Vec<depth>: depth x (conv, relu), flatten, dense; no pooling.

    Args and Returns: as `convnet`.
    Source: paper section 2, "Specific models considered".
    """
    checks.integer("depth", depth, at_least=0, at_most=DEEPEST)
    return (Conv(3, w_std, b_std), Relu()) * depth + (Flatten(), Dense(w_std, b_std))


def fc(*, depth: int, w_std: float = W_STD, b_std: float = B_STD):
    """FC<depth>: flatten, depth x (dense, relu), dense.

    Args and Returns: as `convnet`.
    Source: paper section 2; the authors' KIP notebook.
    """
    checks.integer("depth", depth, at_least=0, at_most=DEEPEST)
    return (Flatten(), *((Dense(w_std, b_std), Relu()) * depth), Dense(w_std, b_std))


_MYRTLE_BLOCKS = {5: (1, 1, 1), 7: (1, 2, 2), 10: (2, 3, 3)}


def myrtle(*, depth: int, w_std: float = W_STD, b_std: float = B_STD):
    """Myrtle<depth>: conv + relu, three blocks of conv + relu with 2x2 pools between them, global average pool, dense.

    Args:
      depth: 5, 7 or 10 layers with weights.
      w_std, b_std: as `convnet`.
    Returns:
      Tuple of layers.
    Source: Shankar et al. 2020; the authors' KIP notebook.
    """
    first, second, third = _MYRTLE_BLOCKS[checks.one_of("depth", depth, tuple(_MYRTLE_BLOCKS))]
    conv = (Conv(3, w_std, b_std), Relu())
    pool = (AvgPool(2),)
    return conv + conv * first + pool + conv * second + pool + conv * third + (GlobalAvgPool(), Dense(w_std, b_std))
