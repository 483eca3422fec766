"""Times kipx's kernel on a GPU beside plain JAX and neural-tangents, alternating in one process.

    PYTHONPATH=. python benchmarks/gpu.py measure docs/results/gpu_h100.json     (on a machine with a GPU and CuPy)
    PYTHONPATH=. python benchmarks/gpu.py errors docs/results/gpu_h100.json      (the same; nothing is timed)
    python benchmarks/gpu.py page docs/gpu.md docs/results/gpu_h100.json docs/results/gpu_h200.json

`measure` needs JAX, CuPy and, for its column, neural-tangents; neither Hydra nor data. Errors are against plain JAX in
float64 on the same card. neural-tangents runs as it comes, with JAX's x64 flag off.
"""

import json
import pathlib
import sys
import time
import traceback
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import kipx.kernel
from kipx.architecture import convnet, convvec, fc, myrtle
from kipx.kernel import build, neural_tangents

# name, architecture, image, images a side of a block: of kipx, of plain JAX, of neural-tangents (0: not timed)
CASES = [
    ("convnet", convnet(), (32, 32, 3), 128, 16, 8),
    ("fc3", fc(depth=3), (32, 32, 3), 1024, 1024, 1024),
    ("convvec8", convvec(depth=8), (32, 32, 3), 256, 256, 128),
    ("convnet, depth 2", convnet(depth=2), (8, 8, 1), 256, 64, 64),
    ("convnet", convnet(), (16, 16, 3), 128, 32, 16),
    ("convnet", convnet(), (28, 28, 1), 128, 16, 8),
    ("myrtle5", myrtle(depth=5), (32, 32, 3), 16, 4, 4),
    ("convnet", convnet(), (32, 32, 3), 8, 8, 16),
]
ROUNDS, CALLS = 3, 3


def measure(path):
    """Writes everything measured as JSON, after each case, so that a run cut short leaves what it has."""
    jax.config.update("jax_enable_x64", True)
    results = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "errors": {}, "cases": []}
    results["matrix_product_flops"] = matrix_product()
    results["compile_s"] = compile_time()
    for case in CASES:
        results["cases"].append(timed(*case))
        save(path, results)


def save(path, results):
    pathlib.Path(path).write_text(json.dumps(results, indent=1))
    print(json.dumps(results["cases"][-1:] or results["errors"]), flush=True)


def measure_errors(path):
    """Adds relative errors to the JSON of `measure`."""
    jax.config.update("jax_enable_x64", True)
    path = pathlib.Path(path)
    results = json.loads(path.read_text()) if path.exists() else {"cases": []}
    save(path, {**results, "errors": errors(hard_inputs())})


def plainly(function, *arguments):
    """function(*arguments), with kernels in plain JAX."""
    mean, kipx.kernel._mean = kipx.kernel._mean, lambda *_: None
    try:
        return function(*arguments)
    finally:
        kipx.kernel._mean = mean


def without_x64(function, *arguments):
    """function(*arguments) in JAX's own default."""
    with jax.enable_x64(False):
        return function(*arguments)


def timed(name, architecture, shape, block, plain_block, nt_block):
    """Microseconds a pair, smallest, median and largest, forward and gradient, of each side."""
    sides = {
        "kipx": (build(architecture), block, lambda f, *a: f(*a)),
        "plain": (build(architecture), plain_block, plainly),
        "neural_tangents": (neural_tangents.build(architecture), nt_block, without_x64),
    }
    row, calls = {"name": name, "image": list(shape)}, {}
    for side, (kernel_fn, n, around) in sides.items():
        try:
            made = around(prepared, kernel_fn, shape, n)
            calls[side] = {op: partial(around, call) for op, call in made.items()}
            row[side] = {"block": n, "forward_us": [], "vjp_us": []}
        except Exception as error:
            traceback.print_exc(limit=-2)
            row[side] = {"block": n, "failed": f"{type(error).__name__}: {str(error)[:200]}"}
    for _ in range(ROUNDS):
        for side, ops in calls.items():
            for op, call in ops.items():
                row[side][f"{op}_us"] += [1e6 * call() / row[side]["block"] ** 2 for _ in range(CALLS)]
    for side in calls:
        for op in ("forward_us", "vjp_us"):
            row[side][op] = [float(f(row[side][op])) for f in (min, np.median, max)]
    return row


def prepared(kernel_fn, shape, n):
    """{op: function that runs it once and returns seconds}, compiled."""
    rng = np.random.default_rng(0)
    x1, x2, ct = (jnp.asarray(rng.normal(size=s), "float32") for s in ((n, *shape), (n, *shape), (n, n)))
    forward = jax.jit(kernel_fn)
    vjp = jax.jit(lambda a, b, c: jax.vjp(lambda z: kernel_fn(a, z), b)[1](c))

    def seconds(function, *arguments):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return time.perf_counter() - start

    calls = {"forward": lambda: seconds(forward, x1, x2), "vjp": lambda: seconds(vjp, x1, x2, ct)}
    for call in calls.values():
        call(), call()
    return calls


def hard_inputs():
    """{name: (x1, x2)}: those of `benchmarks/accuracy.py`, at 16x16."""
    import accuracy

    accuracy.SIDE = 16
    return accuracy.inputs(np.random.default_rng(0))


def errors(pairs):
    """{name: {kind: [of the value, of the gradients]}}: relative errors, in norm, of the ConvNet of depth 3."""
    found = {name: {} for name in pairs}
    for kind in ("ntk", "nngp"):
        single, exact = (both(build(convnet(), kind, dtype)) for dtype in ("float32", "float64"))
        for name, pair in pairs.items():
            ct = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), "float32")
            k, *g = single(*pair, ct)
            k64, *g64 = exact(*(np.asarray(x, "float64") for x in pair), ct)
            found[name][kind] = [off([k], [k64]), off(g, g64)]
    return found


def both(kernel_fn):
    @jax.jit
    def run(x1, x2, ct):
        k, pull = jax.vjp(kernel_fn, x1, x2)
        return k, *pull(ct.astype(k.dtype))

    return run


def off(found, exact):
    return max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in zip(found, exact, strict=True))


def matrix_product():
    """float32 flop/s of a large matrix product without tensor cores."""
    a = jnp.ones((8192, 8192), jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    product(a).block_until_ready()
    start = time.perf_counter()
    product(a).block_until_ready()
    return 2 * 8192**3 / (time.perf_counter() - start)


def compile_time():
    """Seconds to the first result, forward and gradient together, with nothing compiled before."""
    start = time.perf_counter()
    prepared(build(convnet()), (32, 32, 3), 8)
    return time.perf_counter() - start


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        measure(sys.argv[2])
    elif sys.argv[1] == "errors":
        measure_errors(sys.argv[2])
    else:
        import gpu_page

        gpu_page.write(*sys.argv[2:])
