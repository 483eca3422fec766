"""One contract, run over every engine: the numbers of the dense kernel, for any sizes, compiled once."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kipx import checks
from kipx.architecture import convnet, fc
from kipx.engine import blocks, blockwise, dense, sharded
from kipx.kernel import build, neural_tangents


def over_devices(n, **options):
    """Builds a sharded engine over the first n of the devices."""

    def make(kernel_fn):
        found = jax.devices()[:n]
        with mock.patch.object(jax, "devices", lambda: found):
            return sharded.build(kernel_fn, **options)

    return make


ENGINES = {
    "dense": dense.build,
    "blockwise": lambda kernel_fn: blockwise.build(kernel_fn, block_size=(3, 2)),
    "blockwise, one block": lambda kernel_fn: blockwise.build(kernel_fn, block_size=(64, 64)),
    "blockwise, wide": lambda kernel_fn: blockwise.build(kernel_fn, block_size=(1, 4)),
    "sharded, one device": over_devices(1),
    "sharded, two devices": over_devices(2, block_size=(3, 2)),
    "sharded, four devices": over_devices(4),
}
KERNEL = jax.jit(build(fc(depth=2), "ntk", "float64"))  # engines do not look inside; test_objective has a ConvNet


def images(n, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, 4, 4, 1)))


@pytest.fixture(params=ENGINES)
def engine(request):
    return ENGINES[request.param](KERNEL)


@jax.jit
def one_sided(x1, x2, cotangent):
    """The kernel and its gradient by autodiff, compiled once a size for all engines."""
    k, pull = jax.vjp(lambda x: KERNEL(x1, x), x2)
    return k, pull(cotangent)[0]


@jax.jit
def symmetric(x, cotangent):
    k, pull = jax.vjp(KERNEL, x)
    return k, pull(cotangent)[0]


@pytest.mark.parametrize(("n1", "n2"), [(2, 1), (3, 2), (4, 3), (16, 11)])  # block - 1, block, + 1, 5 block + 1
def test_gram_and_vjp_equal_autodiff_of_the_kernel(engine, n1, n2):
    x1, x2, ct = images(n1, 0), images(n2, 1), jnp.asarray(np.random.default_rng(2).normal(size=(n1, n2)))
    k, gradient = one_sided(x1, x2, ct)
    np.testing.assert_allclose(engine.gram(x1, x2), k, rtol=1e-13)
    np.testing.assert_allclose(engine.vjp(x1, x2, ct), gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("n1", "n2"), [(1, 1), (3, 2), (4, 3), (7, 11)])
def test_the_jacobian_has_the_gradient_of_each_entry(engine, n1, n2):
    x1, x2 = images(n1, 0), images(n2, 1)
    k, found = engine.with_jacobian(x1, x2)
    np.testing.assert_allclose(k, engine.gram(x1, x2), rtol=1e-13)
    assert found.shape == (n1, n2, *x2.shape[1:])
    for i, j in np.ndindex(n1, n2):
        _, gradient = one_sided(x1[i : i + 1], x2[j : j + 1], jnp.ones((1, 1)))
        np.testing.assert_allclose(found[i, j], gradient[0], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 3, 11])
def test_symmetric_gram_and_vjp_of_a_cotangent_that_is_not(engine, n):
    x, ct = images(n, 0), jnp.asarray(np.random.default_rng(2).normal(size=(n, n)))
    k, expected = symmetric(x, ct)
    np.testing.assert_allclose(engine.gram(x), k, rtol=1e-13)
    gradient = engine.vjp(x, None, ct)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(gradient, engine.vjp(x, x, ct + ct.T), rtol=1e-9, atol=1e-13)


def test_a_second_call_compiles_nothing(engine, compiled):
    for seed in (0, 1):
        x1, x2, ct = images(7, seed), images(5, seed + 2), jnp.ones((7, 5))
        before = len(compiled)
        engine.gram(x1, x2), engine.vjp(x1, x2, ct), engine.with_jacobian(x1, x2)
    assert before > 0
    assert len(compiled) == before


@pytest.mark.parametrize("name", ENGINES)
def test_an_equal_kernel_is_compiled_already(name, compiled):
    """The jobs of a sweep share a process, and build their kernels and engines anew."""
    x, ct = images(6, 0), jnp.ones((6, 6))
    for again in (False, True):
        engine = ENGINES[name](build(fc(depth=3, w_std=1 + len(name) / 100), "ntk", "float64"))  # nobody else's
        compiled.clear()
        engine.gram(x), engine.vjp(x, None, ct)
        assert (len(compiled) == 0) == again


def test_float32_kernels_take_float64_cotangents(request):
    for make in ENGINES.values():
        gradient = make(jax.jit(build(fc(depth=2))))
        x = images(3, 0).astype(jnp.float32)
        assert gradient.vjp(x, None, jnp.ones((3, 3))).dtype == jnp.float32


def test_blockwise_holds_few_gradients_at_a_time():
    """Arrays in the shape of a block's gradient that live while the 100 blocks of one column are pulled back."""
    alive = []

    def watched(x1, x2):
        jax.debug.callback(lambda: alive.append(sum(a.shape == (4, 4, 4, 1) for a in jax.live_arrays())))
        return KERNEL(x1, x2)

    engine = blockwise.build(watched, block_size=(3, 4))
    before = sum(a.shape == (4, 4, 4, 1) for a in jax.live_arrays())
    engine.vjp(images(300, 0), images(4, 1), jnp.ones((300, 4))).block_until_ready()
    assert len(alive) == 100
    assert max(alive) - before <= 8  # the block, its set, and one or two of term, sum and result


