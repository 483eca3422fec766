"""A run that is killed goes on and ends bit for bit where an uninterrupted one ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_module
from test_config import composed

from kipx import arguments, artifacts, checks, config, merged
from kipx.commands import distill

ARGUMENTS = [
    "distill",
    "kernel=fc",
    "steps=40",
    "target.batch_size=100",
    "baseline.draws=1",
    "engine.block_size=[100,10]",
]
KIPX = [sys.executable, "-c", "from kipx.cli import main; main()"]


def start(folder, *arguments):
    command = [*KIPX, *(arguments or ARGUMENTS)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_until(folder, step):
    """Starts a run and returns it as soon as its metrics hold a step."""
    process = start(folder, *ARGUMENTS, "hydra.run.dir=run")
    metrics = folder / "run" / "metrics.jsonl"
    while process.poll() is None:
        if metrics.exists() and len(metrics.read_text().splitlines()) > step:
            return process
        time.sleep(0.002)
    raise AssertionError(process.communicate()[1])


def rows(folder):
    """metrics.jsonl without the times."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "step_time_s"} for row in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, *ARGUMENTS, "hydra.run.dir=run")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return folder / "run"


def same_end(folder, whole):
    return (folder / "support.npz").read_bytes() == (whole / "support.npz").read_bytes() and rows(folder) == rows(whole)


@pytest.mark.parametrize("step", [0, 5, 39, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 23))])
def test_kill_9_loses_nothing(step, whole, tmp_path, kipx):
    process = run_until(tmp_path, step)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, _, err = kipx("distill", "resume=run")
    assert code == 0, err
    assert same_end(tmp_path / "run", whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_first(number, code, whole, tmp_path, kipx):
    process = run_until(tmp_path, 3)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "kipx: stopped at step" in err.splitlines()[-1]
    saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit())
    assert saved == rows(tmp_path / "run")[-1]["step"]
    assert artifacts.load(tmp_path / "run").images.shape == (10, 8, 8, 1), "a run that has not ended can be used"
    assert kipx("distill", "resume=run")[0] == 0
    assert same_end(tmp_path / "run", whole)


