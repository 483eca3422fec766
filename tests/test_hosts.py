"""Two processes with two devices each, on loopback: the numbers of one process, and what happens when one is lost."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from kipx import checks, cli
from kipx.engine import hosts

PROBLEM = ["kernel=fc", "kernel.depth=2", "baseline.draws=1", "target.batch_size=60"]
KIPX = [sys.executable, "-c", "from kipx.cli import main; main()", "distill"]
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


def start(folder, *arguments):
    command = [*KIPX, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@contextlib.contextmanager
def two(folder, *arguments):
    """Two processes of one run, whose folder is `run`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    engine = ["engine=sharded", f"engine.coordinator=127.0.0.1:{port}", "engine.num_processes=2"]
    processes = [
        start(folder, *arguments, *engine, f"engine.process_id={i}", "hydra.run.dir=" + ("run" if i == 0 else "other"))
        for i in range(2)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def finish(process):
    """Exit code and what was said."""
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def alone(folder, monkeypatch, *arguments):
    """A run in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["kipx"])
    assert cli.run("distill", list(arguments)) == 0


def rows(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(folder, step):
    ends = time.monotonic() + 120
    while len(rows(folder)) <= step:
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_two_processes_give_the_numbers_of_one(tmp_path, monkeypatch):
    with two(tmp_path, *PROBLEM, "steps=4") as processes:
        for process in processes:
            code, err = finish(process)
            assert code == 0, err
    alone(tmp_path, monkeypatch, *PROBLEM, "steps=4", "engine=dense", "hydra.run.dir=alone")
    assert not (tmp_path / "other").exists()  # one process writes
    for row, expected in zip(rows(tmp_path / "run"), rows(tmp_path / "alone"), strict=True):
        for name in expected.keys() - {"step_time_s"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_other_and_the_run_goes_on(tmp_path, lost, monkeypatch):
    with two(tmp_path, *PROBLEM, "steps=100000") as processes:
        wait_for(tmp_path / "run", step=20)
        processes[lost].kill()
        code, err = finish(processes[1 - lost])
    if lost == 0 and code == -signal.SIGABRT:  # JAX may be quicker to end a process that has lost the first one
        assert "another task died" in err
    else:
        assert code == 3, err
        assert f"kipx: process {1 - lost}: another of the run's 2 processes is gone" in err
    done = len(rows(tmp_path / "run")) - 1
    alone(tmp_path, monkeypatch, "resume=run", "engine=dense", f"steps={done + 2}")
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(done + 3))


@pytest.mark.slow
def test_one_signal_stops_both_at_the_same_step(tmp_path):
    with two(tmp_path, *PROBLEM, "steps=100000") as processes:
        wait_for(tmp_path / "run", step=20)
        processes[1].send_signal(signal.SIGTERM)
        ended = [finish(process) for process in processes]
    assert [code for code, _ in ended] == [143, 143]
    step = rows(tmp_path / "run")[-1]["step"]
    assert all(f"stopped at step {step}" in err for _, err in ended)


def test_a_slurm_step_of_several_tasks_connects_by_itself(monkeypatch):
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments, **_: asked.append(arguments))
    hosts.connect()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    hosts.connect()
    assert asked == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    hosts.connect()
    assert asked == [(None, None, None)]  # JAX reads the rest from Slurm's variables


def test_refusals():
    with pytest.raises(checks.UserError, match="give all three or none"):
        hosts.connect("127.0.0.1:1", 2)
    with pytest.raises(checks.UserError, match=r"engine\.process_id: expected less than 2, got 2"):
        hosts.connect("127.0.0.1:1", 2, 2)
