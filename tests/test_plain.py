"""Fully connected kernels in single precision: images that are nearly parallel are told apart, others cost no more."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kipx.architecture import fc
from kipx.kernel import build, plain

X1, X2 = (np.random.default_rng(seed).normal(size=(4, 5, 6, 2)) for seed in (0, 1))
CONSTANT = [np.broadcast_to(x[:, :1, :1], x.shape) for x in (X1, X2)]
NEAR = {
    "far": (X1, X2),
    "1e-1 apart": (X1, X1 + 1e-1 * X2),
    "1e-3 apart": (X1, X1 + 1e-3 * X2),
    "1e-5 apart": (X1, X1 + 1e-5 * X2),
    "one near pair": (X1, np.concatenate([X2[:3], X1[:1] + 1e-4 * X2[3:]])),
    "opposite": (X1, -X1 + 1e-3 * X2),
    "constant": CONSTANT,
    "beside the bias": (1e-3 * X1, 1e-3 * X2),
    "zero": (np.zeros_like(X1), X2),
}


@partial(jax.jit, static_argnums=0)
def value_and_gradients(kernel_fn, x1, x2):
    k, pull = jax.vjp(kernel_fn, x1, x2)
    return k, *pull(jnp.asarray(np.eye(4) - 0.2, k.dtype))


@pytest.mark.parametrize("architecture", [fc(depth=1), fc(depth=3), fc(depth=3, b_std=0.0)], ids=["1", "3", "no bias"])
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("case", NEAR)
def test_single_precision_is_right(case, kind, architecture):
    x1, x2 = (jnp.asarray(x, jnp.float32) for x in NEAR[case])
    found = value_and_gradients(build(architecture, kind), x1, x2)
    exact = value_and_gradients(build(architecture, kind, "float64"), *(x.astype("float64") for x in (x1, x2)))
    for one, other, tolerance in zip(found, exact, (2e-6, 1e-5, 1e-5), strict=True):
        assert one.dtype == jnp.float32
        assert float(jnp.linalg.norm(one - other)) <= tolerance * float(jnp.linalg.norm(other))


def test_far_images_are_left_in_single_precision():
    x1, x2 = (jnp.asarray(x, jnp.float32) for x in NEAR["far"])
    single = jax.jit(lambda *x: plain._propagated(fc(depth=2), "ntk", *x)[0])(x1, x2)
    np.testing.assert_array_equal(jax.jit(build(fc(depth=2)))(x1, x2), single)


def test_without_the_x64_flag_single_precision_is_all_there_is():
    with jax.enable_x64(False):
        k = jax.jit(build(fc(depth=2)))(*(np.asarray(x, np.float32) for x in NEAR["1e-3 apart"]))
    assert k.dtype == jnp.float32
    assert np.isfinite(k).all()


def test_an_architecture_without_relu_has_nothing_to_tell_apart():
    x = jnp.asarray(X1, jnp.float32)
    architecture = fc(depth=1)[:1] + fc(depth=1)[-1:]  # flatten, dense
    np.testing.assert_allclose(build(architecture)(x), build(architecture, dtype="float64")(x), rtol=1e-5)
