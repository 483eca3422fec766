"""What the attacks share: a run folder as another might hand it over, and a secret to be had."""

import numpy as np

from kipx import artifacts, preprocess

SECRET = "hunter2-hunter2"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
FITTED = preprocess.standardize()(PIXELS)
KERNEL = {
    "architecture": {"_target_": "kipx.architecture.fc", "depth": 1, "w_std": 1.4, "b_std": 0.1},
    **{"depth": 1, "kind": "ntk", "dtype": "float32", "backend": "kipx"},
}
DIGITS = {"load": {"_target_": "kipx.data.digits.load"}, "data_dir": None, "raw_dir": None, "pools": 2}
CONFIG = {"dataset": DIGITS, "kernel": KERNEL, "ridge": 1e-6, "seed": 0}
NAMES = tuple("0123456789")


def save(folder, config=CONFIG, names=NAMES):
    """A run folder as another might hand it over."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"preprocessing": FITTED, "class_names": names, "config": config}
    artifacts.save_support(folder, FITTED.apply(PIXELS[: len(names)]), np.eye(len(names)) - 1 / len(names), **kept)
    return folder
