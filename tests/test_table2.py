"""Table 2: the paper's numbers, and of ours the run that validation chose."""

import numpy as np
import pytest

from kipx import artifacts, checks
from kipx.commands import report
from kipx.report import paper, table2
from kipx.report.transfers import Transfer


def transfer(sets, *, dataset="mnist", width=64, loss="mse", images=10, **summary):
    """A run of transfer; sets {name: (validation accuracy, test accuracies)}."""
    own = {
        name: {
            "test_accuracy": float(np.mean(shares)),
            "test_accuracies": shares,
            "validation_accuracy": validation,
            "chosen_step": 40,
            "learning_rates": [0.1, 0.2],
        }
        for name, (validation, shares) in sets.items()
    }
    config = {"dataset": {"load": {"_target_": "kipx.data.published.load", "name": dataset}}}
    config |= {"network": {"width": width}, "trainer": {"loss": loss}, "run": "x", "step": None}
    known = {"network": "convnet depth 3", "preprocessing": "standardize", "made_by": "distill", "classes": 10}
    return Transfer(
        "a", config, {**known, "images": images, "sets": own, **summary}, [], "kipx transfer run=x", "2 cores"
    )


def cells(*runs):
    table = table2.build(list(runs))
    names = [column.lstrip(">") for column in table.columns]
    return {row[:2]: dict(zip(names[2:], row[2:], strict=True)) for row in table.rows}


def test_the_papers_numbers_stand_alone_before_a_run():
    found = cells()
    assert len(found) == 14
    assert found["MNIST", "1"]["paper: KIP to NN"] == "90.1 ± 0.1"
    assert found["Fashion-MNIST", "1"]["paper: LS to NN"] == "61.2 ± 0.1"
    assert found["CIFAR-100", "10"]["paper: DC/DSA"] == "32.3 ± 0.3"
    assert {cell for row in found.values() for name, cell in row.items() if name.startswith("ours")} == {""}
    assert set(paper.TABLE2) == set(paper.TABLE1)


def test_validation_chooses_and_the_test_images_do_not():
    good_on_test = transfer({"distilled": (0.70, [0.90, 0.90]), "natural": (0.5, [0.4, 0.5])})
    chosen = transfer(
        {"distilled": (0.80, [0.70, 0.72, 0.74]), "kmeans": (0.6, [0.61])}, width=128, loss="cross_entropy"
    )
    ours = cells(good_on_test, chosen)["MNIST", "1"]
    assert ours["ours: KIP to NN"] == "72.0 ± 2.0 (3 networks, width 128, cross_entropy)"
    assert ours["ours: natural"] == "45.0 ± 7.1 (2 networks, width 64, mse)"
    assert ours["ours: kmeans"] == "61.0 (1 network, width 128, cross_entropy)"
    assert ours["ours: LS to NN"] == ours["ours: herding"] == ""


@pytest.mark.parametrize(
    ("changes", "key", "column"),
    [
        ({}, ("MNIST", "1"), "KIP to NN"),
        ({"made_by": "label-solve"}, ("MNIST", "1"), "LS to NN"),
        ({"images": 500}, ("MNIST", "50"), "KIP to NN"),
        ({"dataset": "cifar10", "preprocessing": "zca"}, ("CIFAR-10", "1"), "KIP to NN"),
        ({"dataset": "cifar10"}, ("CIFAR-10", "1"), None),
        ({"preprocessing": "zca"}, ("MNIST", "1"), None),
        ({"network": "convnet3 depth 3"}, ("MNIST", "1"), None),
        ({"network": "convnet depth 2"}, ("MNIST", "1"), None),
        ({"made_by": None}, ("MNIST", "1"), None),
    ],
)
def test_a_run_stands_where_it_belongs(changes, key, column):
    row = cells(transfer({"distilled": (0.5, [0.5])}, **changes))[key]
    filled = {name.removeprefix("ours: ") for name, cell in row.items() if name.startswith("ours") and cell}
    assert filled == ({column} if column else set())


def test_every_set_of_a_run_is_listed_and_runs_that_have_not_ended_are_not():
    run = transfer({"distilled": (0.8, [0.7, 0.9]), "natural": (0.5, [0.4, 0.4])})
    table = table2.listing([run, run._replace(summary={})])
    assert [row[2] for row in table.rows] == ["distilled", "natural"]
    assert table.rows[0] == (
        "a",
        "`kipx transfer run=x`",
        "distilled",
        "80.0",
        "80.0 ± 14.1",
        "40",
        "0.1 to 0.2",
        "2 cores",
    )


def test_one_network_has_one_rate():
    run = transfer({"distilled": (0.8, [0.7])})
    run.summary["sets"]["distilled"]["learning_rates"] = [0.1]
    ((*_, test, _, rate, _),) = table2.listing([run]).rows
    assert (test, rate) == ("70.0", "0.1")


def put(folder, run):
    """The run's folder, as kipx transfer leaves it."""
    config = {**run.config, "trainer": {"loss": "mse"}, "networks": 2, "seed": 0}
    artifacts.create(folder, config=config, overrides=["run=x"])
    artifacts.write_json(folder / "summary.json", run.summary)


@pytest.mark.parametrize("table", ["runs", "table1", "table2"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"classes": None}, "classes"),
        ({"classes": 0}, "classes: expected an integer >= 1, got 0"),
        ({"images": "ten"}, "images"),
        ({"chosen_step": None}, "chosen_step"),
        ({"learning_rates": []}, "empty"),
        ({"validation_accuracy": None}, "validation_accuracy"),
        ({"test_accuracy": 7.0}, "distilled: accuracy: expected"),
    ],
)
def test_a_damaged_run_is_named_in_every_table_and_page(damage, said, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, bad = (transfer({"distilled": (0.8, [0.7, 0.9])}) for _ in range(2))
    for key, value in damage.items():
        part = bad.summary if key in bad.summary else bad.summary["sets"]["distilled"]
        part.update({key: value}) if value is not None else part.pop(key)
    put(tmp_path / "runs" / "good", run)
    put(tmp_path / "runs" / "bad", bad)
    _, troubles, _ = report.run(str(tmp_path / "runs"), table=table, out=None)
    (trouble,) = troubles
    assert trouble.startswith("bad: left out, no run that can be read (")
    assert said in trouble
    page, more = report.write_pages(str(tmp_path / "runs"))
    assert not more
    assert "bad: left out" in page.read_text()


def test_the_command_writes_table_2_and_the_page_of_results_has_it(tmp_path):
    put(tmp_path / "runs" / "one", transfer({"distilled": (0.8, [0.7, 0.9])}))
    table, troubles, _ = report.run(str(tmp_path / "runs"), table="table2", out=str(tmp_path / "page.md"))
    assert not troubles
    assert table.title.startswith("Table 2")
    text = (tmp_path / "page.md").read_text()
    assert "80.0 ± 14.1 (2 networks, width 64, mse)" in text
    assert "`kipx transfer run=x`" in text
    with pytest.raises(checks.UserError, match=r"run: expected runs of kipx transfer in .*empty, got none"):
        (tmp_path / "empty").mkdir()
        report.run(str(tmp_path / "empty"), table="table2", out=None)
