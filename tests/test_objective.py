"""KIP's gradient through blocks against autodiff through everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_engine import ENGINES, images

from kipx import evaluate, krr, objective
from kipx.architecture import convnet
from kipx.kernel import build

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


@pytest.mark.parametrize("batch", [1, 3, 8, 100])
def test_evaluation_in_batches_counts_each_image_once(batch, problem):
    x_s, y_s, x_t, y_t = problem
    predictions = krr.predict(KERNEL(x_s), KERNEL(x_t, x_s), y_s, ridge=1e-6)
    measured = evaluate.build(ENGINES["dense"](KERNEL), x_t, y_t, ridge=1e-6, batch=batch)(x_s, y_s)
    assert measured["test_mse"] == pytest.approx(0.5 * float(jnp.mean((predictions - y_t) ** 2)), rel=1e-9)
    right = np.argmax(predictions, axis=1) == np.argmax(y_t, axis=1)
    assert measured["test_accuracy"] == pytest.approx(right.mean())
