"""kipx transfer from the command line to the folder: whole, interrupted, with bad input."""

import json
import os
import pathlib
import re
import signal

import contract
import jax
import numpy as np
import pytest
from test_cli import only

from kipx import artifacts, checks, track
from kipx.augment import grayscale
from kipx.commands import stop, training

ROOT = pathlib.Path(__file__).parents[1]
TINY = ["debug=tiny", "logger=none"]


def numbers(folder):
    """All that a run leaves but for times."""
    rows = [{k: v for k, v in row.items() if k != "step_time_s"} for row in track.read(folder / "metrics.jsonl")]
    return rows, json.loads((folder / "summary.json").read_text())["sets"]


def test_a_distilled_set_is_trained_on_beside_its_baselines(kipx, distilled):
    code, out, err = kipx("transfer", f"run={distilled}", "debug=tiny", "baselines=[natural,kmeans,herding]")
    assert code == 0, err
    folder = only(kipx.folder / "outputs" / "transfer")
    assert {path.name for path in folder.iterdir()} == set(contract.TRANSFER_FILES)
    words = ("convnet depth 1, width 8", "standard parameterization", "normalization none", "mse", "20 steps", "seed 0")
    flat = " ".join(out.split())
    for word in (*words, "10 images, standardize", "learning rate", "kernel ridge regression from the set"):
        assert word in flat
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["sets"]) == ["distilled", "natural", "kmeans", "herding"]
    rows = track.read(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 10, 20]
    for name, own in summary["sets"].items():
        best = max(np.mean(row["sets"][name]["validation_accuracy"]) for row in rows)
        assert own["validation_accuracy"] == pytest.approx(best)
        at = next(row for row in rows if row["step"] == own["chosen_step"])
        assert np.mean(at["sets"][name]["validation_accuracy"]) == pytest.approx(best)
        assert own["test_accuracy"] == pytest.approx(np.mean(own["test_accuracies"]))
        assert len(own["test_accuracies"]) == len(own["learning_rates"]) == 2
    said = json.loads((distilled / "summary.json").read_text())["test_accuracy"]
    assert summary["kernel_test_accuracy"] == said
    assert json.loads((folder / "manifest.json").read_text())["parents"] == [str(distilled)]


def test_the_chosen_networks_are_those_of_the_chosen_step(transfer):
    """The test accuracy is that of networks trained up to the step that validation chose, and no further."""
    summary = transfer("whole", "baselines=[]", "trainer.factor=0.9")
    own = summary["sets"]["distilled"]
    rows = track.read(transfer.folder / "whole" / "metrics.jsonl")
    found = {row["step"]: row["validation_accuracy"] for row in rows}
    assert own["chosen_step"] == max(found, key=found.get)


@pytest.mark.parametrize("option", sorted(path.stem for path in (ROOT / "conf" / "network").iterdir()))
def test_every_network_trains(transfer, option):
    depth = [] if option in ("own", "myrtle") else ["network.depth=1"]
    summary = transfer("run", f"network={option}", *depth, "trainer=sgd", "trainer.steps=2", "baselines=[]")
    assert summary["network"].startswith("convnet " if option == "own" else f"{option.rstrip('8')} ")


@pytest.mark.parametrize(
    "options",
    [
        ["network=fc", "network.normalization=layer"],
        pytest.param(["network=convvec", "network.depth=2", "network.parameterization=ntk"], marks=pytest.mark.slow),
        pytest.param(["network=convnet3", "network.depth=1", "network.normalization=batch"], marks=pytest.mark.slow),
        ["network.normalization=instance", "trainer.loss=cross_entropy"],
        ["trainer.loss=soft_cross_entropy", "trainer.label_scale=4", "trainer.centred=true"],
        pytest.param(["augment=grayscale", "augment.rate=0.5", "trainer.batch_size=4"], marks=pytest.mark.slow),
    ],
)
def test_options_train(transfer, options):
    summary = transfer("run", *options)
    assert all(0 <= one["test_accuracy"] <= 1 for one in summary["sets"].values())
    last = track.read(transfer.folder / "run" / "metrics.jsonl")[-1]
    assert last["step"] == 20
    assert np.isfinite(last["train_loss"])


@pytest.mark.parametrize(
    ("step", "options"),
    [
        pytest.param(10, [], marks=pytest.mark.slow),
        (0, []),
        (10, ["augment=grayscale", "augment.rate=0.5", "network.normalization=batch"]),
    ],
)
def test_a_stopped_training_goes_on_to_the_same_bits(transfer, monkeypatch, step, options):
    transfer("whole", *options)
    measure = training._measure

    due = [step]

    def interrupted(trainer, problem, state, *rest):
        if state.step in due:
            os.kill(os.getpid(), signal.SIGTERM)
            due.clear()
        return measure(trainer, problem, state, *rest)

    monkeypatch.setattr(training, "_measure", interrupted)
    with pytest.raises(stop.Stopped, match=rf"stopped at step {step}; go on with kipx transfer resume=.*cut"):
        transfer("cut", *options)
    rows = track.rows(transfer.folder / "cut")
    assert [row["step"] for row in rows] == [0][: len(rows)] and bool(rows) == bool(step), "in the middle of measuring"
    transfer("cut", *options, resume=True)
    assert numbers(transfer.folder / "cut") == numbers(transfer.folder / "whole")