@pytest.fixture
def done(whole, tmp_path):
    """A copy of the finished run."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path


def test_a_finished_run_can_go_further(done, kipx):
    code, _, err = kipx("distill", "resume=run", "steps=42", "engine=dense", "logger=none")
    assert code == 0, err
    assert rows(done / "run")[-1]["step"] == 42
    config = yaml.safe_load((done / "run" / "config.yaml").read_text())
    assert config["steps"] == 42
    assert config["engine"]["_target_"] == "kipx.engine.dense.build"
    assert config["kernel"]["architecture"]["_target_"] == "kipx.architecture.fc"
    (row,) = map(json.loads, (done / "run" / "resumed.jsonl").read_text().splitlines())
    assert (row["step"], row["steps_before"], row["steps"]) == (40, 40, 42)
    assert row["environment"] == artifacts.environment()


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("checkpoints", "resume: run has support.npz but no checkpoint; put its checkpoints back, or set another"),
        ("metrics.jsonl", "run/metrics.jsonl: expected rows to step 40, got none; take it from a backup"),
    ],
)
def test_a_run_that_lost_a_part_is_not_begun_anew(lost, message, done, kipx):
    path = done / "run" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = {file: file.read_bytes() for file in (done / "run").rglob("*") if file.is_file()}
    code, _, err = kipx("distill", "resume=run", "steps=42")
    assert (code, message in err) == (2, True), err
    assert all(file.read_bytes() == content for file, content in before.items())


def test_a_run_that_goes_on_has_no_manifest_until_it_ends(done, monkeypatch, kipx):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(distill, "_steps", stopped)
        assert kipx("distill", "resume=run", "steps=42")[0] == 130
    assert not (done / "run" / "manifest.json").exists()
    assert kipx("distill", "resume=run")[0] == 0
    assert (done / "run" / "manifest.json").exists()


@pytest.mark.parametrize("steps", [0, 2])
def test_a_signal_at_the_last_step_is_heeded_too(steps, tmp_path, monkeypatch, kipx):
    plain = distill.evaluate.remembering

    def remembering(test):
        def at_last(images, labels):
            calls.append(len(calls))
            if len(calls) == 1 + min(steps, 2):  # rows of steps 0, 1 and 2
                os.kill(os.getpid(), signal.SIGINT)
            return test(images, labels)

        calls = []
        return plain(at_last)

    with monkeypatch.context() as patched:
        patched.setattr(distill.evaluate, "remembering", remembering)
        code, _, err = kipx(*ARGUMENTS, f"steps={steps}", "hydra.run.dir=run")
    assert (code, f"stopped at step {steps}; go on with kipx distill resume=" in err) == (130, True), err
    assert not (tmp_path / "run" / "summary.json").exists()
    assert kipx("distill", "resume=run")[0] == 0
    assert rows(tmp_path / "run")[-1]["step"] == steps


@pytest.mark.parametrize("key", ["engine.block_size", "logger.entity"])
def test_a_resumed_run_may_change_what_was_null(key, done, kipx):
    path = done / "run" / "config.yaml"
    section, _, name = key.partition(".")
    saved = yaml.safe_load(path.read_text())
    saved[section][name] = None
    path.write_text(yaml.safe_dump(saved))
    typed = [f"{key}=[50,5]"] if section == "engine" else ["logger=wandb", f"{key}=me"]
    cfg = composed("resume=run", *typed)
    assert merged.resumed(cfg, typed[-1:])[section][name] == cfg[section][name] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=1"], "only steps, engine, logger can change, got 'seed=1'"),
        (["engine=dense", "kernel.depth=2"], "can change, got 'kernel.depth=2'"),
        (["+engine.workers=3"], "the run's engine has no engine.workers; choose another with engine=... first"),
        (["steps=3"], "steps: expected at least 40, the steps already done, got 3"),
    ],
)
def test_what_a_resumed_run_may_not_change(done, arguments, message, kipx):
    before = (done / "run" / "config.yaml").read_bytes()
    code, _, err = kipx("distill", "resume=run", *arguments)
    assert (code, message in err) == (2, True), err
    assert (done / "run" / "config.yaml").read_bytes() == before


def test_a_checkpoint_of_another_config_is_refused(done, kipx):
    path = done / "run" / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    code, _, err = kipx("distill", "resume=run")
    assert code == 2
    assert "is of another config than config.yaml" in err


def test_a_damaged_checkpoint_is_named(done, kipx):
    for path in (done / "run" / "checkpoints" / "40").rglob("*"):
        if path.is_file() and os.path.getsize(path) > 0:
            path.write_bytes(b"")
    code, _, err = kipx("distill", "resume=run")
    assert code == 2, err
    assert "checkpoint at step 40" in err
    assert "Traceback" not in err


def built(*overrides):
    """A run's config, and the arguments it becomes."""
    with initialize_config_module("kipx.conf", version_base="1.3"):
        values = config.plain(compose("distill", overrides=[*ARGUMENTS[1:], *overrides]), arguments.DISTILL)
    return values, {**arguments.distill(values), "show": False}


def failing(run, *, after, calls_a_step=2):
    """The same run, whose engine fails in the backward pass of the step after that many."""
    (member,), calls = run["members"], []

    def vjp(*inputs):
        calls.append(inputs)
        if len(calls) > calls_a_step * after:
            raise checks.EngineError("engine: worker 7 failed")
        return member.engine.vjp(*inputs)

    return {**run, "members": [member._replace(engine=member.engine._replace(vjp=vjp))]}


