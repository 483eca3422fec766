"""Label Solve against explicit matrices and a pseudo-inverse, and against the loss that it is to minimize."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_engine import ENGINES, images

from kipx import checks, krr, label_solve
from kipx.architecture import fc
from kipx.engine import dense
from kipx.kernel import build

KERNEL = jax.jit(build(fc(depth=2), "ntk", "float64"))
RIDGE = 1e-3


def labels(n, classes, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, classes)))


@pytest.fixture
def problem():
    """(x_support, x_target, y_target): five images for seventeen targets of three classes."""
    return images(5, 0), images(17, 1), labels(17, 3, 2)


def a_matrix(x_s, x_t, ridge=RIDGE):
    """k_ts (k_ss + ridge)^-1 in plain NumPy."""
    k_ss, k_ts = np.asarray(KERNEL(x_s)), np.asarray(KERNEL(x_t, x_s))
    n = len(k_ss)
    return k_ts @ np.linalg.inv(k_ss + ridge * np.trace(k_ss) / n * np.eye(n))


@pytest.mark.parametrize("name", ENGINES)
def test_labels_are_the_pseudo_inverse_times_targets(name, problem):
    x_s, x_t, y_t = problem
    solution = label_solve.solve(ENGINES[name](KERNEL), x_s, x_t, y_t, ridge=RIDGE, batch=4)
    a = a_matrix(x_s, x_t)
    expected = np.linalg.pinv(a) @ np.asarray(y_t)
    np.testing.assert_allclose(solution.labels, expected, rtol=1e-9, atol=1e-11)
    assert solution.labels.dtype == jnp.float64
    assert solution.kept == 5
    assert solution.residual < 1e-12
    assert solution.train_loss == pytest.approx(0.5 * np.mean((a @ expected - np.asarray(y_t)) ** 2), rel=1e-10)


def test_the_loss_is_stationary_and_no_perturbation_beats_it(problem):
    x_s, x_t, y_t = problem
    k_ss, k_ts = KERNEL(x_s), KERNEL(x_t, x_s)
    solution = label_solve.solve(dense.build(KERNEL), x_s, x_t, y_t, ridge=RIDGE)

    def loss(y):
        return krr.loss(k_ss, k_ts, y, y_t, ridge=RIDGE)

    best, gradient = jax.value_and_grad(loss)(solution.labels)
    at_zero = jax.grad(loss)(jnp.zeros_like(solution.labels))
    assert solution.train_loss == pytest.approx(float(best), rel=1e-12)
    assert np.linalg.norm(gradient) < 1e-12 * np.linalg.norm(at_zero)
    rng = np.random.default_rng(3)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(10):
            assert loss(solution.labels + size * rng.normal(size=solution.labels.shape)) > best


@pytest.mark.parametrize("batch", [1, 2, 16, 17, 18, 1000])
def test_blocks_change_nothing_but_rounding(batch, problem):
    x_s, x_t, y_t = problem
    whole = label_solve.solve(dense.build(KERNEL), x_s, x_t, y_t, ridge=RIDGE)
    blocks = label_solve.solve(dense.build(KERNEL), x_s, x_t, y_t, ridge=RIDGE, batch=batch)
    np.testing.assert_allclose(blocks.labels, whole.labels, rtol=1e-9)
    assert blocks.train_loss == pytest.approx(whole.train_loss, rel=1e-12)


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_stream_goes_on_bit_for_bit(after, problem):
    engine, (x_s, x_t, y_t) = dense.build(KERNEL), problem
    whole = list(label_solve.stream([engine], x_s, x_t, y_t, batch=4))
    assert [sums.done for sums in whole] == [4, 8, 12, 16, 17]
    saved = label_solve.Sums(whole[after - 1].done, np.asarray(whole[after - 1].triangles))
    *_, last = label_solve.stream([engine], x_s, x_t, y_t, batch=4, sums=saved)
    assert last.done == whole[-1].done
    np.testing.assert_array_equal(last.triangles, whole[-1].triangles)
    assert list(label_solve.stream([engine], x_s, x_t, y_t, batch=4, sums=last)) == []


def test_triangles_hold_the_products_of_kernels_and_labels(problem):
    x_s, x_t, y_t = problem
    *_, sums = label_solve.stream([dense.build(KERNEL)], x_s, x_t, y_t, batch=5)
    both = np.concatenate([KERNEL(x_t, x_s), y_t], axis=1)
    np.testing.assert_allclose(sums.triangles[0].T @ sums.triangles[0], both.T @ both, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n_target", [1, 3, 8])
def test_with_more_support_images_than_targets_labels_interpolate_and_are_of_least_norm(n_target):
    x_s, x_t, y_t = images(9, 0), images(n_target, 1), labels(n_target, 2, 2)
    solution = label_solve.solve(dense.build(KERNEL), x_s, x_t, y_t, ridge=RIDGE)
    a = a_matrix(x_s, x_t)
    assert solution.kept == n_target
    assert solution.train_loss < 1e-20
    np.testing.assert_allclose(solution.labels, np.linalg.pinv(a) @ np.asarray(y_t), rtol=1e-7, atol=1e-9)
    in_row_space = a.T @ np.linalg.pinv(a.T) @ solution.labels
    np.testing.assert_allclose(in_row_space, solution.labels, atol=1e-9)


def test_equal_support_images_share_their_labels(problem):
    x_s, x_t, y_t = problem
    twice = jnp.concatenate([x_s, x_s[:2]])
    solution = label_solve.solve(dense.build(KERNEL), twice, x_t, y_t, ridge=RIDGE)
    assert solution.kept == 5
    np.testing.assert_allclose(solution.labels[5:], solution.labels[:2], rtol=1e-7)


def test_a_cutoff_leaves_out_the_small_end_of_the_spectrum(problem):
    x_s, x_t, y_t = problem
    u, s, vt = np.linalg.svd(a_matrix(x_s, x_t), full_matrices=False)
    cutoff = float(np.sqrt(s[1] * s[2] * s[1] * s[2]) / s[0] ** 2)  # between the second and the third
    form = label_solve.least_norm(cutoff=cutoff)
    solution = label_solve.solve(dense.build(KERNEL), x_s, x_t, y_t, ridge=RIDGE, form=form)
    assert solution.kept == 2
    np.testing.assert_allclose(solution.labels, vt[:2].T @ (u[:, :2].T @ y_t / s[:2, None]), rtol=1e-9, atol=1e-12)
    assert solution.residual > 1e-6


def test_one_support_image_and_one_target():
    x_s, x_t, y_t = images(1, 0), images(1, 1), labels(1, 2, 2)
    solution = label_solve.solve(dense.build(KERNEL), x_s, x_t, y_t, ridge=RIDGE)
    np.testing.assert_allclose(a_matrix(x_s, x_t) @ solution.labels, y_t, rtol=1e-12)


def test_targets_that_are_zero_get_labels_that_are_zero(problem):
    x_s, x_t, _ = problem
    solution = label_solve.solve(dense.build(KERNEL), x_s, x_t, jnp.zeros((17, 2)), ridge=RIDGE)
    assert not np.any(solution.labels)
    assert solution.residual == 0


def test_the_notebooks_form(problem):
    x_s, x_t, y_t = problem
    form = label_solve.notebook(ridge=0.1)
    solution = label_solve.solve(dense.build(KERNEL), x_s, x_t, y_t, ridge=RIDGE, form=form, batch=6)
    k_ss, k_ts, r = np.asarray(KERNEL(x_s)), np.asarray(KERNEL(x_t, x_s)), 0.1 / 5 * np.eye(5)
    expected = (k_ss + r) @ np.linalg.inv(k_ts.T @ k_ts + r) @ k_ts.T @ np.asarray(y_t)
    np.testing.assert_allclose(solution.labels, expected, rtol=1e-8)
    best = label_solve.solve(dense.build(KERNEL), x_s, x_t, y_t, ridge=RIDGE)
    assert solution.train_loss > best.train_loss


def test_a_family_is_solved_for_the_mean_of_its_losses(problem):
    x_s, x_t, y_t = problem
    kernels = [jax.jit(build(fc(depth=depth), "ntk", "float64")) for depth in (1, 3)]
    engines = [dense.build(kernel) for kernel in kernels]
    *_, sums = label_solve.stream(engines, x_s, x_t, y_t, batch=5)
    posed = label_solve.pose([engine.gram(x_s) for engine in engines], sums, [3.0, 1.0], ridge=RIDGE)
    solution = label_solve.conclude(posed, label_solve.least_norm()(posed), y_t.size)

    def loss(y):
        each = [krr.loss(kernel(x_s), kernel(x_t, x_s), y, y_t, ridge=RIDGE) for kernel in kernels]
        return 0.75 * each[0] + 0.25 * each[1]

    best, gradient = jax.value_and_grad(loss)(solution.labels)
    assert solution.train_loss == pytest.approx(float(best), rel=1e-12)
    assert np.linalg.norm(gradient) < 1e-12 * np.linalg.norm(jax.grad(loss)(jnp.zeros_like(solution.labels)))
    with pytest.raises(checks.UserError, match="of one kernel, not of a family"):
        label_solve.notebook()(posed)


def test_a_float32_kernel_is_solved_in_float64(problem):
    x_s, x_t, y_t = (v.astype(jnp.float32) for v in problem)
    engine = dense.build(build(fc(depth=2), "ntk", "float32"))
    solution = label_solve.solve(engine, x_s, x_t, y_t, ridge=RIDGE)
    assert solution.labels.dtype == jnp.float64
    assert solution.residual < 1e-12
    np.testing.assert_allclose(solution.labels, np.linalg.pinv(a_matrix(*problem[:2])) @ problem[2], rtol=2e-3)


def test_numbers_that_give_out(problem):
    x_s, x_t, y_t = problem
    engine = dense.build(KERNEL)
    broken = engine._replace(gram=lambda x1, x2=None: engine.gram(x1, x2) * (jnp.nan if x2 is not None else 1))
    with pytest.raises(checks.NumericalError, match="targets 0 to 4: their kernel is not finite"):
        label_solve.solve(broken, x_s, x_t, y_t, ridge=RIDGE, batch=4)
    negative = engine._replace(gram=lambda x1, x2=None: engine.gram(x1, x2) * (1 if x2 is not None else -1))
    with pytest.raises(checks.NumericalError, match="k_ss \\+ ridge is not positive definite; raise ridge"):
        label_solve.solve(negative, x_s, x_t, y_t, ridge=RIDGE)


@pytest.mark.parametrize("change", [lambda y: y[:9], lambda y: jnp.concatenate([y, y]), lambda y: y[:, 0]])
def test_labels_that_are_not_one_row_for_each_target_are_refused(change, problem):
    x_s, x_t, y_t = problem
    with pytest.raises(checks.UserError, match=r"y_target: expected \(17, classes\), a row for each target, got \("):
        label_solve.solve(dense.build(KERNEL), x_s, x_t, change(y_t), ridge=RIDGE)


@pytest.mark.parametrize("cutoff", [-1e-3, 1, 2.0, float("nan"), "small"])
def test_a_cutoff_that_is_none_is_refused(cutoff):
    with pytest.raises(checks.UserError, match=r"form\.cutoff: expected"):
        label_solve.least_norm(cutoff=cutoff)


@pytest.mark.parametrize("ridge", [0, -1.0, float("inf")])
def test_a_notebook_ridge_that_is_none_is_refused(ridge):
    with pytest.raises(checks.UserError, match=r"form\.ridge: expected a number > 0"):
        label_solve.notebook(ridge=ridge)
