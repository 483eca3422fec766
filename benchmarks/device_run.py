"""Goes on with a run on a machine that has JAX, flax, optax and orbax but neither Hydra nor the data sets.

Where kipx is installed, the images are packed, and a new run is only written down:

    python benchmarks/device_run.py pack cifar10 carried/a.npz carried/b.npz
    kipx distill +experiment=cifar10_kip_10 --cfg job --resolve > carried/run/config.yaml

There, from the repository's folder, for so many minutes; what comes back is one file:

    python benchmarks/device_run.py go carried/run carried/a.npz carried/b.npz --minutes 25 --out run.tar

Unpacked, it is a run folder like any other: `kipx distill resume=<folder>` goes on with it, and so does this. It takes
configs of `kipx label-solve` as well, and of `kipx transfer run=<folder> dataset=<its> network=convnet`, whose
checkpoints, large ones, stay where they are.
"""

import argparse
import importlib.util
import io
import os
import pathlib
import signal
import sys
import tarfile
import threading

import numpy as np
import PIL.Image
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from kipx.data import Dataset, check

ROOT = pathlib.Path(__file__).parents[1]
TILE = 20  # images a side of one lossless picture: a third smaller than compressed arrays


def pack(name, paths, train, data_dir):
    """Packs a published data set, see `write`."""
    from kipx.data import published

    write(paths, published.load(name=name, data_dir=data_dir), train)


def write(paths, data, train=None):
    """Writes the first `train` training images and the test set of a Dataset, an even share to each file."""
    arrays = data.x_train[:train], data.y_train[:train], data.x_test, data.y_test
    shares = zip(*(np.array_split(array, len(paths)) for array in arrays), strict=True)
    for path, (x_train, y_train, x_test, y_test) in zip(paths, shares, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        images = {**_packed("x_train", x_train), **_packed("x_test", x_test)}
        np.savez(path, **images, y_train=y_train, y_test=y_test, class_names=np.asarray(data.class_names))


def load(paths):
    """The Dataset that `write` wrote."""
    shares = [_load(path) for path in paths]
    x_train, y_train, x_test, y_test = (np.concatenate(arrays) for arrays in zip(*(s[:4] for s in shares), strict=True))
    return check(str(paths[0]), Dataset(x_train, y_train, x_test, y_test, shares[0][4]))


def _load(path):
    with np.load(path, allow_pickle=False) as file:
        x_train, x_test = (_unpacked(file, f"x_{part}") for part in ("train", "test"))
        return x_train, file["y_train"], x_test, file["y_test"], tuple(str(name) for name in file["class_names"])


def _packed(name, images):
    n, h, w, c = images.shape
    images = np.concatenate([images, np.zeros((-n % TILE**2, h, w, c), np.uint8)])
    tiles = images.reshape(-1, TILE, TILE, h, w, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, TILE * h, TILE * w, c)
    pictures = [_webp(tile) for tile in tiles]
    sizes, content = [len(picture) for picture in pictures], np.frombuffer(b"".join(pictures), np.uint8)
    return {name: content, f"{name}_sizes": np.asarray(sizes), f"{name}_shape": np.asarray((n, h, w, c))}


def _webp(tile):
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(tile.squeeze()).convert("RGB")
    picture.save(buffer, "webp", lossless=True, quality=100, method=4)
    return buffer.getvalue()


def _unpacked(file, name):
    n, h, w, c = file[f"{name}_shape"]
    pictures = np.split(file[name], np.cumsum(file[f"{name}_sizes"])[:-1])
    tiles = np.stack([np.asarray(PIL.Image.open(io.BytesIO(p.tobytes())).convert("RGB"))[..., :c] for p in pictures])
    return tiles.reshape(-1, TILE, h, TILE, w, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)[:n]


def go(folder, data, minutes, out):
    """Goes on with the run in the folder for so many minutes, then packs the folder into one file."""
    import jax

    jax.config.update("jax_enable_x64", True)
    _find_conf()
    from kipx import artifacts
    from kipx.commands import stop

    config = yaml.safe_load((folder / "config.yaml").read_text())
    command, built = _command(config)
    built["load"] = lambda: load(data)
    began_here = not (folder / "environment.json").exists()
    artifacts.write_json(folder / f"environment{'' if began_here else '_device'}.json", artifacts.environment())
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        command.run(folder, overrides=None, config=config, **built)
    except stop.Stopped as stopped:
        print(stopped, file=sys.stderr)
    timer.cancel()
    with tarfile.open(out, "w") as archive:
        archive.add(folder, folder.name, filter=None if "run" not in config else _without_checkpoints)


def _find_conf():
    """Makes conf/ the package kipx.conf, which it is where kipx is installed."""
    if importlib.util.find_spec("kipx.conf") is None:
        spec = importlib.util.spec_from_file_location("kipx.conf", ROOT / "conf" / "__init__.py")
        sys.modules["kipx.conf"] = importlib.util.module_from_spec(spec)


def _command(config):
    """The module of the command that a config belongs to, and its arguments."""
    from kipx import arguments, artifacts
    from kipx.commands import distill, label_solve, transfer

    if "trainer" in config:
        config.setdefault("preprocess", None)  # a group that is not chosen is not written
        return transfer, arguments.transfer(config, artifacts.load(config["run"], step=config["step"]))
    if "steps" in config:
        return distill, arguments.distill(config)
    return label_solve, arguments.label_solve(config)


def _without_checkpoints(member):
    return None if "checkpoints" in pathlib.PurePath(member.name).parts else member


def main():
    """Packs data, or goes on with a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    packing = commands.add_parser("pack")
    packing.add_argument("name")
    packing.add_argument("paths", type=pathlib.Path, nargs="+")
    packing.add_argument("--train", type=int, default=None)
    packing.add_argument("--data-dir", default=None)
    going = commands.add_parser("go")
    going.add_argument("folder", type=pathlib.Path)
    going.add_argument("data", type=pathlib.Path, nargs="+")
    going.add_argument("--minutes", type=float, default=25)
    going.add_argument("--out", type=pathlib.Path, default=pathlib.Path("run.tar"))
    given = parser.parse_args()
    if given.command == "pack":
        return pack(given.name, given.paths, given.train, given.data_dir)
    return go(given.folder, given.data, given.minutes, given.out)


if __name__ == "__main__":
    main()
