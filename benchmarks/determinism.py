"""The same run under every engine, twice: the same bits? And how far apart are engines and numbers of devices?

python benchmarks/determinism.py docs/results/determinism.json docs/reliability.md      (`make determinism`)
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import numpy as np
import section

STEPS = 4
RUN = ("distill", f"steps={STEPS}", "baseline.draws=0", "logger.progress=false")
ENGINES = {  # name: (overrides, devices)
    "dense": (["engine=dense"], 1),
    "blockwise": (["engine=blockwise"], 1),
    "blockwise, blocks of 7 x 3": (["engine=blockwise", "engine.block_size=[7,3]"], 1),
    "sharded, 1 device": (["engine=sharded"], 1),
    "sharded, 2 devices": (["engine=sharded"], 2),
    "sharded, 4 devices": (["engine=sharded"], 4),
    "pool, 2 workers": (["engine=pool"], 1),
}
DTYPES = ("float32", "float64")


def main(results, page):
    """Runs all, writes what came of it to `results`, and its section of `page`."""
    found = {"machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"}
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory() as folder:
            found[dtype] = compared(pathlib.Path(folder), dtype)
    results.write_text(json.dumps(found, indent=1) + "\n")
    page.write_text(section.replaced(page.read_text(), "determinism", text(found)))


def compared(folder, dtype):
    """{engine: whether two runs have the same bits, and how far the images are from the dense engine's}."""
    found, reference = {}, None
    for name, (overrides, devices) in ENGINES.items():
        runs = [finished(folder / f"{name} {i}", overrides, devices, dtype) for i in (1, 2)]
        (images, first), (_, second) = runs
        reference = images if reference is None else reference
        apart = float(np.linalg.norm(images - reference) / np.linalg.norm(reference))
        found[name] = {"same_bits": first == second, "from_dense": apart}
        print(dtype, name, found[name], flush=True)
    return found


def finished(folder, overrides, devices, dtype):
    """(learned images, all that the run told but its times) of one run in a process of its own."""
    kipx = pathlib.Path(sys.executable).with_name("kipx")
    command = [kipx, *RUN, *overrides, f"kernel.dtype={dtype}", f"hydra.run.dir={json.dumps(str(folder))}"]
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=folder.parent)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [{key: value for key, value in row.items() if key != "step_time_s"} for row in rows]
    arrays = dict(np.load(folder / "support.npz"))
    names = ("images", "labels")
    return np.float64(arrays["images"]), (told, [arrays[name].tobytes() for name in names])


def text(found):
    """The section's table."""
    rows = []
    for name in ENGINES:
        single, double = (f"{found[dtype][name]['from_dense']:.0e}" for dtype in DTYPES)
        rows.append(f"| {name} | {_same(found, name)} | {single} | {double} |")
    return "\n".join(
        [
            f"Command: `make determinism`: {STEPS} steps of the demo, each twice in processes of their own, on "
            f"{found['machine']}. Bits are those of images, labels and every row of `metrics.jsonl` but its times; "
            "differences are norms beside the norm of the dense engine's images.",
            "",
            "| engine | same bits twice | from dense, float32 kernel | from dense, float64 kernel |",
            "|---|---|--:|--:|",
            *rows,
        ]
    )


def _same(found, name):
    return "yes" if all(found[dtype][name]["same_bits"] for dtype in DTYPES) else "**no**"


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
