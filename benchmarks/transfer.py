"""Measures the training of finite networks beside a plain Flax loop, all sides alternating in one run.

    python benchmarks/transfer.py docs/results/transfer_speed.json docs/transfer_speed.md      (`make bench-transfer`)

The plain loop is what one would write: `flax.linen.Conv`, `optax.sgd`, a jitted step, a Python loop over steps. Each
side is a process of its own that waits for its turn and then takes some steps of a ConvNet on ten images.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROUNDS, TURN_S, TOGETHER = 11, 1.0, 4
CASES = {  # name: (image, pools, width)
    "8x8, width 16": ((8, 8, 1), 2, 16),
    "8x8, width 64": ((8, 8, 1), 2, 64),
    "8x8, width 256": ((8, 8, 1), 2, 256),
    "28x28, width 16": ((28, 28, 1), 3, 16),
    "28x28, width 64": ((28, 28, 1), 3, 64),
}
SIDES = ("plain", "alone", "one core", "together")
RECIPE = {"momentum": 0.9, "l2": 1e-3, "batch_size": 100, "steps": 10**6}


def plain(shape, depth, width):
    """steps -> None: a Flax loop."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(width, (3, 3))(x))
            for _ in range(depth):
                x = nn.avg_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
            return nn.Dense(10)(x.reshape(len(x), -1))

    net, (x, y) = Net(), data(shape)
    rate = optax.cosine_decay_schedule(1e-3, RECIPE["steps"])
    rule = optax.chain(optax.add_decayed_weights(RECIPE["l2"]), optax.sgd(rate, RECIPE["momentum"]))
    parameters = net.init(jax.random.key(0), x)
    state = [parameters, rule.init(parameters)]

    @jax.jit
    def step(parameters, optimizer, x, y):
        loss, gradient = jax.value_and_grad(lambda p: 0.5 * jnp.mean((net.apply(p, x) - y) ** 2))(parameters)
        updates, optimizer = rule.update(gradient, optimizer, parameters)
        return optax.apply_updates(parameters, updates), optimizer, loss

    def take(steps):
        for _ in range(steps):
            *state[:], loss = step(*state, x, y)
        jax.block_until_ready(loss)

    return take


def ours(shape, depth, width, count):
    """steps -> None: that many networks by kipx.finite."""
    import jax
    import jax.numpy as jnp

    from kipx.architecture import convnet
    from kipx.finite import losses, network, train

    x, y = data(shape)
    trainer = train.build(
        network(convnet(depth=depth), width=width), losses.build("mse", label_scale=1.0), factor=0.01, **RECIPE
    )
    state = [trainer.start(jnp.zeros(count, int), jax.random.split(jax.random.key(0), count), x[None], y[None])]

    def take(steps):
        state[0], losses_ = trainer.advance(state[0], x[None, None], y[None], 0, steps)
        jax.block_until_ready(losses_)

    return take


def data(shape):
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.normal(size=(10, *size)), jnp.float32) for size in (shape, (10,)))


def serve(side):
    """Times some steps of a case for every line on stdin; answers with milliseconds a step and network."""
    takers = {}
    if side == "one core":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX counts them
    for line in sys.stdin:
        case = line.strip()
        if case not in takers:
            count = TOGETHER if side == "together" else 1
            take = plain(*CASES[case]) if side == "plain" else ours(*CASES[case], count)
            take(2)
            began = time.perf_counter()
            take(3)
            takers[case] = take, max(3, int(TURN_S / ((time.perf_counter() - began) / 3)))
        take, steps = takers[case]
        began = time.perf_counter()
        take(steps)
        networks = TOGETHER if side == "together" else 1
        print(1e3 * (time.perf_counter() - began) / steps / networks, flush=True)


def measure():
    """{case: {side: milliseconds of every round}}, the sides in turn."""
    servers = {
        side: subprocess.Popen(
            [sys.executable, __file__, "--serve", side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for side in SIDES
    }
    found = {case: {side: [] for side in SIDES} for case in CASES}
    for case in CASES:
        for _ in range(ROUNDS):
            for side, server in servers.items():
                server.stdin.write(case + "\n")
                server.stdin.flush()
                found[case][side].append(float(server.stdout.readline()))
        print(case, {side: round(statistics.median(times), 3) for side, times in found[case].items()}, flush=True)
    for server in servers.values():
        server.stdin.close()
        server.wait()
    return found


def ratios(times, over, under, factor=1):
    """Median and range of the ratio of two sides, round by round, times a factor."""
    each = [factor * a / b for a, b in zip(times[over], times[under], strict=True)]
    return f"{statistics.median(each):.1f} ({min(each):.1f}-{max(each):.1f})"


def page(result):
    rows = [
        f"| {case} | {' | '.join(f'{statistics.median(times[side]):.3g}' for side in SIDES)} | "
        f"{ratios(times, 'plain', 'alone')} | {ratios(times, 'alone', 'together')} | "
        f"{ratios(times, 'alone', 'one core', result['cores'])} |"
        for case, times in result["times_ms"].items()
    ]
    return f"""# How fast finite networks train

{result["cpu"]}, {result["cores"]} cores; JAX {result["jax"]}, Flax {result["flax"]}; {ROUNDS} rounds.
Written by `make bench-transfer` from [results/transfer_speed.json](results/transfer_speed.json).

A step of SGD with momentum of a ConvNet on ten images. *Plain*: a Flax loop as one would write it, `flax.linen.Conv`,
`optax.sgd` with a cosine, a jitted step that returns the loss. *Alone*: `kipx.finite`, one network, on all cores and,
in a column of its own, on one. *Together*: {TOGETHER} networks, spread over the cores as `kipx transfer` spreads its
seeds and sets; the time is per network. *At most* is what a network on each core would gain if none were in another's
way. All sides in turn; medians, and ratios of each turn's times with the smallest and the largest.
Load average of other work at the start: {result["load_average_before"]:.1f}.

| ConvNet | plain, ms | alone, ms | on one core | together, ms a network | plain / alone | alone / together | at most |
|---|--:|--:|--:|--:|--:|--:|--:|
{chr(10).join(rows)}

A step is one jitted call, and JAX runs ahead of the loop over steps: nothing is read back before the end of a stretch.
Several networks go one on each core at a time, a thread for each. What that gains is what one network alone leaves of
the cores; where other work keeps them busy, as the load average tells, several together are no faster than one.
"""


def main(path_json, path_page):
    import flax
    import jax
    from kernel import processor

    result = {
        "command": "make bench-transfer",
        "cpu": processor(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "load_average_before": os.getloadavg()[0],
        "times_ms": measure(),
    }
    pathlib.Path(path_json).write_text(json.dumps(result, indent=1) + "\n")
    pathlib.Path(path_page).write_text(page(result))


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1] == "--serve" else main(*sys.argv[1:])
