"""Every YAML composes, builds and distils; what no YAML holds is refused."""

import functools
import itertools
import operator
import pathlib
import re
import sys
import types

import contract
import jax
import numpy as np
import official
import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from kipx import app, arguments, checks, cli, config, merged
from kipx.commands import distill, label_solve

ROOT = pathlib.Path(__file__).parents[1]


def composed(*overrides, command="distill"):
    with initialize_config_module("kipx.conf", version_base="1.3"):
        return compose(command, overrides=[app.SWEEPS, *overrides])


def options():
    return [(path.parent.name, path.stem) for path in sorted((ROOT / "conf").glob("*/*.yaml"))]


def distilled_with():
    """The options but for those of label-solve and transfer alone."""
    return [(group, option) for group, option in options() if group not in ("form", "network", "trainer")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """name -> folder in which a published data set is prepared from a few images of noise."""
    from kipx.data import prepare

    def folder(name):
        small, data_dir = official.make(name), tmp_path_factory.mktemp(name)
        prepare.write(name, *small.source.read(small.contents), data_dir)
        return data_dir

    return folder


@pytest.fixture(scope="module")
def tiny_rgb_npz(tiny_npz, tmp_path_factory):
    """The same in three channels."""
    arrays, path = np.load(tiny_npz), tmp_path_factory.mktemp("data") / "rgb.npz"
    np.savez(path, **{key: np.repeat(a, 3, axis=-1) if a.ndim == 4 else a for key, a in arrays.items()})
    return path


def test_the_contract_is_what_there_is():
    assert {(g, o) for g, names in contract.GROUPS.items() for o in names} == set(options())
    cfg = composed()
    for key in contract.KEYS:
        assert OmegaConf.select(cfg, key, default="absent") != "absent", key
    for cfg, keys in (
        *((composed(f"engine={engine}"), keys) for engine, keys in contract.ENGINE_KEYS.items()),
        (composed("logger=wandb"), contract.LOGGER_KEYS),
        (composed(command="label-solve"), contract.LABEL_SOLVE_KEYS),
        (composed("run=x", command="transfer"), contract.TRANSFER_KEYS),
        (composed(command="plan"), (*contract.KEYS, *contract.PLAN_KEYS)),
    ):
        for key in keys:
            assert OmegaConf.select(cfg, key, default="absent") != "absent", key
    for command, keys in (
        ("analyze", contract.ANALYZE_KEYS),
        ("report", contract.REPORT_KEYS),
        ("export", contract.EXPORT_KEYS),
        ("import", contract.IMPORT_KEYS),
    ):
        there = OmegaConf.to_container(
            composed("dataset=digits", command=command) if command == "import" else composed(command=command)
        )
        for *sections, key in (key.split(".") for key in keys):
            assert key in functools.reduce(operator.getitem, sections, there), key
    assert composed("dataset=npz", "dataset.path=x.npz").dataset.path == "x.npz"
    assert composed("preprocess=zca").preprocess.reg == 0.1


@pytest.mark.parametrize(("group", "option"), distilled_with())
def test_every_option_distils(group, option, tiny_npz, tiny_rgb_npz, prepared, tmp_path, monkeypatch):
    """Two steps with the option, on few and small images, with a cheap kernel unless the option is a kernel."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    overrides = [f"{group}={option}", "steps=2", "target.batch_size=100", "baseline.draws=1", "logger.progress=false"]
    overrides += [] if group == "kernel" else ["kernel=fc"]
    overrides += ["kernel.depth=1"] if option in ("convnet", "convnet3", "convvec", "sampled") else []
    overrides += [] if group == "dataset" else ["dataset=npz"]
    overrides += ["preprocess.mean=0.5", "preprocess.std=0.5"] if option == "normalize" else []
    published = group == "dataset" and option not in ("digits", "npz")
    in_colour = option == "rgb" or "/augment: rgb" in (ROOT / "conf" / group / f"{option}.yaml").read_text()
    overrides += [f"dataset.data_dir={prepared(option)}"] if published else []
    overrides += [] if option == "digits" or published else [f"dataset.path={tiny_rgb_npz if in_colour else tiny_npz}"]
    overrides += [] if published else [f"dataset.data_dir={tiny_npz.parent}"]
    values = config.plain(composed(*overrides), arguments.DISTILL)
    summary = distill.run(tmp_path, overrides=[], config=values, **arguments.distill(values))
    assert summary["steps"] == 2
    assert 0 <= summary["test_accuracy"] <= 1


def command_of(path):
    return re.search(rf"^# kipx (\S+) -m \+{named(path)}( run=<folder>)?$", path.read_text(), re.MULTILINE)[1]


def swept(path):
    return app.without_plus(command_of(path), [f"+{named(path)}"])


def resolved(command, *overrides):
    """The config of a command, what transfer takes from a run filled in."""
    if command != "transfer":
        return composed(*overrides, command=command)
    saved = OmegaConf.to_container(composed(), resolve=True)
    return merged.with_set(composed("run=x", *overrides, command=command), saved)


def of_ten_classes(values):
    return arguments.transfer(values, types.SimpleNamespace(labels=np.zeros((10, 10))))


SWEPT = {
    "distill": (arguments.DISTILL, arguments.distill),
    "label-solve": (arguments.LABEL_SOLVE, arguments.label_solve),
    "transfer": (arguments.TRANSFER, of_ten_classes),
}
SWEEPS = sorted(p for p in (ROOT / "sweeps").glob("*/*.yaml") if p.parent.name != "wandb")  # those are no group


def named(path):
    return f"{path.parent.name}={path.stem}"


@pytest.mark.parametrize("path", SWEEPS, ids=named)
def test_every_sweep_composes_and_sweeps_over_keys_that_exist(path):
    text, command = path.read_text(), command_of(path)
    schema, build = SWEPT[command]
    values = config.plain(resolved(command, *swept(path)), schema)
    build(values)
    if command != "label-solve":
        tiny = config.plain(resolved(command, *swept(path), "debug=tiny"), schema)
        assert (tiny["trainer"] if command == "transfer" else tiny)["steps"] <= 20, "debug wins"
    for key in yaml.safe_load(text)["hydra"]["sweeper"]["params"]:
        assert OmegaConf.select(resolved(command), key, default="absent") != "absent", key


def beside(path):
    """The other commands that a sweep's header names, each once with every combination of their values."""
    for command, typed in re.findall(r"^#(?: .*:)? +kipx (\S+) -m ((?!\+).*)$", path.read_text(), re.MULTILINE):
        keys, values = zip(*(override.split("=") for override in typed.split()), strict=True)
        for chosen in itertools.product(*(value.split(",") for value in values)):
            yield command, app.without_plus(command, list(map("=".join, zip(keys, chosen, strict=True))))


@pytest.mark.parametrize("path", [path for path in SWEEPS if path.parent.name in ("augment_rate", "table1")], ids=named)
def test_the_other_commands_of_a_sweeps_header_compose(path):
    commands = list(beside(path))
    assert commands
    for command, overrides in commands:
        schema, build = SWEPT[command]
        values = config.plain(resolved(command, *overrides), schema)
        build(values)
        if "optimizer" in values:
            assert values["optimizer"]["learning_rate"] == 1.0, "of Gauss-Newton, not of another optimizer"


@pytest.mark.parametrize("option", contract.GROUPS["form"])
def test_every_form_solves(option, tiny_npz, tmp_path):
    overrides = [f"form={option}", "kernel=fc", "dataset=npz", f"dataset.path={tiny_npz}", "logger=none"]
    values = config.plain(composed(*overrides, command="label-solve"), arguments.LABEL_SOLVE)
    summary = label_solve.run(tmp_path, overrides=[], config=values, **arguments.label_solve(values))
    assert summary["test_mse"] < summary["initial_test_mse"]


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in SWEEPS if command_of(path) != "transfer"], ids=named)
def test_every_sweep_runs_to_its_end(path, tiny_npz, tiny_rgb_npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gray = "mnist" in path.stem or path.parent.name in ("demo", "sampled")
    arguments = ["-m", f"+{named(path)}", "debug=tiny", "logger=none", "hydra.sweep.dir=sweep", "dataset.pools=1"]
    kernels = path.parent.name == "sampled"  # is what it sweeps over
    arguments += ["support.per_class=1"] if kernels else ["support.per_class=1,2", "kernel=fc"]
    arguments += ["dataset=npz", f"dataset.path={tiny_npz if gray else tiny_rgb_npz}"]
    monkeypatch.setattr(sys, "argv", ["kipx"])
    assert cli.run(command_of(path), arguments) == 0
    assert all((job / "summary.json").is_file() for job in (tmp_path / "sweep").iterdir() if job.is_dir())


def test_the_headline_depth_follows_the_data_set():
    assert config.plain(composed(), arguments.DISTILL)["kernel"]["architecture"]["depth"] == 2
    values = config.plain(composed("dataset=npz", "preprocess=zca"), arguments.DISTILL)
    assert values["kernel"]["architecture"] == {
        "_target_": "kipx.architecture.convnet",
        "depth": 3,
        "prepend_conv": True,
        "w_std": 2**0.5,
        "b_std": 0.1,
    }


def test_the_other_backend_gives_the_same_kernel(allow_rank_promotion, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_disable_hlo_passes=algsimp")  # read by the check; XLA has started already
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 1))
    sections = [
        config.plain(composed("kernel.depth=1", f"kernel.backend={b}"), arguments.DISTILL)["kernel"]
        for b in ("kipx", "neural_tangents")
    ]
    ours, theirs = (jax.jit(arguments.kernel(section))(x) for section in sections)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(("version", "refused"), [((0, 10, 2), True), ((0, 11, 0), False)])
