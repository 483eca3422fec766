"""Strict JAX: float64 on, silent rank promotion off; compiled kernels are kept for the tests' subprocesses."""

import os
import pathlib

CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True)
def strict(request):
    """neural-tangents itself promotes ranks; everything of ours must not."""
    with jax.numpy_rank_promotion("allow" if "oracle" in request.fixturenames else "raise"):
        yield


@pytest.fixture
def oracle():
    """Builds neural-tangents' kernels in float64."""
    from kipx.kernel import neural_tangents

    return lambda architecture, kind: neural_tangents.build(architecture, kind, "float64")
