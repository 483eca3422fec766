"""The GPU's kernels, run on the CPU thread by thread, against the compiled loops and plain JAX in double precision."""

import sys
import types

import emulated
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kipx.kernel
from kipx.architecture import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Relu, convnet, convvec, fc, myrtle
from kipx.kernel import build, fused, gpu, stages

needs_compiler = pytest.mark.skipif(emulated.COMPILER is None, reason="needs a C++ compiler, as c++")
slow = pytest.mark.slow
CASES = {
    "threads left over": ((*(Conv(3), Relu()) * 2, AvgPool(2), GlobalAvgPool(), Dense()), (4, 7, 1)),
    "one pool": (convnet(depth=1), (4, 6, 1)),
    "odd sides": (convnet(depth=2), (7, 9, 3)),
    "no convolution first": (convnet(depth=2, prepend_conv=False), (8, 8, 2)),
    "no pool": (convvec(depth=3), (5, 6, 1)),
    "every offset": (myrtle(depth=5), (8, 7, 1)),
    "three layers between pools": (myrtle(depth=10), (8, 8, 1)),
}


@pytest.fixture
def emulation(monkeypatch):
    monkeypatch.setattr(gpu, "on", emulated.on)
    monkeypatch.setattr(gpu, "compiled", emulated.compiled)


def on_gpu(architecture, kind="ntk"):
    """The kernel as a GPU computes it."""

    def kernel_fn(x1, x2):
        below = fused.build(architecture, kind)(jnp.asarray(x1), jnp.asarray(x2))
        return kipx.kernel.head.kernel(architecture, kind, *below)

    return kernel_fn


def images(shape):
    """Three and four images; of the second ones one is equal to a first one, one zero and one small."""
    rng = np.random.default_rng(0)
    x1, x2 = (rng.normal(size=(n, *shape)).astype(np.float32) for n in (3, 4))
    x2[0], x2[1], x2[2] = x1[1], 0, x2[2] / 1000
    return x1, x2, rng.normal(size=(3, 4))


def differentiated(kernel_fn, x1, x2, cotangent):
    @jax.jit
    def both(x1, x2, cotangent):
        k, pull = jax.vjp(kernel_fn, x1, x2)
        return k, *pull(cotangent.astype(k.dtype))

    return both(x1, x2, cotangent)


def off(found, expected):
    """Largest of the relative errors, each in norm, of a value and its two gradients."""
    return max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in zip(found, expected, strict=True))


@needs_compiler
@pytest.mark.parametrize(("name", "kind"), [("one pool", "ntk"), ("threads left over", "ntk"), ("one pool", "nngp")])
def test_values_and_gradients_are_those_of_the_compiled_loops(emulation, name, kind):
    architecture, shape = CASES[name]
    given = images(shape)
    found, expected = (differentiated(f(architecture, kind), *given) for f in (on_gpu, build))
    assert off(found, expected) < 5e-7


@needs_compiler
@slow
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_plain_jax_in_float64(emulation, name, kind):
    architecture, shape = CASES[name]
    assert stages.supports(architecture, shape)
    x1, x2, cotangent = images(shape)
    expected = differentiated(build(architecture, kind, "float64"), x1.astype(float), x2.astype(float), cotangent)
    assert off(differentiated(on_gpu(architecture, kind), x1, x2, cotangent), expected) < 5e-7


@needs_compiler
def test_any_tiles_give_the_same(emulation, monkeypatch):
    architecture, shape = CASES["one pool"]
    x1, x2, cotangent = images(shape)
    whole = differentiated(on_gpu(architecture), x1, x2, cotangent)
    for pairs in (1, 2, 9):
        monkeypatch.setattr(stages, "SCRATCH_BYTES", pairs * 12 * scratch(architecture, shape))
        monkeypatch.setattr(stages, "PARTS", 2)
        monkeypatch.setattr(stages, "BLOCKS", 1)
        tiled = differentiated(on_gpu(architecture), x1, x2, cotangent)
        assert (tiled[0] == whole[0]).all()
        assert off(tiled, whole) < 1e-7  # gradients are added in other parts


def test_few_images_are_cut_into_as_many_blocks_as_many_are():
    of_convnet = stages.make_stages(convnet(), (32, 32, 3))
    first = of_convnet[0]
    for n1, n2 in ((2000, 1), (500, 10), (500, 100)):
        tiles = stages.make_tiles(of_convnet, n1, n2, pulled=True)
        assert 1000 < tiles.parts_a_tile(first) * tiles.columns <= 3200
        assert tiles.parts_a_tile(first) * tiles.rows_a_block(first) >= tiles.rows


