"""Quick faults: locks, torn writes, wrong bytes, full disks. The long suite is tests/faults, `make test-faults`."""

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from typing import NamedTuple

import numpy as np
import pytest
import section
from faults import damage, page

from kipx import artifacts, checkpoints, checks, cli, exits, files, track
from kipx.commands import keep, stop
from kipx.preprocess import standardize

RNG = np.random.default_rng(0)


class State(NamedTuple):
    step: int
    images: np.ndarray
    labels: np.ndarray


STATE = State(3, RNG.normal(size=(4, 5, 5, 1)).astype(np.float32), RNG.normal(size=(4, 10)))


@contextlib.contextmanager
def largest_file(size):
    """A disk on which no file can be larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def nobody(holder):
    raise AssertionError(f"held by {holder}")


def test_a_full_disk_leaves_the_old_file_alone(tmp_path):
    files.write(tmp_path / "a", "old")
    with largest_file(10), pytest.raises(checks.StorageError, match=r"/a: cannot be written \(File too large\); make"):
        files.write(tmp_path / "a", "new" * 10)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def save(folder, step):
    with checkpoints.open_manager(folder) as manager:
        checkpoints.save(manager, STATE._replace(step=step), config_hash="x")


def test_a_checkpoint_that_finds_no_room_is_told_and_the_one_before_is_whole(tmp_path, capfd):
    save(tmp_path, 9)
    with (
        largest_file(200),
        pytest.raises(checks.StorageError, match=r"checkpoints: a checkpoint .* \(File too large\); make"),
    ):
        save(tmp_path, 10)
    assert "Traceback" not in capfd.readouterr().err
    with checkpoints.open_manager(tmp_path) as manager:
        assert checkpoints.restore(manager, STATE, config_hash="x").step == 9


def test_a_lock_lets_one_in_and_leaves_nothing(tmp_path):
    path = tmp_path / "new" / ".lock"
    with files.held(path, busy=nobody):
        with pytest.raises(AssertionError, match=f"held by process {os.getpid()} on "), files.held(path, busy=nobody):
            pass
        assert path.is_file()
    assert list(tmp_path.iterdir()) == []


def test_who_waits_for_a_lock_holds_the_file_that_is_there(tmp_path):
    path, asked, got, done = tmp_path / ".lock", *(threading.Event() for _ in range(3))

    def wait():
        with files.held(path, busy=lambda holder: asked.set()):
            got.set()
            done.wait(10)

    thread = threading.Thread(target=wait)
    with files.held(path, busy=nobody):
        thread.start()
        assert asked.wait(10)
        assert not got.is_set()
    assert got.wait(10)
    with pytest.raises(AssertionError, match="held by"), files.held(path, busy=nobody):
        pass
    done.set()
    thread.join()


def test_a_killed_holder_locks_nobody_out(tmp_path):
    path = tmp_path / ".lock"
    hold = f"from kipx import files\nwith files.held({str(path)!r}, busy=None): print('', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with (
            pytest.raises(AssertionError, match=f"process {holder.pid} on"),
            files.held(tmp_path / ".lock", busy=nobody),
        ):
            pass
        holder.kill()
    assert (tmp_path / ".lock").exists()
    with files.held(tmp_path / ".lock", busy=nobody):
        pass


def test_a_file_system_without_locks_is_announced(tmp_path, monkeypatch, capsys):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", without)
    with files.held(tmp_path / ".lock", busy=nobody):
        pass
    assert "the file system has no locks; nobody else may work there" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["distill", "label-solve"])
def test_a_second_run_in_a_folder_is_refused(kipx, command):
    with keep.alone(kipx.folder / "run"):
        code, _, err = kipx(command, "kernel=fc", "debug=tiny", "hydra.run.dir=run")
        assert [path.name for path in (kipx.folder / "run").iterdir()] == [".lock"]
    assert (code, len(err.splitlines())) == (2, 1)
    assert "run: another run is at work there (process " in err


def test_the_manifest_leaves_the_lock_out(tmp_path):
    with keep.alone(tmp_path):
        artifacts.write_json(tmp_path / "a.json", {})
        artifacts.write_manifest(tmp_path, config={})
    assert '".lock"' not in (tmp_path / artifacts.MANIFEST).read_text()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run folder with one checkpoint, and its files."""
    folder = tmp_path_factory.mktemp("saved")
    with checkpoints.open_manager(folder) as manager:
        checkpoints.save(manager, STATE, config_hash="x")
    return folder, sorted(path for path in folder.rglob("*") if path.is_file())


