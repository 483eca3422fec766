"""What is published of a run: all that its numbers rest on, and what it takes to go on with it."""

import json

import publish

from kipx import artifacts
from kipx.report import transfers


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
