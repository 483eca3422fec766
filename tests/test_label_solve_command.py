"""kipx label-solve and labels.init=solved, from the command line to the folder, whole and interrupted."""

import json
import os
import signal
import types
from functools import partial

import contract
import jax
import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_module
from test_cli import only

from kipx import arguments, artifacts, checks, config, krr, machine, support, track
from kipx.commands import distill, solving, stop
from kipx.commands import label_solve as command
from kipx.engine import dense

FAST = ["kernel=fc", "logger=none", "target.batch_size=100"]


def composed(*overrides, of="label-solve"):
    with initialize_config_module("kipx.conf", version_base="1.3"):
        return compose(of, overrides=list(overrides))


@pytest.fixture
def solve(tmp_path, tiny_npz):
    """Runs label-solve on tiny digits into a folder; `changes` replace built arguments, resume goes on there."""

    def run(name, *overrides, resume=False, **changes):
        kernel = [] if any(o.startswith("kernel=") for o in overrides) else ["kernel=fc"]
        cfg = composed("dataset=npz", f"dataset.path={tiny_npz}", *kernel, *FAST[1:], *overrides)
        values = config.plain(cfg, arguments.LABEL_SOLVE)
        built = {**arguments.label_solve(values), **changes}
        return command.run(tmp_path / name, overrides=None if resume else [], config=values, **built)

    run.folder = tmp_path
    return run


def test_more_memory_than_there_is_is_refused_before_the_fit(solve, monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(1000, None))
    with pytest.raises(checks.UserError, match=r"memory: the run would need about .*this machine has 0\.001 MB"):
        solve("run", fit=lambda pixels: pytest.fail("fitted"))
    assert not (solve.folder / "run").exists()


def test_solved_then_evaluated_gives_the_same_number(kipx):
    code, out, _ = kipx("label-solve", "kernel=fc", "debug=tiny", "seed=3")
    assert code == 0
    assert "Label Solve over 1297 targets" in out
    run = only(kipx.folder / "outputs" / "label-solve")
    assert {path.name for path in run.iterdir()} == set(contract.LABEL_SOLVE_FILES)
    rows, summary = track.read(run / "metrics.jsonl"), json.loads((run / "summary.json").read_text())
    assert [row["step"] for row in rows] == [0, 1]
    assert set().union(*rows) <= contract.METRICS
    assert rows[1]["test_accuracy"] == summary["test_accuracy"] > summary["initial_test_accuracy"]
    assert rows[0]["test_accuracy"] == summary["initial_test_accuracy"]
    assert summary["test_mse"] < summary["initial_test_mse"]
    assert summary["label_solve"]["kept"] == summary["label_solve"]["directions"] == 10
    assert summary["label_solve"]["residual"] < 1e-12
    sums = json.loads((run / "manifest.json").read_text())["files"]
    assert {"support.npz", "support.png", "label_solve.npz", "metrics.jsonl"} <= set(sums)
    assert kipx("evaluate", f"run={run}", "hydra.run.dir=again")[0] == 0
    again = json.loads((kipx.folder / "again" / "evaluation.json").read_text())
    assert (again["test_accuracy"], again["test_mse"]) == (summary["test_accuracy"], summary["test_mse"])


def test_the_images_are_those_that_distill_starts_from_and_a_sweep_has_one_folder_a_seed(kipx):
    code, _, _ = kipx(
        "label-solve", "-m", "kernel=fc", "debug=tiny", "logger=none", "seed=0,1", "hydra.sweep.dir=sweep"
    )
    assert code == 0
    first, second = (artifacts.load(kipx.folder / "sweep" / job).images for job in "01")
    assert not np.array_equal(first, second)
    assert kipx("distill", "kernel=fc", "debug=tiny", "logger=none", "steps=0", "hydra.run.dir=distilled")[0] == 0
    np.testing.assert_array_equal(artifacts.load(kipx.folder / "distilled").images, first)


def test_the_labels_are_the_pseudo_inverse_of_the_run_s_own_kernel(solve, tiny_npz):
    solve("run", "support.per_class=2", "ridge=1e-4", "kernel.dtype=float64")
    distilled, data = artifacts.load(solve.folder / "run"), np.load(tiny_npz)
    values = config.plain(composed("kernel=fc", "kernel.dtype=float64"), arguments.LABEL_SOLVE)
    kernel_fn = jax.jit(arguments.kernel(values["kernel"]))
    x_train = distilled.preprocess(data["x_train"].reshape(-1, 4, 4, 1))
    k_ss, k_ts = np.asarray(kernel_fn(distilled.images)), np.asarray(kernel_fn(x_train, distilled.images))
    a = k_ts @ np.linalg.inv(k_ss + 1e-4 * np.trace(k_ss) / 20 * np.eye(20))
    expected = np.linalg.pinv(a) @ np.asarray(support.one_hot(data["y_train"], 10))
    np.testing.assert_allclose(distilled.labels, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "options",
    [
        ["engine=dense"],
        ["engine=blockwise", "engine.block_size=[7,3]"],
        ["engine=sharded"],
        ["preprocess=zca"],
        ["kernel=convnet", "kernel.depth=1"],
        ["kernel=sampled", "kernel.depth=1", "~kernel.members.convvec8"],
        ["form=notebook"],
        ["support.per_class=10", "target.batch_size=7"],
    ],
)
def test_options_solve_and_beat_one_hot_labels(solve, options):
    summary = solve("run", *options)
    assert summary["targets"] == 200
    assert summary["test_mse"] < summary["initial_test_mse"]
    assert summary["label_solve"]["residual"] < (1e-3 if "form=notebook" in options else 1e-9)


