"""The compiled loops against plain JAX in double precision, on shapes where every index matters."""

import importlib.util
import subprocess
import sys
import tracemalloc
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kipx.kernel
from kipx import machine
from kipx.architecture import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Relu, convnet, convvec, myrtle
from kipx.kernel import build, compiled, one_by_one, plain, plan, planes

CASES = {
    "convnet": (convnet(depth=2), (9, 7, 3)),
    "even sides": (convnet(depth=1), (6, 8, 1)),
    "convvec": (convvec(depth=2), (5, 4, 2)),
    "myrtle": (myrtle(depth=5), (8, 5, 1)),
    "every offset": (myrtle(depth=5), (8, 8, 2)),
    "every offset, other windows and pools": (
        (Conv(5), Relu(), AvgPool(3), Conv(3), Relu(), Conv(3), GlobalAvgPool(), Dense()),
        (6, 12, 1),
    ),
    "other windows and pools": (
        (Conv(5), Relu(), Conv(1), AvgPool(3), Dense(1.2, 0.3), Relu(), Flatten(), Dense()),
        (8, 10, 6),
    ),
    "no layer between": ((AvgPool(2), AvgPool(2), Relu(), Relu(), GlobalAvgPool()), (9, 8, 2)),
    "no bias": ((Conv(3, 1.4, 0.0), Relu(), Conv(3, 1.4, 0.0), Relu(), AvgPool(2), Flatten()), (4, 6, 1)),
    "no relu": ((Conv(3), AvgPool(2), Flatten(), Dense()), (4, 4, 1)),
    "one pixel": (convvec(depth=2), (1, 1, 3)),
    "relu behind the mean": (
        (Conv(3), Relu(), AvgPool(2), Flatten(), Dense(1.2, 0.3), Relu(), Dense(), Relu(), Dense()),
        (4, 6, 2),
    ),
    "relu at the end": ((Conv(3), Relu(), AvgPool(2), GlobalAvgPool(), Relu()), (5, 4, 1)),
}


def images(shape, n, seed):
    """Random images, the first of them blank but for a corner."""
    x = np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)
    x[0, 1:] = 0
    return x


def value_and_gradients(kernel_fn, x1, x2, cotangent):
    k, pull = jax.vjp(kernel_fn, x1, x2)
    return k, pull(jnp.asarray(cotangent, k.dtype))


@lru_cache
def exact(name, kind="ntk"):
    """(x1, x2, cotangent) -> value and gradients by plain JAX in double precision, compiled once for all tests."""
    kernel_fn = partial(plain.gram, CASES[name][0], kind)
    whole = jax.jit(lambda *arguments: value_and_gradients(kernel_fn, *arguments))
    return lambda *arguments: whole(*(jnp.asarray(x, "float64") for x in arguments))


def random_architecture(rng):
    """An architecture with a global average pool, and the size of an image for it."""
    layers, sides = [], rng.integers(1, 5, size=2)
    for _ in range(rng.integers(1, 4)):
        for _ in range(rng.integers(0, 3)):
            layers += [Conv(int(rng.choice([1, 3, 5, 7])), 1.3, float(rng.choice([0, 0.3]))), Relu()]
        if rng.random() < 0.7:
            layers.append(AvgPool(int(rng.choice([2, 2, 3]))))
            sides = sides * layers[-1].size
    return (*layers, GlobalAvgPool(), Dense()), np.minimum(sides + rng.integers(0, 2, size=2), 27)


