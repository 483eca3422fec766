"""Measures the engines side by side on this machine: devices, cores and workers, all sides alternating in one run.

    python benchmarks/engines.py docs/results/engines.json docs/scaling.md      (`make bench-engines`)

Each side is a process of its own that waits for its turn. What is timed is a step's work: the Gram matrix of support
and targets, and its cotangent pulled back.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

SUPPORT, TARGETS, BLOCK, ROUNDS = 16, 128, 16, 7
SHAPE = (28, 28, 1)
SIDES = {  # name: (engine, its arguments, CPU devices, cores)
    "blockwise, one core": ("blockwise", {}, 1, 1),
    "blockwise, two cores": ("blockwise", {}, 1, 2),
    "sharded, two devices": ("sharded", {}, 2, 2),
    "pool, two workers of a core": ("pool", {"cpus_per_worker": 1}, 1, 2),
    "pool, one worker of two cores": ("pool", {"cpus_per_worker": 2}, 1, 2),
}


def serve(name):
    """Builds a side's engine, then times one step for every line on stdin."""
    engine_name, arguments, devices, cores = SIDES[name]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import importlib

    import jax
    import numpy as np

    from kipx.architecture import convnet
    from kipx.kernel import build

    jax.config.update("jax_enable_x64", True)
    engine = importlib.import_module(f"kipx.engine.{engine_name}").build(
        build(convnet()), block_size=(BLOCK, BLOCK), **arguments
    )
    rng = np.random.default_rng(0)
    x_t, x_s = (jax.numpy.asarray(rng.normal(size=(n, *SHAPE)), "float32") for n in (TARGETS, SUPPORT))
    ct = jax.numpy.ones((TARGETS, SUPPORT))
    for _ in sys.stdin:
        began = time.perf_counter()
        engine.gram(x_t, x_s).block_until_ready()
        middle = time.perf_counter()
        engine.vjp(x_t, x_s, ct).block_until_ready()
        print("took", middle - began, time.perf_counter() - middle, flush=True)


def measure():
    """{side: (seconds of gram, seconds of vjp) of every round}, the sides in turn, the first round left out."""
    servers = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--serve", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in SIDES
    }
    took = {name: [] for name in SIDES}
    for turn in range(ROUNDS + 1):
        for name, server in servers.items():
            server.stdin.write("go\n")
            server.stdin.flush()
            line = next(line for line in server.stdout if line.startswith("took"))
            if turn:
                took[name].append([float(t) for t in line.split()[1:]])
    for server in servers.values():
        server.stdin.close()
        server.wait()
    return took


def main(json_path, page_path):
    import jax
    import scaling_page
    from kernel import processor

    from kipx.machine import cores

    machine = f"{processor()}, {cores()} cores; Python {sys.version.split()[0]}, JAX {jax.__version__}"
    result = {"machine": machine, "seconds": measure()}
    with open(json_path, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    scaling_page.write(pathlib.Path(json_path).parent, page_path)


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1] == "--serve" else main(*sys.argv[1:])
