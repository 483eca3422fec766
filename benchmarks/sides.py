"""What benchmarks of whole runs of kipx on digits share: their sides in turn for each seed, and the page of it."""

import json
import pathlib
import subprocess
import sys
import tempfile


def kipx(*arguments):
    """Runs a command of kipx; its failure ends the benchmark."""
    subprocess.run([pathlib.Path(sys.executable).with_name("kipx"), *arguments], check=True, capture_output=True)


def measure(sides, seeds, run):
    """{side: [run of each seed]}.

    Args:
      sides: {name: overrides}.
      seeds: iterable of integers.
      run: (empty folder, seed, overrides) -> what was measured, to be written as JSON.
    """
    found = {side: [] for side in sides}
    for seed in seeds:
        for side, overrides in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                found[side].append(run(pathlib.Path(folder), seed, overrides))
            print(seed, side, f"{found[side][-1]['test_accuracy']:.1%}", flush=True)
    return found


def write(command, runs, page, results, markdown):
    """Writes what was measured, and on what machine, as JSON, and its page(result) as Markdown."""
    import jax
    from kernel import processor

    from kipx.machine import cores

    result = {"command": command, "machine": f"{processor()}, {cores()} cores; JAX {jax.__version__}", "runs": runs}
    pathlib.Path(results).write_text(json.dumps(result, indent=1) + "\n")
    pathlib.Path(markdown).write_text(page(result))
