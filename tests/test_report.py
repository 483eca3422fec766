"""Tables of runs: what the real writers wrote, however damaged, beside numbers worked out by hand."""

import json
import shutil
import statistics
import sys

import pytest
from test_config import composed

from kipx import arguments, artifacts, checks, cli, config, track
from kipx.commands import report
from kipx.report import listing, pages, paper, runs, seeds, table1

MNIST = ["dataset=mnist", "labels=learned", "steps=10"]
COLOUR = ["dataset=cifar10", "preprocess=zca", "labels=learned", "steps=10"]


def write(folder, overrides, accuracies, *, ended=True, step_time_s=30.0):
    """A run folder as distill leaves it: `accuracies` {step: share} of a run that took `step_time_s` a step."""
    values = config.plain(composed(*overrides), arguments.DISTILL)
    artifacts.create(folder, config=values, overrides=overrides)
    log = track.jsonl(folder)
    for step in range(max(accuracies) + 1):
        row = {"step": step} | ({"train_loss": 0.1, "step_time_s": step_time_s} if step else {})
        log(row | ({"test_accuracy": accuracies[step], "test_mse": 0.1} if step in accuracies else {}))
    if ended:
        artifacts.write_json(folder / "summary.json", {"steps": values["steps"], "test_accuracy": accuracies[step]})
    return folder


def cells(folder):
    """{(data set, images a class): {column: text}} of Table 1."""
    table = table1.build(runs.find(folder)[0])
    names = [column.lstrip(">") for column in table.columns]
    return {row[:2]: dict(zip(names[2:], row[2:], strict=True)) for row in table.rows}


def test_table_1_holds_the_papers_numbers_and_nothing_of_ours_before_a_run(tmp_path):
    write(tmp_path / "digits", ["steps=1"], {0: 0.5, 1: 0.6})
    found = cells(tmp_path)
    assert len(found) == 14
    assert found["CIFAR-10", "1"]["paper: KIP ConvNet"] == "64.7 ± 0.2"
    assert found["CIFAR-10", "10"]["paper: KIP FC, aug"] == "53.1 ± 0.5"
    assert found["Fashion-MNIST", "1"]["paper: KIP FC, aug"] == ""
    assert found["CIFAR-100", "10"]["paper: LS ConvNet"] == "39.2"
    assert {cell for row in found.values() for name, cell in row.items() if name.startswith("ours")} == {""}


def test_ours_is_the_mean_over_seeds_of_the_best_setting(tmp_path):
    shares = [0.951, 0.962, 0.957]
    for seed, share in enumerate(shares):
        write(tmp_path / "a" / str(seed), [*MNIST, f"seed={seed}"], {0: 0.4, 10: share})
    shutil.copytree(tmp_path / "a" / "0", tmp_path / "again" / "0")  # the same run twice is one seed
    write(tmp_path / "worse", [*MNIST, "optimizer.learning_rate=9"], {0: 0.4, 10: 0.9})
    spread = 100 * statistics.stdev(shares)
    ours = cells(tmp_path)["MNIST", "1"]
    assert ours["ours: KIP ConvNet"] == f"{100 * statistics.mean(shares):.1f} ± {spread:.1f} (3 seeds)"
    assert ours["ours: KIP ConvNet, aug"] == ""


def test_seeds_that_ran_on_several_machines_are_one_setting(tmp_path):
    for seed, share in enumerate((0.951, 0.962)):
        here = [f"dataset.data_dir=/machine_{seed}/data", f"dataset.raw_dir=/machine_{seed}/raw"]
        write(tmp_path / str(seed), [*MNIST, f"seed={seed}", *here], {0: 0.4, 10: share})
    assert cells(tmp_path)["MNIST", "1"]["ours: KIP ConvNet"].endswith("(2 seeds)")


