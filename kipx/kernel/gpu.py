"""CUDA through CuPy: compiles a kernel at run time, and lets it work on JAX's own memory and stream."""

import contextlib
from functools import lru_cache

import jax

OPTIONS = "--std=c++17", "--ftz=true", "--prec-sqrt=false", "--prec-div=false"
SHARED_BYTES = 227 * 1024  # of a block, on an H100 or H200


@lru_cache
def shared_bytes():
    """Shared memory that a block may ask for on each device there is; SHARED_BYTES where there is none."""
    try:
        import cupy
    except ImportError:
        return SHARED_BYTES
    try:
        devices = [cupy.cuda.Device(i) for i in range(cupy.cuda.runtime.getDeviceCount())]
    except cupy.cuda.runtime.CUDARuntimeError:  # no driver
        return SHARED_BYTES
    return min((d.attributes["MaxSharedMemoryPerBlockOptin"] for d in devices), default=SHARED_BYTES)


@contextlib.contextmanager
def on(context, buffers):
    """Arrays in the place of a callback's buffers, its stream current."""
    import cupy

    arrays = jax.tree.map(cupy.asarray, buffers)
    with jax.tree.leaves(arrays)[0].device, cupy.cuda.ExternalStream(context.stream):
        yield arrays


def compiled(source, name, threads, shared):
    """Compiles a kernel, or takes it from CuPy's cache on disk.

    Args:
      source: CUDA C++.
      name: of its extern "C" function.
      threads: of a block.
      shared: bytes of shared memory of a block.
    Returns:
      kernel(grid, *arguments).
    """
    import cupy

    kernel = cupy.RawKernel(source, name, options=OPTIONS)

    def launch(grid, *arguments):
        kernel.max_dynamic_shared_size_bytes = shared  # of the current device: there may be several
        kernel(grid, (threads,), arguments, shared_mem=shared)

    return launch