def test_resume_from_the_command_line(kipx, distilled):
    assert kipx("transfer", f"run={distilled}", *TINY, "hydra.run.dir=run")[0] == 0
    before = numbers(kipx.folder / "run")
    code, _, err = kipx("transfer", "resume=run", "logger=local")
    assert code == 0, err
    assert numbers(kipx.folder / "run") == before
    code, _, err = kipx("transfer", "resume=run", "seed=3")
    assert code == 2
    assert "only logger can change, got 'seed=3'" in err


def test_networks_have_the_same_starts_on_every_set_and_seeds_differ(transfer):
    recipes = []
    for seed in (0, 1):
        transfer(f"run{seed}", f"seed={seed}")
        row = track.read(transfer.folder / f"run{seed}" / "metrics.jsonl")[0]["sets"]
        assert row["distilled"] == row["natural"]  # at step 0
        recipes.append(row)
    assert recipes[0] != recipes[1]


def test_a_set_of_an_earlier_step_is_taken_from_its_checkpoint(kipx, distilled):
    code, _, err = kipx("transfer", f"run={distilled}", "step=1", *TINY, "hydra.run.dir=first")
    assert code == 0, err
    first = json.loads((kipx.folder / "first" / "summary.json").read_text())
    rows = {row["step"]: row for row in track.read(distilled / "metrics.jsonl")}
    assert first["kernel_test_accuracy"] == rows[1]["test_accuracy"]
    start = artifacts.load(distilled, step=0)
    assert not np.array_equal(start.images, artifacts.load(distilled).images)
    np.testing.assert_array_equal(np.sort(start.labels, axis=1)[:, :9], np.full((10, 9), -0.1))  # one-hot, centred


def test_augmented_versions_change_their_share_and_are_the_same_after_a_break(distilled, tiny_npz):
    own = artifacts.load(distilled)
    with np.load(tiny_npz) as file:
        data = type("Data", (), {"x_train": file["x_train"].reshape(-1, 4, 4, 1)})
    x = jax.numpy.asarray(own.images)[None]
    of, span = training.versions(x, own, data, grayscale(rate=0.3), jax.random.key(0))
    again, _ = training.versions(x, own, data, grayscale(rate=0.3), jax.random.key(0))
    np.testing.assert_array_equal(of(0), again(span - 1))
    changed = (np.asarray(of(0)) != np.asarray(x)[None]).any(axis=(3, 4, 5))
    assert (changed.sum(axis=2) == 3).all()
    assert not np.array_equal(of(0), of(span))
    assert training.versions(x, own, data, lambda pixels, n: None, None)[0](5).shape == (1, *x.shape)


def test_a_rate_that_blows_up_names_itself_and_keeps_the_last_good_state(transfer):
    with pytest.raises(checks.NumericalError, match=r"step \d+: the loss of network \d on the \w+ set is (nan|inf)"):
        transfer("run", "trainer.factor=50")
    with pytest.raises(checks.NumericalError, match=r"with learning rate [\d.]+.*; lower trainer\.factor"):
        transfer("again", "trainer.factor=50")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network.width=0"], r"network\.width: expected an integer >= 1, got 0"),
        (["networks=0"], r"networks: expected an integer >= 1, got 0"),
        (["trainer.loss=hinge"], r"trainer\.loss: expected one of mse, cross_entropy, soft_cross_entropy, got 'hinge'"),
        (["trainer.label_scale=0"], r"trainer\.label_scale: expected a number > 0, got 0"),
        (["trainer.factor=-1"], r"trainer\.factor: expected a number > 0, got -1"),
        (["trainer.momentum=1"], r"trainer\.momentum: expected a number from 0 to below 1, got 1"),
        (["trainer.l2=-1"], r"trainer\.l2: expected a number >= 0, got -1"),
        (["trainer.batch_size=0"], r"trainer\.batch_size: expected an integer >= 1, got 0"),
        (["trainer.evaluations=0"], r"trainer\.evaluations: expected an integer >= 1, got 0"),
        (["trainer.validation=0"], r"trainer\.validation: expected an integer >= 1, got 0"),
        (["baselines=[prototypes]"], r"baselines: expected one of natural, kmeans, herding, got 'prototypes'"),
        (["baselines=natural"], r"baselines: expected a list, got 'natural'"),
        (["step=7"], r"step: expected a checkpoint of .*, one of \[0, 1, 2\], got 7"),
        (["dataset=digits"], r"run: expected a set of 10 classes of \(8, 8, 1\) images, as the data set's"),
        (["augment=rgb"], r"augment: rgb is for images of 3 channels, got \(4, 4, 1\)"),
        (["network.depth=2"], r"network\.depth: the set's own architecture has its depth; name one, network=convnet"),
        (["network=myrtle", "network.depth=6"], r"depth: expected one of 5, 7, 10, got 6"),
        (["network=convnet", "network.depth=4"], r"images: 4x4 is too small for 4 pools"),
    ],
)
def test_a_mistake_gets_one_line(kipx, distilled, overrides, message):
    code, _, err = kipx("transfer", f"run={distilled}", *TINY, *overrides)
    assert code == 2, err
    assert re.search(message, err), err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("n", [1, 99, 100, 101, 250])