def test_a_run_that_has_not_ended_shows_its_step(tmp_path):
    write(tmp_path / "cut", MNIST, {0: 0.4, 4: 0.8, 7: 0.85}, ended=False)
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "test_acc')  # killed while it wrote
    assert cells(tmp_path)["MNIST", "1"]["ours: KIP ConvNet"] == "85.0 (1 seed, step 7 of 10)"
    longer = write(tmp_path / "longer", [*MNIST, "seed=1"], {0: 0.4, 10: 0.9})
    kept = artifacts.read_config(longer)
    artifacts.write_config(longer, {**kept, "steps": 20})  # goes on: its summary is of before
    assert cells(longer)["MNIST", "1"]["ours: KIP ConvNet"] == "90.0 (1 seed, step 10 of 20)"


@pytest.mark.parametrize(
    ("overrides", "key", "column"),
    [
        (COLOUR, ("CIFAR-10", "1"), paper.KIP),
        ([*COLOUR, "augment=rgb", "augment.rate=0.5", "support.per_class=10"], ("CIFAR-10", "10"), paper.KIP_AUGMENTED),
        ([*COLOUR, "augment=rgb", "augment.rate=0"], ("CIFAR-10", "1"), paper.KIP),
        ([*COLOUR, "augment=rgb", "kernel=fc"], ("CIFAR-10", "1"), paper.KIP_FC),
        ([*COLOUR, "augment=rgb", "kernel=fc", "preprocess=standardize"], ("CIFAR-10", "1"), paper.KIP_FC),
        ([*COLOUR, "preprocess=standardize"], None, None),
        ([*COLOUR, "labels=fixed"], None, None),
        ([*COLOUR, "kernel=convnet3"], None, None),
        ([*COLOUR, "kernel.kind=nngp"], None, None),
        ([*COLOUR, "kernel.depth=2"], None, None),
        ([*COLOUR, "kernel=sampled"], None, None),
        ([*COLOUR, "kernel=fc"], None, None),
        ([*COLOUR, "support.per_class=2"], None, None),
        ([*MNIST, "preprocess=zca"], None, None),
    ],
)
def test_a_run_belongs_to_one_column_or_to_none(overrides, key, column, tmp_path):
    write(tmp_path / "run", overrides, {0: 0.1, 10: 0.5})
    filled = {
        (key, name) for key, row in cells(tmp_path).items() for name, cell in row.items() if cell.startswith("50.0")
    }
    assert filled == ({(key, f"ours: {column}")} if key else set())


def test_solved_labels_have_a_column(tmp_path):
    """Of runs as label-solve leaves them: a config without steps, row 0 of the labels to start with, row 1 solved."""
    for seed, share in enumerate((0.73, 0.74)):
        folder = write(tmp_path / str(seed), [*MNIST, f"seed={seed}"], {0: 0.1, 1: share}, ended=False)
        kept = artifacts.read_config(folder)
        artifacts.write_config(folder, {k: v for k, v in kept.items() if k not in ("steps", "labels")} | {"form": {}})
        assert [run.measured for run in runs.find(folder)[0]] == [None]
        artifacts.write_json(folder / "summary.json", {"test_accuracy": share, "label_solve": {"kept": 10}})
    shutil.copytree(tmp_path / "1", tmp_path / "of centroids")
    config = artifacts.read_config(tmp_path / "1")
    config["support"]["_target_"] = "kipx.centroids.kmeans"
    artifacts.write_config(tmp_path / "of centroids", config)
    artifacts.write_json(tmp_path / "of centroids" / "summary.json", {"test_accuracy": 0.9, "label_solve": {}})
    assert cells(tmp_path)["MNIST", "1"]["ours: LS ConvNet"] == "73.5 ± 0.7 (2 seeds)", "the paper's are natural images"
    assert listing.build(runs.find(tmp_path)[0]).rows[0][-3:] == ("solved", "73.0", "30 s")
    assert runs.find(tmp_path)[0][0].command.startswith("kipx label-solve dataset=mnist")


