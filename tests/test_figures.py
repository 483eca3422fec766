"""Figures of runs of transfer: tables against numbers worked out by hand, pictures, and each sweep to its end."""

import json
import pathlib
import shutil
import statistics

import numpy as np
import pytest
import yaml
from PIL import Image
from test_config import composed

from kipx import arguments, artifacts, checks, config, merged
from kipx.commands import report
from kipx.commands import transfer as command
from kipx.report import listing, points, runs, transfers

MSE = points.LOSSES["mse"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, distilled):
    """A run of transfer as the command leaves it."""
    folder, own = tmp_path_factory.mktemp("trained") / "run", artifacts.load(distilled)
    overrides = [f"run={distilled}", "debug=tiny", "logger=none", "baselines=[natural]"]
    values = config.plain(merged.with_set(composed(*overrides, command="transfer"), own.config), arguments.TRANSFER)
    command.run(folder, overrides=["figure='3'", *overrides], config=values, **arguments.transfer(values, own))
    return folder


@pytest.fixture
def put(tmp_path, trained):
    """Puts a run beside others: the real one with another config and with these test accuracies."""

    def write(name, accuracies, *, krr=0.9, step=None, run="sets/convnet", network="convnet depth 1", **changes):
        folder = tmp_path / "runs" / name
        shutil.copytree(trained, folder)
        kept = artifacts.read_config(folder)
        kept.update(run=run, step=step)
        for key, value in changes.items():
            section = "network" if key in kept["network"] else "trainer"
            assert key in kept[section]
            kept[section][key] = value
        artifacts.write_config(folder, kept)
        summary = json.loads((folder / "summary.json").read_text())
        summary["sets"]["distilled"].update(test_accuracies=accuracies, test_accuracy=float(np.mean(accuracies)))
        summary.update(network=network, kernel_test_accuracy=krr)
        artifacts.write_json(folder / "summary.json", summary)
        typed = [f"run={run}", f"step={step}", *(f"{key}={value}" for key, value in changes.items())]
        (folder / "overrides.yaml").write_text(yaml.safe_dump(["figure='3'", *typed]))
        return folder

    write.folder = tmp_path / "runs"
    return write


def cells(table):
    """[{column: cell}] of a table."""
    return [dict(zip((name.lstrip(">") for name in table.columns), row, strict=True)) for row in table.rows]


def figure(folder, number, out=None):
    return report.run(folder, table=f"figure{number}", out=out)


def test_the_reader_gives_what_the_run_wrote(trained, distilled):
    (run,), troubles = transfers.find(trained)
    assert troubles == []
    written = json.loads((trained / "summary.json").read_text())["sets"]
    assert run.accuracies() == tuple(written["distilled"]["test_accuracies"])
    assert run.accuracies("natural") == tuple(written["natural"]["test_accuracies"])
    assert (run.source, run.step, run.loss, run.width, run.network) == ("run", None, "mse", 8, "convnet depth 1")
    assert run.command.startswith(f"kipx transfer figure=3 run={distilled}")
    assert run.finished and [row["step"] for row in run.rows] == [0, 10, 20]


DAMAGE = {
    "torn config": lambda folder: (folder / "config.yaml").write_text("network: [1"),
    "no config": lambda folder: (folder / "config.yaml").unlink(),
    "no network": lambda folder: (folder / "config.yaml").write_text("trainer: {loss: mse}\nnetworks: 3\n"),
    "number for the run": lambda folder: rewrite(folder, "run: sets/convnet", "run: 3"),
    "text for the step": lambda folder: rewrite(folder, "step: null", "step: last"),
    "torn summary": lambda folder: (folder / "summary.json").write_text('{"sets": {"distilled"'),
    "list for sets": lambda folder: (folder / "summary.json").write_text('{"sets": []}'),
    "no networks": lambda folder: (folder / "summary.json").write_text('{"sets": {"distilled": {}}}'),
    "accuracy above one": lambda folder: damaged_accuracy(folder, 71.0),
    "nan for accuracy": lambda folder: damaged_accuracy(folder, float("nan")),
    "text for accuracy": lambda folder: damaged_accuracy(folder, "much"),
    "binary metrics": lambda folder: (folder / "metrics.jsonl").write_bytes(b"\xff\xfe\x00\x80"),
    "numbers for rows": lambda folder: (folder / "metrics.jsonl").write_text("3\n"),
}


