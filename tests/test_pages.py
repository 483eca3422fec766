"""report.html of runs and sweeps: whole in one file, every text escaped, what is not done named; in a real browser."""

import hashlib
import html.parser
import json
import os
import platform
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from PIL import Image
from test_report import DAMAGE, MNIST, write

from kipx import artifacts
from kipx.commands import report
from kipx.report import frames, overview, page, pages, runs, sweeps
from kipx.report.tables import Table

ATTACK = """"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tags(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture
def run(tmp_path, distilled):
    """A run folder to write into."""
    return shutil.copytree(distilled, tmp_path / "run")


@pytest.fixture
def sweep(tmp_path, run):
    """Four jobs as a sweep leaves them: done, failed before it began, killed on the way, not begun."""
    folder = tmp_path / "sweep"
    shutil.copytree(run, folder / "0")
    shutil.copytree(run, folder / "2")
    (folder / "2" / "summary.json").unlink()
    (folder / "1").mkdir()
    config = {"overrides": {"task": ["kernel=fc", "seed=0,1"]}, "job": {"config_name": "distill"}}
    config["sweeper"] = {"_target_": "hydra.BasicSweeper", "params": {"ridge": "1e-6,1e-3"}}
    config["sweep"] = {"subdir": "${hydra.job.num}"}
    (folder / "multirun.yaml").write_text(yaml.safe_dump({"hydra": config}))
    for number, code, message in ((0, 0, ""), (1, 2, "ridge: expected a number"), (2, None, "has not ended")):
        record = {"job": number, "code": code, "message": message, "host": platform.node(), "pid": 2**22 + 1}
        artifacts.write_json(folder / str(number) / "job.json", record)
    return folder


def read(path):
    return Tags(path.read_text())


def test_a_runs_page_says_all_and_needs_nothing_else(kipx, run):
    (run / "analysis").mkdir()
    shutil.copy(run / "support.png", run / "analysis" / "images.png")
    (run / "analysis" / "images.md").write_text("# Images")
    code, out, err = kipx("report", f"run={run}")
    assert (code, err) == (0, "")
    assert f"written to {run / 'report.html'}" in out
    seen, summary = read(run / "report.html"), json.loads((run / "summary.json").read_text())
    for text in (
        f"{100 * summary['test_accuracy']:.1f}%",
        f"{100 * summary['initial_test_accuracy']:.1f}%",
        "optimizer.learning_rate",
        "median step",
        "python",
        f"{summary['natural_draws']} random natural draws",
    ):
        assert text in seen.text
    for attrs in seen.of("img"):
        assert attrs["src"].startswith("data:image/")
    assert not seen.of("iframe") and not [a for a in seen.of("script") if a]
    assert [a["href"] for a in seen.of("link")] == ["data:,"]
    where = [a["href"] for a in seen.of("a")]
    assert {"./config.yaml", "./metrics.jsonl", "./support.npz", "./analysis/images.md"} <= set(where)
    for href in where:
        assert (run / href).exists()
    sums = json.loads((run / "manifest.json").read_text())["files"]
    assert sums["report.html"] == hashlib.sha256((run / "report.html").read_bytes()).hexdigest()
    assert (run / "report.html").stat().st_size < 400_000


def test_the_norm_has_its_curve_where_it_was_weighed():
    rows = [{"step": 0, "test_accuracy": 0.1, "test_mse": 0.1}, {"step": 1, "train_loss": 0.1}]
    assert [title for title, _ in pages.figures(rows)] == ["Accuracy", "Loss"]
    assert [title for title, _ in pages.figures([*rows, {"step": 2, "train_rkhs_norm": 7.0}])][2:] == ["RKHS norm"]


def test_the_frames_are_the_checkpoints_and_the_end(run):
    own, found = artifacts.load(run), frames.read(run)
    assert found.labels == ["step 0", "step 1", "step 2", "the end"]
    assert (found.columns, found.names) == (10, [str(c) for c in range(10)])
    sheets = [np.asarray(Image.open(frames.io.BytesIO(sheet))) for sheet in found.sheets]
    start = artifacts.load(run, step=0).pixels
    low, high = start.min(), start.max()
    for sheet, pixels in ((sheets[0], start), (sheets[3], own.pixels)):
        assert sheet.shape == (5, 50, 2)
        for i in range(10):
            shade = 255 * np.clip((pixels[i, :, :, 0] - low) / (high - low), 0, 1)
            np.testing.assert_allclose(sheet[:4, 5 * i : 5 * i + 4, 0], shade, atol=0.5)
    assert np.array_equal(sheets[2], sheets[3]), "the last checkpoint is the end"
    assert (sheets[0][4, :, 1] == 0).all() and (sheets[0][:, 4::5, 1] == 0).all(), "lines are transparent"
    assert frames.last(run).sheets == found.sheets[-1:]


@pytest.mark.parametrize(("shape", "mode"), [((7, 3, 5, 3), "RGBA"), ((7, 3, 5, 2), "LA")])
def test_a_sheet_has_any_shape_of_image(shape, mode):
    pixels = np.random.default_rng(0).uniform(size=shape)
    found = Image.open(frames.io.BytesIO(frames.sheet(pixels, 4, (0, 1))))
    assert (found.mode, found.size) == (mode, (4 * 6, 2 * 4))
    shades = np.asarray(found)[4:7, 6:11, :-1]
    expected = pixels[5] if shape[-1] == 3 else pixels[5].mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(shades, 255 * expected, atol=0.51)


def test_every_text_is_escaped(kipx, run):
    """Class names, config, overrides, messages, environment and file names of someone who means harm."""
    arrays = artifacts.read_npz(run / "support.npz")
    np.savez(run / "support.npz", **arrays | {"class_names": np.array([ATTACK] * 10)})
    config = artifacts.read_config(run)
    artifacts.write_config(run, {**config, ATTACK: ATTACK})
    (run / "overrides.yaml").write_text(yaml.safe_dump([ATTACK]))
    (run / "summary.json").unlink()
    artifacts.write_json(run / "environment.json", {ATTACK: {ATTACK: ATTACK}})
    artifacts.write_json(run / "job.json", {"message": ATTACK, "code": 3})
    for name in ("javascript:alert(1)", ATTACK.replace("/", "")):
        (run / name).write_text("x")
    folder = run.parent / "<b onclick=alert(3)>"
    run.rename(folder)
    assert kipx("report", f"run='{folder}'")[0] == 0
    seen = read(folder / "report.html")
    assert len(seen.of("script")) == 1 and not [attrs for attrs in seen.of("b") if attrs]
    assert seen.text.count(ATTACK) >= 10
    for tag, attrs in seen.tags:
        assert not [name for name in attrs if name.startswith("on")], tag
        assert all(value.startswith(("./", "data:")) for name, value in attrs.items() if name in ("href", "src"))
    table = Table(ATTACK, (ATTACK,), [(ATTACK,)], (ATTACK,))
    text = page.render(
        page.Page(
            title=ATTACK,
            lead=ATTACK,
            facts=[(ATTACK, ATTACK)],
            command=ATTACK,
            warnings=[ATTACK],
            frames=page.Frames([ATTACK, ATTACK], [b"", b""], 1, [ATTACK], ATTACK),
            figures=[(ATTACK, "data:,")],
            pictures=[(ATTACK, "data:,")],
            tables=[table],
            details=[table],
            links=[(ATTACK, ATTACK, ATTACK)],
            hrefs={ATTACK: ATTACK},
        )
    )
    assert len(Tags(text).of("script")) == 1 and len(Tags(text).of("img")) == 4
    assert "49" not in Tags(text).text


def test_a_sweeps_page_tells_runs_apart_and_what_is_not_done(kipx, sweep):
    code, out, _ = kipx("report", f"run={sweep}")
    assert code == 0
    begun = f"kipx distill resume={sweep / '2'}"
    fresh = [
        f"kipx distill ridge={ridge} kernel=fc seed=1 hydra.run.dir={sweep / job}"
        for ridge, job in (("1e-06", "1"), ("0.001", "3"))
    ]
    lines = out.replace("\n", " ")
    assert "4 jobs: 1 done, 1 failed, 1 not ended, 1 missing" in lines
    assert "job 1 (ridge=1e-06 kernel=fc seed=1) failed: ridge: expected a number" in lines
    for command in (begun, *fresh):
        assert command in out
    seen = read(sweep / "report.html")
    for text in (begun, *fresh, "Jobs that are not done", "1 of 4 jobs missing"):
        assert text in seen.text
    hrefs = [a["href"] for a in seen.of("a")]
    assert {"./0/report.html", "./2/report.html", "./multirun.yaml"} <= set(hrefs)
    assert "go on with kipx distill resume=" in read(sweep / "2" / "report.html").text
    assert {a["data-label"] for a in seen.of("img") if "data-label" in a} == {"run 0", "run 2"}


def test_a_run_whose_labels_came_to_say_another_class_is_shown_too(sweep):
    path = sweep / "2" / "support.npz"
    arrays = dict(np.load(path))
    arrays["labels"] = arrays["labels"][[1, 0, *range(2, 10)]]
    np.savez(path, **arrays)
    found = overview.build(sweep, runs.find(sweep)[0], [], [], {}).frames
    assert found.labels == ["run 0", "run 2"]
    assert found.names == ["", "", *(str(c) for c in range(2, 10))]
    assert "(" not in found.note, "none is left out"


def test_the_commands_run_just_what_is_not_done(kipx, monkeypatch):
    fast = ["kernel=fc", "debug=tiny", "logger=none", "hydra.sweep.dir=sweep"]
    assert kipx("distill", "-m", *fast, "seed=0,1", "target.batch_size=20,9999")[0] == 2
    shutil.rmtree(kipx.folder / "sweep" / "2")
    before = [job.state for job in sweeps.read("sweep")]
    assert before == ["done", "failed", "missing", "failed"]
    assert (
        list(sweeps.read("sweep")[3].overrides)
        == json.loads((kipx.folder / "sweep/3/job.json").read_text())["overrides"]
    )
    (command,) = (job.command for job in sweeps.read("sweep") if job.state == "missing")
    _, name, *arguments = command.split()
    assert kipx(name, *arguments)[0] == 0
    assert [job.state for job in sweeps.read("sweep")] == ["done", "failed", "done", "failed"]
    found = runs.find("sweep")[0]
    assert [run.config["seed"] for run in found] == [0, 1]


def test_a_sweep_none_of_whose_jobs_has_begun_is_told_of(kipx, sweep):
    for job in ("0", "2"):
        shutil.rmtree(sweep / job)
    code, out, err = kipx("report", f"run={sweep}")
    assert (code, err) == (0, "")
    assert "Runs: none" in " ".join(out.split())
    assert "4 jobs: 3 missing, 1 failed" in out
    assert "3 of 4 jobs missing; 1 of 4 jobs failed" in read(sweep / "report.html").text


def test_a_job_at_work_is_let_be(sweep):
    record = json.loads((sweep / "2" / "job.json").read_text())
    artifacts.write_json(sweep / "2" / "job.json", {**record, "pid": os.getpid()})
    job = sweeps.read(sweep)[2]
    assert (job.state, job.command) == ("running", "")
    artifacts.write_json(sweep / "2" / "job.json", {**record, "pid": os.getpid(), "host": "elsewhere"})
    assert sweeps.read(sweep)[2].state == "not ended"


def test_a_torn_note_of_a_job_does_not_hide_the_sweep(sweep):
    (sweep / "1" / "job.json").write_text('{"co')
    job = sweeps.read(sweep)[1]
    assert (job.state, job.message) == ("not ended", "its job.json is torn")


@pytest.mark.parametrize("content", ["", "hydra: 3", "hydra: {overrides: {task: ['a==b', '[']}}", "\x00"])
def test_a_damaged_sweep_file_is_no_sweep(content, sweep):
    (sweep / "multirun.yaml").write_text(content)
    assert sweeps.read(sweep) == []
    assert report.run(str(sweep), table="runs", out=None)[0].rows


def test_a_folder_of_runs_gets_one_page_and_its_runs_keep_theirs(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, [*MNIST, f"seed={ord(name)}"], {0: 0.1, 10: 0.5})
    written, trouble = report.write_pages(str(tmp_path))
    assert (written, trouble) == (tmp_path / "report.html", [])
    assert [path.parent.name for path in tmp_path.rglob("report.html")] == [tmp_path.name]
    assert {"./a", "./b"} <= {a["href"] for a in read(written).of("a")}
    assert "images cannot be shown" in read(report.write_pages(str(tmp_path / "a"))[0]).text


def test_a_sweeps_runs_pages_are_written_again_only_if_something_is_new(sweep):
    report.write_pages(str(sweep))
    first = {path: path.stat().st_mtime_ns for path in sweep.glob("*/report.html")}
    report.write_pages(str(sweep))
    assert first == {path: path.stat().st_mtime_ns for path in sweep.glob("*/report.html")}
    later = (sweep / "0" / "report.html").stat().st_mtime + 5
    os.utime(sweep / "0" / "metrics.jsonl", (later, later))
    report.write_pages(str(sweep))
    changed = {path.parent.name for path, before in first.items() if path.stat().st_mtime_ns != before}
    assert changed == {"0"}
    (sweep / "2" / "analysis").mkdir()
    os.utime(sweep / "2" / "analysis", (later, later))
    report.write_pages(str(sweep))
    assert first[sweep / "2" / "report.html"] != (sweep / "2" / "report.html").stat().st_mtime_ns


HARM = {
    **{name: DAMAGE[name] for name in ("torn config", "torn summary", "nan for accuracy")},
    "torn job": lambda folder: (folder / "job.json").write_text('{"co'),
    "text for loss": lambda folder: (folder / "metrics.jsonl").write_text('{"step": 1, "train_loss": "a"}\n'),
    "nan for loss": lambda folder: (folder / "metrics.jsonl").write_text('{"step": 1, "train_loss": NaN}\n'),
    "list for environment": lambda folder: (folder / "environment.json").write_text("[]"),
    "part of a summary": lambda folder: (folder / "summary.json").write_text('{"natural_test_accuracy_mean": 0.1}'),
    "torn set": lambda folder: (folder / "support.npz").write_bytes(b"PK"),
    "torn checkpoint": lambda folder: shutil.rmtree(folder / "checkpoints" / "1" / "state"),
    "torn manifest": lambda folder: (folder / "manifest.json").write_text("{"),
    "file for a checkpoint": lambda folder: (folder / "checkpoints" / "7").write_text("x"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_run_takes_no_others_page_down(harm, run):
    folder = run.parent / "runs"
    shutil.copytree(run, folder / "good")
    shutil.copytree(run, folder / "bad")
    HARM[harm](folder / "bad")
    report.write_pages(str(folder / "bad"))
    written, _ = report.write_pages(str(folder))
    assert written == folder / "report.html"
    assert "./good" in [a["href"] for a in read(written).of("a")]


def test_no_page_where_none_is_wanted_or_can_be(kipx, run):
    for arguments in (["html=false"], ["table=times"]):
        assert kipx("report", f"run={run}", *arguments)[0] == 0
        assert not (run / "report.html").exists()
    (run / "report.html").mkdir()
    code, out, _ = kipx("report", f"run={run}")
    assert (code, "report.html: not written (" in out) == (0, True)


SPY = """
<script>
addEventListener("load", () => {
  const slider = document.querySelector(".slider input"), seen = [];
  for (const at of [0, slider.max]) {
    slider.value = at;
    slider.dispatchEvent(new Event("input"));
    const shown = [...document.querySelectorAll(".sheet img")].filter((img) => !img.hidden);
    seen.push([shown.length, shown[0].dataset.label, document.querySelector("output").textContent]);
  }
  const broken = [...document.images].filter((img) => !img.hidden && !img.naturalWidth).length;
  const root = document.documentElement, wide = root.scrollWidth > root.clientWidth;
  parent.postMessage(JSON.stringify({ seen, broken, wide, width: root.clientWidth }), "*");
});
</script>
"""
FRAME = """<!doctype html><link rel="icon" href="data:,">
<iframe src="spied.html" style="width: WIDTHpx; height: 800px"></iframe>
<script>addEventListener("message", (event) => { document.body.dataset.found = event.data; });</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser_the_slider_moves_and_nothing_goes_wrong(kipx, run, sweep, width):
    for folder, ends in ((run, ["step 0", "the end"]), (sweep, ["run 0", "run 2"])):
        assert kipx("report", f"run={folder}")[0] == 0
        spied = (folder / "report.html").read_text().replace("</body>", SPY + "</body>")
        (folder / "spied.html").write_text(spied)
        (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        command = [BROWSER, *flags, "--virtual-time-budget=5000", f"--user-data-dir={kipx.folder / 'profile'}"]
        done = subprocess.run(
            [*command, (folder / "frame.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        assert not re.findall(r".*CONSOLE.*", done.stderr)
        found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', done.stdout)[1]))
        assert found["seen"] == [[1, label, label] for label in ends]
        assert (found["broken"], found["wide"]) == (0, False)
        assert abs(found["width"] - width) <= 20
