"""Weights & Biases mirrors a run, and nothing that it does or fails to do changes the run."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_module
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from kipx import app, arguments, checks, cli, config, track, wandb_log
from kipx.report import pictures

ROOT = pathlib.Path(__file__).parents[1]
FAST = ["kernel=fc", "debug=tiny"]
OFFLINE = ["logger=wandb", "logger.mode=offline", "logger.progress=false"]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """wandb writes into the test's folder, knows no key, and says nothing."""
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb_files"))
    (tmp_path / "wandb_files").mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # which goes over the network
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture
def kipx(tmp_path, monkeypatch, capfd):
    """Runs a command in this process in an empty folder; returns (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kipx", *arguments])
        code = cli.run(arguments[0], list(arguments[1:]))
        return code, capfd.readouterr().err

    return run


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(folder):
    return [{key: value for key, value in row.items() if key != "step_time_s"} for row in rows(folder)]


def records(path):
    """The records of an offline run's file: LevelDB's log format, blocks of 32 KiB, behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # the rest of a block
            at += 2**15 - at % 2**15
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def offline(folder, name="*"):
    """The records of each offline run that wandb left, in order of time."""
    return [list(records(path)) for path in sorted(folder.glob(f"wandb_files/wandb/offline-run-*/run-{name}.wandb"))]