def test_the_other_backend_is_refused_where_it_would_crash(version, refused, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(jax, "__version_info__", version)
    section = config.plain(composed("kernel=fc", "kernel.backend=neural_tangents"), arguments.DISTILL)["kernel"]
    if refused:
        with pytest.raises(checks.UserError, match=r"XLA_FLAGS=--xla_disable_hlo_passes=algsimp"):
            arguments.kernel(section)
    else:
        assert callable(arguments.kernel(section))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+foo=1", "foo: unknown key"),
        ("+stepz=1", "stepz: unknown key, did you mean steps"),
        ("+kernel.width=1", r"kernel\.width: unknown key"),
        ("+optimizer.learning_rat=1", r"optimizer\.learning_rat: unknown key, did you mean learning_rate"),
        ("steps=abc", "steps: expected an integer, got 'abc'"),
        ("steps=true", "steps: expected an integer, got True"),
        ("seed=1.5", r"seed: expected an integer, got 1\.5"),
        ("ridge=big", "ridge: expected a number, got 'big'"),
        ("labels.learned=3", r"labels\.learned: expected true or false, got 3"),
        ("labels.learning_rate=x", "expected a number or null, got 'x'"),
        ("kernel.kind=3", r"kernel\.kind: expected text, got 3"),
        ("support.per_class=two", r"support\.per_class: expected an integer, got 'two'"),
        ("preprocess._target_=os.system", "expected a function of kipx, .*, got 'os.system'"),
        ("preprocess._target_=kipx.artifacts.os.system", "expected a function of kipx"),
        ("preprocess._target_=kipx.preprocess.nope", "expected a function of kipx"),
        ("kernel.depth=${nope}", "config: Interpolation key 'nope' not found"),
        ("target=3", r"target: expected one of its options, target=\.\.\., got 3"),
    ],
)
def test_plain_refuses(override, message):
    with pytest.raises(checks.UserError, match=message):
        config.plain(composed(override), arguments.DISTILL)


