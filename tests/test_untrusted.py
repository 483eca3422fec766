"""Attacks by files that others wrote: nothing runs, nothing outside is read or written, no memory is flooded."""

import gzip
import io
import json
import math
import os
import pathlib
import pickle
import signal
import struct
import tarfile
import tracemalloc
import zipfile

import markdown_it
import numpy as np
import official
import orbax.checkpoint as ocp
import pytest
import tensorstore
import yaml
from in_process import files, refused, run

from kipx import artifacts, checkpoints, checks, formats, manifest, preprocess, track, untrusted
from kipx.commands import export, import_set, keep, prepare, report, solving
from kipx.data import cache, npz, raw
from kipx.formats import pt, safetensors, torch
from kipx.report import pages, pictures, sweeps
from kipx.report.tables import Table, markdown

SECRET = "hunter2-hunter2"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
FITTED = preprocess.standardize()(PIXELS)
KERNEL = {
    "architecture": {"_target_": "kipx.architecture.fc", "depth": 1, "w_std": 1.4, "b_std": 0.1},
    **{"depth": 1, "kind": "ntk", "dtype": "float32", "backend": "kipx"},
}
DIGITS = {"load": {"_target_": "kipx.data.digits.load"}, "data_dir": None, "raw_dir": None, "pools": 2}
CONFIG = {"dataset": DIGITS, "kernel": KERNEL, "ridge": 1e-6, "seed": 0}
NAMES = tuple("0123456789")


class Late(BaseException):
    """The attack took up all time; nobody catches this for a damaged file."""


@pytest.fixture(autouse=True)
def within_time(monkeypatch):
    """No attack may take a minute; and there is a secret to be had."""

    def late(*_):
        raise Late

    monkeypatch.setenv("SECRET", SECRET)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def save(folder, config=CONFIG, names=NAMES):
    """A run folder as another might hand it over."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"preprocessing": FITTED, "class_names": names, "config": config}
    artifacts.save_support(folder, FITTED.apply(PIXELS[: len(names)]), np.eye(len(names)) - 1 / len(names), **kept)
    return folder


# npz


def _objects(path):
    np.savez(path, x_train=np.array([Evil()], dtype=object), images=np.array([Evil()], dtype=object))


class Evil:
    """Leaves a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def _states(path, header):
    """An npz of one array whose header states more than is there."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"fortran_order": False, **header})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", buffer.getvalue() + bytes(80))


def _lying_length(path):
    """The zip's own directory states eight exabytes."""
    _states(path, {"descr": "<f4", "shape": (20,)})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)


NPZ = {
    "objects": _objects,
    "pickle": lambda path: path.write_bytes(pickle.dumps(Evil())),
    "more numbers than there are": lambda path: _states(path, {"descr": "<f8", "shape": (10**6, 10**6)}),
    "more than an address holds": lambda path: _states(path, {"descr": "<f8", "shape": (2**62, 2**62)}),
    "a negative size": lambda path: _states(path, {"descr": "<f8", "shape": (-1, 10)}),
    "one long text": lambda path: _states(path, {"descr": "<U999999999", "shape": (1,)}),
    "objects in a record": lambda path: _states(path, {"descr": [("a", "O")], "shape": (10,)}),
    "a lying length": _lying_length,
    "one array": lambda path: np.save(open(path, "wb"), np.zeros(3)),  # noqa: SIM115
}


