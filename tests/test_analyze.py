"""kipx analyze: each question against closed forms, slow versions and scikit-dimension, and the command as typed."""

import hashlib
import json
import shutil
import types

import contract
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from test_config import composed

from kipx import arguments, checks, config, manifest, merged
from kipx.analysis import dimension, images, labels, spectrum, subject
from kipx.architecture import fc
from kipx.commands import analyze
from kipx.kernel import neural_tangents

SMALL = ["debug=tiny", "kernels.convnet.depth=1", "~kernels.convvec8"]


@pytest.fixture
def run(tmp_path, distilled):
    """A run folder to write into."""
    return shutil.copytree(distilled, tmp_path / "run")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shape", [(10, 4, 4, 1), (37, 8, 8, 1), (200, 2, 3, 1)])
def test_two_nn_is_scikit_dimensions(shape):
    from skdim.id import TwoNN

    points = noise(*shape)
    expected = TwoNN().fit(points.reshape(len(points), -1)).dimension_
    assert dimension.two_nn(points) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [7, 40])
def test_two_nn_is_the_slow_version_by_the_letter_of_its_paper(n):
    points, ratios = noise(n, 5), []
    for i in range(n):
        near = sorted(sum((points[i] - points[j]) ** 2) ** 0.5 for j in range(n) if j != i)
        ratios.append(near[1] / near[0])
    kept = sorted(ratios)[: int(n * 0.9)]
    pairs = [(np.log(mu), -np.log(1 - (i + 1) / n)) for i, mu in enumerate(kept)]
    slope = sum(x * y for x, y in pairs) / sum(x * x for x, _ in pairs)
    assert dimension.two_nn(points) == pytest.approx(slope, rel=1e-12)


def test_two_nn_finds_the_dimension_of_a_plane_in_many_dimensions():
    flat = noise(4000, 2) @ noise(2, 30, seed=1)
    assert dimension.two_nn(flat) == pytest.approx(2, rel=0.1)
    assert dimension.two_nn(5 * flat + 3) == pytest.approx(dimension.two_nn(flat))


def test_two_nn_leaves_equal_points_out_and_refuses_too_few():
    points = noise(20, 6)
    twice = np.concatenate([points, points[:1]])
    assert np.isfinite(dimension.two_nn(twice))
    for few in (points[:2], np.zeros((9, 3)), np.eye(3)):
        with pytest.raises(checks.UserError, match="dimension needs three or more different images"):
            dimension.two_nn(few)


@pytest.mark.parametrize("n", [5, 7, 10])
def test_bands_are_slow_sums_over_eigenvectors_and_add_up_to_regression_without_ridge(n):
    factor, k_ts, y = noise(n, n), noise(6, n, seed=1), noise(n, 3, seed=2)
    k_ss = factor @ factor.T
    found = spectrum.bands(k_ss, k_ts, y)
    values, vectors = np.linalg.eig(k_ss)
    order, sizes = np.argsort(-values), [len(part) for part in np.array_split(range(n), 5)]
    for band, (size, last) in enumerate(zip(sizes, np.cumsum(sizes), strict=True)):
        slow = sum(np.outer(k_ts @ vectors[:, i], vectors[:, i] @ y) / values[i] for i in order[last - size : last])
        np.testing.assert_allclose(found[band], slow, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.sum(axis=0), k_ts @ np.linalg.inv(k_ss) @ y, rtol=1e-6)