def rewrite(folder, old, new):
    text = (folder / "config.yaml").read_text()
    assert old in text
    (folder / "config.yaml").write_text(text.replace(old, new))


def damaged_accuracy(folder, value):
    summary = json.loads((folder / "summary.json").read_text())
    summary["sets"]["distilled"]["test_accuracies"][0] = value
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_runs_are_named_and_left_out(damage, put):
    put("good", [0.7, 0.8])
    DAMAGE[damage](put("bad", [0.7, 0.8]))
    found, (trouble,) = transfers.find(put.folder)
    assert [run.name for run in found] == ["good"]
    assert trouble.startswith("bad: left out, no run that can be read (")
    assert "\n" not in trouble


def test_runs_of_other_commands_are_passed_over_and_pass_over_these(put, distilled):
    put("1", [0.7, 0.8])
    shutil.copytree(distilled, put.folder / "distilled")
    assert [run.name for run in transfers.find(put.folder)[0]] == ["1"]
    found, troubles = runs.find(put.folder)
    assert ([run.name for run in found], troubles) == (["distilled"], [])


def test_runs_of_transfer_are_listed_as_they_are(put):
    put("1", [0.7, 0.8], step=1, width=8)
    put("2", [0.9, 0.9], step=2, width=16)
    (put("3", [0.5, 0.5], step=2, width=32) / "summary.json").unlink()
    table, troubles, _ = report.run(put.folder, table="runs", out=None)
    assert troubles == []
    first, second, third = cells(table)
    spread = 100 * statistics.stdev([0.7, 0.8])
    assert (first["step"], first["network.width"], first["distilled"]) == ("1", "8", f"75.0 ± {spread:.1f}")
    assert second["distilled"] == "90.0 ± 0.0"
    assert first["natural"] == second["natural"] != ""
    assert (third["networks"], third["distilled"]) == ("not ended", "")


def test_beside_other_runs_the_list_says_where_they_are(put, distilled):
    put("1", [0.7, 0.8])
    shutil.copytree(distilled, put.folder / "distilled")
    table, _, _ = report.run(put.folder, table="runs", out=str(put.folder / "page.md"))
    assert "1 runs of kipx transfer, 1 the first" in table.notes[-1]
    assert listing.of_transfers(transfers.find(put.folder)[0]).title in (put.folder / "page.md").read_text()


def test_figure_1_has_kernels_and_networks_side_by_side(put):
    for job, (name, network, accuracies) in enumerate(
        [("all", "convnet depth 1", [0.8]), ("all", "convvec depth 3", [0.6]), ("one", "convnet depth 1", [0.9])]
    ):
        put(str(job), accuracies, run=f"sets/{name}", network=network)
        kernel = {"architecture": {"_target_": f"kipx.architecture.{network.split()[0]}", "depth": int(network[-1])}}
        (put.folder / f"k{job}").mkdir()
        found = {"run": f"sets/{name}", "kernel": kernel, "test_accuracy": accuracies[0] / 2}
        artifacts.write_json(put.folder / f"k{job}" / "evaluation.json", found)
    (put.folder / "k9").mkdir()
    (put.folder / "k9" / "evaluation.json").write_text('{"run": 3}')
    table, troubles, _ = figure(put.folder, 1, str(put.folder / "f.md"))
    assert [trouble.partition(":")[0] for trouble in troubles] == ["k9"]
    found = {(row["set"], row["loss"]): row for row in cells(table)}
    assert found["all", points.KRR]["convvec depth 3"] == "30.0"
    assert found["all", MSE]["convvec depth 3"] == "60.0"
    assert found["one", MSE]["convvec depth 3"] == ""
    assert found["one", points.KRR]["convnet depth 1"] == "45.0"


