"""Kernel ridge regression: its limits, its derivatives, its refusals."""

import beartype
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from kipx import checks, krr


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(9, 5))
    return tuple(
        jnp.asarray(v) for v in (a.T @ a, rng.normal(size=(7, 5)), rng.normal(size=(5, 3)), rng.normal(size=(7, 3)))
    )


def test_predictions_equal_the_formula(problem):
    k_ss, k_ts, y_s, y_t = (np.asarray(v) for v in problem)
    alpha = np.linalg.inv(k_ss + 0.1 * np.trace(k_ss) / 5 * np.eye(5)) @ y_s
    predictions = krr.predict(*problem[:3], ridge=0.1)
    np.testing.assert_allclose(predictions, k_ts @ alpha, rtol=1e-11)
    assert float(krr.loss(*problem, ridge=0.1)) == pytest.approx(0.5 * np.mean((k_ts @ alpha - y_t) ** 2), rel=1e-12)


def test_small_ridge_interpolates_and_large_ridge_predicts_zero(problem):
    k_ss, _, y_s, _ = problem
    np.testing.assert_allclose(krr.predict(k_ss, k_ss, y_s, ridge=1e-12), y_s, atol=1e-8)
    np.testing.assert_allclose(krr.predict(k_ss, k_ss, y_s, ridge=1e12), 0, atol=1e-10)


def test_cotangents_equal_finite_differences(problem):
    (loss, predictions), cotangents = krr.value_and_cotangents(*problem, ridge=1e-3)
    np.testing.assert_allclose(loss, krr.half_mse(predictions, problem[3]), rtol=1e-14)
    rng = np.random.default_rng(1)
    for i, ct in enumerate(cotangents):
        direction = rng.normal(size=ct.shape)
        direction = direction + direction.T if i == 0 else direction
        ends = []
        for sign in (1, -1):
            moved = [v + sign * 1e-6 * direction if i == j else v for j, v in enumerate(problem)]
            ends.append(float(krr.loss(*moved, ridge=1e-3)))
        assert np.sum(ct * direction) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_float32_matrices_are_solved_in_float64(problem):
    k_ss, k_ts, y_s, _ = (v.astype(jnp.float32) for v in problem)
    assert krr.predict(k_ss, k_ts, y_s, ridge=1e-3).dtype == jnp.float64


def test_a_matrix_that_is_not_positive_definite_gives_no_number(problem):
    assert np.isnan(krr.loss(-problem[0], *problem[1:], ridge=1e-6))


def test_annotated_shapes_hold(problem):
    for function, arguments in ((krr.predict, problem[:3]), (krr.loss, problem)):
        jaxtyping.jaxtyped(function, typechecker=beartype.beartype)(*arguments, ridge=0.1)


def test_refusals(problem):
    with pytest.raises(checks.UserError, match="ridge: expected a number > 0, got 0"):
        krr.loss(*problem, ridge=0)
    with pytest.raises(checks.UserError, match=r"k_ts: expected \(n_t, 5\), got \(5, 7\)"):
        krr.loss(problem[0], problem[1].T, *problem[2:], ridge=0.1)
    with pytest.raises(checks.UserError, match=r"y_target: expected \(7, 3\)"):
        krr.loss(*problem[:3], problem[3][:4], ridge=0.1)
    for measure in (krr.half_mse, krr.accuracy):
        for shape in ((7,), (7, 1), (1, 3)):
            with pytest.raises(checks.UserError, match=r"y_target: expected \(7, 3\), got"):
                measure(problem[3], jnp.zeros(shape))
        with pytest.raises(checks.UserError, match=r"predictions: expected \(n_t, c\), got \(7,\)"):
            measure(problem[3][:, 0], problem[3][:, 0])
    for function in (krr.cholesky, krr.condition):
        with pytest.raises(checks.UserError, match=r"ridge: expected a number > 0, got -0\.5"):
            function(problem[0], ridge=-0.5)
        with pytest.raises(checks.UserError, match=r"k_ss \(n_s, n_s\), got \(7, 5\)"):
            function(problem[1], ridge=0.5)
    with jax.enable_x64(False):
        for function in (lambda k, ridge: krr.solve(k, problem[2], ridge=ridge), krr.cholesky, krr.condition):
            with pytest.raises(checks.UserError, match="x64 flag is off"):
                function(problem[0], ridge=0.1)


def test_predictions_that_are_no_numbers_have_no_accuracy(problem):
    assert float(krr.accuracy(problem[3], problem[3])) == 1
    assert np.isnan(krr.accuracy(problem[3].at[2, 1].set(jnp.nan), problem[3]))


@pytest.mark.parametrize("ridge", [np.float32(0.25), np.array(0.25), jnp.float64(0.25)])
def test_a_ridge_may_be_an_array_of_one_number(problem, ridge):
    np.testing.assert_array_equal(krr.solve(*problem[::2][:2], ridge=ridge), krr.solve(*problem[::2][:2], ridge=0.25))