def scratch(architecture, shape):
    return sum(stages.make_tiles(stages.make_stages(architecture, shape), 1, 1, pulled=True).scratch)


@needs_compiler
def test_one_gradient_alone_is_the_same(emulation):
    architecture, shape = CASES["one pool"]
    x1, x2, cotangent = images(shape)
    kernel_fn, cotangent = on_gpu(architecture), jnp.asarray(cotangent, jnp.float32)
    _, *both = differentiated(kernel_fn, x1, x2, cotangent)
    first = jax.jit(lambda x1, x2: jax.vjp(lambda x: kernel_fn(x, x2), x1)[1](cotangent)[0])
    second = jax.jit(lambda x1, x2: jax.vjp(lambda x: kernel_fn(x1, x), x2)[1](cotangent)[0])
    np.testing.assert_array_equal(first(x1, x2), both[0])
    np.testing.assert_array_equal(second(x1, x2), both[1])


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        (convvec(depth=8), (8, 8, 1)),
        (convnet(depth=2), (8, 8, 5)),
        (myrtle(depth=5), (64, 64, 3)),
        (convnet(depth=1), (8, 65, 1)),
        (convnet(), (64, 64, 4)),  # 245,760 bytes of a block's shared memory, of 232,448
        ((Conv(5), Relu(), Flatten(), Dense()), (8, 8, 1)),
        ((Conv(3), AvgPool(2), Flatten(), Dense()), (8, 8, 1)),
        ((Conv(3), Relu(), AvgPool(3), Flatten(), Dense()), (9, 9, 1)),
    ],
)
def test_what_the_kernels_do_not_take_is_left_to_plain_jax(architecture, shape):
    assert not stages.supports(architecture, shape)


@pytest.mark.parametrize(("side", "taken"), [(32, True), (40, False)])
def test_a_card_with_less_shared_memory_takes_smaller_images(side, taken, monkeypatch):
    """8 (5 x 40 x 40 + 4 x 5 x 256) bytes are 104,960, of the 99 KB that a block has on most cards."""
    cards = [types.SimpleNamespace(attributes={"MaxSharedMemoryPerBlockOptin": n * 1024}) for n in (227, 99)]
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 2, CUDARuntimeError=RuntimeError)
    cuda = types.SimpleNamespace(runtime=runtime, Device=cards.__getitem__)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(gpu, "shared_bytes", gpu.shared_bytes.__wrapped__)
    assert stages.supports(convnet(), (side, side, 3)) == taken


@needs_compiler
def test_the_widest_image_is_exact(emulation):
    architecture, (x, *_) = convnet(depth=1), images((2, 64, 1))
    assert stages.supports(architecture, x.shape[1:])
    assert off([on_gpu(architecture)(x[:1], x[1:])], [build(architecture)(x[:1], x[1:])]) < 5e-7


def test_they_are_asked_only_where_they_can_serve(monkeypatch):
    monkeypatch.setattr(kipx.kernel, "MODULES", {"cpu": ("kipx.kernel.fused", "numba")})
    architecture, shape = convnet(), (32, 32, 3)
    assert kipx.kernel._mean(architecture, "float32", shape) is fused
    assert kipx.kernel._mean(architecture, "float64", shape) is None
    assert kipx.kernel._mean(fc(depth=2), "float32", shape) is None
    assert kipx.kernel._mean((*architecture, Relu()), "float32", shape) is None
    with jax.enable_x64(False):
        assert kipx.kernel._mean(architecture, "float32", shape) is None
    monkeypatch.setattr(kipx.kernel, "MODULES", {"cpu": ("kipx.kernel.fused", "a_package_that_is_not_there")})
    assert kipx.kernel._mean(architecture, "float32", shape) is None


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
@pytest.mark.parametrize("architecture", [convnet(), myrtle(depth=5), myrtle(depth=10)])
def test_blocks_of_the_papers_sizes_fit_a_gpu(monkeypatch, architecture, shape):
    asked = []
    monkeypatch.setattr(gpu, "compiled", lambda source, name, threads, shared: asked.append((threads, shared)))
    made = stages.make_stages(architecture, shape)
    for s in range(len(made)):
        for name in ("forward", "backward"):
            fused.launch._kernel.__wrapped__(name, made, s, 2, (2, 1))
    assert all(threads <= 1024 and shared <= 227 * 1024 for threads, shared in asked)