def test_figure_2_names_the_variations(put):
    for job, (normalization, network) in enumerate([("none", "convnet"), ("layer", "convnet"), ("none", "myrtle")]):
        for step in (0, 2):
            put(f"{job}_{step}", [job / 10, step / 10], step=step, normalization=normalization, network=network)
    (put.folder / "multirun.yaml").touch()
    table, _, out = figure(put.folder, 2, str(put.folder / "f.md"))
    rows = {(row["network"], row["normalization"], row["loss"]): row for row in cells(table)}
    spread = 100 * statistics.stdev([0.1, 0.2])
    assert rows["convnet", "layer", MSE]["KIP step 2"] == f"15.0 ± {spread:.1f}"
    assert rows["", "", points.KRR]["KIP step 2"] == "90.0"
    text = (put.folder / "f.md").read_text()
    for words in (
        "width 8",
        "images 10",
        "preprocessing standardize",
        "L2 0.001",
        "training steps 20",
        "over 2 networks",
    ):
        assert words in text
    assert out == str(put.folder / "f.md")
    typed = "    kipx transfer -m figure=3 run=sets/convnet step=0,2 normalization=none,layer"
    assert typed in text, text


def test_figure_3_has_settings_widths_and_sets_without_checkpoints(put):
    from kipx.report import figures

    for width in (4, 8, 16):
        put(f"w{width}", [0.5, 0.6], step=2, width=width)
        put(f"l{width}", [0.5, width / 32], run="sets/solved", width=width, krr=0.8)
    put("ce", [0.4, 0.4], step=2, width=8, loss="cross_entropy")
    found = transfers.find(put.folder)[0]
    table, panels = figures.figure3(*points.with_names(points.of_networks(found), points.of_kernels(found), []))
    left, middle, right = panels
    assert [series.label for series in left.series] == ["convnet, cross entropy", "convnet, mse"]
    assert "width 8" in left.title
    assert [series.label for series in middle.series] == ["4", "8", "16", points.KRR]
    assert (right.series[0].x, right.series[1].y) == ([4, 8, 16], [0.8, 0.8])
    assert right.series[0].y == pytest.approx([0.3125, 0.375, 0.5])
    last = next(row for row in cells(table) if (row["set"], row["width"]) == ("solved", "16"))
    assert (last["last"], last["KIP step 2"]) == ("50.0 ± 0.0", "")


def test_figure_4_sets_each_run_against_its_own_start(put):
    from kipx.report import figures

    for factor, natural, learned in ((0.1, 0.3, 0.5), (0.4, 0.2, 0.6)):
        put(f"{factor}_0", [natural], step=0, factor=factor)
        put(f"{factor}_2", [learned], step=2, factor=factor)
    put("alone", [0.99], step=2, factor=0.8)  # without its start
    found = transfers.find(put.folder)[0]
    _, (panel,) = figures.figure4(*points.with_names(points.of_networks(found), points.of_kernels(found), []))
    (series,) = panel.series
    assert (series.label, sorted(zip(series.x, series.y, strict=True))) == ("2", [(0.2, 0.6), (0.3, 0.5)])


def test_a_run_that_broke_off_is_left_out_with_its_reason(put):
    put("1", [0.7, 0.8], step=0)
    for name, message in (("2", "step 47: the loss is nan; lower trainer.factor (/home/me)"), ("3", "")):
        folder = put(name, [0.1, 0.1], step=2)
        (folder / "summary.json").unlink()
        (folder / "job.json").write_text(json.dumps({"message": message}))
    table, troubles, _ = figure(put.folder, 2)
    assert troubles == ["2: left out, step 47: the loss is nan", "3: left out, it has not ended"]
    assert table.columns == ("loss", ">KIP step 0")
    assert [row["KIP step 0"][:4] for row in cells(table)] == ["90.0", "75.0"]


def test_sets_of_one_name_stay_apart_and_a_set_seen_from_elsewhere_is_one(put):
    for job, run in enumerate(("outputs/a/0", "/home/me/outputs/b/0", "outputs/b/0", "sets/convnet")):
        put(str(job), [0.1 * job, 0.1 * job], run=run, krr=0.5 + 0.1 * job, step=job % 2)
    (put.folder / "e").mkdir()
    kernel = {"architecture": {"_target_": "kipx.architecture.convnet", "depth": 1}}
    measured = {"run": "outputs/a/0", "kernel": kernel, "test_accuracy": 0.42}
    artifacts.write_json(put.folder / "e" / "evaluation.json", measured)
    rows = {(row["set"], row["loss"]): row for row in cells(figure(put.folder, 2)[0])}
    assert {name for name, _ in rows} == {"a/0", "b/0", "convnet"}
    assert (rows["a/0", MSE]["KIP step 0"], rows["b/0", points.KRR]["KIP step 1"]) == ("0.0 ± 0.0", "60.0")
    assert (rows["b/0", MSE]["KIP step 0"], rows["b/0", MSE]["KIP step 1"]) == ("20.0 ± 0.0", "10.0 ± 0.0")
    found = {(row["set"], row["loss"]): row for row in cells(figure(put.folder, 1)[0])}
    assert found["a/0", points.KRR]["convnet depth 1"] == "42.0"


