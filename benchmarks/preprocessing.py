"""Times regularized ZCA on CIFAR-10 and writes docs/preprocessing.md.

    python benchmarks/preprocessing.py <folder with CIFAR-10's data_batch_1.bin to data_batch_5.bin>

Fit on the 50,000 training images, apply to them, invert the result; each stage several times, its peak memory the whole
process's so far, images included.
"""

import os
import pathlib
import platform
import resource
import statistics
import sys
import time

import numpy as np

from kipx.preprocess import zca

ROOT = pathlib.Path(__file__).parents[1]
REPEATS = 3
REGS = (0.1, 1e-3, 1e-6)


def images(folder):
    records = [np.fromfile(pathlib.Path(folder) / f"data_batch_{i}.bin", np.uint8) for i in range(1, 6)]
    pixels = np.concatenate(records).reshape(-1, 3073)[:, 1:]
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def timed(name, stage):
    """The stage's last result, and a row of the table."""
    walls, cores = [], []
    for _ in range(REPEATS):
        result = None  # let go of before the next one is made
        wall, core = time.perf_counter(), time.process_time()
        result = stage()
        walls.append(time.perf_counter() - wall)
        cores.append(time.process_time() - core)
        print(f"{name}: {walls[-1]:.1f} s, of processors {cores[-1]:.1f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    median = f"{statistics.median(walls):.0f} | {min(walls):.0f} to {max(walls):.0f}"
    return result, f"| {name} | {median} | {statistics.median(cores):.0f} | {peak:.2f} |"


def error(pixels, reg):
    """The largest error, in levels of 255, of apply undone on some images that keep their mean and norm."""
    fitted = zca(reg=reg, unit_norm=False)(pixels)
    return np.abs(fitted.invert(fitted.apply(pixels[:100])) - pixels[:100]).max()


def main(folder):
    pixels = images(folder)
    fitted, fit = timed("fit", lambda: zca(reg=0.1)(pixels))
    x, apply = timed("apply to all", lambda: fitted.apply(pixels))
    _, invert = timed("invert all", lambda: fitted.invert(x))
    errors = " | ".join(f"{error(pixels[:10000, ::2, ::2], reg):.1g}" for reg in REGS)
    load = f"load average {os.getloadavg()[0]:.0f} at the end"
    page = f"""# Preprocessing: time, memory, precision

Regularized ZCA (`preprocess=zca`) on CIFAR-10's {len(pixels):,} training images of 3,072 numbers, in float64, numpy
{np.__version__} on {os.cpu_count()} cores ({platform.machine()}), {load}; {REPEATS} times each.
Written by `python benchmarks/preprocessing.py <folder of CIFAR-10's binary files>`.

| | median s | least to most | processor s, median | peak GiB of the process so far |
|---|--:|--:|--:|--:|
{fit}
{apply}
{invert}

Images go through in parts, so that memory is that of the images and the result beside a few matrices of 3,072 x 3,072.
A fit is kept in `cache/` beside the data, under the hash of the images, the arguments and the code that fits
(`kipx/data/cache.py`): the next run reads it, with the same bits. The folder may be deleted any time.

Largest error of `invert(apply(x))` with `unit_norm=false`, in levels of 0 to 255, over 100 images of a fit on 10,000 at
16x16; what is kept in between is float32:

| `preprocess.reg` | {" | ".join(map(str, REGS))} |
|---|{"--:|" * len(REGS)}
| error | {errors} |
"""
    (ROOT / "docs" / "preprocessing.md").write_text(page)


if __name__ == "__main__":
    main(sys.argv[1])
