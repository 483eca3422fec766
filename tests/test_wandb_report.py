"""A Report of W&B says what the run folder holds; it is published, or else written with how to publish it."""

import http.server
import json
import shutil
import sys
import threading

import pytest

from kipx import artifacts

pytestmark = pytest.mark.usefixtures("wandb_alone")

USER = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
PROJECTS = {"models": {"edges": [], "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}}}


class Server(http.server.BaseHTTPRequestHandler):
    """What W&B's API answers of viewers, projects and views; `server.asked` notes the variables of mutations."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        query, given = asked["query"], asked.get("variables") or {}
        if "mutation" in query:
            self.server.asked.append((query.split("mutation ")[1].split("(")[0].strip(), given))
        answer = {"viewer": USER} if "viewer" in query else PROJECTS
        if "upsertView" in query:
            view = dict.fromkeys(("name", "displayName", "description"), "")
            view |= {"id": given.get("id") or "abc=", "spec": given["spec"]}
            answer = {"upsertView": {"view": {**view, "project": {"id": "p", "name": "", "entityName": ""}}}}
        content = json.dumps({"data": answer}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """W&B on loopback, and a key for it."""
    import wandb

    wandb.teardown()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as served:
        served.asked, served.status = [], 200
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{served.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
        monkeypatch.setenv("WANDB_MODE", "online")
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        wandb.teardown()
        served.shutdown()


@pytest.fixture
def run(tmp_path, distilled):
    """A run folder that W&B knows as r1."""
    shutil.copytree(distilled, tmp_path / "run")
    artifacts.write_json(tmp_path / "run" / "wandb.json", {"id": "r1", "group": None})
    return tmp_path / "run"


def written(folder):
    return json.loads((folder / "report.wandb.json").read_text())


def words(block):
    """All texts of a part of a spec."""
    if isinstance(block, dict):
        own = [block[key] for key in ("text", "content") if block.get(key)]
        return own + [text for value in block.values() for text in words(value)]
    return [text for one in block for text in words(one)] if isinstance(block, list) else []


def grid(spec):
    (found,) = (block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid")
    return found


def test_a_runs_report_says_what_its_folder_holds(kipx, run):
    (run / "analysis").mkdir()
    (run / "analysis" / "labels.md").write_text("# Labels\n\n![Labels](labels.png)\n\n| class |\n| --- |\n| seven |\n")
    code, out, err = kipx("report", "run=run", "to=wandb", "html=false", "wandb.project=mine")
    assert code == 0, err
    assert "written to run/report.wandb.json, not published (WANDB_MODE is offline); " in out
    assert "WANDB_MODE=online kipx report run=run to=wandb wandb.project=mine does it" in out
    found = written(run)
    assert (found["title"], found["project"], found["entity"]) == ("run", "mine", "")
    assert "report.wandb.json" in json.loads((run / "manifest.json").read_text())["files"]
    said, summary = words(found["spec"]["blocks"]), json.loads((run / "summary.json").read_text())
    assert f"{100 * summary['test_accuracy']:.1f}% test accuracy" in said
    text = "\n".join(said)
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        assert f"| {row['step']} | {100 * row['test_accuracy']:.1f} | {row['test_mse']:.5f} |" in text
    for part in ("| kernel.depth | 1 |", "| seven |", "median step", "| python |", "support.npz ("):
        assert part in text
    assert "labels.png" not in text, "pictures are files that W&B lacks"
    shown = [panel["config"] for panel in grid(found["spec"])["panelBankSectionConfig"]["panels"]]
    images, accuracy, loss = shown
    assert (images["mediaKeys"], images["gallerySettings"]) == (["images"], {"axis": "step"})
    assert (accuracy["metrics"], loss["metrics"]) == (["test_accuracy", "train_accuracy"], ["test_mse", "train_loss"])


def test_a_sweeps_report_shows_the_runs_that_wandb_has_and_names_the_others(kipx, run):
    shutil.copytree(run, kipx.folder / "sweep" / "0")
    shutil.copytree(run, kipx.folder / "sweep" / "1")
    config = kipx.folder / "sweep" / "1" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 5"))
    artifacts.write_json(kipx.folder / "sweep" / "1" / "wandb.json", {"id": "r2", "group": "sweep"})
    shutil.copytree(run, kipx.folder / "sweep" / "2")
    (kipx.folder / "sweep" / "2" / "wandb.json").unlink()
    assert kipx("report", "run=sweep", "to=wandb", "html=false").code == 0
    found = written(kipx.folder / "sweep")
    text = "\n".join(words(found["spec"]["blocks"]))
    assert "| run | seed | step |" in text
    assert "| 1 | 5 | 2 |" in text
    assert "of 1 of 3 runs; kipx distill resume=sweep/2 logger=wandb sends" in text
    (which,) = (one["value"] for one in grid(found["spec"])["runSets"][0]["filters"]["filters"])
    assert which == ["r1", "r2"]


def test_a_run_that_wandb_never_saw_has_its_tables(kipx, run):
    (run / "wandb.json").unlink()
    assert kipx("report", "run=run", "to=wandb", "html=false").code == 0
    blocks = written(run)["spec"]["blocks"]
    assert "panel-grid" not in {block["type"] for block in blocks}
    assert "## Evaluations" in "\n".join(words(blocks))


def test_online_it_is_published_and_again_it_is_the_same_report(kipx, run, server):
    for known in (None, "abc="):
        code, out, err = kipx("report", "run=run", "to=wandb", "html=false")
        assert code == 0, err
        found = written(run)
        assert found["url"].endswith("/me/kipx/reports/run--abc=")
        assert f"published at {found['url']}" in out
        (name, sent), created = server.asked.pop(), server.asked.pop()
        assert (name, created[0]) == ("upsertView", "CreateProject")
        assert (sent.get("id"), sent["entityName"], sent["projectName"]) == (known, "me", "kipx")
        assert json.loads(sent["spec"]) == found["spec"]


def test_a_server_that_refuses_leaves_the_file_and_one_line(kipx, run, server):
    server.status = 403
    code, out, err = kipx("report", "run=run", "to=wandb", "html=false")
    assert code == 0, err
    (line,) = (line for line in out.splitlines() if "report.wandb.json" in line)
    assert "not published (" in line
    assert "403" in line
    assert written(run)["spec"]["blocks"]
    assert not server.asked


@pytest.mark.slow
def test_without_network_too(kipx, run, server, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody listens
    code, out, _ = kipx("report", "run=run", "to=wandb", "html=false")
    assert (code, "not published (" in out) == (0, True)


def test_without_a_key_nobody_is_asked(kipx, run, server, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    assert "not published (wandb found no key)" in kipx("report", "run=run", "to=wandb", "html=false").out
    assert not server.asked


def test_of_what_is_damaged_there_is_none(kipx, run):
    (run / "summary.json").unlink()
    (run / "job.json").write_text("{")
    code, out, _ = kipx("report", "run=run", "to=wandb", "html=false")
    assert (code, "to=wandb: no Report (" in out) == (0, True)
    assert not (run / "report.wandb.json").exists()


def test_mistakes(kipx, run, monkeypatch):
    code, _, err = kipx("report", "run=run", "to=wandbb")
    assert (code, err) == (2, "kipx: to: expected one of wandb, got 'wandbb'\n")
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)  # cannot be imported
    code, _, err = kipx("report", "run=run", "to=wandb", "html=false")
    assert code == 2
    assert err == "kipx: to=wandb: wandb-workspaces is not installed; pip install wandb-workspaces\n"