def test_commands_that_were_no_sweep_stay_apart(put):
    put("one", [0.7, 0.8], step=0, width=8)
    put("two", [0.7, 0.8], step=2, width=16)
    for job, step in enumerate((0, 2)):
        put(f"swept/{job}", [0.7, 0.8], step=step)
    (put.folder / "swept" / "multirun.yaml").touch()
    assert points.commands(transfers.find(put.folder)[0]) == [
        "kipx transfer figure=3 run=sets/convnet step=0 width=8",
        "kipx transfer -m figure=3 run=sets/convnet step=0,2",
        "kipx transfer figure=3 run=sets/convnet step=2 width=16",
    ]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_runs_of_before_a_setting_was_there_are_shown(put, number):
    for step in (0, 2):
        folder = put(str(step), [0.7, 0.8], step=step)
        kept = artifacts.read_config(folder)
        del kept["trainer"]["centred"], kept["trainer"]["l2"], kept["network"]["parameterization"], kept["augment"]
        artifacts.write_config(folder, kept)
    table, troubles, _ = figure(put.folder, number)
    assert table.rows
    assert not troubles


def test_equal_runs_count_once(put):
    put("a", [0.7, 0.8], step=0)
    put("b", [0.7, 0.8], step=0)
    assert len(points.of_networks(transfers.find(put.folder)[0])) == 1


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_every_figure_has_a_picture_beside_its_table(number, put):
    for step in (0, 2, 6):
        for loss in ("mse", "cross_entropy"):
            put(f"{step}{loss}", [0.5, 0.6], step=step, loss=loss)
    put("last", [0.5, 0.6], run="sets/solved")
    out = put.folder / "figure.md"
    table, _, _ = figure(put.folder, number, str(out))
    assert "![" in out.read_text() and table.title in out.read_text()
    before = out.with_suffix(".png").read_bytes()
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.width > 400 and np.asarray(picture).std() > 5
    figure(put.folder, number, str(out))
    assert out.with_suffix(".png").read_bytes() == before, "the same numbers, the same bytes"


@pytest.mark.parametrize(
    ("number", "step", "out", "message"),
    [
        (2, None, None, "table: this figure is of runs of kipx transfer with step=<a checkpoint> among them, got none"),
        (4, 2, None, "with step=0, the natural images, among them, got none"),
        (2, 2, "f.png", r"out: expected a Markdown file, beside which the picture is put, got f\.png"),
        (2, 2, "no/f.md", r"out: cannot write no/f\.png \(No such file"),
    ],
)
def test_what_figures_refuse(number, step, out, message, put, monkeypatch):
    put("1", [0.5, 0.6], step=step)
    monkeypatch.chdir(put.folder)
    with pytest.raises(checks.UserError, match=message):
        figure(".", number, out)


def test_figures_refuse_a_folder_without_runs_that_have_ended(put):
    (put("1", [0.5, 0.6]) / "summary.json").unlink()
    with pytest.raises(checks.UserError, match=r"run: expected runs of kipx transfer in .* that have ended, got none"):
        figure(put.folder, 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_every_figures_sweep_runs_to_its_end_and_is_reported(kipx, distilled, number):
    more = {1: ["network.depth=1"], 3: ["network.width=4,8"]}.get(number, [])
    more += [] if number == 1 else ["step=0,2"]
    typed = ["-m", f"+figure={number}", f"run={distilled}", "debug=tiny", "logger=none", *more]
    assert kipx("transfer", *typed, "hydra.sweep.dir=sweep")[0] == 0
    if number == 1:
        assert kipx("evaluate", "-m", f"run={distilled}", "kernel=fc,convvec", "hydra.sweep.dir=sweep/kernels")[0] == 0
    code, out, err = kipx("report", "run=sweep", f"table=figure{number}", "out=figure.md")
    assert code == 0, err
    assert f"Figure {number}" in out
    assert pathlib.Path("figure.png").is_file()
    assert "left out" not in out
