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


def images(folder):
    records = [np.fromfile(pathlib.Path(folder) / f"data_batch_{i}.bin", np.uint8) for i in range(1, 6)]
    pixels = np.concatenate(records).reshape(-1, 3073)[:, 1:]
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def timed(stage):
    times = []
    for _ in range(REPEATS):
        result = None  # let go of before the next one is made
        began = time.perf_counter()
        result = stage()
        times.append(time.perf_counter() - began)
    return result, times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def row(name, times, peak):
    return f"| {name} | {statistics.median(times):.1f} | {min(times):.1f} to {max(times):.1f} | {peak:.2f} |"


def precision(pixels, reg):
    """The largest error, in levels of 255, of apply and invert on some images, nothing lost to their own norm."""
    fitted = zca(reg=reg, unit_norm=False)(pixels)
    return np.abs(fitted.invert(fitted.apply(pixels[:1000])) - pixels[:1000]).max()


def main(folder):
    pixels = images(folder)
    fitted, *fit = timed(lambda: zca(reg=0.1)(pixels))
    x, *apply = timed(lambda: fitted.apply(pixels))
    _, *invert = timed(lambda: fitted.invert(x))
    errors = " | ".join(f"{precision(pixels, reg):.1g}" for reg in (0.1, 1e-3, 1e-6))
    page = f"""# Preprocessing: time, memory, precision

Regularized ZCA (`preprocess=zca`) on CIFAR-10's {len(pixels):,} training images of 3,072 numbers, in float64 on
{os.cpu_count()} cores ({platform.machine()}, numpy {np.__version__}), {REPEATS} times each; load while it ran:
{os.getloadavg()[0]:.0f} busy processes. Written by `python benchmarks/preprocessing.py <folder>`.

| | median s | least to most s | peak GiB of the process so far |
|---|--:|--:|--:|
{row("fit", *fit)}
{row("apply to all", *apply)}
{row("invert all", *invert)}

Images go through in parts, so memory is that of the images and the result beside three or four matrices of 3,072 x
3,072. A fit is kept on disk under the hash of its images and arguments (`kipx/data/cache.py`): the next run reads it.

`invert(apply(x))` with `unit_norm=false`, largest error over 1,000 images in levels of 0 to 255. What is stored is
float32, and whitening with a small `reg` scales faint directions up, so that undoing it loses nothing:

| `preprocess.reg` | 0.1 | 1e-3 | 1e-6 |
|---|--:|--:|--:|
| error | {errors} |
"""
    (ROOT / "docs" / "preprocessing.md").write_text(page)


if __name__ == "__main__":
    main(sys.argv[1])
