"""The empirical neural tangent kernel of a network, and the learning rate that it allows, without forming it."""

import jax
import jax.numpy as jnp

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

    rows1, rows2 = (jax.lax.map(jacobian, x) for x in (x1, x2))
    return jnp.einsum("icp,jcp->ij", rows1, rows2) / rows1.shape[1]


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
    outputs, backward = jax.vjp(outputs_of, parameters)

    def product(v):
        _, moved = jax.jvp(outputs_of, (parameters,), (v,))
        _, curved = jax.jvp(jax.grad(loss), (outputs,), (moved,))
        return backward(curved)[0]

    def again(carry):
        count, v, _, value = carry
        moved = product(v)
        norm = jnp.sqrt(_dot(moved, moved))
        return count + 1, jax.tree.map(lambda leaf: leaf / norm, moved), value, _dot(v, moved)

    def moving(carry):
        count, _, before, value = carry
        return (count < PRODUCTS) & (jnp.abs(value - before) > 1e-3 * jnp.abs(value))

    leaves, shape = jax.tree.flatten(parameters)
    keys = jax.random.split(key, len(leaves))
    random = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    start = jax.tree.unflatten(shape, [r / jnp.sqrt(sum(jnp.vdot(q, q) for q in random)) for r in random])
    zero = jnp.zeros((), leaves[0].dtype)
    return jax.lax.while_loop(moving, again, (0, start, zero - 1, zero))[3]


def _dot(a, b):
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))
