"""The empirical neural tangent kernel of a network, and the learning rate that it allows, without forming it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PRODUCTS = 50  # at most, of the power iteration; the largest eigenvalue of a tangent kernel stands far off


def ntk(apply, parameters, x1, x2):
    """The empirical tangent kernel, the mean over outputs of each output's own.

    Args:
      apply: (parameters, x) -> (n, classes).
      parameters: pytree.
      x1, x2: (n1, h, w, c), (n2, h, w, c).
    Returns:
      (n1, n2).
    Source: Jacot et al. 2018; in NTK parameterization it approaches `kipx.kernel.build` as the width grows.
    """

    def jacobian(x):
        rows = jax.jacobian(lambda p: apply(p, x[None])[0])(parameters)
        return jnp.concatenate([jnp.reshape(leaf, (leaf.shape[0], -1)) for leaf in jax.tree.leaves(rows)], axis=1)

    rows1, rows2 = (jnp.stack([jacobian(one) for one in x]) for x in (x1, x2))
    return jnp.einsum("icp,jcp->ij", rows1, rows2) / rows1.shape[1]


class Power(NamedTuple):
    """Where a power iteration is.

    Attributes:
      vector: pytree of floats, of norm 1.
      value: the product of `vector` with its image, which tends to the largest eigenvalue.
      moving: whether `value` still changes; if not, further products change nothing.
    """

    vector: Any
    value: Any
    moving: Any


def largest_curvature(outputs_of, loss, parameters, key):
    """The largest eigenvalue of the loss's Gauss-Newton matrix at these parameters, by power iteration.

    J' H J, with J the Jacobian of the outputs and H the Hessian of the loss over outputs: for the half mean squared
    error the largest eigenvalue of the empirical NTK, over images times classes. One product costs about two steps.

    Args:
      outputs_of: (parameters) -> (n, classes), on some images.
      loss: (outputs) -> scalar.
      parameters: pytree of floats.
      key: of the vector that the iteration starts from.
    Returns:
      Scalar > 0, within about 1%.
    Source: paper appendix A; the authors' nn_training notebook takes the NTK of 50 images.
    """
    product = jax.jit(lambda power: multiply(outputs_of, loss, parameters, power))
    return iterate(product, begin(parameters, key)).value


def begin(parameters, key):
    """A Power at a random vector."""
    leaves, shape = jax.tree.flatten(parameters)
    keys = jax.random.split(key, len(leaves))
    random = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    norm = jnp.sqrt(_dot(random, random))
    return Power(jax.tree.unflatten(shape, [r / norm for r in random]), jnp.zeros_like(norm), jnp.asarray(True))


def multiply(outputs_of, loss, parameters, power):
    """The Power after one more product with the matrix of `largest_curvature`."""
    outputs, backward = jax.vjp(outputs_of, parameters)
    _, moved = jax.jvp(outputs_of, (parameters,), (power.vector,))
    _, curved = jax.jvp(jax.grad(loss), (outputs,), (moved,))
    image = backward(curved)[0]
    norm, value = jnp.sqrt(_dot(image, image)), _dot(power.vector, image)
    moving = jnp.abs(value - power.value) > 1e-3 * jnp.abs(value)
    new = Power(jax.tree.map(lambda leaf: leaf / norm, image), value, moving)
    return jax.tree.map(lambda new, old: jnp.where(power.moving, new, old), new, power)


def iterate(product, power):
    """Multiplies until nothing moves, of one Power or several, `PRODUCTS` times at most."""
    for _ in range(PRODUCTS):
        power = product(power)
        if not np.any(power.moving):
            break
    return power


def _dot(a, b):
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))
