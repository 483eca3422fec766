"""The linearized predictions against autodiff through everything, the step against dense least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_engine import ENGINES, images
from test_objective import KERNEL, autodiff

from kipx import checks, distill, gauss_newton, krr, objective, optimizer
from kipx.engine import Engine

RIDGE = 0.03  # large enough for its own derivative to count
WEIGHT = 0.05  # of the RKHS norm
N_S, N_T, CLASSES = 4, 7, 3


def problem(seed=0):
    rng = np.random.default_rng(seed)
    labels = [jnp.asarray(rng.normal(size=(n, CLASSES))) for n in (N_S, N_T)]
    return images(N_S, seed), labels[0], images(N_T, seed + 1), labels[1]


def linearized(engine="dense", ridge=RIDGE, weight=0.0):
    x_s, y_s, x_t, y_t = problem()
    return gauss_newton.kip(ENGINES[engine](KERNEL), ridge=ridge, rkhs_weight=weight, targets=x_t)(x_s, y_s, x_t, y_t)


def moved(seed):
    rng = np.random.default_rng(seed)
    return {
        "images": jnp.asarray(rng.normal(size=(N_S, 16))),
        "labels": jnp.asarray(rng.normal(size=(N_S, CLASSES))),
    }


@jax.jit
def residuals(support):
    """f - y_t, and below it what the norm's part of the loss is the square of."""
    *_, x_t, y_t = problem()
    k_ss, k_ts, y_s = KERNEL(support["images"]), KERNEL(x_t, support["images"]), support["labels"]
    f = krr.predict(k_ss, k_ts, y_s, ridge=RIDGE)
    a = k_ss + RIDGE * jnp.trace(k_ss) / N_S * jnp.eye(N_S)
    unit = jnp.mean(jax.vmap(lambda x: KERNEL(x[None])[0, 0])(x_t))
    root = jnp.sqrt(WEIGHT * unit * N_T) * jnp.linalg.solve(jnp.linalg.cholesky(a), y_s)
    return jnp.concatenate([f - y_t, root])


@pytest.fixture(scope="module", params=[0.0, WEIGHT])
def found(request):
    return linearized(weight=request.param)[3]


@pytest.fixture(scope="module")
def jacobian(found):
    """(residuals, parameters): J as a matrix, images first."""
    units = [jax.flatten_util.ravel_pytree(moved(0))[1](row) for row in np.eye(N_S * (16 + CLASSES))]
    return np.stack([np.ravel(found.push(unit)) for unit in units], axis=1)


@pytest.mark.parametrize("name", ENGINES)
def test_the_gradient_is_that_of_kip(name):
    x_s, y_s, x_t, y_t = problem()
    loss, (g_x, g_y) = autodiff(x_s, y_s, x_t, y_t)
    metrics, g_images, g_labels, _ = linearized(name, ridge=1e-6)
    assert float(metrics["train_loss"]) == pytest.approx(float(loss), rel=1e-11)
    assert metrics.keys() == objective.kip(ENGINES[name](KERNEL), ridge=1e-6)(x_s, y_s, x_t, y_t)[0].keys()
    assert np.linalg.norm(g_images - g_x) < 1e-9 * np.linalg.norm(g_x)
    assert np.linalg.norm(g_labels - g_y) < 1e-9 * np.linalg.norm(g_y)


def test_the_residuals_are_those_of_the_loss(found):
    x_s, y_s, *_ = problem()
    expected = residuals({"images": x_s, "labels": y_s})[: len(found.residuals)]
    np.testing.assert_allclose(found.residuals, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ENGINES)
