"""Holds `kipx plan` against the run that follows, for three sizes of images, and measures how a step's cost grows.

    python benchmarks/plan.py docs/results/plan.json docs/scaling.md      (`make bench-plan`)

Time does not depend on what the images show, so 28x28x1 and 32x32x3 are scikit-learn's digits made larger: nothing is
downloaded. Plan and run are processes of their own, one after the other, with the same overrides.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

COMMON = ["baseline.draws=2", "logger=none"]
CASES = {  # name: (side and channels, None for the digits as they are; overrides)
    "8x8x1": (None, ["steps=40", "target.batch_size=160"]),
    "28x28x1": ((28, 1), ["steps=8", "target.batch_size=100"]),
    "32x32x3": ((32, 3), ["steps=6", "target.batch_size=60"]),
}
TEST_IMAGES = 200
SIDES, CHANNELS = (8, 16, 28, 32), 1
SUPPORTS, TARGETS = (10, 50, 100), (50, 100, 200)  # one grows while the other stays at its FIXED
FIXED_SUPPORT, FIXED_TARGETS = 10, 100
PAPER = (500, 5000)  # support images and targets of the plan on paper


def enlarged(side, channels, path):
    """Writes the digits, made larger, as a user's npz."""
    from kipx.data import digits

    data, times = digits.load(), -(-side // 8)

    def large(x):
        return np.repeat(np.kron(x, np.ones((1, times, times, 1), x.dtype))[:, :side, :side], channels, axis=3)

    test = slice(TEST_IMAGES)
    arrays = {"x_train": large(data.x_train), "y_train": data.y_train}
    np.savez(path, **arrays, x_test=large(data.x_test[test]), y_test=data.y_test[test])


def compare(name, folder):
    """What the plan said and what the run took."""
    size, overrides = CASES[name]
    overrides = [*COMMON, *overrides]
    if size is not None:
        enlarged(*size, folder / f"{name}.npz")
        overrides += ["dataset=npz", f"dataset.path={folder / f'{name}.npz'}"]
    command(["plan", *overrides, f"hydra.run.dir={folder / name}-plan"])
    plan = json.loads((folder / f"{name}-plan" / "plan.json").read_text())
    began = time.perf_counter()
    took = command(["distill", *overrides, f"hydra.run.dir={folder / name}"])
    total = time.perf_counter() - began
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    steps = [row["step_time_s"] for row in map(json.loads, lines) if row["step"] > 1]
    kept = sum(f.stat().st_size for f in (folder / name / "checkpoints").rglob("*") if f.is_file())
    return {
        "overrides": [o for o in overrides if "dataset" not in o and "logger" not in o],
        "plan": {key: plan["time_s"][key] for key in ("step", "evaluation", "total")},
        "run": {"step": np.median(steps), "evaluation": np.median(took[1:]), "total": total},
        "step_range": [min(steps), max(steps)],
        "evaluations": {"plan": plan["counts"]["evaluations"], "run": len(took)},
        "checkpoint_bytes": {"plan": plan["disk_bytes"]["checkpoints"], "run": kept},
        "load_average": {"plan": plan["load_average"][0], "run": os.getloadavg()[0]},
    }


def command(arguments):
    """Runs kipx in a process of its own; returns the seconds of each of its evaluations."""
    out = subprocess.run([sys.executable, __file__, "--kipx", *arguments], check=True, capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def timed(arguments):
    """Runs a command whose evaluations are timed, and prints their seconds."""
    from kipx import cli, evaluate

    build, took = evaluate.build, []

    def timed_build(*args, **kwargs):
        measure = build(*args, **kwargs)

        def evaluation(*support):
            began = time.perf_counter()
            result = measure(*support)
            took.append(time.perf_counter() - began)
            return result

        return evaluation

    evaluate.build = timed_build
    code = cli.run(arguments[0], arguments[1:])
    print(json.dumps(took))
    sys.exit(code)


def growth():
    """[{side, support, targets, pairs, seconds}] of a step's kernel work with the paper's ConvNet."""
    import jax

    from kipx.architecture import convnet
    from kipx.engine import blockwise
    from kipx.kernel import build

    jax.config.update("jax_enable_x64", True)
    sizes = {(s, FIXED_TARGETS) for s in SUPPORTS} | {(FIXED_SUPPORT, t) for t in TARGETS}
    rows = []
    for side in SIDES:
        engine = blockwise.build(build(convnet(depth=2 if side < 16 else 3)))
        step(engine, side, FIXED_SUPPORT, FIXED_SUPPORT)  # compiles
        for n_support, n_target in sorted(sizes):
            times = [step(engine, side, n_support, n_target)]
            while len(times) < 3 and sum(times) < 4:
                times.append(step(engine, side, n_support, n_target))
            shape = side, side, CHANNELS
            pairs = engine.layout(n_support, None, shape).pairs + engine.layout(n_target, n_support, shape).pairs
            row = {"side": side, "support": n_support, "targets": n_target, "pairs": pairs, "seconds": times}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def step(engine, side, n_support, n_target):
    """Seconds of both Gram matrices and both gradients."""
    import jax

    rng = np.random.default_rng(0)
    x_s, x_t = (jax.numpy.asarray(rng.normal(size=(n, side, side, CHANNELS)), "float32") for n in (n_support, n_target))
    began = time.perf_counter()
    results = engine.gram(x_s), engine.gram(x_t, x_s)
    pulled = (
        engine.vjp(x_s, None, np.ones((n_support, n_support))),
        engine.vjp(x_t, x_s, np.ones((n_target, n_support))),
    )
    jax.block_until_ready((results, pulled))
    return time.perf_counter() - began


def beside_the_kernel():
    """Seconds, median of three, of all that a step of the plan on paper does beside the kernel, on this machine."""
    import jax

    from kipx import cost, distill, objective, optimizer
    from kipx.engine import whole

    (n_support, n_target), rng = PAPER, np.random.default_rng(0)
    x = jax.numpy.asarray(rng.normal(size=(n_target, 32, 32, 3)), "float32")
    y = jax.numpy.asarray(np.eye(10)[np.arange(n_target) % 10] - 0.1)
    counted, _ = cost.counting(whole)
    rule = optimizer.adam(learning_rate=0.1).rule(9, True, None)
    start, one = distill.build(objective.kip(counted, ridge=1e-6), rule, lambda key: (x, y))
    state, times = start(jax.random.key(0), x[:n_support], y[:n_support]), []
    for _ in range(4):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(one(state))
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def main(json_path, page_path):
    import jax
    import scaling_page
    from kernel import operations, processor

    from kipx.architecture import convnet
    from kipx.machine import cores

    began = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: compare(name, pathlib.Path(folder)) for name in CASES}
    result = {
        "machine": f"{processor()}, {cores()} cores; Python {sys.version.split()[0]}, JAX {jax.__version__}",
        "cases": cases,
        "growth": growth(),
        "paper": {
            "sizes": PAPER,
            "operations_a_pair": operations(convnet(), (32, 32, 3)),
            "beside_the_kernel_s": beside_the_kernel(),
        },
        "load_average": [began, os.getloadavg()[0]],
    }
    with open(json_path, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    scaling_page.write(pathlib.Path(json_path).parent, page_path)


if __name__ == "__main__":
    timed(sys.argv[2:]) if sys.argv[1] == "--kipx" else main(*sys.argv[1:])