def test_the_list_tells_how_runs_differ(tmp_path):
    for job, rate in (("2", 0.1), ("10", 0.2)):
        overrides = ["steps=10", f"optimizer.learning_rate={rate}", "engine.block_size=[4,4]"]
        write(tmp_path / job, overrides, {0: 0.5, 10: rate}, step_time_s=1.5)
    write(tmp_path / "11", ["steps=10", "kernel=fc", "optimizer.learning_rate=0.1"], {0: 0.5, 6: 0.6}, ended=False)
    table = listing.build(runs.find(tmp_path)[0])
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["run"] for row in rows] == ["2", "10", "11"]
    assert [row["optimizer.learning_rate"] for row in rows] == ["0.1", "0.2", "0.1"]
    assert [row["kernel.architecture"] for row in rows] == ["convnet", "convnet", "fc"]
    assert [row["engine.block_size"] for row in rows] == ["[4, 4]", "[4, 4]", "None"]
    assert [row[">step"] for row in rows] == ["10", "10", "6 of 10"]
    assert [row[">test accuracy"] for row in rows] == ["10.0", "20.0", "60.0 at 6"]
    assert rows[0][">time of steps"] == "15 s"
    assert not {"seed", "dataset", "ridge"} & set(table.columns)


def test_accuracy_at_each_doubling_of_time(tmp_path):
    write(tmp_path / "long", MNIST, {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 7: 0.5, 10: 0.6}, step_time_s=30.0)
    write(tmp_path / "short", MNIST, {0: 0.1, 10: 0.2}, step_time_s=1.0)
    table = listing.times(runs.find(tmp_path)[0])
    assert table.columns == ("run", ">start", ">60 s", ">2 min", ">4 min", ">last")
    assert table.rows == [("long", "10.0", "30.0", "40.0", "50.0", "60.0 (5 min)")]


def test_natural_images_stand_beside_a_learned_one(tmp_path):
    for per_class, share in ((1, 0.3), (100, 0.7)):
        for seed in (0, 1):
            overrides = ["dataset=mnist", "steps=0", "labels=fixed", f"support.per_class={per_class}", f"seed={seed}"]
            write(tmp_path / f"{per_class}_{seed}", overrides, {0: share + seed / 50})
    write(tmp_path / "learned", MNIST, {0: 0.3, 10: 0.9})
    table, _, _ = report.run(tmp_path, table="natural", out=None)
    assert table.columns[3:] == (">1 a class", ">100 a class", ">1 a class, learned")
    assert table.rows == [
        (
            "MNIST",
            "NTK of convnet depth 3",
            "standardize",
            "31.0 ± 1.4 (2 seeds)",
            "71.0 ± 1.4 (2 seeds)",
            "90.0 (1 seed)",
        )
    ]


def test_families_and_kernels_side_by_side_are_told_apart_in_one_column(tmp_path):
    for job, kernel in enumerate(("convnet", "fc", "sampled")):
        write(tmp_path / str(job), ["dataset=mnist", f"kernel={kernel}"], {0: 0.1})
    table = listing.build(runs.find(tmp_path)[0])
    assert table.columns == ("run", "kernel", ">step", ">test accuracy", ">time of steps")
    names = [row[1] for row in table.rows]
    assert len(set(names)) == 3 and " + " in names[2]


def test_files_of_ones_own_have_a_row_each(tmp_path):
    for name, share in (("a", 0.3), ("b", 0.7)):
        overrides = ["dataset=npz", f"dataset.path=sets/{name}.npz", "steps=0", "labels=fixed"]
        write(tmp_path / name, overrides, {0: share})
    table, _, _ = report.run(tmp_path, table="natural", out=None)
    assert [(row[0], row[3]) for row in table.rows] == [
        ("npz sets/a.npz", "30.0 (1 seed)"),
        ("npz sets/b.npz", "70.0 (1 seed)"),
    ]


def test_kernels_that_differ_have_rows_that_differ(tmp_path):
    chosen = (["kernel=convnet"], ["kernel=convnet3"], ["kernel=convnet", "kernel.kind=nngp"], ["kernel=sampled"])
    for job, kernel in enumerate(chosen):
        write(tmp_path / str(job), ["dataset=mnist", "steps=0", "labels=fixed", *kernel], {0: 0.1 * job})
    table, _, _ = report.run(tmp_path, table="natural", out=None)
    first, second, third, family = [row[1] for row in table.rows]
    names = ("NTK of convnet depth 3", "NTK of convnet3 depth 3", "NNGP of convnet depth 3")
    assert (first, second, third) == names
    assert " + " in family
    assert f"kernel {second}" in pages.of_run(runs.find(tmp_path)[0][1]).lead