def test_each_band_carries_its_own_eigenvectors_labels():
    """Test points at the support's own, labels along eigenvector j: only the band that has it answers, with them."""
    basis = np.linalg.qr(noise(10, 10))[0]
    k_ss = basis @ np.diag(np.arange(10, 0, -1.0)) @ basis.T
    for j in range(10):
        found = spectrum.bands(k_ss, k_ss, basis[:, j : j + 1])
        for band in range(5):
            np.testing.assert_allclose(found[band], basis[:, j : j + 1] * (band == j // 2), atol=1e-12)


def test_entropy_of_labels_in_closed_form():
    one_hot, even = np.eye(4) - 0.25, np.zeros((1, 4))
    two = np.array([[0.6, 0.6, -0.4, -0.9]]) - 0.25
    found = labels.entropy(np.concatenate([one_hot, even, two, 3 * one_hot[:1] - 0.25]))
    np.testing.assert_allclose(found, [0, 0, 0, 0, 2, 1, 0], atol=1e-12)
    assert np.isnan(labels.entropy(np.full((1, 4), -0.25))).all()


def test_changes_of_images_in_closed_form():
    start = noise(3, 4, 5, 1)
    scaled = np.stack([start[0], 2 * start[1], -start[2]])
    found = images.changes(start, scaled, (-1, 1))
    np.testing.assert_allclose(found["change"], [0, 1, 2])
    np.testing.assert_allclose(found["correlation"], [1, 1, -1])
    np.testing.assert_allclose(found["variation"], [1, 2, 1])
    np.testing.assert_allclose(found["outside"], [np.mean(np.abs(one) > 1) for one in scaled])


def test_accuracies_and_gram_matrices_are_numpys_and_computed_once():
    """Of a linear kernel, whose regression is two lines of NumPy."""
    calls, x, y = [], noise(6, 2, 2, 1), np.eye(2)[[0, 1] * 3] - 0.5
    tests = noise(8, 2, 2, 1, seed=1)

    def linear(x1, x2=None):
        calls.append(len(x1))
        return x1.reshape(len(x1), -1) @ (x1 if x2 is None else x2).reshape(-1, 4).T + np.eye(len(x1), 6) * (x2 is None)

    own = subject.Kernel("linear", "ntk", True, types.SimpleNamespace(gram=linear))
    of, y_test = subject.Set(x, y), np.eye(2)[[1, 0] * 4] - 0.5
    asked = types.SimpleNamespace(grams=subject._remembering(tests), ridge=0.1, y_test=y_test)
    k_ss = x.reshape(6, 4) @ x.reshape(6, 4).T + np.eye(6)
    alpha = np.linalg.inv(k_ss + 0.3 * np.trace(k_ss) / 6 * np.eye(6)) @ y
    right = (tests.reshape(8, 4) @ x.reshape(6, 4).T @ alpha).argmax(axis=1) == y_test.argmax(axis=1)
    assert subject.accuracy(asked, own, of, ridge=0.3) == np.mean(right)
    subject.accuracy(asked, own, of)
    assert calls == [6, 8]


def test_all_questions_are_answered_into_the_run_folder(kipx, run):
    code, out, err = kipx("analyze", f"run={run}", *SMALL)
    assert (code, err) == (0, "")
    assert tuple(analyze.QUESTIONS) == contract.QUESTIONS
    files = {f"{question}.{ending}" for question in contract.QUESTIONS for ending in ("md", "png")}
    assert {path.name for path in (run / "analysis").iterdir()} == files
    for path in (run / "analysis").glob("*.png"):
        assert Image.open(path).width > 300
    for title in ("Images, learned", "Labels (", "Intrinsic", "by band", "over hyperparameters", "under other kernels"):
        assert title in out
    sums = json.loads((run / "manifest.json").read_text())["files"]
    assert {f"analysis/{name}" for name in files} <= set(sums)
    for name, digest in sums.items():
        assert hashlib.sha256((run / name).read_bytes()).hexdigest() == digest
    page = (run / "analysis" / "kernels.md").read_text()
    said = json.loads((run / "summary.json").read_text())
    assert f"| convnet depth 1 | ntk | yes | {100 * said['test_accuracy']:.1f} |" in page
    table = (run / "analysis" / "robustness.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| convnet depth 1 | ntk | 1e-06"))
    assert f" {100 * said['initial_test_accuracy']:.1f} |" in row
    assert f"{100 * said['test_accuracy']:.1f} |" == row[-6:].strip()
    assert not list((kipx.folder / "outputs").rglob("*.*")), "nothing else is left"
    code, out, err = kipx("distill", f"resume={run}", "steps=3", "logger=none")
    assert code == 0, err
    sums = json.loads((run / "manifest.json").read_text())["files"]
    assert {f"analysis/{name}" for name in files} <= set(sums)


def test_a_set_alone_is_asked_what_it_can_answer(kipx, run):
    alone = kipx.folder / "alone.npz"
    shutil.copy(run / "support.npz", alone)
    code, out, _ = kipx("analyze", f"run={alone}", *SMALL, "out=elsewhere", "test_images=10")
    assert code == 0
    assert out.count("left out because") == 2
    assert "first 10 of 30 test images" in out
    found = {path.stem for path in (kipx.folder / "elsewhere").iterdir()}
    assert found == set(contract.QUESTIONS) - {"images", "robustness"}
    code, out, err = kipx("analyze", f"run={alone}", "question=images", *SMALL)
    assert (code, out) == (2, "")
    assert err.startswith("kipx: question: this one compares with what the set began as, and needs the checkpoint")


def test_a_set_that_has_not_learned_has_nothing_to_stay_ahead_with(kipx, run):
    for step in (path for path in (run / "checkpoints").iterdir() if path.name != "0"):
        shutil.rmtree(step)
    code, out, err = kipx("analyze", f"run={run}", "question=robustness", *SMALL)
    assert (code, out) == (2, "")
    assert err == "kipx: question: robustness needs a checkpoint after step 0; give a run that has learned\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("question=label", f"question: expected one of all, {', '.join(contract.QUESTIONS)}, got 'label'"),
        ("baseline.draws=0", "baseline.draws: expected an integer >= 1, got 0"),
        ("test_images=0", "test_images: expected an integer >= 1, got 0"),
        ("ridge=-1", "ridge: expected a number > 0, got -1"),
        ("seed=-1", "seed: expected an integer >= 0, got -1"),
        ("kernels.fc2.kind=ntkk", "kernels.fc2.kind: expected one of ntk, nngp, got 'ntkk'"),
        ("kernels.convnet.depth=5", "kernels: convnet depth 5 does not suit (images: 4x4 is too small for 5 pools"),
        ("out=run/config.yaml", "out: cannot write to run/config.yaml"),
    ],
)
def test_a_mistake_gets_one_line(kipx, run, override, message):
    question = "labels" if "out" in override else "kernels"
    code, out, err = kipx("analyze", "run=run", f"question={question}", *SMALL, override)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_set_of_fewer_images_than_bands_has_no_spectrum():
    few = types.SimpleNamespace(learned=subject.Set(np.zeros((4, 2, 2, 1)), np.zeros((4, 2))))
    with pytest.raises(checks.UserError, match="spectrum needs at least 5 images, one for each band, got 4"):
        spectrum.answer(few)


