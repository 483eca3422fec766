"""What a run asks of an engine and of the memory, known before it runs."""

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kipx import checks
from kipx.engine import Engine, check_inputs
from kipx.evaluate import BATCH

GRADIENT, VALUE = 0.75, 0.25  # of pair_bytes are certain with and without gradient; measured: 0.85-1.5 and 0.27-1.0


class Call(NamedTuple):
    """One use of an engine: its function's name, and the images, x2 None where the matrix is symmetric.

    Attributes:
      member: number of the kernel whose engine it is.
      share: how often, of a step: a sampled kernel's is its share.
    """

    name: str
    x1: Any
    x2: Any
    member: int = 0
    share: float = 1.0

    @property
    def sizes(self):
        """(n1, n2 or None, image shape), what an engine's layout depends on."""
        return len(self.x1), None if self.x2 is None else len(self.x2), tuple(self.x1.shape[1:])

    @property
    def kind(self):
        """What its time depends on."""
        return (self.member, self.name, *self.sizes)


class Need(NamedTuple):
    """Memory that a run takes.

    Attributes:
      what: takes it.
      memory_bytes: about so much.
      certain_bytes: and not less than that.
      advice: what to do where it is too much.
    """

    what: str
    memory_bytes: int
    certain_bytes: int
    advice: str


def counting(layout, member=0, calls=None):
    """An engine that computes nothing and notes what it is asked for.

    Args:
      layout: of the engine it stands for.
      member: number of its kernel.
      calls: list to add to; None for a new one.
    Returns:
      Engine whose symmetric matrices are the identity and Jacobians noise, so that solvers have something to solve, all
      else 0; and the list that its Calls are added to.
    """
    calls = [] if calls is None else calls

    def gram(x1, x2=None):
        check_inputs(x1, x2)
        calls.append(Call("gram", x1, x2, member))
        n1, n2, _ = calls[-1].sizes
        return jnp.eye(n1, dtype=jnp.float32) if n2 is None else jnp.zeros((n1, n2), jnp.float32)

    def vjp(x1, x2, cotangent):
        check_inputs(x1, x2, cotangent)
        calls.append(Call("vjp", x1, x2, member))
        return jnp.zeros_like(x1 if x2 is None else x2)

    def with_jacobian(x1, x2):
        check_inputs(x1, x2)
        calls.append(Call("with_jacobian", x1, x2, member))
        return jnp.zeros((len(x1), len(x2)), jnp.float32), _noise((len(x1), *x2.shape))

    return Engine(gram, vjp, layout, with_jacobian), calls


@functools.cache
def _noise(shape):
    """Of a spectrum that falls, as a Jacobian's does: its solver takes many iterations."""
    falling = 1 / np.arange(1, math.prod(shape[2:]) + 1, dtype=np.float32)
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32) * falling.reshape(shape[2:]))


def rounds(layout):
    """Pairs that the busiest device computes: what time goes with."""
    return math.ceil(layout.count / layout.devices) * layout.rows * layout.columns


def of_data(x_train, x_test, whitens=False):
    """Needs, on the host, of images (n, h, w, c) as they are, and of preprocessing them part by part.

    Args:
      x_train, x_test: pixels.
      whitens: whether the fit does, over matrices with a row and a column a pixel, which are freed behind it.
    """
    size, pixels = x_train.nbytes + x_test.nbytes, 4 * (x_train.size + x_test.size)
    square = 8 * math.prod(x_train.shape[1:]) ** 2 * whitens  # measured at 32x32x3: 5.1 to 5.2 of them
    fewer = "take fewer images"
    steps = [
        Need("the same, preprocessed", pixels, pixels, fewer),
        Need("the fit of the whitening", 5 * square, 4 * square, "take preprocess=standardize or smaller images"),
    ]
    return [Need("the data set's images", size, size, fewer), max(steps, key=lambda need: need.certain_bytes)]


def of_steps(kernels, *, n_support, n_target, n_train, n_test, classes, shape, jacobian=False):
    """Needs, on a device, of the steps and evaluations of a run.

    Args:
      kernels: (kernel_fn, layout of its engine) of each; a kernel_fn without `pair_bytes`, or `jacobian_bytes`
        where there is a Jacobian, counts for nothing.
      n_support, n_target, n_train, n_test: images.
      classes: number of them.
      shape: (h, w, c).
      jacobian: whether the steps hold one.
    """
    pixels, matrices = math.prod(shape), n_support * (n_support + n_target)
    images, labels = 4 * pixels * (n_train + n_test), 8 * classes * (n_train + n_test)
    state = n_support * (4 * pixels + 8 * classes)  # and as much again for each of Adam's two moments and the gradient
    fewer = "take fewer images"
    smaller = "lower target.batch_size or support.per_class"
    sizes = n_support, n_target, min(n_test, BATCH)
    blocks = (_block(*kernel, sizes, shape, jacobian) for kernel in kernels)
    largest = max(blocks, key=lambda need: need.certain_bytes)
    entries = matrices * pixels  # of the Jacobian, where there is one
    return [
        largest,
        Need("training and test images, preprocessed", images + labels, images, fewer),
        Need("a batch of targets", 4 * pixels * n_target, 4 * pixels * n_target, smaller),
        Need("Gram matrices and cotangents", (4 + 8 + 8) * matrices, (4 + 8) * matrices, smaller),
        Need("the support set and its optimizer", 4 * state, 2 * state, smaller),
        *([Need("the Jacobian", (4 + 4 + 8) * entries, (4 + 8) * entries, smaller)] if jacobian else []),
    ]


def _block(kernel_fn, layout, sizes, shape, jacobian):
    """Need of the largest block of a step, with its gradient, or of an evaluation, without; sizes as in `of_steps`."""
    n_support, n_target, n_test = sizes
    pair, each = (_of_pair(kernel_fn, name, shape) for name in ("pair_bytes", "jacobian_bytes"))
    with_gradient = max(pair, each * jacobian)
    step = [layout(n_support, None, shape), layout(n_target, n_support, shape)]
    shares = [*((found, GRADIENT, with_gradient) for found in step), (layout(n_test, n_support, shape), VALUE, pair)]
    found, share, pair = max(shares, key=lambda one: one[0].rows * one[0].columns * one[1] * one[2])
    size = found.rows * found.columns * pair
    advice = "take engine.block_size=null" if found.bounded else "take engine=blockwise"
    return Need(f"a block of {found.rows} x {found.columns} pairs", size, int(size * share), advice)


def _of_pair(kernel_fn, name, shape):
    return getattr(kernel_fn, name)(shape) if hasattr(kernel_fn, name) else 0


def check_fits(needs, available, place):
    """Raises UserError if what is certainly needed is more than there is.

    Args:
      needs: Needs at one time.
      available: bytes; None if nobody knows, and then all fits.
      place: whose bytes, for the message.
    """
    certain = sum(need.certain_bytes for need in needs)
    if available is None or certain <= available:
        return
    most, total = max(needs, key=lambda need: need.certain_bytes), sum(need.memory_bytes for need in needs)
    raise checks.UserError(
        f"memory: the run would need about {gigabytes(total)}, {place} has {gigabytes(available)}; "
        f"{most.what} would take {gigabytes(most.memory_bytes)} of it: {most.advice}"
    )


def gigabytes(size):
    """Text: bytes as GB, or as MB where they are few."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