def history(found):
    """The rows that W&B was sent, whole."""
    sent = [record.history for record in found if record.WhichOneof("record_type") == "history"]
    return [{".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item} for row in sent]


def metrics(found):
    """The same as in metrics.jsonl."""
    own = ("step", "train_loss", "train_accuracy", "test_accuracy", "test_mse", "step_time_s")
    return [{key: row[key] for key in own if key in row} for row in history(found)]


def opened(found):
    """What W&B was told of the run: project, group, job type, id, ..."""
    return next(record.run for record in found if record.WhichOneof("record_type") == "run")


def logged(found):
    """The artifacts of a type, by name: {path in it}."""
    made = [record.request.log_artifact.artifact for record in found if record.request.HasField("log_artifact")]
    made += [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    return {one.name: {entry.path for entry in one.manifest.contents} for one in made if one.type == "run"}


def test_an_offline_run_holds_all_that_the_folder_does(kipx, tmp_path):
    assert kipx("distill", *FAST, *OFFLINE, "seed=3", "hydra.run.dir=run")[0] == 0
    (found,) = offline(tmp_path)
    assert metrics(found) == rows(tmp_path / "run")
    for row in history(found):
        assert (row["images._type"], row["labels._type"], row["labels.nrows"]) == ("image-file", "table-file", 10)
        assert row["histogram/pixels._type"] == row["histogram/labels._type"] == "histogram"
    kept, run = json.loads((tmp_path / "run" / "wandb.json").read_text()), opened(found)
    assert (run.run_id, run.job_type, run.project, run.run_group) == (kept["id"], "distill", "kipx", "")
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["seed"] == 3
    listed = json.loads((tmp_path / "run" / "manifest.json").read_text())["files"]
    assert logged(found) == {f"distill-{kept['id']}": {*listed, "manifest.json"}}
    assert any(record.WhichOneof("record_type") == "stats" for record in found), "system metrics"
    assert kipx("distill", *FAST, "logger=none", "seed=3", "hydra.run.dir=plain")[0] == 0
    assert (tmp_path / "run" / "support.npz").read_bytes() == (tmp_path / "plain" / "support.npz").read_bytes()
    assert untimed(tmp_path / "run") == untimed(tmp_path / "plain")


def test_a_resumed_run_is_the_same_run_and_its_last_folder_is_whole(kipx, tmp_path):
    """It began without W&B, as runs whose config knows nothing of it; each sitting offline holds what is there."""
    assert kipx("distill", *FAST, "logger=none", "hydra.run.dir=run")[0] == 0
    for steps in (3, 4):
        code, err = kipx("distill", "resume=run", f"steps={steps}", *OFFLINE)
        assert code == 0, err
        time.sleep(1)  # wandb's folders have the second in their names
    first, second = offline(tmp_path)
    assert opened(first).run_id == opened(second).run_id
    assert [row["step"] for row in history(first)] == [0, 1, 2, 3], "a finished run sends what W&B lacks"
    assert metrics(second) == rows(tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 5


def test_the_jobs_of_a_sweep_are_a_group(kipx, tmp_path):
    code, err = kipx("distill", "-m", *FAST, *OFFLINE, "seed=0,1", "hydra.sweep.dir=overnight")
    assert code == 0, err
    runs = [opened(found) for found in offline(tmp_path)]
    assert {run.run_group for run in runs} == {"overnight"}
    assert len({run.run_id for run in runs}) == 2
    assert sorted("seed=1" in run.display_name for run in runs) == [False, True]


def service(pid):
    """The process id of the service that wandb started in a process; None if it has none yet."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            if name.startswith("wandb-core") and int(rest.split()[1]) == pid:
                return int(stat.parent.name)
    return None


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_a_killed_service_changes_nothing(kipx, tmp_path):
    overrides = ["kernel=fc", "steps=150", "baseline.draws=1", "target.batch_size=100"]
    command = [sys.executable, "-c", "from kipx.cli import main; main()", "distill", *overrides]
    process = subprocess.Popen([*command, *OFFLINE, "hydra.run.dir=run"], cwd=tmp_path, stderr=-1, text=True)
    while not (pid := service(process.pid)) or not list(tmp_path.glob("wandb_files/wandb/offline-run-*/*.wandb")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    done = len(rows(tmp_path / "run")) if (tmp_path / "run" / "metrics.jsonl").exists() else 0
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert done < 151, "killed in mid-run"
    (line,) = err.splitlines()
    assert line.startswith("kipx: logger=wandb: ")
    assert "run/metrics.jsonl is whole" in line
    assert kipx("distill", *overrides, "logger=none", "hydra.run.dir=plain")[0] == 0
    assert (tmp_path / "run" / "support.npz").read_bytes() == (tmp_path / "plain" / "support.npz").read_bytes()
    assert untimed(tmp_path / "run") == untimed(tmp_path / "plain")


@pytest.mark.slow
def test_without_network_a_run_is_done_all_the_same(kipx, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    online = ["logger=wandb", "logger.mode=online", "logger.progress=false", "logger.finish_s=3"]
    code, err = kipx("distill", *FAST, *online, "hydra.run.dir=run")
    assert code == 0, err
    (line,) = (line for line in err.splitlines() if line.startswith("kipx: "))
    assert line.startswith("kipx: logger=wandb: ")
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2]


class Fake(types.ModuleType):
    """What kipx calls of wandb, noting the calls; `fails` maps a name to what its call does instead."""

    def __init__(self, starting_step=0, key=False, **fails):
        super().__init__("wandb")
        self.calls, self.fails, self.starting_step = [], fails, starting_step
        self.id, self.summary, self.key = "fake", {}, key
        self.Settings = self.Image = self.Table = self.Histogram = lambda *_, **__: None
        self.Artifact = lambda *_, **__: types.SimpleNamespace(add_dir=lambda folder: None)

    def _called(self, name, *given):
        self.calls.append((name, *given))
        self.fails.get(name, lambda: None)()

    def login(self, prompt):
        self._called("login", prompt)
        return self.key

    def init(self, **settings):
        self._called("init", settings)
        return self

    def log(self, row, step):
        self._called("log", row, step)

    def log_artifact(self, artifact):
        self._called("log_artifact")

    def finish(self, exit_code):
        self._called("finish", exit_code)

    def teardown(self, exit_code):
        self._called("teardown")

    def named(self, name):
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def fake(monkeypatch):
    def put(**how):
        monkeypatch.setitem(sys.modules, "wandb", Fake(**how))
        return sys.modules["wandb"]

    return put


def raising(error):
    def call():
        raise error

    return call


ROWS = [{"step": 0, "test_accuracy": 0.5}, {"step": 1, "train_loss": 0.1}, {"step": 2, "train_loss": 0.05}]
SHOWN = track.Shown(pictures.as_png(Figure()), np.zeros((2, 4, 4, 1)), np.eye(2), ("cat", "dog"))


@contextlib.contextmanager
def mirrored(folder, **settings):
    """A mirror of a run folder that is done by the time that it is left."""
    where = {"mode": "offline", "project": "kipx", "entity": None, "group": None, "finish_s": 5.0}
    for name in ("summary", "manifest"):
        (folder / f"{name}.json").write_text('{"steps": 2}')
    with wandb_log.build(**{**where, **settings})(folder, {"seed": 0}, "distill") as mirror:
        yield mirror


def send(mirror):
    for row in ROWS:
        mirror.log(row)
        mirror.see(row["step"], lambda: SHOWN)


FAILURES = [
    ("init", ConnectionError("no network")),
    ("log", OSError(28, "No space left on device")),
    ("log", SystemExit(1)),
    ("log_artifact", RuntimeError("first\nsecond")),
    ("finish", KeyboardInterrupt()),
]


@pytest.mark.parametrize(
    ("name", "error"), FAILURES, ids=lambda value: value if isinstance(value, str) else repr(value)
)
def test_what_wandb_raises_is_told_once(name, error, tmp_path, fake, capfd):
    wandb = fake(**{name: raising(error)})
    with mirrored(tmp_path) as mirror:
        send(mirror)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"kipx: logger=wandb: {type(error).__name__}")
    assert "second" not in line
    assert f"{tmp_path}/metrics.jsonl is whole" in line
    assert f"kipx distill resume={tmp_path} logger=wandb sends W&B what it lacks" in line
    assert [call[0] for call in wandb.calls[-2:]] == [name, "teardown"], "and nothing else afterwards"


def test_what_the_end_of_wandb_raises_is_nobodys_concern(tmp_path, fake, capfd):
    wandb = fake(teardown=raising(SystemExit(255)))
    with mirrored(tmp_path) as mirror:
        send(mirror)
    assert capfd.readouterr().err == ""
    assert wandb.named("finish") == [(0,)]


@pytest.mark.parametrize("name", ["init", "log"])
def test_a_run_whose_logger_fails_is_done_all_the_same(name, kipx, tmp_path, fake):
    fake(**{name: raising(OSError(28, "No space left on device"))})
    code, err = kipx("distill", *FAST, *OFFLINE, "hydra.run.dir=run")
    assert (code, len(err.splitlines())) == (0, 1), err
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2]
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.parametrize(
    ("waiting", "message"), [(9, "has not taken everything within 0.2 s"), (2, "is 2 rows behind")]
)
def test_what_hangs_is_left_behind(waiting, message, tmp_path, fake, monkeypatch, capfd):
    monkeypatch.setattr(wandb_log, "WAITING", waiting)
    never = threading.Event()
    fake(init=never.wait)
    began = time.monotonic()
    with mirrored(tmp_path, finish_s=0.2) as mirror:
        send(mirror)
        assert time.monotonic() - began < 0.2, "no step waits"
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert time.monotonic() - began < 5
    never.set()


def test_only_what_wandb_lacks_is_sent(tmp_path, fake):
    wandb = fake(starting_step=2)
    with mirrored(tmp_path) as mirror:
        send(mirror)
    assert [(step, "images" in row) for row, step in wandb.named("log")] == [(2, False), (2, True)]
    assert wandb.summary == {"steps": 2}


def test_a_run_that_fails_is_told_so(tmp_path, fake):
    wandb = fake()
    with pytest.raises(checks.NumericalError), mirrored(tmp_path) as mirror:
        send(mirror)
        raise checks.NumericalError("nan")
    assert wandb.named("finish") == [(1,)]
    assert not wandb.named("log_artifact")


def test_disabled_does_nothing(kipx, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # cannot be imported
    code, err = kipx(
        "distill", *FAST, "logger=wandb", "logger.mode=disabled", "logger.progress=false", "hydra.run.dir=run"
    )
    assert (code, err) == (0, "")
    assert not (tmp_path / "run" / "wandb.json").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logger.mode=dryrun", "logger.mode: expected one of auto, online, offline, disabled, got 'dryrun'"),
        ("logger.finish_s=0", "logger.finish_s: expected a number > 0, got 0"),
        ("logger.project=null", "logger.project: expected text, got None"),
        ("+logger.projct=x", "logger.projct: unknown key, did you mean project"),
    ],
)
def test_refusals(override, message, kipx):
    code, err = kipx("distill", *FAST, "logger=wandb", override)
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("mode", "variable", "key", "taken"),
    [
        ("auto", None, False, "offline"),
        ("auto", None, True, "online"),
        ("auto", "offline", True, None),  # wandb reads it
        ("online", "offline", True, "online"),
        ("offline", None, True, "offline"),
    ],
)
def test_the_mode(mode, variable, key, taken, tmp_path, fake, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", variable or "")
    wandb = fake(key=key)
    with mirrored(tmp_path, mode=mode):
        pass
    ((settings,),) = wandb.named("init")
    assert settings["mode"] == taken


def test_online_without_a_key_asks_nobody(tmp_path, fake, capfd):
    wandb = fake(key=False)
    with mirrored(tmp_path, mode="online"):
        pass
    assert "found no key; run wandb login, or take logger.mode=offline" in capfd.readouterr().err
    assert not wandb.named("init")


def test_label_solve_and_transfer_are_mirrored_too(kipx, tmp_path, fake):
    wandb = fake()
    assert kipx("label-solve", "kernel=fc", *OFFLINE, "hydra.run.dir=solved")[0] == 0
    metrics_only = [row for row, _ in wandb.named("log") if "images" not in row]
    assert metrics_only == rows(tmp_path / "solved")
    assert [step for row, step in wandb.named("log") if "images" in row] == [1]
    wandb = fake()
    assert kipx("transfer", "run=solved", "debug=tiny", *OFFLINE, "hydra.run.dir=trained")[0] == 0
    assert [row for row, _ in wandb.named("log")] == rows(tmp_path / "trained")
    assert wandb.named("init")[0][0]["job_type"] == "transfer"
    assert wandb.summary["sets"]


SWEEPS = sorted((ROOT / "sweeps" / "wandb").glob("*.yaml"))


def override(name, parameter):
    """As W&B's agent writes a parameter of a sweep in ${args_no_hyphens}."""
    return f"{name}={parameter['values'][0] if 'values' in parameter else parameter['min']}"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_of_wandb_drives_overrides_that_exist(path):
    sweep = yaml.safe_load(path.read_text())
    env, kipx, command, *fixed, last = sweep["command"]
    assert (env, kipx, command, last) == ("${env}", "kipx", "distill", "${args_no_hyphens}")
    assert "logger=wandb" in fixed
    assert sweep["metric"]["name"] in ("test_accuracy", "train_loss")
    driven = [override(*one) for one in sweep["parameters"].items()]
    with initialize_config_module("kipx.conf", version_base="1.3"):
        cfg = compose(command, overrides=[app.SWEEPS, *fixed, *driven])
    for name in sweep["parameters"]:
        assert OmegaConf.select(cfg, name, default="absent") != "absent", name
    arguments.distill(config.plain(cfg, arguments.DISTILL))


def test_they_are_no_group_of_hydra(kipx):
    code, err = kipx("distill", "+wandb=digits")
    assert code == 2
    assert "wandb: unknown key" in err


def test_the_agent_of_a_sweep_names_the_run(tmp_path, fake, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    wandb = fake()
    with mirrored(tmp_path):
        pass
    ((settings,),) = wandb.named("init")
    assert (settings["id"], settings["resume"]) == ("r1", None)


def test_the_package_ships_them():
    from importlib import resources

    assert {path.name for path in SWEEPS} == {
        path.name for path in (resources.files("kipx.sweeps") / "wandb").iterdir()
    }