def test_the_norm_counts_in_the_gradient_as_in_that_of_kip(name):
    x_s, y_s, x_t, y_t = problem()
    adam = objective.kip(ENGINES[name](KERNEL), ridge=RIDGE, rkhs_weight=WEIGHT, targets=x_t)(x_s, y_s, x_t, y_t)
    metrics, g_images, g_labels, _ = linearized(name, weight=WEIGHT)
    assert metrics.keys() == adam[0].keys()
    assert all(float(metrics[key]) == pytest.approx(float(adam[0][key]), rel=1e-9) for key in metrics)
    np.testing.assert_allclose(g_images, adam[1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(g_labels, adam[2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_pushed_change_is_what_the_residuals_do(found, seed):
    x_s, y_s, *_ = problem()
    change, h = moved(seed), 1e-5
    ahead, behind = (
        residuals({"images": x_s + d * change["images"].reshape(x_s.shape), "labels": y_s + d * change["labels"]})
        for d in (h, -h)
    )
    differences = ((ahead - behind) / (2 * h))[: len(found.residuals)]
    np.testing.assert_allclose(found.push(change), differences, rtol=1e-5, atol=1e-8)


def test_a_pulled_cotangent_is_the_transpose(found):
    cotangent, change = np.random.default_rng(3).normal(size=found.residuals.shape), moved(4)
    pulled = found.pull(jnp.asarray(cotangent))
    there = float(np.sum(cotangent * found.push(change)))
    assert there == pytest.approx(float(sum(jnp.sum(pulled[name] * change[name]) for name in change)), rel=1e-12)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
def test_a_step_solves_the_damped_least_squares(found, jacobian, damping, learned):
    free = jacobian if learned else jacobian[:, : N_S * 16]
    signs = np.asarray(jax.random.rademacher(jax.random.key(0), (gauss_newton.PROBES, found.residuals.size), float))
    curvature = np.mean(np.sum((signs @ free) ** 2, axis=1)) / free.shape[1]  # as estimated
    normal = free.T @ free + damping * curvature * np.eye(free.shape[1])
    towards = -free.T @ np.ravel(found.residuals)
    least = np.linalg.solve(normal, towards)
    step = gauss_newton.step(found, damping, learned=learned)
    taken = np.concatenate([np.ravel(step["images"]), np.ravel(step["labels"])])
    left = normal @ taken[: len(least)] - towards
    assert np.linalg.norm(left) < 1.01 * gauss_newton.TOLERANCE * np.linalg.norm(towards)
    if found.norm is None:  # with it J'J is too ill-conditioned for what is left to say how far away that is
        assert np.linalg.norm(taken[: len(least)] - least) < 0.01 * np.linalg.norm(least)
    assert learned or not np.any(taken[len(least) :])


def test_the_curvature_is_about_the_mean_of_the_diagonal(found, jacobian):
    trace = float(gauss_newton._trace(found.pull, found.residuals))
    assert trace == pytest.approx(np.sum(jacobian**2), rel=0.5)


def rule(steps=4, **options):
    return optimizer.gauss_newton(**options).rule(steps, True, None)


def updates(rule, found, at=0):
    x_s, y_s, *_ = problem()
    parameters = {"images": x_s.astype(jnp.float32), "labels": y_s}
    return rule.update(parameters, jnp.int32(at), parameters, linearization=found)


def test_a_large_step_is_scaled_down_as_a_whole(found):
    whole, _ = updates(rule(largest_change=1e9), found)
    short, state = updates(rule(largest_change=1e-3), found)
    assert float(jnp.sqrt(jnp.mean(short["images"] ** 2))) == pytest.approx(1e-3, rel=1e-5)
    share = float(jnp.linalg.norm(short["images"]) / jnp.linalg.norm(whole["images"]))
    np.testing.assert_allclose(short["labels"], share * whole["labels"], rtol=1e-4)
    assert state == 1
    assert short["images"].dtype == jnp.float32 and short["labels"].dtype == jnp.float64


def test_rate_and_damping_follow_the_steps(found):
    free = {"largest_change": 1e9, "damping": 0.1, "last_damping": 0.001}
    first, middle = (gauss_newton.step(found, damping, learned=True)["labels"] for damping in (0.1, 0.01))
    assert near(updates(rule(**free), found)[0]["labels"], first)
    assert near(updates(rule(**free), found, at=2)[0]["labels"], middle / 2)
    constant = rule(**free, schedule="constant", learning_rate=0.25)
    assert near(updates(constant, found, at=2)[0]["labels"], middle / 4)


def near(found, expected):
    """Within what conjugate gradients leave."""
    return np.linalg.norm(found - expected) < gauss_newton.TOLERANCE * np.linalg.norm(expected)


def test_ten_steps_fit_what_a_hundred_of_adam_do_not():
    x_s, y_s, x_t, y_t = problem()

    def last_loss(chosen, steps):
        built = chosen.objective(ENGINES["dense"](KERNEL), ridge=1e-6)
        start, step = distill.build(built, chosen.rule(steps, True, None), lambda key: (x_t, y_t))
        return [m["train_loss"] for _, m in distill.run(start(jax.random.key(0), x_s, y_s), step, steps=steps)][-1]

    assert last_loss(optimizer.gauss_newton(schedule="constant"), 11) < 1e-5
    assert last_loss(optimizer.adam(learning_rate=0.3, schedule="cosine"), 100) > 1e-3


def test_first_order_rules_are_optax_and_know_of_no_linearization():
    x_s, y_s, *_ = problem()
    parameters = {"images": x_s, "labels": y_s}
    fixed = optimizer.adam(learning_rate=0.1).rule(3, False, None)
    given, _ = fixed.update(parameters, fixed.init(parameters), parameters, linearization=None)
    alone = optax.adam(0.1)
    expected, _ = alone.update(x_s, alone.init(x_s), x_s)
    np.testing.assert_array_equal(given["images"], expected)
    assert not np.any(given["labels"])


def test_refusals():
    with pytest.raises(checks.UserError, match=r"optimizer\.learning_rate: expected a number in \(0, 1\], got 2"):
        optimizer.gauss_newton(learning_rate=2)
    for name in ("damping", "last_damping", "largest_change"):
        with pytest.raises(checks.UserError, match=rf"optimizer\.{name}: expected a number > 0, got 0"):
            optimizer.gauss_newton(**{name: 0})
    with pytest.raises(checks.UserError, match=r"labels\.learning_rate: expected null .* got 0\.1"):
        optimizer.gauss_newton().rule(3, True, 0.1)
    with pytest.raises(checks.UserError, match="needs one with_jacobian"):
        gauss_newton.kip(Engine(None, None), ridge=1e-6)