def test_accuracy_in_parts_is_that_of_the_whole(n):
    rng = np.random.default_rng(n)
    outputs, classes = rng.normal(size=(2, n, 3)), rng.integers(0, 3, n)
    trainer = type("Trainer", (), {"outputs": staticmethod(lambda networks, images: outputs[:, images])})
    called = []
    found = training.accuracy(trainer, None, np.arange(n), classes, lambda: called.append(0))
    np.testing.assert_allclose(found, (outputs.argmax(axis=2) == classes).mean(axis=1))
    assert len(called) == -(-n // training.IMAGES)


@pytest.fixture
def released(distilled, tmp_path):
    """The same set in the layout of the paper's: images as distilled, labels, and nothing else."""
    own, path = artifacts.load(distilled), tmp_path / "ConvNet_ssize10_nozca_l_noaug_ckpt2.npz"
    np.savez(path, images=own.images, labels=own.labels)
    return path


def test_a_released_set_trains_like_the_runs_own_once_its_preprocessing_is_named(kipx, distilled, released, tiny_npz):
    told = ["dataset=npz", f"dataset.path={tiny_npz}", "preprocess=standardize", "network=convnet", "network.depth=1"]
    assert kipx("transfer", f"run={released}", *told, *TINY, "hydra.run.dir=released")[0] == 0
    assert kipx("transfer", f"run={distilled}", *TINY, "hydra.run.dir=own")[0] == 0
    assert numbers(kipx.folder / "released") == numbers(kipx.folder / "own")
    assert kipx("transfer", "resume=released", "logger=local")[0] == 0


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([], r"dataset: expected the one that .* is distilled from, got none; give dataset=.*mnist"),
        (
            ["dataset=digits"],
            r"preprocess: .* does not say how .*; give preprocess=.*suggests standardize",
        ),
        (["dataset=digits", "preprocess=standardize"], r"network: the set does not name its kernel; .*network=convnet"),
        (
            ["dataset=digits", "preprocess=standardize", "network=fc"],
            r"expected images .* = \(n, 8, 8, 1\), as",
        ),
        (["dataset=digits", "preprocess=standardize", "network=fc", "step=3"], r"step: expected a run folder"),
    ],
)
def test_what_a_released_set_lacks_is_asked_for_by_name(kipx, released, told, message):
    code, _, err = kipx("transfer", f"run={released}", *told, *TINY)
    assert code == 2, err
    assert re.search(message, err), err


def test_the_preprocessing_and_the_maker_are_named_as_far_as_they_are_known(kipx, distilled, released, tiny_npz):
    fixed = ["dataset=npz", f"dataset.path={tiny_npz}"]
    told = ["preprocess=normalize", "preprocess.mean=0.5", "preprocess.std=0.5"]
    expected = {
        "run": (distilled, [], "standardize", "distill"),
        "file": (distilled / "support.npz", [], "not whitened", None),
        "theirs": (released, [*fixed, *told, "network=fc"], "normalize", None),
        "imported": (kipx.folder / "theirs_as_run", [], "normalize", None),
    }
    theirs = [f"path={released}", *fixed, *told, "kernel=fc", f"hydra.run.dir={kipx.folder / 'theirs_as_run'}"]
    code, _, err = kipx("import", *theirs)
    assert code == 0, err
    for name, (run, more, preprocessing, made_by) in expected.items():
        code, _, err = kipx("transfer", f"run={run}", *more, *TINY, "trainer.steps=2", f"hydra.run.dir={name}")
        assert code == 0, err
        summary = json.loads((kipx.folder / name / "summary.json").read_text())
        assert (summary["preprocessing"], summary.get("made_by")) == (preprocessing, made_by), name


def test_a_set_that_says_how_it_was_preprocessed_is_not_told_otherwise(kipx, distilled):
    code, _, err = kipx("transfer", f"run={distilled}", "preprocess=zca", *TINY)
    assert code == 2
    assert "holds what its images were preprocessed with; leave it out" in err


def test_a_file_of_an_unknown_layout_is_refused(kipx, tmp_path):
    np.savez(tmp_path / "other.npz", pictures=np.zeros((2, 2)))
    code, _, err = kipx("transfer", f"run={tmp_path / 'other.npz'}", "dataset=digits", "preprocess=standardize", *TINY)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "other.npz" in err


@pytest.mark.parametrize("run", ["outputs/typo", "typo.pt", "page.md"])
def test_a_run_that_is_none_is_called_a_run(kipx, tmp_path, run):
    (tmp_path / "page.md").write_text("# Page")
    code, _, err = kipx("transfer", f"run={run}", *TINY)
    expected = f"run: expected a run folder or a file of .npz, .pt, .pth, .safetensors, got {run}"
    assert (code, err) == (2, f"kipx: {expected}\n")
