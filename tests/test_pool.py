"""The pool on a Ray of its own: the bits of `blockwise`, whatever happens to the workers."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kipx import checks
from kipx.architecture import fc
from kipx.engine import blockwise, workers
from kipx.engine import pool as pool_engine
from kipx.kernel import build

ray = pytest.importorskip("ray")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster
KERNEL = build(fc(depth=2), "ntk", "float32")
BLOCK = (3, 2)
SLOW = pytest.mark.slow
_crew = []


def images(n, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, 4, 4, 1)), "float32")


def pool(kernel_fn):
    """The process's crew, and an engine on it; the crew stays, since workers take seconds to come up."""
    crew = workers.crew(None, 1)
    _crew[:] = [crew]  # which the process itself holds weakly
    return crew, blockwise.over(crew.place(blockwise.functions(kernel_fn)), kernel_fn, BLOCK)


@pytest.fixture
def own_crew():
    """For tests that leave workers or nodes otherwise than they found them."""
    _crew.clear()
    yield
    _crew.clear()


def slowly():
    """A kernel of 0.1 s a block; not of the module's own, which workers cannot import."""

    def slow(x1, x2):
        jax.debug.callback(lambda: time.sleep(0.1))
        return KERNEL(x1, x2)

    return slow


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Ray with three nodes of one core, all of them on this machine, whatever it has."""
    with pytest.MonkeyPatch.context() as patch:
        ray.shutdown()  # of a test before
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield cluster
        _crew.clear()
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.parametrize(("n1", "n2"), [(1, 1), (7, 5), (2, 3), (16, 11)])
def test_the_bits_are_those_of_blockwise(n1, n2):
    _, engine = pool(KERNEL)
    alone = blockwise.build(KERNEL, block_size=BLOCK)
    x1, x2 = images(n1, 0), images(n2, 1)
    ct, ct_own = (jnp.asarray(np.random.default_rng(n1).normal(size=(n1, n))) for n in (n2, n1))
    same(engine.gram(x1, x2), alone.gram(x1, x2))
    same(engine.gram(x1), alone.gram(x1))
    same(engine.vjp(x1, x2, ct), alone.vjp(x1, x2, ct))
    for ours, theirs in zip(engine.with_jacobian(x1, x2), alone.with_jacobian(x1, x2), strict=True):
        same(ours, theirs)
    same(engine.vjp(x1, None, ct_own), alone.vjp(x1, None, ct_own))


@pytest.mark.slow
def test_engines_of_several_kernels_share_the_workers():
    kernels = [build(fc(depth=depth), "ntk", "float32") for depth in (1, 3)]
    engines = [pool_engine.build(kernel_fn, block_size=BLOCK) for kernel_fn in kernels]
    x1, x2 = images(7, 0), images(5, 1)
    for engine, kernel_fn in zip(engines * 2, kernels * 2, strict=True):
        alone = blockwise.build(kernel_fn, block_size=BLOCK)
        same(engine.gram(x1, x2), alone.gram(x1, x2))
        same(engine.vjp(x1, None, jnp.ones((7, 7))), alone.vjp(x1, None, jnp.ones((7, 7))))


@pytest.mark.parametrize("direction", [pytest.param("gram", marks=SLOW), "vjp"])
def test_a_killed_worker_changes_no_bit(direction):
    crew, engine = pool(slowly())
    alone = blockwise.build(KERNEL, block_size=BLOCK)
    arguments = (images(12, 0), images(8, 1)) + ((jnp.ones((12, 8)),) if direction == "vjp" else ())
    killed = []

    def kill():
        killed.append(next(iter(crew.pids.values())))
        os.kill(killed[0], signal.SIGKILL)

    engine.gram(images(3, 0))  # brings the workers up
    threading.Timer(0.5, kill).start()
    same(getattr(engine, direction)(*arguments), getattr(alone, direction)(*arguments))
    assert killed, "the pass was over before"
    assert killed[0] not in crew.pids.values()


@pytest.mark.slow
def test_nodes_leave_and_join_in_mid_pass(cluster, own_crew):
    crew, engine = pool(slowly())
    x1, x2, ct = images(24, 0), images(12, 1), jnp.ones((24, 12))  # 48 blocks
    engine.gram(x1, x2)
    nodes = {node for node, _ in crew.workers}
    assert len(nodes) == 3
    with ThreadPoolExecutor(1) as background:
        passes = background.submit(lambda: [engine.vjp(x1, x2, ct) for _ in range(5)])
        time.sleep(0.3)
        cluster.remove_node(cluster.list_all_nodes()[-1])
        cluster.add_node(num_cpus=1)
        gradients = passes.result()
    expected = blockwise.build(KERNEL, block_size=BLOCK).vjp(x1, x2, ct)
    for gradient in gradients:
        same(gradient, expected)
    ends = time.monotonic() + 60
    while len(crew.workers) < 3 and time.monotonic() < ends:
        engine.gram(x1, x2)
    assert len(nodes & {node for node, _ in crew.workers}) == 2


@pytest.mark.slow
def test_a_node_with_a_gpu_is_one_worker_among_those_of_cores(cluster, own_crew):
    """The node only says so, and its worker computes on a core: what is tested is where blocks go."""
    node = cluster.add_node(num_cpus=2, num_gpus=1)
    try:
        crew, engine = pool(slowly())
        x1, x2, ct = images(12, 0), images(8, 1), jnp.ones((12, 8))
        ends = time.monotonic() + 60
        while len(crew.workers) < 4 and time.monotonic() < ends:
            gradient = engine.vjp(x1, x2, ct)
        assert len(crew.workers) == 4
        assert [slot for slot in crew.workers if slot[0] == node.node_id] == [(node.node_id, 0)]
        np.testing.assert_allclose(gradient, blockwise.build(KERNEL, block_size=BLOCK).vjp(x1, x2, ct), rtol=1e-5)
    finally:
        cluster.remove_node(node)


def test_a_block_at_a_slow_worker_is_computed_by_an_idle_one_too(tmp_path, own_crew):
    path = tmp_path / "first"

    def uneven(x1, x2):
        def wait():
            try:
                path.touch(exist_ok=False)
                time.sleep(90)
            except FileExistsError:
                time.sleep(0.05)

        jax.debug.callback(wait)
        return KERNEL(x1, x2)

    _, engine = pool(uneven)
    x1, x2 = images(12, 0), images(8, 1)
    began = time.monotonic()
    same(engine.gram(x1, x2), blockwise.build(KERNEL, block_size=BLOCK).gram(x1, x2))
    assert time.monotonic() - began < 80  # the first block alone takes 90 s


def test_a_worker_that_raises_stops_the_run_and_names_the_block():
    def failing(x1, x2):
        jax.debug.callback(lambda big: 1 / 0 if big else None, (x1 > 50).any())
        return KERNEL(x1, x2)

    _, engine = pool(failing)
    x1 = images(9, 0).at[7].set(99)  # in the third block of three images
    with pytest.raises(checks.EngineError, match=r"worker \d+ failed at block 2 of images \(3, 4, 4, 1\) and \(2, 4"):
        engine.gram(x1, images(2, 1))
    same(engine.gram(x1[:6], images(2, 1)), blockwise.build(KERNEL, block_size=BLOCK).gram(x1[:6], images(2, 1)))


def test_a_block_that_is_not_a_number_is_computed_again(tmp_path):
    path = tmp_path / "once"

    def broken(x1, x2):
        def first():
            bad = not path.exists()
            path.touch()
            return np.float32(np.nan if bad else 0)

        return KERNEL(x1, x2) + jax.pure_callback(first, jax.ShapeDtypeStruct((), "float32"))

    _, engine = pool(broken)
    x1, x2 = images(12, 0), images(8, 1)
    same(engine.gram(x1, x2), blockwise.build(KERNEL, block_size=BLOCK).gram(x1, x2))
    assert path.exists()


@pytest.mark.slow
def test_what_is_never_a_number_is_handed_on():
    _, engine = pool(lambda x1, x2: KERNEL(x1, x2) * jnp.nan)
    assert np.isnan(engine.gram(images(3, 0), images(2, 1))).all()


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_run(monkeypatch, own_crew):
    class Unloadable(workers.Worker):
        def __init__(self, *_):
            raise ImportError("no kipx here")

    monkeypatch.setattr(workers, "Worker", Unloadable)
    _, engine = pool(KERNEL)
    with pytest.raises(checks.EngineError, match="no worker of the pool answers"):
        engine.gram(images(3, 0))


@pytest.mark.slow
def test_nothing_is_left_behind(tmp_path):
    """A run of its own: no process, no file in the home folder, no temporary folder."""
    command = [sys.executable, "-c", "from kipx.cli import main; main()", "distill", "engine=pool", "kernel=fc"]
    command += ["kernel.depth=1", "steps=1", "baseline.draws=0", "hydra.run.dir=run", "target.batch_size=20"]
    (tmp_path / "home").mkdir()
    with tempfile.TemporaryDirectory(prefix="kipx-") as temporary:  # tmp_path is too long for Ray's sockets
        environment = {**os.environ, "HOME": str(tmp_path / "home"), "TMPDIR": temporary}
        environment.pop("RAY_ADDRESS", None)
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        assert not [path for path in pathlib.Path(temporary).iterdir() if "ray" in path.name]
        assert not subprocess.run(["pgrep", "-f", temporary], capture_output=True, text=True).stdout
    assert not [*(tmp_path / "home").glob("**/*ray*")]