def test_refusals(engine):
    x = images(3, 0)
    with pytest.raises(checks.UserError, match=r"none of them 0, got \(0, 4, 4, 1\)"):
        engine.gram(x[:0])
    with pytest.raises(checks.UserError, match=r"expected a cotangent \(3, 2\), got \(2, 3\)"):
        engine.vjp(x, x[:2], jnp.ones((2, 3)))
    with pytest.raises(checks.UserError, match=r"got \(3, 4, 4, 1\) and \(3, 4, 2, 1\)"):
        engine.gram(x, x[:, :, :2])
    with pytest.raises(checks.UserError, match=r"none of them 0, got \(3, 4, 4, 1\) and \(0, 4, 4, 1\)"):
        engine.with_jacobian(x, x[:0])
    for other in (x.astype("uint8"), x.astype("bfloat16"), x.astype(bool)):
        with pytest.raises(checks.UserError, match=r"float32 or float64 images, .* got (uint8|bfloat16|bool); convert"):
            engine.vjp(x, other, jnp.ones((3, 3)))
        with pytest.raises(checks.UserError, match="float32 or float64 images"):
            engine.vjp(other, None, jnp.ones((3, 3)))


def test_images_that_nothing_is_differentiated_by_may_be_integers(engine):
    bytes_, x = jnp.arange(48, dtype="uint8").reshape(3, 4, 4, 1), images(2, 1)
    as_floats = bytes_.astype(float)
    np.testing.assert_array_equal(engine.gram(bytes_), engine.gram(as_floats))
    ct = jnp.ones((3, 2))
    np.testing.assert_array_equal(engine.vjp(bytes_, x, ct), engine.vjp(as_floats, x, ct))


@pytest.mark.parametrize("name", ["blockwise", "sharded, two devices"])
def test_lists_are_refused(name):
    engine, x = ENGINES[name](KERNEL), images(1, 0)
    for call in (lambda: engine.gram(x.tolist()), lambda: engine.vjp(x, x, [[1.0]])):
        with pytest.raises(checks.UserError, match="engine: expected arrays, got"):
            call()


def test_tiles_are_dealt_out_evenly():
    for n, devices in ((1, 4), (10, 2), (33, 4), (500, 8)):
        x = jnp.zeros((n, 1, 1, 1))
        blocks, i, j = sharded._dealt(x, 32, devices)
        assert len(i) % devices == 0
        assert {(a, b) for a, b in zip(i, j, strict=True)} == {(a, b) for b in range(len(blocks)) for a in range(b + 1)}
        assert len(i) * blocks.shape[1] ** 2 < 0.85 * n**2 or n < 33  # two thirds of the whole matrix, or little more


@pytest.mark.parametrize("block_size", [3, (3,), (0, 3), (2.5, 3), "33"])
@pytest.mark.parametrize("build_engine", [blockwise.build, sharded.build])
def test_other_block_sizes_are_refused(build_engine, block_size):
    with pytest.raises(checks.UserError, match=r"engine\.block_size: expected"):
        build_engine(KERNEL, block_size=block_size)


@pytest.mark.parametrize(
    ("kernel_fn", "size"),
    [
        (build(convnet()), 32),  # pair by pair: a larger block only wastes half of the symmetric matrix
        (build(fc(depth=1)), 512),
        (neural_tangents.build(convnet()), 2),  # 100 MB a pair
        (lambda x1, x2=None: None, 16),  # of which nothing is known
    ],
)
def test_blocks_on_a_cpu_are_as_large_as_serves(kernel_fn, size):
    assert blocks.fitting_size(kernel_fn, (28, 28, 1)) == (size, size)
