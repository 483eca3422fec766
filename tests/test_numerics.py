"""What a run says of its own numerics: closed forms, float32 against float64, the warning, the stop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra import compose, initialize_config_module

from kipx import arguments, artifacts, checks, config, evaluate, kernel, krr, track
from kipx.architecture import convnet, fc
from kipx.commands import distill
from kipx.data import digits
from kipx.engine import dense


def matrix(eigenvalues, dtype=np.float64):
    """A symmetric matrix of that spectrum."""
    n = len(eigenvalues)
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))
    return jnp.asarray(q * eigenvalues @ q.T, dtype)


def test_the_condition_is_that_of_a_known_spectrum():
    found = krr.condition(matrix([3.0, 2.0, 0.99, 0.01]), ridge=0.04)  # mean diagonal 1.5
    assert found["smallest_eigenvalue"] == pytest.approx(0.01 / 1.5)
    assert found["ridge_share"] == pytest.approx(0.06 / 0.07)
    assert found["condition_number"] == pytest.approx(3.06 / 0.07)
    assert found["rounding_error"] == pytest.approx(3.06 / 0.07 * 2**-52)


def test_an_indefinite_matrix_may_be_mended_by_the_ridge():
    k_ss = matrix([4.0, 2.0, -0.003])
    assert krr.condition(k_ss, ridge=2e-3)["ridge_share"] == pytest.approx(0.004 / 0.001, rel=1e-2)
    with pytest.raises(checks.NumericalError, match=r"positive definite.*raise ridge or set kernel\.dtype=float64"):
        krr.condition(k_ss, ridge=1e-3)


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.full((2, 2), np.nan), np.full((2, 2), np.inf)])
def test_no_condition_of_nothing(bad):
    with pytest.raises(checks.NumericalError, match="k_ss: expected finite numbers"):
        krr.condition(jnp.asarray(bad), ridge=1e-6)


def near_twins(n, apart):
    """n real images, the second half near the first; labels that tell them apart."""
    data, rng = digits.load(), np.random.default_rng(n)
    x = data.x_train[rng.choice(len(data.x_train), n, replace=False)].astype(np.float32)
    x = (x - x.mean()) / x.std()
    x[n // 2 :] = x[: n // 2] + apart * rng.standard_normal(x[n // 2 :].shape)
    return x, rng.normal(size=(n, 10)), (data.x_test[:20].astype(np.float32) - x.mean()) / x.std()


@pytest.fixture(scope="module", params=[fc(depth=1), convnet(depth=1)], ids=["fc", "convnet"])
def kernels(request):
    """The same kernel in float32 and in float64."""
    return [jax.jit(kernel.build(request.param, "ntk", dtype)) for dtype in ("float32", "float64")]


@pytest.mark.parametrize("apart", [1.0, 0.1, 0.01, 1e-3, 1e-4])
def test_where_nothing_is_said_float32_predicts_as_float64_does(kernels, apart):
    (single, double), (x_s, y_s, x_t) = kernels, near_twins(20, apart)
    try:
        expected_error = krr.condition(single(x_s), ridge=1e-6)["rounding_error"]
    except checks.NumericalError:
        assert apart < 0.01
        return
    truth, found = (np.asarray(krr.predict(k(x_s), k(x_t, x_s), y_s, ridge=1e-6)) for k in (double, single))
    error = np.linalg.norm(found - truth) / np.linalg.norm(truth)
    assert error < 0.01 or expected_error > track.DOUBTFUL
    if apart >= 0.1:
        assert expected_error < track.DOUBTFUL, "no alarm where all is well"


def test_predictions_that_are_not_finite_are_no_accuracy():
    x, y, x_t = near_twins(10, 1.0)
    x_t[3] = np.inf
    measure = evaluate.build(
        dense.build(kernel.build(fc(depth=1), "ntk", "float64")), x_t, y[:1].repeat(20, 0), ridge=1
    )
    with pytest.raises(checks.NumericalError, match=r"the test error is \w+: predictions are beyond all numbers"):
        measure(jnp.asarray(x), jnp.asarray(y))


@pytest.fixture
def twins(tmp_path):
    """A data set whose training images of a class are near twins."""
    data, rng = digits.load(), np.random.default_rng(0)
    first = np.array([np.flatnonzero(data.y_train == c)[0] for c in range(10)]).repeat(10)
    x = data.x_train[first] / data.x_train.max() + rng.normal(scale=1e-5, size=(100, 8, 8, 1))
    path = tmp_path / "twins.npz"
    np.savez(path, x_train=x.astype(np.float32), y_train=data.y_train[first], x_test=x[::10], y_test=np.arange(10))
    return path


def run(folder, *overrides):
    with initialize_config_module("kipx.conf", version_base="1.3"):
        composed = compose("distill", ["dataset=npz", "steps=2", "kernel=fc", "support.per_class=4", *overrides])
    values = config.plain(composed, arguments.DISTILL)
    return distill.run(folder, overrides=[], config=values, **arguments.distill(values))


@pytest.mark.parametrize(("dtype", "said"), [("float32", 1), ("float64", 0)])
def test_a_run_says_once_that_float32_limits_it(dtype, said, twins, tmp_path, capfd):
    batch = ("target.batch_size=50", "baseline.draws=0", "ridge=1e-5", f"kernel.dtype={dtype}")
    run(tmp_path / "run", f"dataset.path={twins}", *batch)
    assert capfd.readouterr().err.count("rounding_error: expected at most 0.1") == said
    rows = track.rows(tmp_path / "run")
    assert [row["step"] for row in rows if "condition_number" in row] == [0, 1, 2]
    assert all(row["ridge_share"] > 0 and row["condition_number"] > 1 for row in rows)
    assert (max(row["rounding_error"] for row in rows) > track.DOUBTFUL) is bool(said)


def test_what_evaluate_advises_against_rounding_can_be_typed(twins, kipx):
    run("run", f"dataset.path={twins}", "target.batch_size=50", "baseline.draws=0", "ridge=1e-5", "steps=0")
    code, _, err = kipx("evaluate", "run=run")
    assert (code, "kernel=<its name> kernel.dtype=float64, or raise ridge" in err) == (0, True), err
    code, _, err = kipx("evaluate", "run=run", "kernel=fc", "kernel.dtype=float64")
    assert (code, "rounding_error" in err) == (0, False), err


@pytest.mark.parametrize("draws", [1, 2])
def test_the_spread_of_draws_is_the_sample_standard_deviation(draws, tiny_npz, tmp_path):
    small = (f"dataset.path={tiny_npz}", "target.batch_size=20", f"baseline.draws={draws}", "steps=0")
    summary = run(tmp_path / "run", *small)
    mean, spread = summary["natural_test_accuracy_mean"], summary.get("natural_test_accuracy_std")
    assert (spread is None) is (draws == 1)
    right = 30 * (mean + (spread or 0) / np.sqrt(2))  # of 30 test images, in the better of two draws
    assert right == pytest.approx(round(right))


@pytest.mark.parametrize("diverging", [["learning_rate=1e30"], ["learning_rate=1e-3", "labels.learning_rate=1e308"]])
def test_a_run_that_diverges_keeps_its_last_good_state(diverging, tiny_npz, tmp_path):
    small = (f"dataset.path={tiny_npz}", "target.batch_size=20", "baseline.draws=0", "checkpoint.tested_from=5")
    rate, *labels = diverging
    with pytest.raises(checks.NumericalError, match=r"step \d: the loss is"):
        run(tmp_path / "run", *small, "steps=9", "optimizer=sgd", f"optimizer.{rate}", *labels)
    found, rows = artifacts.load(tmp_path / "run"), track.rows(tmp_path / "run")
    assert np.isfinite(found.images).all() and np.isfinite(found.labels).all()
    saved = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()]
    assert max(saved) == rows[-1]["step"] < 9
    assert np.isfinite([row["train_loss"] for row in rows[1:]]).all()
