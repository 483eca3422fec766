"""Each of Hydra's launchers for real: the bits of the basic one, and no job that takes the others down."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest
import slurm

pytestmark = pytest.mark.slow
KIPX = [sys.executable, "-c", "from kipx.cli import main; main()", "distill", "-m", "kernel=fc", "kernel.depth=1"]
SWEEP = ["+demo=seeds", "debug=tiny", "seed=0,1", "optimizer.learning_rate=0.2,-1", "hydra.sweep.dir=sweep"]
LONG = ["target.batch_size=20", "baseline.draws=0", "hydra.sweep.dir=sweep"]
PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}


def needs(launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{PLUGINS[launcher]}_launcher")
    if launcher == "submitit_slurm" and (reason := slurm.missing()):
        pytest.skip(reason)


@contextlib.contextmanager
def environment(launcher):
    """What the launcher needs around it."""
    if launcher != "submitit_slurm":
        yield dict(os.environ)
        return
    with tempfile.TemporaryDirectory(prefix="kipx-slurm-") as folder, slurm.cluster(folder) as found:
        yield found


def start(folder, around, *overrides):
    return subprocess.Popen(
        [*KIPX, *overrides], cwd=folder, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def record(folder, job=0):
    path = folder / "sweep" / str(job) / "job.json"
    return json.loads(path.read_text()) if path.exists() else {"code": None}


def last_step(folder, job=0):
    path = folder / "sweep" / str(job) / "metrics.jsonl"
    return len(path.read_text().splitlines()) - 1 if path.exists() else -1


def wait_until(true, seconds=180):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.fixture(scope="module")
def basic(tmp_path_factory):
    """The sweep by the basic launcher."""
    folder = tmp_path_factory.mktemp("basic")
    _, err = start(folder, None, *SWEEP).communicate(timeout=300)
    assert [record(folder, job)["code"] for job in range(4)] == [0, 2, 0, 2], err
    return folder


@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_sweep_elsewhere_is_the_sweep_here(launcher, basic, tmp_path):
    needs(launcher)
    with environment(launcher) as around:
        process = start(tmp_path, around, *SWEEP, f"hydra/launcher={launcher}")
        _, err = process.communicate(timeout=500)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    typed = record(basic, 1)["overrides"]
    assert {"seed=0", "kernel=fc", "optimizer.learning_rate=-1"} < set(typed)
    assert f"kipx: job 1 ({' '.join(typed)}): optimizer.learning_rate: expected a number > 0, got -1" in err
    assert f"kipx: 2 of 4 jobs failed; each folder in {tmp_path / 'sweep'} has its job.json" in err
    for job in range(4):
        for name in ("job", "overrides", "code", "message"):
            assert record(tmp_path, job)[name] == record(basic, job)[name]
        for name in () if job in (1, 3) else ("support.npz", "config.yaml", "overrides.yaml"):
            paths = [folder / "sweep" / str(job) / name for folder in (tmp_path, basic)]
            assert paths[0].read_bytes() == paths[1].read_bytes(), name


@pytest.mark.parametrize(  # Ray has a SIGTERM of its own, and aborts
    ("launcher", "number", "code"), [("joblib", signal.SIGTERM, 143), ("ray", signal.SIGINT, 130)]
)
def test_a_sweep_that_is_stopped_saves_its_jobs(launcher, number, code, tmp_path):
    needs(launcher)
    process = start(tmp_path, None, *LONG, "steps=100000", "seed=0,1", f"hydra/launcher={launcher}")
    wait_until(lambda: min(last_step(tmp_path, job) for job in (0, 1)) > 20)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    for job in (0, 1):
        assert record(tmp_path, job)["code"] == 143
        folder = tmp_path / "sweep" / str(job)
        assert (folder / "checkpoints" / str(last_step(tmp_path, job))).is_dir()
        assert "go on with kipx distill resume=" in record(tmp_path, job)["message"]


def test_a_job_that_slurm_takes_away_goes_on_from_its_checkpoint(tmp_path):
    needs("submitit_slurm")
    with environment("submitit_slurm") as around:
        process = start(tmp_path, around, *LONG, "steps=3000", "hydra/launcher=submitit_slurm")
        wait_until(lambda: last_step(tmp_path) > 20)
        subprocess.run(["scancel", "--signal=USR2", "--name=kipx-distill"], env=around, check=True)  # as Slurm warns
        wait_until(lambda: record(tmp_path)["code"] == 143)
        _, err = process.communicate(timeout=500)  # Slurm takes two minutes to start it again
    assert process.returncode == 0, err
    assert record(tmp_path)["code"] == 0
    steps = [json.loads(row)["step"] for row in (tmp_path / "sweep" / "0" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(3001))
