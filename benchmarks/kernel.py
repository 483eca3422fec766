"""Times kipx's kernel beside neural-tangents', both sides alternating in one process; writes docs/performance.md.

    python benchmarks/kernel.py docs/results/kernel.json docs/performance.md      (`make bench`)

neural-tangents runs in JAX's own default, with x64 off, as it comes; kipx as its entry point runs it. One case also
times neural-tangents with x64 on, where it computes partly in float64 and, on a CPU, faster.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kipx.architecture import convnet, convvec, fc, myrtle
from kipx.kernel import build, neural_tangents
from kipx.machine import cores

# name, architecture, image, images a side of neural-tangents' block and of ours, x64 of neural-tangents
CASES = [
    ("convnet", convnet(), (32, 32, 3), 8, 8, False),
    ("convnet", convnet(), (32, 32, 3), 2, 32, False),
    ("convnet", convnet(), (28, 28, 1), 8, 8, False),
    ("convnet", convnet(), (28, 28, 1), 2, 32, False),
    ("convnet", convnet(), (28, 28, 1), 8, 8, True),
    ("convnet", convnet(), (16, 16, 3), 8, 8, False),
    ("convnet, depth 2", convnet(depth=2), (8, 8, 1), 8, 8, False),
    ("convnet, depth 2", convnet(depth=2), (8, 8, 1), 16, 64, False),
    ("myrtle5", myrtle(depth=5), (32, 32, 3), 2, 8, False),
    ("myrtle5", myrtle(depth=5), (16, 16, 3), 8, 8, False),
    ("convvec8", convvec(depth=8), (32, 32, 3), 32, 32, False),
    ("fc3", fc(depth=3), (32, 32, 3), 256, 256, False),
]
REPEATS = 3


def main(json_path, page_path):
    jax.config.update("jax_enable_x64", True)
    rows = [case(*c) for c in CASES]
    results = {
        "machine": {"processor": processor(), "cores": cores(), "python": platform.python_version()},
        "versions": {"jax": jax.__version__, "neural_tangents": "0.6.5"},
        "matrix_product_gflops": matrix_product(),
        "cases": rows,
        "variants": variants(),
        "compile_s": compile_time(),
        "memory_mb": {n: memory(n) for n in (100, 2000)},
    }
    with open(json_path, "w") as file:
        json.dump(results, file, indent=1)
    write_page(results, page_path)


def case(name, architecture, shape, nt_block, block, x64):
    sides = {
        "kipx": (build(architecture), block, True),
        "neural_tangents": (neural_tangents.build(architecture), nt_block, x64),
    }
    calls = {side: prepared(built, shape, n, flag, warm=side == "kipx") for side, (built, n, flag) in sides.items()}
    times = {(side, op): [] for side in sides for op in ("forward", "vjp")}
    for _ in range(REPEATS):
        for side, op in times:
            times[side, op] += [s / sides[side][1] ** 2 * 1e3 for s in repeated(calls[side][op])]
    row = {"name": name, "image": list(shape), "x64": x64, "block": block, "neural_tangents_block": nt_block}
    for (side, op), values in times.items():
        row[f"{side}_{op}_ms"] = spread(values)
    for op in ("forward", "vjp"):
        row[f"{op}_ratio"] = row[f"neural_tangents_{op}_ms"][1] / row[f"kipx_{op}_ms"][1]
    row["mflop_a_pair"] = operations(architecture, shape) / 1e6
    print(json.dumps(row), flush=True)
    return row


def repeated(call):
    """Seconds of up to fifteen calls, as many as begin within a second."""
    found = [call()]
    while sum(found) < 1 and len(found) < 15:
        found.append(call())
    return found


def prepared(kernel_fn, shape, n, x64, *, warm=True):
    """{op: function that runs it once and returns seconds}, compiled.

    `warm` has run each: the loops of kipx are compiled then. What XLA compiles needs none, and may run for a minute.
    """
    rng = np.random.default_rng(0)
    x1, x2, ct = (jnp.asarray(rng.normal(size=s), "float32") for s in ((n, *shape), (n, *shape), (n, n)))

    def vjp(a, b, c):
        k, pull = jax.vjp(partial(kernel_fn, a), b)
        return pull(c.astype(k.dtype))

    def timed(function, *arguments):
        with jax.enable_x64(x64):
            compiled = jax.jit(function).lower(*arguments).compile()

        def call():
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            return time.perf_counter() - start

        if warm:
            call()
        return call

    return {"forward": timed(kernel_fn, x1, x2), "vjp": timed(vjp, x1, x2, ct)}


def operations(architecture, shape):
    """Floating-point operations of one pair, forward: of every layer, on the pairs of positions that kipx keeps."""
    from kipx.architecture import AvgPool, Conv, Relu
    from kipx.kernel.layers import place

    total = 0
    for layer, bands in place(architecture, shape[:2], radius=0):
        entries = np.prod([len(band.first) for band in bands])
        taps = 2 * (layer.size - 1) + 2 if isinstance(layer, Conv) else 0
        total += entries * {Relu: 27, Conv: 2 * taps + 1, AvgPool: 3}.get(type(layer), 0)
    return int(total)


def variants():
    """Median ms a pair of the tangent kernel, the covariance alone, and float64; 8 x 8 pairs of 28x28x1."""
    made = {"ntk": build(convnet()), "nngp": build(convnet(), "nngp"), "float64": build(convnet(), dtype="float64")}
    calls = {name: prepared(kernel_fn, (28, 28, 1), 8, True) for name, kernel_fn in made.items()}
    times = {(name, op): [] for name in calls for op in ("forward", "vjp")}
    for _ in range(15):
        for name, op in times:
            times[name, op].append(calls[name][op]() / 64 * 1e3)
    return {f"{name}_{op}_ms": spread(values) for (name, op), values in times.items()}


def matrix_product():
    """float32 Gflop/s of a large matrix product: what this machine's vector units give at best."""
    a = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    times = []
    for _ in range(9):
        start = time.perf_counter()
        product(a).block_until_ready()
        times.append(2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return spread(times)


def compile_time():
    """Seconds from the first call to the first result, forward and VJP, with nothing compiled on disk and with it."""
    code = (
        "import time, jax, numpy as np; from kipx.architecture import convnet; from kipx.kernel import build\n"
        "x = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype('f'); f = build(convnet())\n"
        "t = time.perf_counter(); k, pull = jax.vjp(lambda z: f(x, z), x); jax.block_until_ready(pull(k))\n"
        "print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        command = [sys.executable, "-c", code]
        return {
            when: float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
            for when in ("first", "later")
        }


def memory(n):
    """Most MB above the start during `gram` and `vjp` of 10 x n images, sampled, and of the arrays themselves."""
    code = (
        "import threading, jax, numpy as np; from kipx.architecture import convnet; from kipx.kernel import build\n"
        "from kipx.engine import blockwise\n"
        "now = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20\n"
        "def most(f):\n"
        "    f(); start, found, done = now(), [0], threading.Event()\n"
        "    def watch():\n"
        "        while not done.wait(0.002): found.append(now() - start)\n"
        "    thread = threading.Thread(target=watch); thread.start(); f(); done.set(); thread.join()\n"
        "    return max(found)\n"
        f"n = {n}; rng = np.random.default_rng(0); engine = blockwise.build(build(convnet()))\n"
        "a, b, ct = (rng.normal(size=s).astype('f') for s in ((n, 28, 28, 1), (10, 28, 28, 1), (n, 10)))\n"
        "print(most(lambda: engine.gram(a, b).block_until_ready()))\n"
        "print(most(lambda: engine.vjp(a, b, ct).block_until_ready()))\n"
        "print((a.nbytes + b.nbytes + ct.nbytes) / 2**20)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(("gram", "vjp", "inputs_and_outputs"), map(float, out), strict=True))


def spread(values):
    """[smallest, median, largest]."""
    return [float(f(values)) for f in (np.min, np.median, np.max)]


def processor():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    return platform.processor()


def write_page(results, path):
    from performance_page import page

    with open(path, "w") as file:
        file.write(page(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
