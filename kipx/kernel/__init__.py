"""The kernel of an architecture's infinite-width limit, exactly, at a fraction of the usual cost.

Four things make it fast:

1. Below m pools only pairs of positions at offsets up to 2^m - 1 matter: 179,776 of 1,048,576 pairs for the ConvNet
   at 32x32 (see `bands`). Nothing is approximated.
2. Variances depend on one image, not on the pair: each image's are computed once, on a still narrower band.
3. The derivative of a ReLU's covariance is the factor of its tangent kernel: the backward pass is written by hand
   (see `relu`).
4. Between two pools the pairs at one offset never meet the others: compiled loops carry them through all those layers
   in a CPU's fastest cache (see `pairs`) or, in float32, a GPU's registers (see `stages`). Elsewhere, and as their
   reference, the same sums are plain JAX (see `plain`).

    >>> import numpy as np
    >>> from kipx.architecture import fc
    >>> build(fc(depth=1), kind="ntk", dtype="float32")(np.ones((2, 8, 8, 1))).shape
    (2, 2)
"""

import importlib
import importlib.util
from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from kipx import checks
from kipx.architecture import Flatten, Relu
from kipx.kernel import head, plain
from kipx.kernel.layers import check_images, check_layers, place

KEPT = 16  # kernels that stay compiled
MODULES = {"cpu": ("kipx.kernel.compiled", "numba"), "gpu": ("kipx.kernel.fused", "cupy")}  # and what each needs


def build(architecture, kind: str = "ntk", dtype: str = "float32"):
    """Builds `kernel_fn(x1, x2=None)` for an architecture in NTK parameterization.

    Args:
      architecture: tuple of layers, as from `kipx.architecture`.
      kind: 'ntk' or 'nngp'.
      dtype: 'float32' or 'float64'; images are cast to it. float64 needs JAX's x64 flag.
    Returns:
      kernel_fn: (n1, h, w, c), (n2, h, w, c) -> (n1, n2); without x2 the second images are the first. One block:
      jit-safe, reverse-mode differentiable once. Memory grows by kernel_fn.pair_bytes((h, w, c)) a pair, about.
      kernel_fn.with_jacobian(x1, x2) gives, beside the same, (n1, n2, h, w, c): of each entry the gradient with
      respect to its image of x2; there memory grows by kernel_fn.jacobian_bytes((h, w, c)) a pair, if that is more.
      Equal arguments give the same function, which is compiled once for all runs of a process.
    Raises:
      UserError: an unknown kind or dtype, or layers that cannot follow each other; from kernel_fn: images of
        unequal shapes or too small to pool.
    Source: paper section 2; for the recursion Novak et al. 2019 and Arora et al. 2019.
    """
    checks.one_of("kind", kind, ("ntk", "nngp"))
    check_dtype(dtype)
    return _build(check_layers(architecture), kind, dtype)


@lru_cache(maxsize=KEPT)
def _build(architecture, kind, dtype):
    bends = head.bends(architecture)
    above = partial(head.kernel, architecture, kind)

    def kernel_fn(x1, x2=None):
        x1, x2, mean = taken(x1, x2)
        if mean is None:
            return plain.gram(architecture, kind, x1, x2)
        if bends:
            return head.bent_kernel(architecture, kind, mean.build, x1, x2).astype(dtype)
        return above(*mean.build(architecture, kind)(x1, x2))

    def with_jacobian(x1, x2):
        x1, x2, mean = taken(x1, x2)
        if bends or not hasattr(mean, "build_each"):
            return one_by_one(kernel_fn, x1, x2)
        zeros = jnp.zeros((len(x1), len(x2)), dtype)
        _, pull = jax.vjp(above, zeros, zeros)  # affine: the same everywhere
        parts, jacobian = mean.build_each(architecture, kind)(x1, x2, jnp.stack(pull(zeros + 1)))
        return above(*parts), jacobian

    def taken(x1, x2):
        check_dtype(dtype)
        x1 = jnp.asarray(x1, dtype)
        x2 = x1 if x2 is None else jnp.asarray(x2, dtype)
        check_images(architecture, x1.shape, x2.shape)
        return x1, x2, _mean(architecture, dtype, x1.shape[1:])

    kernel_fn.pair_bytes = partial(_pair_bytes, architecture, dtype)
    kernel_fn.jacobian_bytes = partial(_jacobian_bytes, architecture, dtype)
    kernel_fn.with_jacobian = with_jacobian
    return kernel_fn


def one_by_one(kernel_fn, x1, x2):
    """(n1, n2) kernel, and (n1, n2, h, w, c) gradient of each of its entries with respect to its image of x2.

    This takes one image of x1 at a time; `kernel_fn.with_jacobian`, where there is one, may be faster.
    """

    def of_one(image):
        k, pull = jax.vjp(lambda x: kernel_fn(image[None], x), x2)
        return k[0], pull(jnp.ones_like(k))[0]

    return jax.lax.map(of_one, x1)


def check_dtype(dtype):
    """Raises UserError unless `dtype` is float32, or float64 with JAX's x64 flag on."""
    checks.one_of("dtype", dtype, ("float32", "float64"))
    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise checks.UserError(
            "dtype: float64 needs JAX's x64 flag, which is off; call jax.config.update('jax_enable_x64', True) first"
        )


def _pair_bytes(architecture, dtype, shape):
    """About the most memory that one pair of images (h, w, c) takes, gradient included; 0 in compiled loops."""
    mean = _mean(architecture, dtype, shape)
    if mean is not None:
        return mean.pair_bytes(architecture, shape)
    flat = isinstance(architecture[0], Flatten)
    placed = place(architecture, (1, 1) if flat else shape[:2], radius=0)
    entries = [len(bands[0].first) * len(bands[1].first) for _, bands in placed]
    kept = sum(n for n, (layer, _) in zip(entries, placed, strict=True) if isinstance(layer, Relu))
    return (4 * kept + 8 * max(entries)) * (8 if flat else jnp.dtype(dtype).itemsize)


def _jacobian_bytes(architecture, dtype, shape):
    """About the most memory that one pair takes in with_jacobian; 0 where images of x1 are taken one by one."""
    mean = _mean(architecture, dtype, shape)
    by_pairs = hasattr(mean, "build_each") and not head.bends(architecture)
    return mean.jacobian_bytes(architecture, shape, dtype) if by_pairs else 0


def _mean(architecture, dtype, shape):
    """The module that computes kernels up to the mean over positions faster than plain JAX; None where none can."""
    if head.end(architecture) == 0:
        return None
    device = jax.config.jax_default_device
    name, needs = MODULES.get(getattr(device, "platform", device) or jax.default_backend(), (None, None))
    if name is None or importlib.util.find_spec(needs) is None:
        return None
    module = importlib.import_module(name)
    return module if module.serves(architecture, shape, dtype) else None