DAMAGE = {
    "torn config": lambda folder: (folder / "config.yaml").write_text("dataset: [1"),
    "no config": lambda folder: (folder / "config.yaml").unlink(),
    "foreign config": lambda folder: (folder / "config.yaml").write_text("model: resnet\n"),
    "list for config": lambda folder: (folder / "config.yaml").write_text("- 1\n"),
    "binary config": lambda folder: (folder / "config.yaml").write_bytes(b"\xff\xfe\x00\x80"),
    "binary metrics": lambda folder: (folder / "metrics.jsonl").write_bytes(b"\xff\xfe\x00\x80"),
    "numbers for rows": lambda folder: (folder / "metrics.jsonl").write_text("3\n4\n"),
    "text for accuracy": lambda folder: (folder / "metrics.jsonl").write_text('{"step": 0, "test_accuracy": "a"}\n'),
    "nan for accuracy": lambda folder: (folder / "metrics.jsonl").write_text('{"step": 0, "test_accuracy": NaN}\n'),
    "torn summary": lambda folder: (folder / "summary.json").write_text('{"steps": 1'),
    "list for summary": lambda folder: (folder / "summary.json").write_text("[]"),
    "text for overrides": lambda folder: (folder / "overrides.yaml").write_text("a: [b"),
    "folder for config": lambda folder: [(folder / "config.yaml").unlink(), (folder / "config.yaml").mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_and_foreign_folders_are_named_and_left_out(damage, tmp_path):
    write(tmp_path / "good", MNIST, {0: 0.1, 10: 0.5})
    write(tmp_path / "bad", MNIST, {0: 0.1, 10: 0.9})
    DAMAGE[damage](tmp_path / "bad")
    found, troubles = runs.find(tmp_path)
    assert [run.name for run in found] == ["good"]
    (trouble,) = troubles
    assert trouble.startswith("bad: left out, no run that can be read (")
    assert "\n" not in trouble


def test_the_page_has_the_commands_that_repeat_the_runs(tmp_path):
    typed = [
        "+experiment=x",
        "optimizer.learning_rate=0.3",
        "dataset.data_dir=/home/me/data",
        "hydra.run.dir=r",
        "steps=5",
    ]
    folder = write(tmp_path / "runs" / "a", [*MNIST, "dataset.data_dir=/home/me/data"], {0: 0.1, 10: 0.5})
    (folder / "overrides.yaml").write_text(json.dumps(typed))
    out = tmp_path / "page.md"
    table, _, path = report.run(tmp_path / "runs", table="table1", out=str(out))
    text = out.read_text()
    assert path == out
    assert table.title in text
    assert "`kipx distill +experiment=x optimizer.learning_rate=0.3 steps=10` | 0 | 10 | 50.0 | 5 min |" in text
    assert "## Natural images" in text and "## Test accuracy at each doubling of time" in text
    assert "/home/me" not in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| MNIST")}
    assert widths == {len(table.columns) + 1}


def test_a_run_that_went_on_to_other_steps_is_told_as_it_was(tmp_path):
    folder = write(tmp_path / "run", [*MNIST, "steps=100"], {0: 0.4, 100: 0.9})
    card, cores = {"devices": ["H"]}, {"devices": ["cpu"], "cpus": 2}
    artifacts.write_json(folder / "environment.json", card)
    rows = [
        {"step": 7, "environment": card},
        {"step": 54, "steps_before": 9, "steps": 100, "environment": cores},
    ]
    artifacts.write(folder / "resumed.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    (run,), _ = runs.find(tmp_path)
    first = "kipx distill dataset=mnist labels=learned"
    assert (run.command, run.device) == (f"{first} steps=9", "1 x H, then 2 cores")
    (row,) = listing.commands([run]).rows
    assert row[1] == f"`{first} steps=9`, then `kipx distill resume=FOLDER steps=100 # at step 54`"
    page = (report.write_pages(str(folder))[0]).read_text()
    assert f"{first} steps=9\nkipx distill resume=FOLDER steps=100 # at step 54" in page


def test_a_page_in_docs_is_written_where_there_is_such_a_folder(tmp_path, monkeypatch):
    write(tmp_path / "run", MNIST, {0: 0.1, 10: 0.5})
    monkeypatch.chdir(tmp_path)
    assert report.run("run", table="table1", out=None)[2] is None
    (tmp_path / "docs").mkdir()
    assert report.run("run", table="runs", out=None)[2] is None
    report.run("run", table="table1", out=None)
    assert "50.0 (1 seed)" in (tmp_path / "docs" / "results.md").read_text()


def test_a_page_in_docs_is_written_over_no_page_but_its_own(kipx, tmp_path):
    page, other = tmp_path / "docs" / "results.md", tmp_path / "other"
    write(tmp_path / "run", MNIST, {0: 0.1, 10: 0.5})
    write(other, MNIST, {0: 0.1, 10: 0.6})
    page.parent.mkdir()
    for text in ("# Results\n\nOurs are best.\n", "", "Written by `kipx report run=run2 table=table1`.\n"):
        page.write_text(text)
        code, out, _ = kipx("report", "run=run", "table=table1", "html=false")
        assert (code, page.read_text()) == (0, text)
        assert "docs/results.md: kept, since" in out and "out=docs/results.md replaces it" in out
        assert "50.0 (1 seed)" in out and "written to" not in out
    assert report.run("run", table="table1", out="docs/results.md")[2] == page.relative_to(tmp_path)
    assert report.run("other", table="table1", out=None)[2] is None
    assert "50.0 (1 seed)" in page.read_text()
    write(tmp_path / "run" / "more", [*MNIST, "seed=1"], {0: 0.1, 10: 0.5})
    assert str(report.run("run/", table="table1", out=None)[2]) == "docs/results.md"
    assert "50.0 ± 0.0 (2 seeds)" in page.read_text()
    assert "Written by `kipx report run=run table=table1`." in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"run": "nowhere"}, "run: expected a folder of runs, got nowhere, which is none"),
        ({"run": "empty"}, "run: expected at least one run in empty, got none"),
        ({"table": "table9"}, "table: expected one of runs, table1, times, natural, table2, figure1, .*, got 'table9'"),
        ({"out": "no/such/folder.md"}, r"out: cannot write no/such/folder\.md \(No such file"),
    ],
)
def test_what_report_refuses(arguments, message, tmp_path, monkeypatch):
    write(tmp_path / "run", MNIST, {0: 0.1, 10: 0.5})
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(checks.UserError, match=message):
        report.run(**{"run": "run", "table": "runs", "out": None, **arguments})


