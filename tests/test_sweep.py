"""Jobs of a sweep: how each ended stands in its folder, whatever it ended of, and nobody else is taken down."""

import json
import os
import shutil
import sys
import time
from functools import partial

import contract
import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf

from kipx import artifacts, checks, cli, exits, grid, jobs, sweep

LAUNCH = jobs.Launch("this one", os.getcwd())


def code(text):
    """A command that any process can load; the config is its locals."""
    return partial(exec, text, {})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(command, **cfg): a job of launcher `elsewhere`, number 3, in tmp_path; returns its job.json."""

    def in_a_process(command, launch=LAUNCH, **cfg):
        hydra = {
            "runtime": {"output_dir": str(tmp_path), "choices": {"hydra/launcher": "elsewhere"}},
            "overrides": {"task": ["seed=1"]},
            "job": {"num": 3, "config_name": "distill"},
        }
        monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": hydra}))
        jobs.run(command, launch, OmegaConf.create(cfg))
        return jobs.read(tmp_path)

    return in_a_process


def test_a_job_elsewhere_is_noted_and_its_lines_have_its_number(run, capfd):
    record = run(print, ridge=1)
    assert record.pop("pid") != os.getpid()
    assert record.pop("host")
    assert record == {"launch": "this one", "job": 3, "overrides": ["seed=1"], "code": 0, "message": ""}
    assert capfd.readouterr().out == "job 3: {'ridge': 1}\n"


def test_a_job_that_begins_tells_how_many_have_ended_and_the_time_left(run, tmp_path, capfd):
    for folder, launch, ended in (("0", "this one", 0), ("1", "this one", 3), ("2", "this one", None), ("4", "old", 0)):
        (tmp_path / folder).mkdir()
        artifacts.write_json(tmp_path / folder / "job.json", {"launch": launch, "code": ended})
    opened = {"folder": str(tmp_path), "began": time.time() - 600, "jobs": 6}
    run(code("pass"), launch=LAUNCH._replace(opened=opened))
    assert capfd.readouterr().err == "job 3: seed=1  (2 of 6 jobs ended, about 20 min left)\n"
    shutil.rmtree(tmp_path / "0")
    shutil.rmtree(tmp_path / "1")
    run(code("pass"), launch=LAUNCH._replace(opened=opened))
    assert capfd.readouterr().err == "job 3: seed=1  (0 of 6 jobs ended)\n"


@pytest.mark.parametrize(
    ("params", "typed", "expected"),
    [
        (None, ["seed=0,1", "kernel=fc"], [("seed=0", "kernel=fc"), ("seed=1", "kernel=fc")]),
        ({"a": "1,2"}, ["b=x,y", "a=3"], [("a=3", "b=x"), ("a=3", "b=y")]),
        (
            {"support.per_class": "1,10"},
            ["+table1=mnist"],
            [("support.per_class=1", "+table1=mnist"), ("support.per_class=10", "+table1=mnist")],
        ),
        (None, ["engine.block_size=[4,4],[8,8]"], [("engine.block_size=[4,4]",), ("engine.block_size=[8,8]",)]),
        (None, ["seed=range(0,3)"], [("seed=0",), ("seed=1",), ("seed=2",)]),
        (None, [], [()]),
    ],
)
def test_the_grid_of_jobs_is_what_hydras_sweeper_makes(params, typed, expected):
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": params}
    found = grid.jobs({"sweeper": sweeper, "overrides": {"task": typed}})
    parsed = OverridesParser.create().parse_overrides([*(f"{k}={v}" for k, v in (params or {}).items()), *typed])
    assert [list(one) for one in found] == BasicSweeper.split_arguments(parsed, None)[0]
    assert found == expected
    other = {"_target_": "hydra_plugins.hydra_optuna_sweeper.OptunaSweeper"}
    assert grid.jobs({"sweeper": other, "overrides": {"task": typed}}) == []


def test_a_mistake_elsewhere_is_one_line(run, capfd):
    record = run(partial(checks.positive, "ridge"), value=1)
    assert (record["code"], record["message"]) == (2, "ridge: expected a number > 0, got {'value': 1}")
    assert capfd.readouterr().err == "job 3: kipx: ridge: expected a number > 0, got {'value': 1}\n"


def test_a_fault_of_ours_elsewhere_shows_where(run, capfd):
    record = run(code("1 / 0"))
    assert (record["code"], record["message"]) == (1, "ZeroDivisionError: division by zero")
    assert "job 3: Traceback" in capfd.readouterr().err


def test_a_job_whose_process_dies_is_noted_and_does_not_raise(run):
    record = run(code("__import__('signal').raise_signal(9)"))
    assert record["code"] == 3
    assert record["message"] == "its process was killed by SIGKILL, perhaps for want of memory"


def test_a_job_that_is_stopped_alone_does_not_raise(run):
    record = run(code("(_ for _ in ()).throw(KeyboardInterrupt('stopped at step 3'))"))
    assert (record["code"], record["message"]) == (130, "stopped at step 3")


def test_a_job_that_is_started_twice_goes_on(run, tmp_path, capfd):
    run(print, resume=None)
    (tmp_path / "config.yaml").touch()
    run(print, resume=None)
    run(print, launch=jobs.Launch("another", os.getcwd()), resume=None)  # of which this is no second start
    out = capfd.readouterr().out.splitlines()
    assert out == [f"job 3: {{'resume': {text}}}" for text in ("None", repr(str(tmp_path)), "None")]


def test_a_command_runs_where_the_user_was(run, tmp_path, capfd):
    (tmp_path / "here").mkdir()
    run(code("print(__import__('os').getcwd())"), launch=jobs.Launch("x", str(tmp_path / "here")))
    assert capfd.readouterr().out == f"job 3: {tmp_path / 'here'}\n"


@pytest.fixture
def swept(kipx):
    """swept(*overrides): a sweep of cheap distillations into tmp_path/sweep."""
    return partial(kipx, "distill", "-m", "kernel=fc", "kernel.depth=1", "debug=tiny", "hydra.sweep.dir=sweep")


def test_failed_jobs_are_named_and_the_largest_code_is_the_sweeps(swept, tmp_path):
    rates = "optimizer.learning_rate=-1,1e30,0.2"
    exit_code, _, err = swept(rates, "steps=4", "hydra.sweeper.max_batch_size=1")  # where Hydra would stop at the first
    assert exit_code == 3
    assert "Traceback" not in err
    *_, first, second, last = err.splitlines()
    assert first.startswith("kipx: job 0 (kernel=fc kernel.depth=1 debug=tiny optimizer.learning_rate=-1 steps=4): ")
    assert first.endswith("optimizer.learning_rate: expected a number > 0, got -1")
    assert second.startswith("kipx: job 1 (")
    assert last == f"kipx: 2 of 3 jobs failed; each folder in {tmp_path / 'sweep'} has its job.json"
    records = [json.loads((tmp_path / "sweep" / job / "job.json").read_text()) for job in "012"]
    assert [record["code"] for record in records] == [2, 3, 0]
    assert all(set(record) == contract.JOB for record in records)
    assert records[0]["message"] in first
    manifest = json.loads((tmp_path / "sweep" / "2" / "manifest.json").read_text())
    assert artifacts.JOB == jobs.JOB not in manifest["files"]


def test_a_fault_of_ours_does_not_take_the_others_down(swept, tmp_path, monkeypatch):
    asked = []

    def fails(cfg):
        asked.append(cfg.seed)
        if cfg.seed == 0:
            raise ZeroDivisionError("by zero")

    monkeypatch.setitem(cli.COMMANDS, "distill", fails)
    exit_code, _, err = swept("seed=0,1")
    assert (exit_code, asked) == (1, [0, 1])
    assert "Traceback" in err
    assert "kipx: job 0 (kernel=fc kernel.depth=1 debug=tiny seed=0): ZeroDivisionError: by zero" in err


def test_an_interrupted_sweep_ends(swept, tmp_path, monkeypatch):
    def interrupted(cfg):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "distill", interrupted)
    assert swept("seed=0,1")[0] == 130
    assert jobs.read(tmp_path / "sweep" / "0")["code"] == 130
    assert not (tmp_path / "sweep" / "1").exists()


def test_failures_of_an_earlier_sweep_in_the_folder_are_not_this_ones(swept):
    assert swept("ridge=-1,-2")[0] == 2
    assert swept("hydra.sweep.subdir=new${hydra.job.num}", "seed=0")[0] == 0


def test_a_sweep_again_in_its_folder_leaves_the_records_of_the_first(swept, tmp_path):
    assert swept("seed=0,1")[0] == 0
    first = [jobs.read(tmp_path / "sweep" / name) for name in "01"]
    code, _, err = swept("seed=1,2")
    assert (code, "already holds a run" in err) == (2, True)
    assert [jobs.read(tmp_path / "sweep" / name) for name in "01"] == first
    refused = [jobs.read(tmp_path / "sweep" / f"{name}_refused") for name in "01"]
    assert [(one["code"], one["overrides"][-1]) for one in refused] == [(2, "seed=1"), (2, "seed=2")]


def test_a_resumed_job_is_done(swept, tmp_path, monkeypatch):
    assert swept("seed=0")[0] == 0
    record = jobs.read(tmp_path / "sweep" / "0")
    (tmp_path / "sweep" / "0" / "job.json").write_text(json.dumps({**record, "code": 3, "message": "lost"}))
    assert cli.run("distill", ["resume=sweep/0", "steps=3"]) == 0
    assert jobs.read(tmp_path / "sweep" / "0") == record


@pytest.mark.parametrize("content", [None, "", "{"])
def test_what_cannot_be_read_is_empty(content, tmp_path):
    if content is not None:
        (tmp_path / "job.json").write_text(content)
    assert jobs.read(tmp_path) == {}


@pytest.mark.parametrize(("launcher", "extra"), [("submitit_slurm", "launchers"), ("ray", "ray-launcher")])
def test_a_launcher_that_is_not_installed_says_of_what_it_is_part(launcher, extra):
    error = HydraException(f"Could not find 'hydra/launcher/{launcher}'\n\nAvailable options:\n\tbasic")
    message = f"hydra/launcher={launcher}: is not installed; pip install 'kipx[{extra}]'"
    assert exits.explain(error, "distill") == (2, message)


def test_ray_is_a_new_one_or_the_one_at_the_address(monkeypatch):
    own, other = OmegaConf.create({"address": None}), OmegaConf.create({"address": "host0:6379"})
    monkeypatch.setattr(sweep.atexit, "register", lambda function, folder: os.rmdir(folder))
    sweep._settle(own)
    assert (own.address, own.include_dashboard) == ("local", False)
    sweep._settle(other)
    assert other == {"address": "host0:6379", "object_store_memory": None}


def test_lines_of_many_jobs_stay_whole(capsys):
    one, two = jobs.Prefixed(sys.stdout, "job 1: "), jobs.Prefixed(sys.stdout, "job 2: ")
    print("half", end=" ", file=one)
    print("a\nb", file=two)
    print("whole", file=one)
    assert not one.isatty()
    assert capsys.readouterr().out == "job 2: a\njob 2: b\njob 1: half whole\n"
