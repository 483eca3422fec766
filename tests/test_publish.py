"""What is published of a run: all that its numbers rest on, what it takes to go on with it, and to repeat it."""

import json

import publish
import pytest
import repeat

from kipx import artifacts, track
from kipx.report import runs, transfers

ROW = {"on": "a machine", "of": "2 cores", "other_settings": ["ridge"], "losses": 5, "losses_apart": 0}
ROW |= {"start": [0.1103, 0.1103], "end": [0.6557, 0.6557]}


def test_a_run_of_transfer_is_published_without_its_networks(transfer, distilled, tmp_path):
    transfer("run", "baselines=[]")
    assert any((tmp_path / "run" / "checkpoints").iterdir())
    publish.publish(tmp_path / "run", tmp_path / "kept")
    assert not (tmp_path / "kept" / "checkpoints").exists()
    manifest = json.loads((tmp_path / "kept" / "manifest.json").read_text())
    assert manifest["parents"] == [str(distilled)]
    assert set(manifest["files"]) == {p.name for p in (tmp_path / "kept").iterdir()} - {"manifest.json"}
    (before,), (after,) = (transfers.find(tmp_path / name)[0] for name in ("run", "kept"))
    assert after.summary == before.summary
    assert after.rows == before.rows


def test_a_run_of_distill_is_published_with_its_last_checkpoint(distilled, tmp_path):
    publish.publish(distilled, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept" / "checkpoints").iterdir()] == ["2"]
    before, after = (artifacts.load(folder, step=2) for folder in (distilled, tmp_path / "kept"))
    assert (before.images == after.images).all()


def test_a_published_command_is_typed_anew_for_its_first_steps(tmp_path):
    command = "kipx distill kernel=fc steps=2000 target.batch_size=50"
    run = runs.Run("one", {}, [], {}, command, "", tmp_path, [])
    for name in ("then", "now"):
        repeat.begin(run, tmp_path / name)
    then, now = ([row.get("train_loss") for row in track.rows(tmp_path / name)][:6] for name in ("then", "now"))
    assert then == now
    assert len(track.rows(tmp_path / "now")) < 2000
    configs = [artifacts.read_config(tmp_path / name) for name in ("then", "now")]
    assert repeat.changed(*configs) == []
    configs[0]["ridge"], configs[1]["target"]["batch_size"] = 1.0, 51
    assert repeat.changed(*configs) == ["ridge", "target.batch_size"]


def test_what_was_repeated_stays_and_the_named_run_is_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(repeat, "repeated", lambda run: {**ROW, "run": run.name, "losses_apart": 1e-6})
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    rows.write_text(json.dumps({**ROW, "run": "another"}) + "\n")
    for name in ("cifar10_fc1", "mnist_networks"):
        repeat.main(rows, page, name)
    assert [json.loads(line)["run"] for line in rows.read_text().splitlines()] == [
        "another",
        "cifar10_fc1",
        "mnist_networks",
    ]
    assert "3 of 3 end with the same test accuracy" in page.read_text()
    assert "| cifar10_fc1 | 2 cores | 5 | 1e-06 | 11.03 | 11.03 | 65.57 | 65.57 | `ridge` |" in page.read_text()


def test_a_command_that_fails_ends_the_repeating(tmp_path):
    run = runs.Run("one", {}, [], {}, "kipx distill seed=-1", "", tmp_path, [])
    with pytest.raises(SystemExit, match=r"exit code 2: .*seed: expected"):
        repeat.begin(run, tmp_path / "run")
