"""What wandb is told, and what becomes of a run whose wandb fails, hangs or lags: with a stand-in for it."""

import contextlib
import json
import sys
import threading
import time
import types

import numpy as np
import pytest
from matplotlib.figure import Figure

from kipx import checks, track, wandb_log
from kipx.report import pictures

FAST = ["kernel=fc", "debug=tiny"]
OFFLINE = ["logger=wandb", "logger.mode=offline", "logger.progress=false"]


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Fake(types.ModuleType):
    """What kipx calls of wandb, noting the calls; `fails` maps a name to what its call does instead."""

    def __init__(self, starting_step=0, key=False, **fails):
        super().__init__("wandb")
        self.calls, self.fails, self.starting_step = [], fails, starting_step
        self.id, self.summary, self.key = "fake", {}, key
        self.Settings = self.Image = self.Table = self.Histogram = lambda *_, **__: None
        self.Artifact = lambda *_, **__: types.SimpleNamespace(add_dir=lambda _: None, remove=lambda _: None)

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
    wandb, folder = fake(**{name: raising(error)}), tmp_path / "a run"
    folder.mkdir()
    with mirrored(folder) as mirror:
        send(mirror)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"kipx: logger=wandb: {type(error).__name__}")
    assert "second" not in line
    assert f"{folder}/metrics.jsonl is whole" in line
    assert f"kipx distill 'resume={folder}' logger=wandb sends W&B what it lacks" in line
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
    code, _, err = kipx("distill", *FAST, *OFFLINE, "hydra.run.dir=run")
    assert (code, len(err.splitlines())) == (0, 1), err
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2]
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_folder_that_can_have_no_run_of_wandb_ends_the_mirror(content, tmp_path, fake, capfd):
    wandb = fake()
    (tmp_path / "job.json").write_text(content)
    with mirrored(tmp_path) as mirror:
        send(mirror)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("kipx: logger=wandb: ")
    assert not wandb.named("init")


def test_a_run_has_its_id_before_its_first_step(tmp_path, fake, monkeypatch):
    """However busy the machine: a manifest that is closed earlier would not list it."""
    fake()
    identity = wandb_log._identity
    monkeypatch.setattr(wandb_log, "_identity", lambda *given: time.sleep(0.2) or identity(*given))
    with mirrored(tmp_path):
        assert (tmp_path / "wandb.json").is_file()


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
    code, _, err = kipx(
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
    code, _, err = kipx("distill", *FAST, "logger=wandb", override)
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


def test_the_agent_of_a_sweep_names_the_run(tmp_path, fake, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    wandb = fake()
    with mirrored(tmp_path):
        pass
    ((settings,),) = wandb.named("init")
    assert (settings["id"], settings["resume"]) == ("r1", None)