def test_a_torn_manifest_is_named_and_none_is_no_matter(tmp_path):
    (tmp_path / "late").write_text("late")
    manifest.enter(tmp_path, ["late"])
    assert not (tmp_path / "manifest.json").exists()
    (tmp_path / "manifest.json").write_text('{"fil')
    with pytest.raises(checks.UserError, match="is torn or no manifest"):
        manifest.enter(tmp_path, ["late"])


def test_natural_images_are_as_many_and_even_over_classes(distilled, tiny_npz):
    from kipx import artifacts
    from kipx.data import npz

    own, data = artifacts.load(distilled), npz.load(path=str(tiny_npz))
    posed = {"steps": (), "at": None, "kernels": (), "ridge": 1e-6, "test_images": None}
    first, again, other = (subject.build(own, data, seed=seed, draws=2, **posed).natural for seed in (0, 0, 1))
    for one in first:
        assert one.images.shape == own.images.shape
        assert list(one.labels.argmax(axis=1)) == list(range(10))
    assert np.array_equal(first[0].images, again[0].images)
    assert not np.array_equal(first[0].images, first[1].images)
    assert not np.array_equal(first[0].images, other[0].images)


@pytest.mark.parametrize(
    ("distilled_with", "own"),
    [
        (["kernel=fc", "kernel.depth=2"], {("fc depth 2", "ntk")}),
        (["kernel=convvec", "kernel.depth=3", "kernel.kind=nngp"], {("convvec depth 3", "nngp")}),
        (["kernel=sampled"], {("convnet depth 2", "ntk"), ("convvec depth 3", "ntk"), ("convvec depth 8", "ntk")}),
    ],
)
def test_kernels_are_measured_once_as_both_kinds_and_the_sets_own_are_marked(distilled_with, own):
    saved = OmegaConf.to_container(composed(*distilled_with), resolve=True)
    values = config.plain(merged.with_run(composed("run=x", command="analyze"), saved), arguments.ANALYZE)
    found = arguments.analyze(values)["kernels"]
    assert {(kernel.name, kernel.kind) for kernel in found if kernel.own} == own
    names = {"fc depth 2", "convvec depth 8", "convnet depth 2"} | {name for name, _ in own}
    assert sorted((kernel.name, kernel.kind) for kernel in found) == sorted(
        (name, kind) for name in names for kind in ("ntk", "nngp")
    )


def test_kernels_of_one_name_and_other_parameters_are_all_measured():
    saved = OmegaConf.to_container(composed("kernel=fc", "kernel.architecture.w_std=2"), resolve=True)
    more = ["+kernel@kernels.plain=fc", "+kernel@kernels.wide=fc", "kernels.wide.architecture.w_std=3"]
    values = config.plain(merged.with_run(composed("run=x", *more, command="analyze"), saved), arguments.ANALYZE)
    found = {(kernel.name, kernel.kind): kernel for kernel in arguments.analyze(values)["kernels"]}
    x = np.random.default_rng(0).normal(size=(2, 2, 2, 1))
    for name, w_std in {"fc depth 1": 2.0, "fc depth 1 (plain)": 2**0.5, "fc depth 1 (wide)": 3.0}.items():
        expected = neural_tangents.build(fc(depth=1, w_std=w_std), "nngp", "float64")(x)
        np.testing.assert_allclose(found[name, "nngp"].engine.gram(x), expected, rtol=1e-5)
        assert found[name, "ntk"].own is (name == "fc depth 1")
