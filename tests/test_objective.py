"""KIP's gradient through blocks against autodiff through everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_engine import ENGINES, images

from kipx import checks, evaluate, krr, objective
from kipx.architecture import convnet
from kipx.kernel import build

RIDGE, WEIGHT = 0.03, 0.05  # large enough to count
KERNEL = jax.jit(build(convnet(depth=1, prepend_conv=False), "ntk", "float64"))


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return images(5, 0), jnp.asarray(rng.normal(size=(5, 3))), images(8, 1), jnp.asarray(rng.normal(size=(8, 3)))


def everything(x_s, y_s, x_t, y_t):
    return krr.loss(KERNEL(x_s), KERNEL(x_t, x_s), y_s, y_t, ridge=1e-6)


autodiff = jax.jit(jax.value_and_grad(everything, argnums=(0, 1)))  # compiled once for all engines


@pytest.mark.parametrize("name", ENGINES)
def test_the_gradient_equals_autodiff_through_kernel_solve_and_loss(name, problem):
    x_s, y_s, x_t, y_t = problem
    loss, (g_x, g_y) = autodiff(x_s, y_s, x_t, y_t)
    metrics, g_images, g_labels = objective.kip(ENGINES[name](KERNEL), ridge=1e-6)(x_s, y_s, x_t, y_t)
    assert float(metrics["train_loss"]) == pytest.approx(float(loss), rel=1e-11)
    assert np.linalg.norm(g_images - g_x) < 1e-9 * np.linalg.norm(g_x)
    assert np.linalg.norm(g_labels - g_y) < 1e-9 * np.linalg.norm(g_y)


def with_the_norm(x_s, y_s, x_t, y_t):
    a = KERNEL(x_s)
    a += RIDGE * jnp.trace(a) / len(a) * jnp.eye(len(a))
    unit = jnp.mean(jnp.stack([KERNEL(x[None])[0, 0] for x in x_t]))
    norm = unit * jnp.trace(y_s.T @ jnp.linalg.inv(a) @ y_s) / y_s.shape[1]
    mse = jnp.mean((KERNEL(x_t, x_s) @ jnp.linalg.solve(a, y_s) - y_t) ** 2)
    return mse / 2 + WEIGHT * norm / 2, (mse / 2, norm)


@pytest.mark.parametrize("name", ENGINES)
def test_the_norm_has_its_weight_in_the_loss(name, problem):
    x_s, y_s, x_t, y_t = problem
    (_, (loss, norm)), (g_x, g_y) = jax.value_and_grad(with_the_norm, argnums=(0, 1), has_aux=True)(*problem)
    built = objective.kip(ENGINES[name](KERNEL), ridge=RIDGE, rkhs_weight=WEIGHT, targets=x_t)
    metrics, g_images, g_labels = built(x_s, y_s, x_t, y_t)
    assert float(metrics["train_loss"]) == pytest.approx(float(loss), rel=1e-9)
    assert float(metrics["train_rkhs_norm"]) == pytest.approx(float(norm), rel=1e-9)
    assert np.linalg.norm(g_images - g_x) < 1e-8 * np.linalg.norm(g_x)
    assert np.linalg.norm(g_labels - g_y) < 1e-8 * np.linalg.norm(g_y)


def test_the_norm_is_that_of_the_predictor():
    """Of f = sum_i a_i k(., x_i) it is a'Ka; a linear kernel's f has the weights X'a, and their norm is the same."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6)), rng.normal(size=(4, 2))
    weights = x.T @ np.linalg.solve(x @ x.T, y)
    expected = np.sum(weights**2) / 2
    assert float(krr.squared_norm(jnp.asarray(x @ x.T), jnp.asarray(y), ridge=1e-12)) == pytest.approx(expected)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(checks.UserError, match=r"rkhs_weight: expected a number >= 0, got -1"):
        objective.kip(ENGINES["dense"](KERNEL), ridge=RIDGE, rkhs_weight=-1)


def test_a_weight_without_images_to_take_its_unit_from_is_refused():
    with pytest.raises(checks.UserError, match="targets: expected images beside rkhs_weight"):
        objective.kip(ENGINES["dense"](KERNEL), ridge=RIDGE, rkhs_weight=0.1)


def test_an_evaluation_without_images_is_refused():
    with pytest.raises(checks.UserError, match="x_test: expected test images, got none"):
        evaluate.build(ENGINES["dense"](KERNEL), jnp.zeros((0, 4, 4, 1)), jnp.zeros((0, 3)), ridge=RIDGE)


@pytest.mark.parametrize("batch", [1, 3, 8, 100])
def test_evaluation_in_batches_counts_each_image_once(batch, problem):
    x_s, y_s, x_t, y_t = problem
    predictions = krr.predict(KERNEL(x_s), KERNEL(x_t, x_s), y_s, ridge=1e-6)
    measured = evaluate.build(ENGINES["dense"](KERNEL), x_t, y_t, ridge=1e-6, batch=batch)(x_s, y_s)
    assert measured["test_mse"] == pytest.approx(0.5 * float(jnp.mean((predictions - y_t) ** 2)), rel=1e-9)
    right = np.argmax(predictions, axis=1) == np.argmax(y_t, axis=1)
    assert measured["test_accuracy"] == pytest.approx(right.mean())
