"""The obvious engine: the whole Gram matrix in one call, the gradient by autodiff. The oracle of the others."""

from functools import lru_cache

import jax
import jax.numpy as jnp

from kipx.engine import Engine, check_inputs
from kipx.engine.blockwise import functions
from kipx.kernel import KEPT


@lru_cache(maxsize=KEPT)
def build(kernel_fn):
    """Builds an Engine whose memory grows with n1 * n2 covariances; for small sets and for tests.

    Args:
      kernel_fn: (x1, x2=None) -> (n1, n2), from `kipx.kernel.build`.
    Returns:
      Engine.
    """

    @jax.jit
    def gram(x1, x2=None):
        check_inputs(x1, x2)
        return kernel_fn(x1, x2)

    @jax.jit
    def vjp(x1, x2, cotangent):
        check_inputs(x1, x2, cotangent)
        k, pull = jax.vjp(kernel_fn, x1) if x2 is None else jax.vjp(lambda x: kernel_fn(x1, x), x2)
        return pull(jnp.asarray(cotangent, k.dtype))[0]

    @jax.jit
    def with_jacobian(x1, x2):
        check_inputs(x1, x2)
        return functions(kernel_fn)["with_jacobian"](x1, x2)

    return Engine(gram, vjp, with_jacobian=with_jacobian)
