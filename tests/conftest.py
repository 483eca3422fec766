"""Strict JAX: float64 on, silent rank promotion off, four CPU devices; compiled kernels are kept for subprocesses."""

import os
import pathlib

CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True)
def strict(request):
    """Ranks are promoted by nobody but neural-tangents."""
    with jax.numpy_rank_promotion("allow" if "allow_rank_promotion" in request.fixturenames else "raise"):
        yield


@pytest.fixture
def allow_rank_promotion():
    """For tests that run neural-tangents."""


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory):
    """Real digits, few of them, at half their size, in a user's npz."""
    import numpy as np

    from kipx.data import digits

    data, path = digits.load(), tmp_path_factory.mktemp("data") / "tiny.npz"
    x_train, x_test = data.x_train[:200, ::2, ::2], data.x_test[:30, ::2, ::2]
    np.savez(path, x_train=x_train, y_train=data.y_train[:200], x_test=x_test, y_test=data.y_test[:30])
    return path
