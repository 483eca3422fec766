"""The rules of the house: imports go downwards, numerics do no input or output, files stay small."""

import ast
import configparser
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "kipx").rglob("*.py"))
LEVELS = [
    ("kipx.architecture", "kipx.checks", "kipx.machine"),
    ("kipx.kernel", "kipx.krr", "kipx.preprocess", "kipx.augment"),
    ("kipx.engine",),
    (
        "kipx.objective",
        "kipx.gauss_newton",
        "kipx.label_solve",
        "kipx.support",
        "kipx.evaluate",
        "kipx.optimizer",
        "kipx.cost",
        "kipx.calibration",
    ),
    ("kipx.distill", "kipx.sampled", "kipx.finite", "kipx.centroids"),
    (
        "kipx.data",
        "kipx.formats",
        "kipx.artifacts",
        "kipx.checkpoints",
        "kipx.files",
        "kipx.grid",
        "kipx.manifest",
        "kipx.notes",
        "kipx.track",
        "kipx.untrusted",
    ),
    ("kipx.report", "kipx.analysis", "kipx.wandb_log"),
    ("kipx.commands", "kipx.config", "kipx.arguments", "kipx.merged"),
    ("kipx.app", "kipx.cli", "kipx.exits", "kipx.jobs", "kipx.sweep"),
]
NUMERIC = {"jax", "numpy", "optax", "flax", "jaxtyping", "neural_tangents", "numba", "cupy", "ray", "dm_pix", "sklearn"}
ALONE = {
    "neural_tangents": "kipx.kernel.neural_tangents",
    "numba": "kipx.kernel.angles",
    "cupy": "kipx.kernel.gpu",
    "ray": "kipx.engine.workers",
    "dm_pix": "kipx.augment.geometry",
    "wandb": "kipx.wandb_log",
    "wandb_workspaces": "kipx.report.wandb_report",
}


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def level(name):
    found = [i for i, names in enumerate(LEVELS) for n in names if name == n or name.startswith(n + ".")]
    return found[0] if found else None


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" if node.module == "kipx" else node.module for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_go_down(path):
    own = level(module(path))
    assert own is not None or module(path) == "kipx", "a new module needs its level"
    for name in imports(path):
        if name.startswith("kipx."):
            assert level(name) is not None, f"{name} has no level"
            assert level(name) <= own, f"{module(path)} imports {name} upwards"


@pytest.mark.parametrize("path", [p for p in FILES if (level(module(p)) or 0) <= 4], ids=module)
def test_numerics_run_where_there_is_only_jax(path):
    import sys

    foreign = {name.partition(".")[0] for name in imports(path)} - {"kipx"} - set(sys.stdlib_module_names)
    assert foreign <= NUMERIC
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"print", "open"}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_file_is_at_most_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


def test_the_wheel_holds_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    assert listed == {module(p) for p in FILES if p.name == "__init__.py"} | {"kipx.conf", "kipx.sweeps"}


def test_the_lock_names_no_index_and_no_tensorflow():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert not re.search(r"^(tensorflow|tf2jax)==", lock, re.MULTILINE)
    assert lock.count("--hash=sha256:") > 100


def test_every_yaml_names_only_our_targets():
    for path in (*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "sweeps").rglob("*.yaml")):
        for target in re.findall(r"_target_: (\S+)", path.read_text()):
            assert target.startswith("kipx."), path


@pytest.mark.parametrize("library", ALONE)
def test_a_heavy_library_is_imported_in_one_file_alone(library):
    users = {module(p) for p in FILES for name in imports(p) if name.partition(".")[0] == library}
    assert users <= {ALONE[library]}