@pytest.mark.parametrize("attack", NPZ)
def test_no_npz_is_unpickled_or_believed(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "support.npz"
    NPZ[attack](path)
    tracemalloc.start()
    for read in (
        lambda: npz.load(path=str(path)),
        lambda: artifacts.load(path),
        lambda: formats.read(path),
        lambda: solving._read(path, (1, 2, 2), 5, {"dataset": {}}),
    ):
        with pytest.raises(checks.UserError) as refusal:
            read()
        assert "\n" not in str(refusal.value)
    assert cache._read(path, "key") is None
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert not (tmp_path / "pwned").exists()


def test_an_npz_of_more_than_the_memory_is_refused_before_any_is_taken(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros(2**22))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**16
    monkeypatch.setattr(untrusted.machine, "host_memory", lambda: 2**24)
    tracemalloc.start()
    with pytest.raises(checks.UserError, match="states 33554560 bytes, more than this machine's memory"):
        artifacts.read_npz(tmp_path / "bomb.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_checkpoint_of_more_than_the_memory_is_refused(tmp_path):
    """Its arrays are files of numbers that need not be there: what is not there is 0."""
    state = {"images": np.ones((2, 3, 3, 1), np.float32), "labels": np.ones((2, 2))}
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        origin = ocp.args.JsonSave({"config": "of the run"})
        manager.save(4, args=ocp.args.Composite(state=ocp.args.StandardSave(state), origin=origin))
    images, labels = checkpoints.support_at(tmp_path, 4)
    assert images.shape == (2, 3, 3, 1) and labels.shape == (2, 2)
    base = f"file://{tmp_path}/checkpoints/4/state/"
    store = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": "images/"}}
    stated = tensorstore.open(store).result().spec(retain_context=False).to_json()["metadata"]
    huge = {**stated, "shape": [10**7, 10**7, 1, 1], "chunks": [64, 64, 1, 1]}
    tensorstore.open({**store, "metadata": huge, "create": True, "delete_existing": True}).result()
    with pytest.raises(checks.UserError, match=r"checkpoint 4 .* more than this machine's memory"):
        checkpoints.support_at(tmp_path, 4)


# .pt


def zipped(main, compressed=False, **storages):
    """A file of torch.save with another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", main)
        for name, content in storages.items():
            file.writestr(f"archive/data/{name}", content)
    return buffer.getvalue()


def calls(module, name, *arguments):
    return b"\x80\x02" + pickle.GLOBAL + f"{module}\n{name}\n".encode() + b"".join(_arguments(arguments)) + b"R."


def _arguments(values):
    yield pickle.MARK
    for value in values:
        yield b"X" + struct.pack("<I", len(value)) + value.encode() if isinstance(value, str) else value
    yield pickle.TUPLE


def nested(depth):
    """The opcodes of ((((), ()), ((), ())), ...): a few bytes that stand for 2**depth values."""
    return pickle.EMPTY_TUPLE + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + pickle.TUPLE2 for i in range(depth))


def tensor(name, size, numbers):
    """The opcodes of a tensor of `size` out of a storage."""
    key = b"".join(
        [
            *(pickle.MARK, *list(_arguments(["storage"]))[1:-1], pickle.GLOBAL + b"torch\nFloatStorage\n"),
            *list(_arguments([name, "cpu"]))[1:-1],
            b"J" + struct.pack("<i", numbers) + pickle.TUPLE + pickle.BINPERSID,
        ]
    )
    sizes = b"J" + struct.pack("<i", size) + pickle.TUPLE1
    stride = b"K\x01" + pickle.TUPLE1
    rebuild = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"
    return rebuild + pickle.MARK + key + b"K\x00" + sizes + stride + pickle.TUPLE + pickle.REDUCE


OWN = {"format": "kipx", "images": np.ones((1, 1, 2, 2), np.float32), "mean": np.ones((1, 1, 1)), "std": np.ones(1)}
PT = {
    "system": zipped(calls("os", "system", "touch pwned")),
    "posix": zipped(calls("posix", "system", "touch pwned")),
    "eval": zipped(calls("builtins", "eval", "open('pwned', 'w')")),
    "getattr": zipped(calls("builtins", "getattr", pickle.GLOBAL + b"os\nenviron\n", "clear")),
    "a function that is a function's result": zipped(
        calls("builtins", "getattr", pickle.GLOBAL + b"os\nx\n", "system")[:-1] + b"X\x01\0\0\0x" + b"\x85R."
    ),
    "a function by two names": zipped(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0btouch pwned\x85R."),
    "a function inside an ordered dict": zipped(
        calls("collections", "OrderedDict", calls("os", "system", "touch pwned")[2:-1])
    ),
    "torch's own": zipped(calls("torch.storage", "_load_from_bytes", "x")),
    "numpy's own": zipped(calls("numpy.core.multiarray", "_reconstruct", "x")),
    "an extension": zipped(b"\x80\x02\x82\x01."),
    "a key that takes years to hash": zipped(b"\x80\x02" + pickle.EMPTY_DICT + nested(60) + b"K\x01s."),
    "a size that takes years to write out": zipped(
        calls("torch._utils", "_rebuild_tensor", tensor("0", 1, 1), b"K\x00", nested(60), nested(60)), **{"0": bytes(4)}
    ),
    "names that take years to write out": zipped(
        b"\x80\x02" + b"".join(pt._encoded({**OWN, "class_names": 1}, []))[:-1] + b"X\x0b\0\0\0class_names"
        b"" + nested(60) + b"su."
    ),
    "a value that takes years": zipped(b"\x80\x02" + nested(60) + b"."),
    "a number of a gigabyte": zipped(b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"1."),
    "a negative length": zipped(b"\x80\x02\x8b" + struct.pack("<i", -1) + b"1."),
    "text of exabytes": zipped(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x."),
    "a storage of terabytes": zipped(b"\x80\x02" + tensor("0", 2**31 - 1, 2**31 - 1) + b".", **{"0": bytes(4)}),
    "a compressed pickle": zipped(b"\x80\x02" + b"N0" * 2**24 + b"N.", compressed=True),
    "a list of itself": zipped(b"\x80\x02]q\0h\0a."),
    "many lists in each other": zipped(b"\x80\x02" + b"]" * 20000 + b"a" * 19999 + b"."),
}


@pytest.mark.parametrize("attack", PT)
def test_no_pickle_runs_or_floods(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "set.pt"
    path.write_bytes(PT[attack])
    tracemalloc.start()
    with pytest.raises(checks.UserError) as refusal:
        formats.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**27 + 10 * len(PT[attack])
    tracemalloc.stop()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000
    assert os.listdir(tmp_path) == ["set.pt"]
    assert os.environ["SECRET"] == SECRET


def test_a_tensor_named_a_thousand_times_is_held_once(tmp_path):
    numbers = 2**18
    many = b"".join(tensor("0", numbers, numbers) for _ in range(1000))
    (tmp_path / "x.pt").write_bytes(zipped(b"\x80\x02](" + many + b"e.", **{"0": bytes(4 * numbers)}))
    tracemalloc.start()
    found = pt.read(tmp_path / "x.pt")
    assert len(found) == 1000
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


# safetensors


def _header(header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SAFETENSORS = {
    "a header of exabytes": struct.pack("<Q", 2**63) + b"{}",
    "a header longer than the file": struct.pack("<Q", 100) + b"{}",
    "no header": b"\x02\0\0",
    "a list": _header([1]),
    "a deep header": _header(b"[" * 10**5),
    "a number of many digits": _header(
        b'{"a": {"dtype": "F32", "data_offsets": [0, 8], "shape": [' + b"9" * 5000 + b"]}}"
    ),
    "notes that are none": _header({"__metadata__": 3, "images": ONE}),
    "bytes outside": _header({"images": {**ONE, "data_offsets": [0, 2**40]}}),
    "bytes before": _header({"images": {**ONE, "data_offsets": [-8, 0]}}),
    "another size": _header({"images": {**ONE, "shape": [2**31, 2**31]}}),
    "nothing, of a huge shape": _header({"images": {**ONE, "shape": [0, 2**80], "data_offsets": [0, 0]}}),
    "a thousand names for the same": _header({f"a{i}": ONE for i in range(1000)}),
    "another type": _header({"images": {**ONE, "dtype": "O"}}),
    "true for a size": _header({"images": {**ONE, "shape": [True, 2]}}),
    "names that are none": _header({"__metadata__": {"class_names": "[[1]]", "config": "{}"}, "images": ONE}),
    "names that are aliases": _header({"__metadata__": {"class_names": "&a [*a]", "config": "{}"}, "images": ONE}),
}


@pytest.mark.parametrize("attack", SAFETENSORS)
def test_no_header_is_believed(attack, tmp_path):
    path = tmp_path / "set.safetensors"
    path.write_bytes(SAFETENSORS[attack])
    tracemalloc.start()
    with pytest.raises(checks.UserError) as refusal:
        formats.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000


# configs of run folders


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


# what people look at

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e[red]a[/red] [link=http://evil]b[/link] |\n<script>alert(1)</script>"


@pytest.mark.parametrize("command", ["evaluate", "export", "report", "analyze"])
def test_no_terminal_is_told_anything(command, tmp_path):
    given = save(tmp_path / "g[red]iven", names=(ESCAPES, *NAMES[1:]))
    artifacts.write_config(given, {**CONFIG, ESCAPES: ESCAPES, "support": {"per_class": 1}, "steps": 1})
    artifacts.write_json(given / "summary.json", {"test_accuracy": 0.5, ESCAPES: ESCAPES})
    artifacts.write_json(given / "job.json", {"message": ESCAPES, "code": 3})
    (given / "overrides.yaml").write_text(yaml.safe_dump([ESCAPES]))
    more = {"export": ["format=torch"], "analyze": ["question=labels"]}.get(command, [])
    ended = run(tmp_path, command, "run='g[red]iven'", *more)
    assert ended.code == 0, ended.err
    assert not set(ended.out + ended.err) & set("\x1b\x07\x9b\r\u202e")
    assert "g[red]iven" in ended.out


@pytest.mark.parametrize("command", ["evaluate", "distill"])
def test_no_message_moves_the_cursor(command, tmp_path):
    given = save(tmp_path / "given", {**CONFIG, ESCAPES: 1, "dataset": {**DIGITS, ESCAPES: ESCAPES}})
    artifacts.write_config(given, {**CONFIG, ESCAPES: ESCAPES})
    ended = run(tmp_path, command, "run=given" if command == "evaluate" else "resume=given")
    assert refused(ended)
    assert "\\x1b" in ended.err and ended.err[:-1].isprintable()


@pytest.mark.parametrize(
    "text", ["a|b", "a\\|b", "a\\\\|b", "a\nb", "a\r\nb|", "`a|b`", "<script>x</script>", "a\\", "|"]
)
def test_no_cell_leaves_its_table(text, tmp_path):
    page = markdown(Table(f"title\n{text}", ("one", "two"), [(text, "next"), ("x", text)], (f"note\n{text}",)))
    tokens = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)
    cells = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    assert len(cells) == 4
    shown = ["".join(part.content for part in cell.children) for cell in cells]
    shown_as = checks.printable(text).replace("`", "") if text.startswith("`") else checks.printable(text)
    assert shown == [shown_as, "next", "x", shown_as]
    assert not [part for cell in cells for part in cell.children if part.type == "html_inline"]


def test_no_name_breaks_the_card(tmp_path):
    names = ("a\n# Heading\n", "<img src=x onerror=alert(1)>", "| a | b |", "`code`", "---\nlicense: x\n---")
    config = {**CONFIG, "source": {"file": "x`\n# Heading", "sha256": "`<b>"}}
    given = save(tmp_path / "given", config, names)
    for form in export.FORMATS:
        folder, _ = export.run(given, format=form, out=tmp_path / form)
        text = (folder / "README.md").read_text()
        if form == "hf":
            front = yaml.safe_load(text.removeprefix("---\n").split("\n---\n\n#")[0])
            stated = (
                front["configs"][0]["data_files"],
                front["configs"][0]["features"][1]["dtype"]["class_label"]["names"],
            )
            assert list(stated[1].values()) == list(names)
            text = "#" + text.split("\n---\n\n#", 1)[1]
        tokens = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
        headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
        assert headings[1:] == ["Where it comes from", "Files", "Use"]
        kinds = {part.type for token in tokens for part in [token, *(token.children or [])]}
        assert not kinds & {"html_block", "html_inline", "hr"}


@pytest.mark.parametrize("name", ["$x$", "$\\frac{$", "a$b$c$", "\0", "\n", "$" * 100, "x" * 10**5, "_", "\u202e"])
def test_no_name_is_a_formula(name, tmp_path):
    images = PIXELS[:2]
    assert pictures.support_png(images, images, np.eye(2), (name, name)).startswith(b"\x89PNG")
    assert pictures.labels_png(images, np.eye(2), (name, name)).startswith(b"\x89PNG")


def test_a_link_puts_no_other_file_into_the_page(tmp_path):
    (tmp_path / "id_rsa").write_text(SECRET)
    (tmp_path / "given" / "analysis").mkdir(parents=True)
    (tmp_path / "given" / "analysis" / "a.png").symlink_to(tmp_path / "id_rsa")
    (tmp_path / "given" / "analysis" / "b.png").write_bytes(b"\x89PNG")
    assert [title for title, _ in pages._analysis(tmp_path / "given")] == ["kipx analyze: b"]


# paths


def test_nothing_is_written_through_a_link(tmp_path):
    """Names under which kipx writes lead elsewhere in a folder of someone else's."""
    given, victim, new = tmp_path / "given", tmp_path / "victim", tmp_path / "new"
    given.mkdir()
    victim.write_text("mine")
    for name in ("summary.json", ".summary.json.part", "job.json", ".job.json.part"):
        (given / name).symlink_to(victim)
    artifacts.write_json(given / "summary.json", {})
    artifacts.write_json(given / "job.json", {})
    assert victim.read_text() == "mine" and not (given / "summary.json").is_symlink()
    (given / "metrics.jsonl").symlink_to(new)
    with pytest.raises(checks.StorageError, match=r"metrics\.jsonl"):
        track.jsonl(given)({"step": 0})
    assert not new.exists()


def test_nothing_is_written_in_the_place_of_a_device(tmp_path):
    """As root, out=/dev/null would leave a file there."""
    os.mkfifo(tmp_path / "device")
    with pytest.raises(FileExistsError, match="no file"):
        artifacts.write(tmp_path / "device", "x")
    assert (tmp_path / "device").is_fifo() and os.listdir(tmp_path) == ["device"]


@pytest.mark.parametrize("path", ["../victim", "/etc/passwd", "a/../../victim", "~/victim", "\0"])
def test_a_manifest_leads_nowhere(path, tmp_path):
    """Its names are compared with those that kipx itself writes, and never opened."""
    given = save(tmp_path / "given")
    (tmp_path / "victim").write_text(SECRET)
    digest = "0" * 64
    artifacts.write_json(given / "manifest.json", {"files": {path: digest}, "config": {}, "parents": [path]})
    manifest.enter(given, ["support.npz"])
    assert json.loads((given / "manifest.json").read_text())["files"][path] == digest
    out = tmp_path / "out"
    out.mkdir()
    artifacts.write_json(out / "manifest.json", {"files": {path: digest}})
    export.run(given, format="npz", out=out)
    assert path not in json.loads((out / "manifest.json").read_text())["files"]
    artifacts.write_config(given, {**CONFIG, "support": {"per_class": 1}, "steps": 1})
    artifacts.write_json(given / "summary.json", {"test_accuracy": 0.5, "steps": 1})
    page, troubles = report.write_pages(given)
    assert SECRET not in page.read_text() and not troubles
    assert (tmp_path / "victim").read_text() == SECRET


# archives


def _tar(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))


def _member(name, size=0, **more):
    member = tarfile.TarInfo(name)
    member.size = size
    for key, value in more.items():
        setattr(member, key, value)
    return member


@pytest.mark.parametrize(
    "more",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "../../../etc/passwd"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.DIRTYPE},
        None,
    ],
    ids=["link", "hard link", "device", "pipe", "folder", "path"],
)
def test_no_member_of_an_archive_leads_elsewhere(more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = official.make("cifar10")
    small.lay_out(tmp_path / "raw")
    (archive,) = small.source.archives
    path = tmp_path / "raw" / raw.file_name(archive)
    first, folder = next(iter(archive.contents)), small.source.folder
    if more is None:
        _tar(
            path,
            *(
                (_member(at, 1), b"x")
                for at in (f"../{first}", f"/{first}", f"{folder}/../{first}", f"{folder}/../../x")
            ),
        )
    else:
        _tar(path, (_member(f"{folder}/{first}", **more), b""))
    before = files(tmp_path)
    with pytest.raises(checks.UserError, match=f"{first} in .* is missing"):
        raw.read("cifar10", small.source, tmp_path / "raw", command="kipx prepare")
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_no_archive_unpacks_without_end(name, tmp_path):
    small = official.make(name)
    small.lay_out(tmp_path)
    archive = small.source.archives[0]
    path, zeros = tmp_path / raw.file_name(archive), raw.PACKED * archive.size + 2 * raw.SMALL
    if name == "mnist":
        path.write_bytes(gzip.compress(bytes(zeros)))
    else:
        member = f"{small.source.folder}/{next(iter(archive.contents))}"
        _tar(path, (_member(member, zeros), bytes(zeros)))
    with pytest.raises(checks.UserError, match=r"cannot be unpacked \(it unpacks to more than"):
        raw.read(name, small.source, tmp_path, command="kipx prepare")


def test_every_published_archive_is_within_the_limit():
    """The largest of them unpack to what their data sets are: 28x28 or 32x32x3 bytes an image."""
    bytes_of = {"mnist": 60_000 * 784 + 16, "fashion_mnist": 60_000 * 784 + 16, "cifar10": 10_000 * 3073}
    for name, largest in bytes_of.items():
        archive = official.SOURCES[name].archives[0]
        assert largest < raw.PACKED * archive.size + raw.SMALL
    assert math.prod((10_000, 3074)) < raw.PACKED * official.SOURCES["cifar100"].archives[0].size


def test_a_downloaded_archive_that_is_another_never_gets_its_name(tmp_path, monkeypatch):
    """What a server sends is unpacked by nobody before its sha256 is right."""
    small = official.make("mnist")
    archive = small.source.archives[0]

    def serve(archive, part, *_):
        part.write_bytes(gzip.compress(b"something else"))

    monkeypatch.setattr(prepare.download, "_complete", serve)
    monkeypatch.setattr(raw, "unpack", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(checks.UserError, match="is not what was published"):
        prepare._contents("mnist", small.source, tmp_path, None, lambda text: None)
    assert not [path for path in files(tmp_path) if raw.file_name(archive) in path]


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
