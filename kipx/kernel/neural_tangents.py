"""The same kernels through neural-tangents: the oracle of the tests, the baseline of the benchmarks, a slower backend.

The only file that imports neural-tangents, and only when `build` is called. Its last release (0.6.5) cannot be
imported with current JAX because the package's `__init__` asks for names that JAX has dropped; its `stax` module works.
"""

import functools
import importlib
import sys
import types
from importlib.machinery import PathFinder

import jax
import jax.numpy as jnp

from kipx import checks
from kipx.architecture import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Relu
from kipx.kernel import check_dtype
from kipx.kernel.layers import check_images, check_layers


def build(architecture, kind: str = "ntk", dtype: str = "float32"):
    """As `kipx.kernel.build`, computed by neural-tangents, below pools over all pairs of positions.

    Args, Returns, Raises: as `kipx.kernel.build`; UserError too where neural-tangents is not installed.
    Source: Novak et al. 2020, https://github.com/google/neural-tangents.
    """
    checks.one_of("kind", kind, ("ntk", "nngp"))
    check_dtype(dtype)
    architecture = check_layers(architecture)
    stax = _stax()
    _, _, nt_kernel_fn = stax.serial(*(_shielded(_layer(stax, layer)) for layer in architecture))

    def kernel_fn(x1, x2=None):
        check_dtype(dtype)
        x1 = jnp.asarray(x1, dtype)
        x2 = None if x2 is None else jnp.asarray(x2, dtype)
        check_images(architecture, x1.shape, x1.shape if x2 is None else x2.shape)
        return nt_kernel_fn(x1, x2, kind).astype(dtype)  # constants of its own may have promoted it

    kernel_fn.pair_bytes = lambda shape: 24 * _positions(architecture, shape) * jnp.dtype(dtype).itemsize
    return kernel_fn


def _positions(architecture, shape):
    """Pairs of positions that are kept: all where something pools, else each position with itself."""
    if isinstance(architecture[0], Flatten):
        return 1
    pools = any(isinstance(layer, AvgPool | GlobalAvgPool) for layer in architecture)
    return (shape[0] * shape[1]) ** (2 if pools else 1)


def _layer(stax, layer):
    if isinstance(layer, Conv):
        return stax.Conv(1, (layer.size, layer.size), padding="SAME", W_std=layer.w_std, b_std=layer.b_std)
    if isinstance(layer, Dense):
        return stax.Dense(1, W_std=layer.w_std, b_std=layer.b_std)
    if isinstance(layer, AvgPool):
        return stax.AvgPool((layer.size, layer.size), strides=(layer.size, layer.size), padding="VALID")
    return {Relu: stax.Relu, GlobalAvgPool: stax.GlobalAvgPool, Flatten: stax.Flatten}[type(layer)]()


def _shielded(layer):
    """The layer, which XLA may not merge with its neighbours: JAX 0.10's convolutions then read outside their input."""
    init_fn, apply_fn, layer_kernel_fn = layer

    @functools.wraps(layer_kernel_fn)
    def kernel_fn(k, **kwargs):
        return jax.lax.optimization_barrier(layer_kernel_fn(jax.lax.optimization_barrier(k), **kwargs))

    return init_fn, apply_fn, kernel_fn


def _stax():
    """neural_tangents.stax without running the package's `__init__`: an empty package with the installed path."""
    if "neural_tangents" not in sys.modules:
        spec = PathFinder.find_spec("neural_tangents")
        if spec is None:
            raise checks.UserError(
                "kernel.backend: neural_tangents is not installed; pip install --no-deps neural-tangents frozendict"
            )
        package = types.ModuleType("neural_tangents")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["neural_tangents"] = package
    with jax.numpy_rank_promotion("allow"):
        return importlib.import_module("neural_tangents.stax")
