"""Strict JAX: float64 on, silent rank promotion off, four CPU devices; programs are kept for subprocesses."""

import os
import pathlib
import signal
import sys
from typing import NamedTuple

TINY = ["debug=tiny", "logger=none"]
# each worker's own: JAX writes in place, and another would read half a file
CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"

import jax  # noqa: E402
import pytest  # noqa: E402

from kipx import cli  # noqa: E402

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True)
def strict(request):
    """Ranks are promoted by nobody but neural-tangents."""
    with jax.numpy_rank_promotion("allow" if "allow_rank_promotion" in request.fixturenames else "raise"):
        yield


@pytest.fixture
def allow_rank_promotion():
    """For tests that run neural-tangents."""


@pytest.fixture
def compiled():
    """One entry for each program that XLA compiles meanwhile."""
    found = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: found.append(name) if "backend_compile" in name else None
    )
    yield found
    jax.monitoring.clear_event_listeners()


class Ended(NamedTuple):
    """What a command left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def kipx(tmp_path, monkeypatch, capfd):
    """kipx(command, *arguments) runs a command in this process in an empty folder, `kipx.folder`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kipx", *arguments])
        return Ended(cli.run(arguments[0], list(arguments[1:])), *capfd.readouterr())

    run.folder = tmp_path
    return run


@pytest.fixture
def wandb_alone(tmp_path, monkeypatch):
    """wandb writes into the test's folder, knows no key, and says nothing."""
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb_files"))
    (tmp_path / "wandb_files").mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # which goes over the network
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory):
    """Real digits, few of them, at half their size, in a user's npz."""
    import numpy as np

    from kipx.data import digits

    data, path = digits.load(), tmp_path_factory.mktemp("data") / "tiny.npz"
    x_train, x_test = data.x_train[:200, ::2, ::2], data.x_test[:30, ::2, ::2]
    np.savez(path, x_train=x_train, y_train=data.y_train[:200], x_test=x_test, y_test=data.y_test[:30])
    return path


@pytest.fixture(scope="session")
def distilled(tmp_path_factory, tiny_npz):
    """A run folder of tiny digits."""
    from test_config import composed

    from kipx import arguments, config
    from kipx.commands import distill

    folder = tmp_path_factory.mktemp("distilled") / "run"
    cfg = composed("dataset=npz", f"dataset.path={tiny_npz}", "kernel=convnet", "kernel.depth=1", *TINY)
    values = config.plain(cfg, arguments.DISTILL)
    distill.run(folder, overrides=[], config=values, **arguments.distill(values))
    return folder


@pytest.fixture
def transfer(tmp_path, distilled):
    """Trains on the tiny set into a folder; `changes` replace built arguments, resume goes on there."""
    from test_config import composed

    from kipx import arguments, artifacts, config, merged
    from kipx.commands import transfer as command

    def run(name, *overrides, resume=False, **changes):
        own = artifacts.load(distilled)
        cfg = composed(f"run={distilled}", *TINY, *overrides, command="transfer")
        values = config.plain(merged.with_set(cfg, own.config), arguments.TRANSFER)
        built = {**arguments.transfer(values, own), **changes}
        return command.run(tmp_path / name, overrides=None if resume else [], config=values, **built)

    run.folder = tmp_path
    return run


class Late(BaseException):
    """The attack took up all time; nobody catches this for a damaged file."""


@pytest.fixture
def within_time(monkeypatch):
    """No attack may take a minute; and there is a secret to be had."""
    from attacks import SECRET

    def late(*_):
        raise Late

    monkeypatch.setenv("SECRET", SECRET)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