@pytest.mark.parametrize("seed", range(20))
def test_planes_that_share_their_columns_change_nothing(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    architecture, sides = random_architecture(rng)
    x1, x2 = (rng.normal(size=(n, *sides, 2)).astype(np.float32) for n in (2, 3))
    ct, plans = rng.normal(size=(2, 2, 3)).astype(np.float32), compiled._plans

    def alone(*arguments):
        apart = [one and one._replace(stages=one.stages.copy()) for one in plans(*arguments)]
        for one in filter(None, apart):
            one.stages["wraps"] = 0
        return [one and one._replace(masks=plan._masks(one.stages)) for one in apart]

    def computed():
        return compiled._gram(architecture, 2, x1, x2), *compiled._vjp(architecture, 2, True, x1, x2, ct)

    shared = computed()
    monkeypatch.setattr(compiled, "_plans", alone)
    for found, expected in zip(shared, computed(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


PRECISIONS = {"float32": (2e-6, 1e-4), "float64": (1e-13, 1e-11)}  # of values, of gradients


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_plain_jax_in_float64(name, kind, dtype):
    architecture, shape = CASES[name]
    x1, x2 = images(shape, 3, 0), images(shape, 2, 1)
    x2[1] = x1[2]
    cotangent = np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)
    assert kipx.kernel._mean(architecture, dtype, shape) is compiled
    kernel_fn, (value, gradient) = build(architecture, kind, dtype), PRECISIONS[dtype]
    k, gradients = value_and_gradients(kernel_fn, x1.astype(dtype), x2.astype(dtype), cotangent)
    k64, gradients64 = exact(name, kind)(x1, x2, cotangent)
    assert k.dtype == dtype
    rounding = value / 20 * float(jnp.abs(k64).max())  # without ReLU some cancel
    np.testing.assert_allclose(k, k64, rtol=value, atol=rounding)
    for g, g64 in zip(gradients, gradients64, strict=True):
        np.testing.assert_allclose(g, g64, rtol=gradient, atol=gradient / 10 * float(jnp.abs(g64).max()))


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_each_pair_is_that_of_plain_jax_in_float64(name, kind):
    architecture, shape = CASES[name]
    x1, x2 = images(shape, 3, 0), images(shape, 2, 1)
    x2[1] = x1[2]
    k, jacobian = build(architecture, kind, "float64").with_jacobian(x1, x2)
    for i, j in np.ndindex(3, 2):
        one = np.zeros((3, 2))
        one[i, j] = 1
        k64, (_, gradient) = exact(name, kind)(x1, x2, one)
        np.testing.assert_allclose(jacobian[i, j], gradient[j], rtol=1e-11, atol=1e-12 * float(jnp.abs(gradient).max()))
    np.testing.assert_allclose(k, k64, rtol=1e-13, atol=5e-15 * float(jnp.abs(k64).max()))


def test_all_pairs_at_once_have_the_bits_of_one_by_one():
    architecture, shape = CASES["convnet"]
    x1, x2 = images(shape, 7, 0), images(shape, 18, 1)
    kernel_fn = build(architecture)
    for ours, slow in zip(kernel_fn.with_jacobian(x1, x2), one_by_one(kernel_fn, x1, x2), strict=True):
        np.testing.assert_array_equal(ours, slow)


def test_gradient_of_one_side_is_that_of_both_sides():
    architecture, shape = CASES["convnet"]
    x1, x2 = images(shape, 5, 0), images(shape, 3, 1)
    kernel_fn = build(architecture)
    ct = jnp.ones((5, 3), "float32")
    both = jax.vjp(kernel_fn, x1, x2)[1](ct)
    np.testing.assert_array_equal(jax.vjp(lambda x: kernel_fn(x1, x), x2)[1](ct)[0], both[1])
    np.testing.assert_allclose(jax.vjp(lambda x: kernel_fn(x, x2), x1)[1](ct)[0], both[0], rtol=1e-6, atol=1e-7)


def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr(compiled, "SMALL", 1)  # else one thread does it all
    architecture, shape = CASES["convnet"]
    x1, x2 = images(shape, 21, 0), images(shape, 18, 1)
    results = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        summed = value_and_gradients(build(architecture), x1, x2, np.ones((21, 18)))
        results.append([summed[0], *summed[1], *build(architecture).with_jacobian(x1, x2)])
    for result in results[1:]:
        for array, first in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(array, first)


def test_under_jit_map_and_vmap():
    architecture, shape = CASES["convnet"]
    x = images(shape, 4, 0)
    kernel_fn = build(architecture)
    rows = [kernel_fn(x[i : i + 1], x)[0] for i in range(4)]
    np.testing.assert_array_equal(jax.jit(lambda x: jax.lax.map(lambda a: kernel_fn(a[None], x)[0], x))(x), rows)
    np.testing.assert_array_equal(jax.vmap(lambda a: kernel_fn(a[None], x)[0])(x), rows)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_scale_of_the_images_costs_no_precision_without_bias(scale):
    architecture, shape = CASES["no bias"]
    x1, x2 = scale * images(shape, 3, 0), scale * images(shape, 2, 1)
    k, gradients = value_and_gradients(build(architecture), x1, x2, np.ones((3, 2)))
    k64, gradients64 = exact("no bias")(x1, x2, np.ones((3, 2)))
    assert float(jnp.abs(k - k64).max() / jnp.abs(k64).max()) < 1e-5
    for g, g64 in zip(gradients, gradients64, strict=True):
        assert float(jnp.linalg.norm(g - g64) / jnp.linalg.norm(g64)) < 1e-4


def nearly_parallel(shape):
    """Pairs of sets whose patches differ by little: in length alone, beside the bias, and next to each other."""
    x1, x2 = np.random.default_rng(0).normal(size=(2, 3, *shape))
    flat = np.broadcast_to(x1[:, :1, :1], x1.shape), np.broadcast_to(x2[:, :1, :1], x2.shape)
    pairs = {"constant": flat, "small": (1e-3 * x1, 1e-3 * x2), "close": (x1, x1 + 1e-2 * x2)}
    return {name: [x.astype(np.float32) for x in pair] for name, pair in pairs.items()}


@pytest.mark.parametrize("case", ["constant", "small", "close"])
@pytest.mark.parametrize("name", ["convnet", "myrtle"])
def test_nearly_parallel_patches_are_told_apart(name, case):
    architecture, shape = CASES[name]
    x1, x2 = nearly_parallel(shape)[case]
    x2, cotangent = x2[:2], np.eye(3, 2) - 0.2
    k, gradients = value_and_gradients(build(architecture), x1, x2, cotangent)
    k64, gradients64 = exact(name)(x1, x2, cotangent)
    np.testing.assert_allclose(k, k64, rtol=1e-6)
    for g, g64 in zip(gradients, gradients64, strict=True):
        assert float(jnp.linalg.norm(g - g64) / jnp.linalg.norm(g64)) < 1e-5


def test_without_numba_plain_jax_takes_over(monkeypatch):
    architecture, shape = CASES["even sides"]
    x = images(shape, 3, 0)
    fast = build(architecture)(x)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert kipx.kernel._mean(architecture, "float32", shape) is None
    np.testing.assert_allclose(jax.jit(lambda x: build(architecture)(x))(x), fast, rtol=1e-6)  # traced anew


@pytest.mark.parametrize("apart", [1e-2, 1e-4])
def test_a_relu_behind_the_mean_tells_nearly_equal_images_apart(apart):
    architecture, shape = CASES["relu behind the mean"]
    x1 = images(shape, 3, 0)
    x2 = x1 + np.float32(apart) * images(shape, 3, 1)
    cotangent = np.random.default_rng(2).normal(size=(3, 3))
    k, gradients = exact("relu behind the mean")(x1, x2, cotangent)
    k32, gradients32 = jax.jit(partial(value_and_gradients, build(architecture)))(x1, x2, cotangent)
    np.testing.assert_allclose(k32, k, rtol=1e-6)
    for found, expected in zip(gradients32, gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-4 * float(jnp.abs(expected).max()))


def test_a_relu_behind_the_mean_is_left_to_plain_jax_without_the_x64_flag():
    architecture, shape = CASES["relu behind the mean"]
    x = images(shape, 3, 0)
    exact = jax.jit(build(architecture, dtype="float64"))(jnp.asarray(x, "float64"))
    with jax.enable_x64(False):
        assert kipx.kernel._mean(architecture, "float32", shape) is None
        np.testing.assert_allclose(jax.jit(build(architecture))(x), exact, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_a_pixel_that_is_no_number_is_seen_in_every_pair_of_its_image(kind, dtype):
    architecture, shape = CASES["even sides"]
    x = images(shape, 3, 0)
    x[1, 3, 4] = np.nan
    np.testing.assert_array_equal(np.isnan(build(architecture, kind, dtype)(x[:1], x)), [[False, True, False]])


TINY_PATCHES = [convvec(depth=1, b_std=0.0), convnet(depth=1, b_std=0.0), myrtle(depth=5, b_std=0.0)]


@pytest.mark.parametrize("architecture", TINY_PATCHES, ids=["convvec", "convnet", "myrtle"])
def test_patches_whose_covariances_underflow_have_a_gradient(architecture):
    x = images((8, 8, 1), 2, 0)
    x[:, :, :4] *= 1e-20
    exact, found = (build(architecture, "ntk", dtype).with_jacobian(x, x)[1] for dtype in ("float64", "float32"))
    np.testing.assert_allclose(found, exact, atol=1e-6 * float(jnp.abs(exact).max()))


EDITS = {
    "constant": ("ONE", np.float32(0.25)),
    "code": ("clear", planes.compiled(planes.copy.py_func)),
    "options": ("clear", planes.compiled(planes.clear.py_func, fastmath=True)),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_loops_are_compiled_anew(edit, monkeypatch):
    before = compiled._fingerprint()
    monkeypatch.setattr(planes, *EDITS[edit])
    assert compiled._fingerprint() != before


def test_loops_that_are_not_edited_are_not(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    command = "from kipx.kernel import compiled; print(compiled._fingerprint())"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert int(done.stdout) == compiled._fingerprint()


def test_memory_of_a_pair_is_known_where_it_counts(monkeypatch):
    kernel_fn = build(convnet(), dtype="float64")
    assert kernel_fn.pair_bytes((32, 32, 3)) == 0
    assert kernel_fn.jacobian_bytes((32, 32, 3)) > 16 * 3 * 32**2
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert kernel_fn.pair_bytes((32, 32, 3)) > 4 * 424**2 * 8
    assert kernel_fn.jacobian_bytes((32, 32, 3)) == 0  # images one by one


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_of_a_pair_with_its_gradient_is_what_is_allocated(dtype, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 1)  # each has its own room
    x, ones = np.ones((12, 16, 16, 3), dtype), np.ones((2, 12, 12), dtype)
    compiled._each(convnet(), 2, x[:1], x[:1], ones[:, :1, :1])  # compiles
    tracemalloc.start()
    compiled._each(convnet(), 2, x, x, ones)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most / 144 == pytest.approx(compiled.jacobian_bytes(convnet(), (16, 16, 3), dtype), rel=0.1)
