"""Attacks by the configs of run folders that others wrote: nothing is called, no secret is read."""

import pathlib

import numpy as np
import pytest
import yaml
from attacks import CONFIG, DIGITS, NAMES, SECRET, save
from in_process import files, refused, run

from kipx import artifacts
from kipx.commands import export, import_set, keep
from kipx.formats import safetensors, torch
from kipx.report import sweeps

pytestmark = pytest.mark.usefixtures("within_time")


def _write(path, content):
    return {"_target_": "kipx.artifacts.write", "path": path, "content": content}


LOADS = {
    "another library's": {"_target_": "os.system", "command": "touch pwned"},
    "one through ours": {"_target_": "kipx.artifacts.os.system", "command": "touch pwned"},
    "one of ours that writes": _write("pwned", "x"),
    "one of ours that makes a folder": {
        "_target_": "kipx.artifacts.create",
        "folder": "pwned",
        "config": {},
        "overrides": [],
    },
    "one of another group": {"_target_": "kipx.augment.rgb", "rate": 0.5},
    "a list": {"_target_": ["kipx.data.digits.load"]},
    "Hydra's arguments": {"_target_": "kipx.data.digits.load", "_args_": ["x"]},
    "a part of a call": {"_target_": "kipx.data.digits.load", "_partial_": True},
    "calls within": {"_target_": "kipx.data.npz.load", "path": {"_target_": "os.system"}, "_recursive_": True},
    "a secret": {"_target_": "kipx.data.npz.load", "path": "${oc.env:SECRET}"},
    "a secret decoded": {"_target_": "kipx.data.npz.load", "path": "${oc.decode:'${oc.env:SECRET}'}"},
    "a secret by a key": {"_target_": "kipx.data.npz.load", "${oc.env:SECRET}": "x"},
    "Hydra's own": {"_target_": "kipx.data.npz.load", "path": "${hydra:runtime.cwd}"},
}
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
TEXTS = {
    "a call of Python": "dataset: !!python/object/apply:os.system ['touch pwned']\n",
    "a new object of Python": "dataset: !!python/object/new:os.system ['touch pwned']\n",
    "a name of Python": "dataset: !!python/name:os.system\n",
    "aliases for more than any memory": LAUGHS,
    "many lists in each other": "[" * 2000,
    "a number of many digits": f"seed: {'9' * 5000}\n",
    "a day that is none": "seed: 2026-13-45\n",
    "a key that is a list": "? [1]\n: 2\n",
    "no text": "\udcff",
    "a list": "[1]\n",
}
COMMANDS = {
    "evaluate": ["evaluate", "run=given"],
    "analyze": ["analyze", "run=given"],
    "transfer": ["transfer", "run=given"],
    "export": ["export", "run=given", "format=npz"],
    "import": ["import", "path=given/support.npz"],
    "distill": ["distill", "resume=given"],
    "label-solve": ["label-solve", "resume=given"],
    "resumed transfer": ["transfer", "resume=given"],
    "report": ["report", "run=given"],
}
QUICK = ("evaluate", "distill")


def hand_over(folder, attack):
    """A run folder with the attack in config.yaml and in the set's own config."""
    config = {**CONFIG, "dataset": {**DIGITS, "load": LOADS[attack]}} if attack in LOADS else CONFIG
    save(folder, config)
    text = yaml.safe_dump(config) if attack in LOADS else TEXTS[attack]
    (folder / "config.yaml").write_bytes(text.encode(errors="surrogateescape"))
    if attack in TEXTS:
        arrays = artifacts.read_npz(folder / "support.npz")
        shown = text.encode(errors="replace").decode()
        (folder / "support.npz").write_bytes(artifacts.npz_bytes({**arrays, "config": np.asarray(shown)}))


@pytest.mark.parametrize("attack", [*LOADS, *TEXTS])
@pytest.mark.parametrize("command", [pytest.param(c, marks=[] if c in QUICK else pytest.mark.slow) for c in COMMANDS])
def test_no_config_of_a_run_folder_calls_or_reads_anything(command, attack, tmp_path):
    hand_over(tmp_path / "given", attack)
    before = files(tmp_path)
    ended = run(tmp_path, *COMMANDS[command])
    left = set(files(tmp_path)) - set(before)
    if command == "export" and attack in LOADS:  # which builds nothing, and says what the set says
        assert ended.code in (0, 2), ended.err
    else:
        assert refused(ended) and not left, ended
    for text in (ended.out, ended.err, *(pathlib.Path(path).read_text(errors="replace") for path in left)):
        assert SECRET not in text
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("attack", ["hydra", "searchpath", "defaults"])
def test_no_config_of_a_run_folder_speaks_to_hydra(attack, tmp_path):
    more = {"hydra": {"hydra": {"searchpath": ["file:///evil"]}}, "searchpath": {"hydra.searchpath": ["file:///evil"]}}
    save(tmp_path / "given")
    artifacts.write_config(tmp_path / "given", {**CONFIG, **more.get(attack, {"defaults": ["evil"]})})
    assert refused(run(tmp_path, "distill", "resume=given"))


def test_a_sweep_proposes_nothing_of_hydras_and_is_of_bounded_size(tmp_path):
    def propose(task, name="distill", params=None):
        hydra = {"overrides": {"task": task}, "job": {"config_name": name}, "sweep": {"subdir": "${hydra.job.num}"}}
        hydra["sweeper"] = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": params}
        (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
        return sweeps.read(tmp_path)

    assert len(propose(["seed=0,1"])) == 2
    for task in (
        ["seed=0,1", "+hydra.callbacks.a._target_=os.system"],
        ["hydra/launcher=evil"],
        ["seed=range(0,1e12)"],
    ):
        assert propose(task) == []
    assert propose([f"{key}=range(0,1000)" for key in "abcdefgh"]) == []
    assert propose(["seed=0,1"], params={"hydra.run.dir": "/"}) == []
    assert propose(["seed=0,1"], "distill; rm -rf ~") == propose(["seed=0,1"], "--config-dir=/evil") == []


def test_what_is_sound_is_read(tmp_path):
    """The checks above refuse nothing that kipx writes itself."""
    given = save(tmp_path / "given")
    first = artifacts.load(given)
    for form in ("torch", "safetensors", "npz"):
        export.run(given, format=form, out=tmp_path / form)
    for name in (torch.FILE, safetensors.FILE, "set.npz"):
        (path,) = tmp_path.glob(f"*/{name}")
        back = import_set.read(path, load=None, fit=None, config=None)
        np.testing.assert_array_equal(back.images, first.images)
        assert back.class_names == NAMES
    assert keep.identity({**CONFIG, "steps": 1}) == keep.identity(CONFIG)
