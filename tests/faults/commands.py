"""The four commands that write for long: how each is started, how it goes on, and what must be the same in the end."""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import re
import threading
import time
from typing import NamedTuple

import mnist_in_small
import numpy as np

from faults import process
from kipx import artifacts, track
from kipx.data import digits, published

TIMES = {"step_time_s", "time_s"}


class Command(NamedTuple):
    """One command on one tiny problem.

    Attributes:
      name: of it; arguments: without its folder.
      folder: the name of the argument that says where it writes.
      resumes: whether resume=<folder> goes on; else it is run again.
      traces: folder -> {what: value} that nothing may change.
      parts: patterns of what lies in the folder while {"checkpoint" | "artifact"} is being written.
    """

    name: str
    arguments: list
    folder: str
    resumes: bool
    traces: object
    parts: dict

    def begin(self, folder, log, **how):
        """Starts it in a folder."""
        return process.start([self.name, *self.arguments, f"{self.folder}={folder}"], log, **how)

    def go_on(self, folder, log, **how):
        """Starts it as its user would after a fault."""
        if self.resumes and (pathlib.Path(folder) / artifacts.CONFIG).exists():
            return process.start([self.name, f"resume={folder}"], log, **how)
        return self.begin(folder, log, **how)


def make(folder):
    """[Command] on data that is made in a folder; also the run that transfer is of."""
    npz = folder / "tiny.npz"
    data = digits.load()
    train, test = (x[:n, ::2, ::2] for x, n in ((data.x_train, 200), (data.x_test, 30)))
    np.savez(npz, x_train=train, y_train=data.y_train[:200], x_test=test, y_test=data.y_test[:30])
    tiny = ["dataset=npz", f"dataset.path={npz}", "logger=none"]
    kernel = ["kernel=fc", "kernel.depth=1", "kernel.kind=nngp", "engine=dense"]
    learn = [*tiny, *kernel, "steps=12", "target.batch_size=20", "baseline.draws=1", "checkpoint.every_s=0.01"]
    distill = Command("distill", learn, "hydra.run.dir", True, of_distill, ORBAX)
    ended = distill.begin(folder / "set", folder / "set.log").wait()
    assert ended.code == 0, ended.said
    train = ["network=fc", "network.depth=1", "debug=tiny", "trainer.evaluations=5", "checkpoint.every_s=0.01"]
    summed = [*tiny, *kernel, "target.batch_size=10", "checkpoint.every_s=0.00001"]
    small = ["dataset=mnist"]
    return [
        distill,
        Command("label-solve", summed, "hydra.run.dir", True, of_label_solve, SUMS),
        Command(
            "transfer",
            [f"run={folder / 'set'}", "baselines=[]", "logger=none", *train],
            "hydra.run.dir",
            True,
            of_transfer,
            ORBAX,
        ),
        Command("prepare", small, "dataset.data_dir", False, of_prepare, PREPARED),
    ]


ORBAX = {"checkpoint": r"checkpoints/.*orbax-checkpoint-tmp.*", "artifact": r"\..*\.part"}
SUMS = {"checkpoint": r"\.label_solve\.npz\.part", "artifact": r"\.(?!label_solve).*\.part"}
PREPARED = {"checkpoint": r"downloads/mnist/.*\.part", "artifact": r"incomplete\.mnist/.*"}
LEFT = re.compile(r"incomplete\.|\..*\.lock$")  # beside prepared data


def watch(folder, pattern):
    """The names below a folder, two levels deep, that match."""
    found, pattern = set(), re.compile(pattern)
    for inside in ("", "checkpoints", "downloads/mnist", "incomplete.mnist", "incomplete.mnist/mnist"):
        with contextlib.suppress(OSError):
            names = os.listdir(os.path.join(folder, inside))
            found |= {name for name in (os.path.join(inside, n) for n in names) if pattern.fullmatch(name)}
    return found


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(one) for key, one in value.items() if key not in TIMES}
    return value


def _learned(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return {"rows": _without_times({"rows": [_without_times(r) for r in track.read(folder / artifacts.METRICS)]})} | {
        "summary": _without_times(summary)
    }


def _bytes(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_distill(folder):
    """Set, picture, rows, summary, and which steps have a checkpoint."""
    return {name: _bytes(folder / name) for name in (artifacts.SUPPORT, "support.png")} | _learned(folder)


def of_label_solve(folder):
    """Set, picture, rows, summary, and the sums to the bit."""
    sums = artifacts.read_npz(folder / "label_solve.npz")
    return of_distill(folder) | {"done": int(sums["done"]), "sums": sums["triangles"].tobytes().hex()}


def of_transfer(folder):
    """Rows and summary: accuracy of every network."""
    return _learned(folder)


def of_prepare(folder):
    """All images and labels in order, what describes them and lies beside; the records' compression may differ.

    What is named as not whole may stay where a kill came after the rest was: it bars nobody's way.
    """
    data, where = published.load(name="mnist", data_dir=str(folder)), folder / "mnist" / "3.0.1"
    arrays = [hashlib.sha256(one.tobytes()).hexdigest() for one in data[:4]]
    texts = {path.name: path.read_text() for path in where.glob("*.json")}
    names = sorted(path.name for at in (folder, where) for path in at.iterdir() if not LEFT.match(path.name))
    return {"arrays": arrays, "classes": data.class_names, "names": names, **texts}


@contextlib.contextmanager
def serving():
    """Serves the small MNIST, slowly, to those whose environment says where it lies."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slowly)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


class _Slowly(http.server.BaseHTTPRequestHandler):
    """Sends a file in a second or so, from where a download goes on."""

    def do_GET(self):
        """Answers."""
        content = mnist_in_small.SMALL.files[self.path.strip("/")]
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        with contextlib.suppress(OSError):
            for at in range(begin, len(content), 1 << 17):
                self.wfile.write(content[at : min(at + (1 << 17), len(content))])
                time.sleep(0.03)

    def log_message(self, *_):
        """Says nothing."""