def test_no_wrong_byte_of_a_checkpoint_goes_unnoticed(saved):
    folder, rng, ends = saved[0], random.Random(0), []
    for path in saved[1]:
        content = path.read_bytes()
        for how in (damage.CUTS[1], "a bit flipped", "a bit flipped"):
            damage.spoil(path, how, rng)
            try:
                images, labels = checkpoints.support_at(folder, 3)
                ends.append(bool((images == STATE.images).all() and (labels == STATE.labels).all()))
            except checks.UserError as error:
                assert f"checkpoint 3 of {folder} cannot be read" in str(error)
                ends.append(None)
            path.write_bytes(content)
    assert False not in ends
    assert {True, None} == set(ends), "some files matter, others do not"


def test_no_wrong_byte_of_a_set_goes_unnoticed(tmp_path):
    fitted = standardize()(STATE.images)
    kept = {"preprocessing": fitted, "class_names": [*"abcdefghij"], "config": {"ridge": 1.0}}
    artifacts.save_support(tmp_path, STATE.images, STATE.labels, **kept)
    content, rng = (tmp_path / artifacts.SUPPORT).read_bytes(), random.Random(0)
    for how in (*damage.CUTS, *["a bit flipped"] * 100):
        damage.spoil(tmp_path / artifacts.SUPPORT, how, rng)
        try:
            found = artifacts.load(tmp_path)
            assert (found.images == STATE.images).all() and (found.labels == STATE.labels).all()
            assert (found.class_names, found.config) == (tuple("abcdefghij"), {"ridge": 1.0})
        except checks.UserError as error:
            assert str(tmp_path / artifacts.SUPPORT) in str(error)
        (tmp_path / artifacts.SUPPORT).write_bytes(content)


def test_only_the_last_line_of_metrics_may_be_torn(tmp_path):
    path = tmp_path / artifacts.METRICS
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert track.read(path) == [{"step": 0}, {"step": 1}]
    path.write_text('{"step": 0}\n{"step"\n{"step": 2}\n')
    with pytest.raises(checks.UserError, match=r"metrics\.jsonl: line 2 is no row of metrics; take it from a backup"):
        track.read(path)


def test_a_folder_that_cannot_be_written_is_named():
    refused = OSError(errno.EROFS, "Read-only file system", "outputs/distill")
    code, message = exits.explain(refused, "distill")
    assert code == 2
    assert message == "outputs/distill: Read-only file system; let it be written, or set another hydra.run.dir"
    assert exits.explain(OSError("of something else"), "distill")[0] == exits.OURS


@pytest.fixture
def sigterm():
    """Its handler is put back afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_says_how_to_go_on_wherever_the_run_is(sigterm):
    exits.heed_sigterm()
    with pytest.raises(KeyboardInterrupt) as caught, stop.resumable("distill", "run"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert exits.explain(caught.value, "distill") == (143, "terminated; go on with kipx distill resume=run")


def test_sigterm_before_the_command_has_begun_is_told_in_a_line(sigterm, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kipx", "distill"])
    monkeypatch.setattr(cli, "run", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert (left.value.code, capsys.readouterr().err) == (143, "kipx: terminated\n")


def test_the_table_takes_its_own_place_in_the_page_alone():
    text = "# Title\n<!-- faults -->\nold\n<!-- /faults -->\n<!-- soak -->\nkept\n<!-- /soak -->\n"
    case = {"command": "distill", "fault": "SIGKILL", "how": "at 0.5", "end": "identical", "seen": ""}
    cases = [case, {**case, "end": "refused"}, {**case, "fault": "disk full", "seen": "not tried: why"}]
    made = page.section({"seed": 8, "machine": "2 cores", "parts": {"kills": {"minutes": 3.2, "cases": cases}}})
    found = section.replaced(text, "faults", made)
    assert "old" not in found
    assert "| SIGKILL | distill | 2 | 1 | 1 | 0 |" in found
    assert "Not tried on this machine: 1 cases of disk full (not tried: why)." in found
    assert found.startswith("# Title\n<!-- faults -->\n") and found.endswith(text[text.index("<!-- soak") :])
    with pytest.raises(ValueError, match="expected one <!-- fuzz -->"):
        section.replaced(text, "fuzz", "")