def test_the_command_shows_real_runs_and_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kipx"])
    fast = ["kernel=fc", "debug=tiny", "logger=none", "hydra.sweep.dir=sweep"]
    assert cli.run("distill", ["-m", *fast, "seed=0,1", "ridge=1e-6"]) == 0
    share = json.loads((tmp_path / "sweep" / "0" / "summary.json").read_text())["test_accuracy"]
    (tmp_path / "sweep" / "2").mkdir()
    (tmp_path / "sweep" / "2" / "config.yaml").write_text("x")
    capsys.readouterr()
    assert cli.run("report", ["run=sweep"]) == 0
    out = capsys.readouterr().out
    assert f"{100 * share:.1f}" in out
    assert "seed" in out
    assert "2: left out" in out
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.*"))
    assert cli.run("report", ["run=sweep", "tabel=runs"]) == 2
    assert cli.run("report", ["run=sweep/2"]) == 2


def test_seeds_of_unequal_progress_are_not_mixed(tmp_path):
    write(tmp_path / "0", [*MNIST, "seed=0"], {0: 0.1, 10: 0.5})
    write(tmp_path / "1", [*MNIST, "seed=1"], {0: 0.1, 5: 0.6}, ended=False)
    assert seeds.best(runs.find(tmp_path)[0]) == "60.0 (1 seed, step 5 of 10)"
    assert seeds.best([]) == ""