def test_a_failed_worker_leaves_a_good_checkpoint(tmp_path, whole):
    """The engine fails in the ninth step's backward pass; the run goes on from the eighth."""
    values, run = built()
    with pytest.raises(checks.EngineError, match=f"worker 7 failed; go on with kipx distill resume={tmp_path}"):
        distill.run(tmp_path, overrides=[], config=values, **failing(run, after=8))
    assert rows(tmp_path)[-1]["step"] == 8
    distill.run(tmp_path, overrides=None, config=values, **run)
    assert rows(tmp_path) == rows(whole)


def test_augmented_targets_are_the_same_after_a_break(tmp_path, whole):
    values, run = built("augment=grayscale", "steps=6")
    distill.run(tmp_path / "whole", overrides=[], config=values, **run)
    with pytest.raises(checks.EngineError):
        distill.run(tmp_path / "broken", overrides=[], config=values, **failing(run, after=3))
    distill.run(tmp_path / "broken", overrides=None, config=values, **run)
    assert same_end(tmp_path / "broken", tmp_path / "whole")
    assert rows(tmp_path / "whole")[0] == rows(whole)[0]
    assert rows(tmp_path / "whole")[1]["train_loss"] != rows(whole)[1]["train_loss"]


def test_gauss_newton_takes_the_same_steps_after_a_break(tmp_path, whole):
    values, run = built("optimizer=gauss_newton", "steps=6")
    distill.run(tmp_path / "whole", overrides=[], config=values, **run)
    with pytest.raises(checks.EngineError):
        distill.run(tmp_path / "broken", overrides=[], config=values, **failing(run, after=3, calls_a_step=1))
    assert rows(tmp_path / "broken")[-1]["step"] == 3
    distill.run(tmp_path / "broken", overrides=None, config=values, **run)
    assert same_end(tmp_path / "broken", tmp_path / "whole")
    assert rows(tmp_path / "whole")[-1]["train_loss"] < rows(whole)[6]["train_loss"], "and is further than adam"


def test_several_sigterms_save_as_well(whole, tmp_path, kipx):
    process = run_until(tmp_path, 3)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.003)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert kipx("distill", "resume=run")[0] == 0
    assert same_end(tmp_path / "run", whole)


def other_data(path, **changes):
    """Writes an npz as it was, but for changes."""
    with np.load(path) as found:
        arrays = {**found, **{name: change(found[name]) for name, change in changes.items()}}
    np.savez(path, **arrays)


CHANGES = {
    "images": {"x_train": lambda x: 16 - x},
    "fewer": {"x_train": lambda x: x[:-1], "y_train": lambda y: y[:-1]},
    "test labels": {"y_test": lambda y: y[::-1].copy()},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("command", ["distill", "label-solve", "transfer"])
def test_other_data_are_refused(command, change, tiny_npz, tmp_path, kipx):
    shutil.copy(tiny_npz, tmp_path / "mine.npz")
    given = ["dataset=npz", "dataset.path=mine.npz", "kernel=fc", "kernel.depth=1", "debug=tiny"]
    assert kipx("distill", *given, "hydra.run.dir=set")[0] == 0
    if command == "label-solve":
        assert kipx(command, *given[:-1], "support.per_class=1", "hydra.run.dir=run")[0] == 0
    elif command == "transfer":
        assert kipx(command, "run=set", "debug=tiny", "hydra.run.dir=run")[0] == 0
    else:
        (tmp_path / "set").rename(tmp_path / "run")
    assert kipx(command, "resume=run")[0] == 0, "the same data"
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")}
    other_data(tmp_path / "mine.npz", **CHANGES[change])
    code, _, err = kipx(command, "resume=run")
    assert (code, err.count("\n"), "began on other data" in err) == (2, 1, True), err
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_of_before_the_data_were_noted_goes_on(done, kipx):
    path = done / "run" / "environment.json"
    known = json.loads(path.read_text())
    assert len(known.pop("data_sha256")) == 64
    path.write_text(json.dumps(known))
    assert kipx("distill", "resume=run")[0] == 0
