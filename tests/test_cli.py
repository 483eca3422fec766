"""The command as a user types it: exit codes, one-line messages, sweeps, evaluation, completion."""

import json
import os
import pathlib
import re
import subprocess
import sys

import contract
import numpy as np
import official
import pytest
from test_resume import KIPX

from kipx import app
from kipx.data.sources import SOURCES

FAST = ["kernel=fc", "debug=tiny"]


def only(folder):
    (found,) = folder.iterdir()
    return found


def test_distill_then_evaluate_gives_the_same_number(kipx):
    code, out, _ = kipx("distill", *FAST, "seed=3")
    assert code == 0
    assert "random natural draws" in out
    run = only(kipx.folder / "outputs" / "distill")
    assert {path.name for path in run.iterdir()} == set(contract.FILES)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert set().union(*rows) == contract.METRICS
    summary = json.loads((run / "summary.json").read_text())
    assert rows[-1]["test_accuracy"] == summary["test_accuracy"]
    for target in (run, run / "support.npz"):
        code, out, _ = kipx("evaluate", f"run={target}", f"hydra.run.dir=again_{target.name}")
        assert code == 0
        again = json.loads((kipx.folder / f"again_{target.name}" / "evaluation.json").read_text())
        assert again["test_accuracy"] == summary["test_accuracy"]
        assert again["test_mse"] == summary["test_mse"]
    code, _, _ = kipx("evaluate", f"run={run}", "kernel=fc", "kernel.depth=2", "ridge=1e-3", "hydra.run.dir=other")
    assert code == 0
    assert json.loads((kipx.folder / "other" / "evaluation.json").read_text())["test_mse"] != summary["test_mse"]


