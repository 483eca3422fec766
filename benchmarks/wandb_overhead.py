"""What logger=wandb costs a step at one row a step: python benchmarks/wandb_overhead.py docs/results/wandb.json

Steps of a real run, in turn five without the mirror and five with it, offline, in one process: both see the same load.
Beside the medians stands what the mirror takes of the processors, which bounds what a step could lose to it.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time

import jax
from hydra import compose, initialize_config_module

from kipx import arguments, artifacts, config, distill, wandb_log
from kipx.commands import distill as command

RUNS = {"demo: digits, ConvNet": ([], 120), "digits, FC": (["kernel=fc"], 1000)}
BLOCK, SKIPPED = 5, 20


def main(path):
    jax.config.update("jax_enable_x64", True)
    os.environ.update(WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
    measured = {name: measure(*how) for name, how in RUNS.items()}
    artifacts.write_json(path, {"environment": artifacts.environment(), "runs": measured})
    print(json.dumps(measured, indent=2))


def measure(overrides, steps):
    with initialize_config_module("kipx.conf", version_base="1.3"):
        cfg = compose("distill", overrides=[*overrides, f"steps={steps}", "logger=wandb", "logger.mode=offline"])
    values = config.plain(cfg, arguments.DISTILL)
    given = arguments.distill(values)
    mirrored, _ = given.pop("mirrored"), given.pop("show")
    problem = command.pose(**given)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
            os.environ[f"WANDB_{name}"] = folder
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with mirrored(folder, values, "distill") as mirror:
            found = run(problem, steps, mirror)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    service_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**found, "service_cpu_per_row_s": service_s / found["rows"]}


def run(problem, steps, mirror):
    times, calls, thread_s = {False: [], True: []}, [], []
    log_item = wandb_log._log

    def timed(row, run):
        began = time.thread_time()
        log_item(row, run)
        thread_s.append(time.thread_time() - began)

    wandb_log._log = timed
    began = time.perf_counter()
    for new, row in distill.run(problem.start, problem.step, steps=steps):
        mirrors = new.step // BLOCK % 2 == 1
        jax.block_until_ready(new.images)
        if mirrors:
            called = time.perf_counter()
            mirror.log({"step": new.step, **row, "step_time_s": called - began})
            calls.append(time.perf_counter() - called)
        if new.step > SKIPPED:
            times[mirrors].append(time.perf_counter() - began)
        began = time.perf_counter()
    time.sleep(5)  # for what is in the queue
    wandb_log._log = log_item
    without, with_it = statistics.median(times[False]), statistics.median(times[True])
    return {
        "rows": len(calls),
        "step_s": without,
        "step_mirrored_s": with_it,
        "overhead": with_it / without - 1,
        "call_s": statistics.median(calls),
        "thread_cpu_per_row_s": statistics.fmean(thread_s),
        "rows_sent": len(thread_s),
    }


if __name__ == "__main__":
    main(sys.argv[1])
