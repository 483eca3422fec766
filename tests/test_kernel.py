"""The kernel against neural-tangents, against a slow NumPy version, and against itself."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_kernel import kernel as slow_kernel

from kipx import checks
from kipx.architecture import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Relu, convnet, convvec, fc, myrtle
from kipx.kernel import build, neural_tangents

ARCHITECTURES = {
    "convnet": convnet(depth=2),
    "convnet3": convnet(depth=1, prepend_conv=False),
    "convvec": convvec(depth=3),
    "fc": fc(depth=2),
    "myrtle": myrtle(depth=5),
    "five": (Conv(5, 1.2, 0.3), Relu(), AvgPool(3), Conv(1), Relu(), Flatten(), Dense(), Relu(), Dense(0.7, 0.0)),
    "dense_over_channels": (Dense(), Relu(), Conv(3), GlobalAvgPool(), Dense(), Relu(), Dense()),
}
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def images(n, shape, seed):
    return np.random.default_rng(seed).normal(size=(n, *shape))


@lru_cache
def compiled(make, architecture, kind, dtype):
    """(x1, x2) -> kernel and (x1, x2, cotangent) -> gradient with respect to x2, each compiled once for all cases."""
    kernel_fn = make(architecture, kind, dtype)

    def gradient(x1, x2, cotangent):
        k, pull = jax.vjp(lambda x: kernel_fn(x1, x), x2)
        return k, pull(cotangent.astype(k.dtype))[0]

    return jax.jit(kernel_fn), jax.jit(gradient)


def value_and_gradient(architecture, kind, dtype, x1, x2, cotangent, make=build):
    return tuple(np.asarray(part) for part in compiled(make, architecture, kind, dtype)[1](x1, x2, cotangent))


def largest(k, truth):
    return np.abs(k - truth).max() / np.abs(truth).max()


def norm(g, truth):
    return np.linalg.norm(g - truth) / np.linalg.norm(truth)


# Dense over two channels leaves vectors in a plane, some pairs of them too nearly parallel for float32's gradient.
CASES = [(name, (5, 7, 6) if name == "dense_over_channels" else (7, 6, 2)) for name in ARCHITECTURES]


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize(("name", "shape"), [*CASES, ("convnet", (5, 7, 6))])
def test_equals_neural_tangents_in_value_and_gradient(allow_rank_promotion, name, shape, kind):
    architecture = ARCHITECTURES[name]
    x1, x2, cotangent = images(2, shape, 0), images(3, shape, 1), images(2, (3,), 2)
    value, gradient = value_and_gradient(architecture, kind, "float64", x1, x2, cotangent, neural_tangents.build)
    for dtype, tolerance in TOLERANCE.items():
        k, g = value_and_gradient(architecture, kind, dtype, x1, x2, cotangent)
        assert k.dtype == dtype
        assert largest(k, value) < tolerance
        assert norm(g, gradient) < tolerance


def kinked(case, shape=(6, 6, 3)):
    x1, x2 = images(2, shape, 3), images(3, shape, 4)
    if case == "equal":
        x2[:2] = x1
    if case == "opposite":
        x2[:2] = -x1
    if case == "scaled":
        x2[:2] = 3.3 * x1
    if case == "zero":
        x1[0], x2[1] = 0, 0
    for value in [v for v in (-0.42, 0.0) if case == f"background {v}"]:
        for x in (x1, x2):
            x[:, :3], x[:, :, 4:] = value, value
    return x1, x2


KINKS = ["equal", "opposite", "scaled", "zero", "background -0.42", "background 0.0"]


@pytest.mark.parametrize("b_std", [0.1, 0.0])
@pytest.mark.parametrize("case", KINKS)
@pytest.mark.parametrize("make", [convnet, convvec, fc])
def test_the_kink_is_exact_in_value(make, case, b_std):
    architecture = make(depth=2, b_std=b_std)
    x1, x2 = kinked(case)
    truth = np.array([[slow_kernel(architecture, a, b, "ntk") for b in x2] for a in x1])
    for dtype, tolerance in TOLERANCE.items():
        assert largest(compiled(build, architecture, "ntk", dtype)[0](x1, x2), truth) < tolerance


SMOOTH_OR_SYMMETRIC = [(c, b) for c in KINKS for b in (0.1, 0.0) if b or c not in ("zero", "background 0.0")]


@pytest.mark.parametrize(("case", "b_std"), SMOOTH_OR_SYMMETRIC)
def test_the_kink_has_its_symmetric_derivative(case, b_std):
    """Against central differences D(h), which at a kink converge like h, hence 2 D(h / 2) - D(h)."""
    architecture = convnet(depth=1, b_std=b_std)
    x1, x2 = kinked(case)
    cotangent, direction = images(2, (3,), 5), images(3, x2.shape[1:], 6)
    _, gradient = value_and_gradient(architecture, "ntk", "float64", x1, x2, cotangent)
    kernel_fn = compiled(build, architecture, "ntk", "float64")[0]

    def difference(step):
        ends = [np.sum(cotangent * np.asarray(kernel_fn(x1, x2 + s * step * direction))) for s in (1, -1)]
        return (ends[0] - ends[1]) / (2 * step)

    assert np.sum(gradient * direction) == pytest.approx(2 * difference(1e-4) - difference(2e-4), rel=1e-5)
    _, single = value_and_gradient(architecture, "ntk", "float32", x1, x2, cotangent)
    assert norm(single, gradient) < 1e-5


@pytest.mark.parametrize("b_std", [0.1, 0.0])
@pytest.mark.parametrize("case", ["zero", "background 0.0"])
def test_a_patch_of_zeros_has_neural_tangents_derivative(allow_rank_promotion, case, b_std):
    """Without bias there is no derivative, not even a symmetric one; an angle of pi / 2 is the convention of both."""
    architecture = convnet(depth=1, b_std=b_std)
    x1, x2 = kinked(case)
    arguments = x1, x2, images(2, (3,), 5)
    _, truth = value_and_gradient(architecture, "ntk", "float64", *arguments, neural_tangents.build)
    for dtype, tolerance in TOLERANCE.items():
        assert norm(value_and_gradient(architecture, "ntk", dtype, *arguments)[1], truth) < tolerance


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradient_equals_finite_differences(name):
    x1, x2, cotangent = images(2, (6, 6, 2), 0), images(2, (6, 6, 2), 1), images(2, (2,), 2)
    _, gradient = value_and_gradient(ARCHITECTURES[name], "ntk", "float64", x1, x2, cotangent)
    direction, step, kernel_fn = (
        images(2, (6, 6, 2), 3),
        1e-5,
        compiled(build, ARCHITECTURES[name], "ntk", "float64")[0],
    )
    ends = [float(np.sum(cotangent * np.asarray(kernel_fn(x1, x2 + sign * step * direction)))) for sign in (1, -1)]
    assert np.sum(gradient * direction) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-7)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_symmetric_positive_definite_and_equal_for_one_or_two_arguments(name):
    x = images(4, (6, 6, 1), 0)
    kernel_fn = compiled(build, ARCHITECTURES[name], "ntk", "float64")[0]
    k = np.asarray(kernel_fn(x))
    np.testing.assert_allclose(k, k.T, rtol=1e-13)
    np.testing.assert_allclose(k, kernel_fn(x, x), rtol=1e-13)
    assert np.linalg.eigvalsh(k).min() > 0


def test_without_bias_the_kernel_scales_with_either_image():
    x1, x2 = images(2, (6, 6, 1), 0), images(2, (6, 6, 1), 1)
    kernel_fn = jax.jit(build(convnet(depth=2, b_std=0.0)))
    for scale in (1e-8, 1e-3, 255.0):  # 1e-8 squared twice is below float32's smallest number
        np.testing.assert_allclose(kernel_fn(scale * x1, 2 * x2), 2 * scale * kernel_fn(x1, x2), rtol=2e-6)


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 3, 2)])
def test_an_image_by_itself_has_the_closed_form_of_a_fully_connected_kernel(shape):
    """Where both are one image each ReLU halves covariance and tangent kernel."""
    kernel_fn = jax.jit(build(fc(depth=2, w_std=1.3, b_std=0.02), "ntk", "float64"))
    for x in np.random.default_rng(0).normal(size=(100, 1, *shape)):
        nngp, ntk = np.mean(x**2), 0.0
        for share in (1.0, 0.5, 0.5):
            nngp, ntk = 1.69 * share * nngp + 0.0004, 1.69 * share * ntk
            ntk += nngp
        np.testing.assert_allclose(kernel_fn(x, x), ntk, rtol=2e-14)
        np.testing.assert_allclose(kernel_fn(x, 2 * x), kernel_fn(2 * x, x), rtol=2e-14)


def test_a_mirrored_pair_has_the_same_kernel():
    x1, x2 = images(2, (5, 6, 2), 0), images(2, (5, 6, 2), 1)
    kernel_fn = jax.jit(build(convvec(depth=3), "ntk", "float64"))
    np.testing.assert_allclose(kernel_fn(x1[:, :, ::-1], x2[:, :, ::-1]), kernel_fn(x1, x2), rtol=1e-12)


def test_float32_works_without_the_x64_flag_and_float64_refuses():
    with jax.enable_x64(False):
        assert build(convnet(depth=1))(np.ones((1, 4, 4, 1))).dtype == jnp.float32
        with pytest.raises(checks.UserError, match="float64 needs JAX's x64 flag"):
            build(convnet(depth=1), "ntk", "float64")


def test_refusals_name_what_came():
    with pytest.raises(checks.UserError, match="kind: expected one of ntk, nngp, got 'ntK'"):
        build(fc(depth=1), "ntK")
    with pytest.raises(checks.UserError, match="6x6 is too small for 3 pools, which need 8x8"):
        build(convnet())(np.ones((1, 6, 6, 1)))
    with pytest.raises(checks.UserError, match="expected one Flatten or GlobalAvgPool"):
        build((Conv(3), Relu()))
    for build_any in (build, neural_tangents.build):
        with pytest.raises(checks.UserError, match="got 'tanh'; another kind needs its rules in"):
            build_any((Conv(3), "tanh", Flatten(), Dense()))
        with pytest.raises(checks.UserError, match=r"expected a tuple of layers, got Conv\(size=3"):
            build_any(Conv(3))
        with pytest.raises(checks.UserError, match="expected one flat tuple of layers"):
            build_any(((Conv(3), Relu()), Flatten(), Dense()))
    with pytest.raises(checks.UserError, match=r"\(2, 6, 6, 1\) and \(2, 6, 5, 1\)"):
        build(fc(depth=1))(np.ones((2, 6, 6, 1)), np.ones((2, 6, 5, 1)))
    with pytest.raises(checks.UserError, match="depth: expected an integer >= 0, got -1"):
        convnet(depth=-1)
    with pytest.raises(checks.UserError, match="depth: expected one of 5, 7, 10, got 6"):
        myrtle(depth=6)
    with pytest.raises(checks.UserError, match="odd"):
        Conv(4)


def test_the_papers_layers():
    assert len(convnet()) == 2 + 3 * 3 + 2
    convolutions = {depth: sum(isinstance(layer, Conv) for layer in myrtle(depth=depth)) for depth in (5, 7, 10)}
    assert convolutions == {5: 4, 7: 6, 10: 9}
    assert convnet(depth=2, prepend_conv=False) == convnet(depth=2)[2:]


@pytest.mark.parametrize("architecture", [fc(depth=3), convvec(depth=2), convnet(depth=1)])
def test_memory_of_neural_tangents_is_about_what_xla_takes(allow_rank_promotion, architecture):
    kernel_fn, x = neural_tangents.build(architecture), jnp.zeros((64, 8, 8, 1), "float32")
    gradient = jax.jit(jax.grad(lambda x1, x2: kernel_fn(x1, x2).sum()))
    taken = gradient.lower(x, x).compile().memory_analysis().temp_size_in_bytes
    assert 0.5 < taken / 64**2 / kernel_fn.pair_bytes((8, 8, 1)) < 2