@pytest.mark.parametrize("command", ["distill", "label-solve"])
def test_debug_hides_no_unknown_key(command):
    schema = SWEPT[command][0]
    assert config.plain(composed("debug=tiny", command=command), schema).keys() == schema.keys()
    with pytest.raises(checks.UserError, match="formt: unknown key"):
        config.plain(composed("debug=tiny", "+formt=y", command=command), schema)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ridge=-1", "ridge: expected a number > 0, got -1"),
        ("ridge=inf", "ridge: expected a number > 0, got inf"),
        ("kernel.backend=torch", r"kernel\.backend: expected one of kipx, neural_tangents, got 'torch'"),
        ("kernel.dtype=float16", r"kernel\.dtype: expected one of float32, float64"),
        ("labels.init=zeros", r"labels\.init: expected one of onehot"),
        ("optimizer.schedule=linear", r"optimizer\.schedule: expected one of constant, cosine"),
        ("optimizer.learning_rate=0", r"optimizer\.learning_rate: expected a number > 0, got 0"),
        ("kernel.depth=-1", "depth: expected an integer >= 0, got -1"),
        ("augment.rate=0.5", r"augment\.rate: augment=none augments nothing, expected 0, got 0\.5"),
        ("augment={_target_: kipx.augment.rgb, rate: 1.5}", r"augment\.rate: expected a number from 0 to 1, got 1\.5"),
        ("augment={_target_: kipx.augment.grayscale, rate: -0.1}", r"augment\.rate: expected a number from 0 to 1"),
    ],
)
def test_building_refuses(override, message):
    with pytest.raises(checks.UserError, match=message):
        arguments.distill(config.plain(composed(override), arguments.DISTILL))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed: expected an integer >= 0, got -1"),
        ("steps=-1", "steps: expected an integer >= 0, got -1"),
        ("baseline.draws=-1", r"baseline\.draws: expected an integer >= 0"),
        ("checkpoint.every_s=0", r"checkpoint\.every_s: expected a number > 0"),
        ("labels.learning_rate=-0.1", r"labels\.learning_rate: expected a number > 0"),
        ("target.batch_size=1298", r"target\.batch_size: expected at most 1297, the training images, got 1298"),
        ("support.per_class=127", r"support\.per_class: expected at most 126, the images of class \d, got 127"),
        ("kernel.depth=4", "8x8 is too small for 4 pools, which need 16x16"),
        ("augment=rgb", r"augment: rgb is for images of 3 channels, got \(8, 8, 1\); take augment=grayscale"),
    ],
)
def test_running_refuses_and_leaves_no_run_behind(override, message, tmp_path):
    values = config.plain(composed(override), arguments.DISTILL)
    with pytest.raises(checks.UserError, match=message):
        distill.run(tmp_path / "run", overrides=[], config=values, **arguments.distill(values))
    assert not (tmp_path / "run").exists()


def test_networks_may_have_every_architecture_that_a_kernel_may(monkeypatch, tmp_path):
    """Also one that has no file in conf/network/: `transfer` trains the network of the set's own."""
    for name in ("kernel", "network"):
        (tmp_path / name).mkdir()
    (tmp_path / "kernel" / "mine.yaml").write_text("architecture:\n  _target_: kipx.architecture.convnet\n")
    monkeypatch.setattr(config, "resources", types.SimpleNamespace(files=lambda _: tmp_path))
    for group in ("kernel", "kernels", "network"):
        assert config._builders.__wrapped__(group) == ("kipx.architecture.convnet",)