def test_evaluate_tells_the_norm_that_a_run_weighs(kipx):
    still = ["rkhs_weight=1e-9", "labels=fixed", "optimizer.learning_rate=1e-9", "hydra.run.dir=run"]
    assert kipx("distill", *FAST, *still)[0] == 0
    weighed = json.loads((kipx.folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])["train_rkhs_norm"]
    code, out, _ = kipx("evaluate", "run=run", "hydra.run.dir=again")
    assert (code, re.search(r"squared RKHS norm *│ *(\S+)", out)[1]) == (0, f"{weighed:.3g}")
    told = json.loads((kipx.folder / "again" / "evaluation.json").read_text())["rkhs_norm"]
    assert told == pytest.approx(weighed, rel=1e-5)


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no /dev/full")
def test_runs_go_on_where_nobody_can_listen(tmp_path):
    with open("/dev/full", "w") as full:
        streams = {"stdout": full, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
        sweep = "-m", *FAST, "seed=0,1", "steps=4", "hydra.sweep.dir=sweep"
        with subprocess.Popen([*KIPX, "distill", *sweep], **streams) as process:
            process.stderr.readline()
            process.stderr.close()
            assert process.wait(timeout=120) == 0
        for job in (tmp_path / "sweep" / "0", tmp_path / "sweep" / "1"):
            assert json.loads((job / "job.json").read_text())["code"] == 0
            assert json.loads((job / "summary.json").read_text())["steps"] == 4
        asked = "report", "run=sweep/0", "html=false"
        with subprocess.Popen([*KIPX, *asked], **streams) as process:
            said = "kipx: stdout: cannot be written (No space left on device); make room, or let it be written\n"
            assert (process.communicate(timeout=120)[1], process.returncode) == (said, 3)


@pytest.mark.parametrize("name", ["é", "a=1,b=2", "it's (one)", "[x] {y} z"])
def test_folders_may_have_any_name(name, kipx):
    made, folder = kipx.folder / "made", kipx.folder / name
    assert kipx("distill", *FAST, f"hydra.run.dir={made}")[0] == 0
    made.rename(folder)
    code, _, err = kipx("distill", f"resume={folder}", "steps=3")
    assert code == 0, err
    code, _, err = kipx("evaluate", f"run={folder}", "hydra.run.dir=again")
    assert code == 0, err


def test_noise_may_be_more_than_there_are_images_but_natural_draws_may_not(kipx, tiny_npz):
    given = ["distill", *FAST, "dataset=npz", f"dataset.path={tiny_npz}", "support=noise", "support.per_class=30"]
    code, _, err = kipx(*given, "steps=0", "baseline.draws=1")
    assert (code, err.count("\n"), "set baseline.draws=0" in err) == (2, 1, True), err
    assert kipx(*given, "steps=0", "baseline.draws=0")[0] == 0


def test_prepare_then_distill_then_go_on_with_the_data_elsewhere(kipx, monkeypatch):
    small = official.make("mnist")
    monkeypatch.setitem(SOURCES, "mnist", small.source)
    small.lay_out(kipx.folder / "raw")
    distill = ["distill", *FAST, "dataset=mnist", "dataset.data_dir=data", "hydra.run.dir=run"]
    code, _, err = kipx(*distill)
    assert (code, "kipx prepare dataset=mnist dataset.data_dir=data" in err, err.count("\n")) == (2, True, 1)
    for news in ("mnist prepared", "mnist was prepared already"):
        code, out, _ = kipx("prepare", "dataset=mnist", "dataset.raw_dir=raw", "dataset.data_dir=data")
        assert (code, news in out, "folder: data/mnist/3.0.1" in out) == (0, True, True)
    assert kipx(*distill)[0] == 0
    summary = json.loads((kipx.folder / "run" / "summary.json").read_text())
    (kipx.folder / "data").rename(kipx.folder / "moved")
    code, _, err = kipx("evaluate", "run=run")
    assert (code, "expected it prepared in data/mnist/3.0.1" in err) == (2, True)
    assert kipx("evaluate", "run=run", "dataset.data_dir=moved", "hydra.run.dir=again")[0] == 0
    again = json.loads((kipx.folder / "again" / "evaluation.json").read_text())
    assert again["test_mse"] == summary["test_mse"]
    code, _, err = kipx("distill", "resume=run", "dataset.data_dir=moved", "steps=3")
    assert code == 0, err
    assert kipx("distill", "resume=run", "steps=4")[0] == 0, "the run remembers where the data went"


def test_what_needs_no_preparing_says_so(kipx):
    for arguments in ([], ["dataset=digits"]):
        code, out, _ = kipx("prepare", *arguments)
        assert (code, out.startswith("dataset=digits needs no preparing")) == (0, True)


def test_two_runs_of_one_config_are_equal_bit_by_bit_and_another_seed_is_not(kipx):
    code, _, _ = kipx("distill", "-m", *FAST, "seed=0,0,1", "hydra.sweep.dir=sweep")
    assert code == 0
    first, second, other = ((kipx.folder / "sweep" / job / "support.npz").read_bytes() for job in "012")
    assert first == second
    assert first != other


def test_a_sweep_goes_on_after_a_failed_job_and_says_which(kipx):
    code, _, err = kipx("distill", "-m", *FAST, "target.batch_size=9999,20", "hydra.sweep.dir=sweep")
    assert code == 2
    assert "target.batch_size=9999" in err
    assert (kipx.folder / "sweep" / "1" / "support.npz").exists()


def test_plan_prints_a_table_and_leaves_one_file(kipx):
    code, out, err = kipx("plan", "+debug=tiny", "kernel=fc", "plan.devices=8", "plan.calibration_s=0.1")
    assert code == 0
    assert err == ""
    assert "8 devices" in out
    folder = only(kipx.folder / "outputs" / "plan")
    assert f"plan: {folder.relative_to(kipx.folder)}/plan.json" in out.replace(f"{kipx.folder}/", "")
    plan = json.loads(only(folder).read_text())
    assert plan["steps"] == 2
    assert plan["counts"] == {"evaluations": 6, "saves": 3, "checkpoints_kept": 3}


def test_plus_debug_is_debug(kipx):
    assert kipx("distill", "kernel=fc", "+debug=tiny", "logger=none")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], f"command: expected one of {', '.join(contract.COMMANDS)}, got 'distil'"),
        (["distill", "kernel=cnn"], "Could not find 'kernel/cnn' Available options in 'kernel': convnet"),
        (["distill", "sweps=3"], "sweps: unknown key or group; kipx distill --help lists them"),
        (["distill", "+foo=1"], "foo: unknown key"),
        (["distill", "steps=many"], "steps: expected an integer, got 'many'"),
        (["distill", "kernel.depth=-1"], "depth: expected an integer >= 0, got -1"),
        (["distill", "support.per_class=0"], "support.per_class: expected an integer >= 1, got 0"),
        (["distill", "support.per_class=500"], "support.per_class: expected at most 126"),
        (["distill", "target.batch_size=5000"], "target.batch_size: expected at most 1297"),
        (["distill", "ridge=0"], "ridge: expected a number > 0, got 0"),
        (["distill", "optimizer.learning_rate=-1"], "optimizer.learning_rate: expected a number > 0, got -1"),
        (["distill", "kernel.depth=5"], "8x8 is too small for 5 pools"),
        (["distill", "resume=nowhere"], "resume: expected a run folder, one with config.yaml, got nowhere"),
        (["distill", "seed=0,1"], "add --multirun"),
        (["distill", "seed==1"], "seed==1"),
        (["distill", "dataset=npz"], "dataset.path: expected an npz file"),
        (["distill", "dataset=cifar10", "dataset.data_dir=d"], "run kipx prepare dataset=cifar10 dataset.data_dir=d"),
        (["prepare", "dataset=imagenet"], "Could not find 'dataset/imagenet'"),
        (["prepare", "dataset=mnist", "steps=3"], "steps: unknown key or group; kipx prepare --help lists them"),
        (["plan", "dataset=npz"], "dataset.path: expected an npz file"),
        (["plan", "plan.devices=few"], "plan.devices: expected an integer or null, got 'few'"),
        (["plan", "resume=nowhere"], "resume: expected a run folder, one with config.yaml, got nowhere"),
        (["plan", "plan.hours=2"], "plan.hours: unknown key or group; kipx plan --help lists them"),
        (["distill", "-m", "seed=0,1", "--cfg", "job"], "--multirun --cfg: expected one of them"),
        (["distill", "--info", "config", "--multirun"], "--multirun --info: expected one of them"),
        (["distill", "--resolve"], "--resolve: expected --cfg job beside it"),
        (["analyze"], "run: expected a value, got none; give run=..."),
        (["analyze", "run=nowhere"], "a run folder with support.npz or an npz, got nowhere"),
        (
            ["analyze", "run=nowhere", "questions=all"],
            "questions: unknown key or group; kipx analyze --help lists them",
        ),
        (["evaluate"], "run: expected a value, got none; give run=..."),
        (["evaluate", "run=nowhere"], "a run folder with support.npz or an npz, got nowhere"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(kipx, arguments, message):
    code, out, err = kipx(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("kipx: ")
    assert err.count("\n") == 1
    assert out == ""
    assert not list(kipx.folder.rglob("*.*")), "a refused run leaves nothing"


@pytest.mark.parametrize(
    ("typed", "place"),
    [("--info", 0), ("-m", 0), ("--cfg job ~logger", 2), ("-m seed=0 ridge=1", 1), ("~logger -m", 0)],
)
def test_the_folder_of_sweeps_stands_with_the_overrides_and_is_no_options_value(typed, place):
    arguments = typed.split()
    assert app.with_sweeps(arguments) == [*arguments[:place], app.SWEEPS, *arguments[place:]]


def test_a_learning_rate_that_blows_up_is_a_numerical_failure_with_the_last_good_state_saved(kipx):
    code, _, err = kipx("distill", *FAST, "steps=50", "optimizer.learning_rate=1e30")
    assert code == 3
    assert "optimizer.learning_rate" in err
    assert err.strip().splitlines()[-1].startswith("kipx: step ")
    run = only(kipx.folder / "outputs" / "distill")
    assert (run / "checkpoints").is_dir()
    assert np.isfinite(np.load(run / "support.npz")["images"]).all()
    assert not (run / "summary.json").exists()


ASKED = [
    (["--help"], "", "kipx distill [overrides]"),
    (["distill", "--help"], "", "kernel: convnet, convnet3, convvec, convvec8, fc, myrtle"),
    (["distill", "--cfg", "job"], "", "steps: 80"),
    (["-sc", "query=bash"], "kipx distill kernel=my", "kernel=myrtle"),
    (["-sc", "query=bash"], "kipx distill +wan", ""),
]
ASKED_TOO = [
    (["label-solve", "--help"], "", "form: least_norm, notebook"),
    (["evaluate", "--help"], "", "run: ???"),
    (["analyze", "--help"], "", "question: all"),
    (["analyze", "--cfg", "job"], "", "test_images: 1000"),
    (["prepare", "--help"], "", "dataset: cifar10, cifar100, digits"),
    (["plan", "--help"], "", "calibration_s: 10.0"),
    (["export", "--help"], "", "format: ???"),
    (["import", "--help"], "", "preprocess: normalize, standardize, zca, zca_pixels"),
    (["-sc", "query=bash"], "kipx di", "distill"),
    (["-sc", "query=bash"], "kipx evaluate engine=", "engine=dense"),
    (["-sc", "query=bash"], "kipx plan +demo=", "demo=seeds"),
    (["--shell-completion", "install=bash"], "", "complete -o nospace"),
]
SLOWLY = [pytest.param(*case, marks=pytest.mark.slow) for case in ASKED_TOO]


@pytest.mark.parametrize(("arguments", "line", "expected"), ASKED + SLOWLY)
def test_help_and_completion_do_not_import_jax(arguments, line, expected, tmp_path):
    program = "import sys; from kipx import cli; cli.main(); sys.exit('jax' in sys.modules)"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "COMP_LINE": line}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert "wandb=" not in done.stdout.replace("logger=wandb", ""), "sweeps/wandb is no group"