def test_more_support_images_than_targets(solve, tmp_path):
    """A rank-deficient A'A: no more directions than targets, and labels that stay small."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (12, 4, 4), np.uint8), np.arange(12) % 2
    np.savez(tmp_path / "few.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    summary = solve("run", f"dataset.path={tmp_path / 'few.npz'}", "support=noise", "support.per_class=10")
    assert summary["label_solve"] == {"kept": 12, "directions": 20, "residual": summary["label_solve"]["residual"]}
    assert summary["train_loss"] < 1e-12
    assert summary["test_accuracy"] == 1


def numbers(folder):
    """All that a run leaves but for times."""
    rows = [{k: v for k, v in row.items() if k != "step_time_s"} for row in track.read(folder / "metrics.jsonl")]
    return (folder / "support.npz").read_bytes(), rows


def test_a_process_that_does_not_lead_goes_on_without_the_first_row(solve, monkeypatch):
    solve("run")
    before = numbers(solve.folder / "run")
    monkeypatch.setattr(command, "hosts", types.SimpleNamespace(leads=lambda: False, any_of=lambda flag: True))
    assert solve("run", resume=True) == {}
    assert numbers(solve.folder / "run") == before


def broken_engine(calls, act):
    """The members of FAST; their engine acts before that call of gram."""
    values = config.plain(composed(*FAST), arguments.LABEL_SOLVE)
    (member,) = arguments.members(values["kernel"], values["engine"])
    counted = []

    def gram(*inputs):
        counted.append(inputs)
        if len(counted) == calls:
            act()
        return member.engine.gram(*inputs)

    return [member._replace(engine=member.engine._replace(gram=gram))]


def fail():
    raise checks.EngineError("engine: worker 7 failed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_sums_and_the_run_goes_on_bit_for_bit(solve, number):
    solve("whole", "target.batch_size=30")
    broken = broken_engine(5, lambda: os.kill(os.getpid(), number))  # two calls for row 0, the third block of seven
    with pytest.raises(stop.Stopped, match=r"stopped at target 90 of 200; go on with kipx label-solve resume="):
        solve("run", "target.batch_size=30", members=broken)
    assert int(np.load(solve.folder / "run" / solving.SUMS)["done"]) == 90
    solve("run", "target.batch_size=30", resume=True)
    assert numbers(solve.folder / "run") == numbers(solve.folder / "whole")


def test_a_failed_engine_leaves_the_sums_before_it(solve):
    solve("whole", "target.batch_size=30")
    with pytest.raises(checks.EngineError, match="worker 7 failed; go on with kipx label-solve resume="):
        solve("run", "target.batch_size=30", members=broken_engine(6, fail))
    assert int(np.load(solve.folder / "run" / solving.SUMS)["done"]) == 90
    summary = solve("run", "target.batch_size=30", resume=True)
    assert numbers(solve.folder / "run") == numbers(solve.folder / "whole")
    again = solve("run", "target.batch_size=30", resume=True)
    assert again == summary, "a finished run has nothing left to do"


def test_sums_are_saved_in_between(solve, monkeypatch):
    saved = []
    monkeypatch.setattr(solving, "_save", lambda run, sums, spent: saved.append(sums.done))
    solve("run", "target.batch_size=80", "checkpoint.every_s=1e-9")
    assert saved == [80, 160, 200, 200]


@pytest.mark.parametrize("content", [b"", b"PK torn", None])
def test_sums_that_cannot_be_used_are_named(solve, content):
    solve("run")
    path = solve.folder / "run" / solving.SUMS
    if content is None:
        arrays = dict(np.load(path))
        np.savez(path, **{**arrays, "config": "another"})
    else:
        path.write_bytes(content)
    message = "is of another config" if content is None else "cannot be read; remove it to sum up again"
    with pytest.raises(checks.UserError, match=f"resume: .*{solving.SUMS} {message}"):
        solve("run", resume=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed: expected an integer >= 0, got -1"),
        ("target.batch_size=0", r"target\.batch_size: expected an integer >= 1, got 0"),
        ("checkpoint.every_s=0", r"checkpoint\.every_s: expected a number > 0"),
        ("support.per_class=99", r"support\.per_class: expected at most \d+, the images of class \d, got 99"),
        ("ridge=0", "ridge: expected a number > 0, got 0"),
        ("form.cutoff=1.5", r"form\.cutoff: expected a number from 0 to below 1, got 1\.5"),
        ("form=notebook form.ridge=0", r"form\.ridge: expected a number > 0"),
    ],
)
def test_refusals_leave_no_run_behind(solve, override, message):
    with pytest.raises(checks.UserError, match=message):
        solve("run", *override.split())
    assert not (solve.folder / "run").exists()


def test_the_notebook_s_form_refuses_a_family_at_once():
    values = config.plain(composed("kernel=sampled", "form=notebook"), arguments.LABEL_SOLVE)
    with pytest.raises(checks.UserError, match="of one kernel, not of a family; take form=least_norm"):
        arguments.label_solve(values)


@pytest.mark.parametrize("wrong", ["steps=5", "+steps=5", "labels=learned", "form=best"])
def test_what_label_solve_does_not_have(kipx, wrong):
    code, _, err = kipx("label-solve", wrong)
    assert code == 2
    assert err.startswith("kipx: ")
    assert err.count("\n") == 1


def test_a_resumed_run_may_change_its_engine_and_nothing_else(kipx):
    assert kipx("label-solve", *FAST, "hydra.run.dir=run")[0] == 0
    before = numbers(kipx.folder / "run")
    code, _, err = kipx("label-solve", "resume=run", "ridge=1e-3")
    assert (code, "can change, got 'ridge=1e-3'" in err) == (2, True)
    assert kipx("label-solve", "resume=run", "engine=dense")[0] == 0
    assert numbers(kipx.folder / "run")[1][0] == before[1][0]
    saved = yaml.safe_load((kipx.folder / "run" / "config.yaml").read_text())
    assert saved["engine"]["_target_"] == "kipx.engine.dense.build"


@pytest.fixture
def distilled(tmp_path, tiny_npz):
    """Runs distill with solved labels on tiny digits."""

    def run(name, *overrides, resume=False, **changes):
        given = ["dataset=npz", f"dataset.path={tiny_npz}", "labels.init=solved", "steps=2"]
        cfg = composed(*given, *FAST, *overrides, of="distill")
        values = config.plain(cfg, arguments.DISTILL)
        built = {**arguments.distill(values), **changes}
        return distill.run(tmp_path / name, overrides=None if resume else [], config=values, **built)

    run.folder = tmp_path
    return run


@pytest.mark.parametrize("labels", ["fixed", "learned"])
def test_distill_starts_from_solved_labels(distilled, solve, labels):
    solved = solve("solved")
    summary = distilled("run", f"labels={labels}", "baseline.draws=0")
    rows = track.read(distilled.folder / "run" / "metrics.jsonl")
    assert rows[0]["test_accuracy"] == pytest.approx(solved["test_accuracy"])
    assert rows[0]["test_mse"] == pytest.approx(solved["test_mse"], rel=1e-6)
    assert summary["initial_test_accuracy"] == rows[0]["test_accuracy"]
    start, end = artifacts.load(distilled.folder / "solved"), artifacts.load(distilled.folder / "run")
    assert not np.array_equal(start.images, end.images)
    assert np.allclose(start.labels, end.labels, rtol=1e-9) == (labels == "fixed")


def test_distill_interrupted_while_it_solves_goes_on(distilled, monkeypatch):
    monkeypatch.setattr(solving, "solve", partial(solving.solve, batch=30))
    distilled("whole")
    with pytest.raises(checks.EngineError, match="go on with kipx distill resume="):
        distilled("run", members=broken_engine(3, fail))
    distilled("run", resume=True)
    whole, run = (numbers(distilled.folder / name) for name in ("whole", "run"))
    assert whole == run
    assert [row["step"] for row in track.read(distilled.folder / "run" / "resumed.jsonl")] == [0]


def test_a_solve_under_the_evaluation_s_ridge_is_consistent(solve):
    """The train loss that the sums give is the loss of kipx.krr at these labels."""
    summary = solve("run", "kernel.dtype=float64")
    values = config.plain(composed("kernel=fc", "kernel.dtype=float64"), arguments.LABEL_SOLVE)
    engine = dense.build(arguments.kernel(values["kernel"]))
    found = artifacts.load(solve.folder / "run")
    data = arguments.build(found.config["dataset"]["load"], "dataset.load")
    x, y = found.preprocess(data.x_train), support.one_hot(data.y_train, 10)
    expected = krr.loss(engine.gram(found.images), engine.gram(x, found.images), found.labels, y, ridge=1e-6)
    assert summary["train_loss"] == pytest.approx(float(expected), rel=1e-10)
