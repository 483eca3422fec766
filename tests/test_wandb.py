"""Weights & Biases mirrors a run whole, and nothing that happens to it changes the run: with wandb itself."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from wandb_files import history, logged, metrics, offline, opened

from kipx import app, arguments, config

ROOT = pathlib.Path(__file__).parents[1]
FAST = ["kernel=fc", "debug=tiny"]
OFFLINE = ["logger=wandb", "logger.mode=offline", "logger.progress=false"]


pytestmark = pytest.mark.usefixtures("wandb_alone")


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(folder):
    return [{key: value for key, value in row.items() if key != "step_time_s"} for row in rows(folder)]


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
        code, _, err = kipx("distill", "resume=run", f"steps={steps}", *OFFLINE)
        assert code == 0, err
        time.sleep(1)  # wandb's folders have the second in their names
    first, second = offline(tmp_path)
    assert opened(first).run_id == opened(second).run_id
    assert [row["step"] for row in history(first)] == [0, 1, 2, 3], "a finished run sends what W&B lacks"
    assert metrics(second) == rows(tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 5


def test_the_jobs_of_a_sweep_are_a_group(kipx, tmp_path):
    code, _, err = kipx("distill", "-m", *FAST, *OFFLINE, "seed=0,1", "hydra.sweep.dir=overnight")
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
    code, _, err = kipx("distill", *FAST, *online, "hydra.run.dir=run")
    assert code == 0, err
    (line,) = (line for line in err.splitlines() if line.startswith("kipx: "))
    assert line.startswith("kipx: logger=wandb: ")
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2]


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
    code, _, err = kipx("distill", "+wandb=digits")
    assert code == 2
    assert "wandb: unknown key" in err


def test_the_package_ships_them():
    from importlib import resources

    assert {path.name for path in SWEEPS} == {
        path.name for path in (resources.files("kipx.sweeps") / "wandb").iterdir()
    }
