# ruff: noqa: SIM905, E501  lists of words read better as text
"""Random cases for tests/fuzz.py: options of commands, data sets, and run folders that were damaged."""

import json
from typing import NamedTuple

import numpy as np
import yaml
from hypothesis import strategies as st

TINY = "steps=1 target.batch_size=6 baseline.draws=1 logger=none".split()
DATA = "dataset=npz dataset.path=data.npz dataset.pools=1".split()
TRAINED = "network=fc network.width=4 trainer.steps=2 trainer.evaluations=1 networks=1 baselines=[natural]".split()
COMMANDS = {  # with what makes each small
    "distill": [*DATA, *TINY, "kernel=fc"],
    "label-solve": [*DATA, "kernel=fc", "logger=none", "target.batch_size=20"],
    "plan": [*DATA, *TINY[:-1], "kernel=fc", "plan.calibration_s=0.01"],
    "evaluate": ["run=given"],
    "transfer": ["run=given", *TRAINED, "logger=none"],
    "analyze": ["run=given", "question=labels"],
    "export": ["run=given", "format=npz"],
    "import": ["path=given/support.npz"],
    "report": ["run=given"],
    "prepare": ["dataset=mnist", "dataset.raw_dir=given", "dataset.data_dir=prepared"],
}
QUICK = ("evaluate", "transfer", "export", "import", "report", "label-solve", "distill")  # plan and analyze take longer
NEED_A_RUN = ("evaluate", "transfer", "analyze", "export", "import", "report", "prepare")
GROUPS = {
    "dataset": "npz digits mnist",
    "preprocess": "standardize zca normalize zca_pixels",
    "kernel": "fc convnet convvec myrtle",
    "support": "natural noise kmeans herding",
    "labels": "fixed learned",
    "form": "least_norm notebook",
    "augment": "none grayscale rgb geometric",
    "engine": "dense blockwise",
    "optimizer": "adam sgd gauss_newton",
    "network": "own fc convnet",
    "trainer": "sgd",
    "logger": "local none",
    "debug": "tiny",
}
OF_A_RUN = """
    seed ridge resume dataset.path dataset.data_dir dataset.raw_dir dataset.pools dataset.load.path kernel.depth kernel.kind
    kernel.dtype kernel.backend kernel.architecture.w_std kernel.architecture.b_std kernel.architecture.depth
    support.per_class target.batch_size engine.block_size checkpoint.every_s logger.progress preprocess.reg preprocess.eps
    preprocess.mean preprocess.std preprocess.held_out preprocess.unit_norm preprocess.dataset """
OF_DISTILL = """
    steps rkhs_weight labels.init labels.learned labels.learning_rate augment.rate augment.shift augment.flip
    augment.rotation_degrees augment.fill baseline.draws optimizer.learning_rate optimizer.schedule optimizer.b1
    optimizer.b2 optimizer.eps optimizer.momentum optimizer.damping optimizer.last_damping optimizer.largest_change
    checkpoint.tested_from """
KEYS = {
    "distill": OF_A_RUN + OF_DISTILL,
    "label-solve": OF_A_RUN + "form.cutoff form.ridge",
    "plan": OF_A_RUN + OF_DISTILL + "plan.devices plan.calibration_s",
    "evaluate": "run ridge dataset.data_dir kernel.depth kernel.kind engine.block_size kernel.dtype",
    "transfer": """
        run step seed networks baselines network.width network.parameterization network.depth network.normalization
        trainer.loss trainer.label_scale trainer.factor trainer.momentum trainer.l2 trainer.batch_size trainer.steps
        trainer.centred trainer.evaluations trainer.validation augment.rate resume checkpoint.every_s dataset.data_dir
        network.architecture.w_std""",
    "analyze": """
        run question out ridge seed baseline.draws test_images dataset.data_dir kernels.fc2.depth kernels.fc2.kind kernels
        kernels.convnet.architecture.depth engine.block_size""",
    "export": "run format out",
    "import": "path labels.path labels.kind entry ridge dataset.data_dir kernel.depth seed",
    "report": "run table html out",
    "prepare": "dataset.data_dir dataset.raw_dir dataset.load.name dataset.load.data_dir",
}
NUMBERS = "-1 0 1 2 3 0.5 1.5 -0.0 1e-30 1e-300 1e30 1e300 1e400 inf -inf nan".split()
HUGE = [str(10**18), str(2**63), str(10**30), str(-(10**30)), "9" * 400, "9" * 5000]
WORDS = """
    null true false '' "" text 'a=b' '${x}' ${nope} ${oc.env:NOPE} ??? \\ %s 'é中😀' '\u202e' $x^{$ data.npz/x nowhere
    given data.npz [] [1] [1,2] [0,0] [natural,natural] [a] [[1],[2]] [null] [1e400,1] {} {a:1} {a:{b:[1]}} ntk nngp float32
    float64 solved onehot constant cosine all images dimension spectrum torch safetensors hf table1 table2 figure1 natural
    times batch layer soft_cross_entropy cross_entropy by_class logits kipx.data.digits.load given/support.npz
    \x1b[31mred""".split()
UNKNOWN = "+new=1 ++new.key=1 +dataset.new=1 ~seed ~dataset ~kernel.depth ~support.per_class new=1 a".split()
SYNTAX = [
    "",
    "=",
    "==",
    "=1",
    "seed=",
    "seed=[",
    "seed={",
    "seed='",
    "seed=1,2",
    "se ed=1",
    "+",
    "~",
    "seed=$(",
    "a@b=c",
    "-x",
]
INSIDE_FOLDER = st.characters(exclude_characters="/~.")  # a random path must lead nowhere else
NO_END = ("steps", "trainer.steps")  # of which a large number is legal, and takes years


class Case(NamedTuple):
    """A command in a folder with a data set and, where it needs one, a run.

    Attributes:
      command: its name.
      arguments: overrides beside those that make it small.
      data: (array, one of CHANGES) of data.npz.
      harm: of the run folder `given`, see `apply_harm`.
    """

    command: str
    arguments: tuple = ()
    data: tuple = ()
    harm: tuple = ()


def configs():
    """Cases of random options, most of them illegal."""
    return st.sampled_from([*sorted(COMMANDS), *QUICK]).flatmap(
        lambda command: st.lists(_override(command), min_size=1, max_size=3).map(lambda o: Case(command, tuple(o)))
    )


def _override(command):
    value = st.one_of(
        *map(st.sampled_from, (NUMBERS, NUMBERS, HUGE, WORDS, WORDS)), st.text(INSIDE_FOLDER, max_size=4).map(repr)
    )
    named = st.tuples(st.sampled_from(KEYS[command].split()), value)
    named = named.filter(lambda pair: not (pair[0] in NO_END and pair[1] == HUGE[0] and command != "plan"))
    groups = [(group, name) for group, names in GROUPS.items() for name in (*names.split(), "nope", "null")]
    plain = st.one_of(named, named, named, st.sampled_from(groups)).map("=".join)
    return st.one_of(*[plain] * 8, plain.map("++".__add__), st.sampled_from(UNKNOWN), st.sampled_from(SYNTAX))


def _with(a, value):
    changed = a.astype(np.result_type(a.dtype, type(value)) if a.dtype.kind in "uif" else object).copy()
    changed.flat[changed.size // 2] = value
    return changed


ARRAYS = ("x_train", "y_train", "x_test", "y_test", "class_names")
TYPES = "float16 float32 float64 longdouble complex int8 uint64 >i4 >f8 <U5 S8 M8[D]".split()
FACTORS = (0, -1, 1e-300, 1e-30, 1e15, 1e30, 1e38, 1e154, 1e306, 5e-324)
CHANGES = {
    **{f"as {name}": lambda a, name=name: a.astype(name) for name in TYPES},
    **{f"times {factor}": lambda a, factor=factor: a * factor for factor in FACTORS},
    "bool": lambda a: a > 1,
    "record": lambda a: np.zeros(a.shape, [("a", float)]),
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "one nan": lambda a: _with(a, np.nan),
    "one inf": lambda a: _with(a, np.inf),
    "one of 1e300": lambda a: _with(a, 1e300),
    "one of 10**9": lambda a: _with(a.astype(np.int64), 10**9),
    "one of 2**62": lambda a: _with(a.astype(np.int64), 2**62),
    "all 7": lambda a: a * 0 + 7,
    "a constant image": lambda a: np.concatenate([a[:1] * 0, a[1:]]),
    "equal images": lambda a: np.broadcast_to(a[:1], a.shape),
    "one more": lambda a: a.astype(np.int64) + 1,
    "fractions": lambda a: a + 0.5,
    "none": lambda a: a[:0],
    "the first": lambda a: a[:1],
    "two": lambda a: a[:2],
    "three": lambda a: a[:3],
    "less": lambda a: a[:-1],
    "a number": lambda a: a.flat[0],
    "rows": lambda a: a.reshape(len(a), -1),
    "flat": lambda a: a.reshape(-1),
    "deeper": lambda a: a[..., None],
    "three channels": lambda a: np.repeat(a[..., None] if a.ndim == 3 else a, 3, axis=-1),
    "two channels": lambda a: np.repeat(a[..., None] if a.ndim == 3 else a, 2, axis=-1),
    "no channels": lambda a: np.repeat(a, 0, axis=-1),
    "1x1": lambda a: a[:, :1, :1],
    "1x8": lambda a: a[:, :1],
    "odd text": lambda a: np.resize(["$\\frac{", "\ud800", "\x1b[31m", "a\nb", "|", "\0", "<b>"], len(a)),
    "long text": lambda a: np.full(a.shape[:1], "x" * 10**4),
    "no text": lambda a: np.full(a.shape, ""),
    "missing": None,
}


def change(arrays, name, what):
    """Changes an array in place, if it is of a kind that can be changed so."""
    if what == "missing":
        arrays.pop(name, None)
    elif name in arrays:
        try:
            with np.errstate(all="ignore"):
                arrays[name] = np.asarray(CHANGES[what](arrays[name]))
        except (ValueError, TypeError, IndexError, OverflowError):
            return


def sound_data():
    """48 images of three classes, 8x8, to train, and 12 to test."""
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    x = (rng.integers(0, 100, (60, 8, 8)) + 50 * y[:, None, None]).astype(np.uint8)
    names = np.array(["a", "b", "c"])
    return {"x_train": x[:48], "y_train": y[:48], "x_test": x[48:], "y_test": y[48:], "class_names": names}


def datasets():
    """Cases of random data: one to three changes of a sound data set."""
    what = st.sampled_from(sorted(CHANGES))
    some = st.lists(st.tuples(st.sampled_from(ARRAYS), what), min_size=1, max_size=3).map(tuple)
    both = what.map(lambda one: (("x_train", one), ("x_test", one)))
    more = [
        (),
        (),
        ("preprocess=zca",),
        ("preprocess=zca", "preprocess.unit_norm=false"),
        ("support=noise",),
        ("support=kmeans",),
    ]
    commands = ["distill", "distill", "label-solve", "plan"]
    return st.builds(Case, st.sampled_from(commands), st.sampled_from(more), st.one_of(some, both))


VALUES = [
    None,
    True,
    -1,
    0,
    2,
    1.5,
    1e300,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\x1b[31m\ud800",
    [],
    [1],
    {},
    {"a": 1},
]
IN_CONFIG = """
    dataset dataset.load dataset.load.path dataset.load._target_ dataset.pools kernel kernel.depth kernel.architecture
    kernel.architecture.depth kernel.architecture._target_ kernel.kind ridge seed steps support support.per_class labels
    labels.learned engine engine.block_size logger resume optimizer.learning_rate augment.rate augment checkpoint preprocess
    preprocess._target_ new form trainer networks network network.width run step""".split()
INSIDE = {
    "config.yaml": IN_CONFIG,
    "the set's config": IN_CONFIG[:13],
    "support.npz": """
        images labels class_names config preprocessing_mean preprocessing_std preprocessing_whitening preprocessing_unit_norm
        preprocessing_centre preprocessing_norm""".split(),
    "summary.json": """
        test_accuracy steps initial_test_accuracy natural_draws natural_test_accuracy_mean natural_test_accuracy_std sets
        images network kernel_test_accuracy""".split(),
    "metrics.jsonl": "step train_loss test_accuracy train_accuracy test_mse step_time_s".split(),
    "job.json": "message code pid host overrides job".split(),
    "environment.json": "devices cpus packages".split(),
    "resumed.jsonl": "step steps_before steps environment".split(),
    "manifest.json": "files config".split(),
}
FILES = (*sorted({*INSIDE} - {"the set's config", "support.npz"}), "overrides.yaml", "wandb.json", "multirun.yaml")
BYTES = ("cut", "empty", "flipped", "gone", "folder", "deep")


def harms():
    """Cases of damaged run folders."""
    key = st.sampled_from(sorted(INSIDE)).flatmap(
        lambda name: st.tuples(
            st.just("key"),
            st.just(name),
            st.sampled_from(INSIDE[name]),
            st.sampled_from(sorted(CHANGES)) if name == "support.npz" else st.sampled_from(VALUES),
        )
    )
    whole = st.tuples(st.just("whole"), st.sampled_from(FILES), st.sampled_from(VALUES))
    torn = st.tuples(
        st.just("bytes"), st.sampled_from((*FILES, "support.npz")), st.sampled_from(BYTES), st.floats(0, 1)
    )
    commands = dict.fromkeys(("evaluate", "transfer", "analyze", "export", "import", "report"), ())
    commands["distill"] = ("resume=given", "steps=2")
    return st.builds(
        lambda command, harm: Case(command, commands[command], harm=harm),
        st.sampled_from([*sorted(commands), *(quick for quick in sorted(commands) if quick != "transfer")]),
        st.lists(st.one_of(key, key, whole, torn), min_size=1, max_size=2).map(tuple),
    )


def apply_harm(folder, kind, name, *more):
    """Changes a file of a run folder: all of it, a key in it, or its bytes; a file harmed before may stay as it is."""
    path = folder / name
    if path.is_dir():
        return
    if kind == "key":
        (_in_the_set if name in ("support.npz", "the set's config") else _in_a_file)(folder, name, *more)
    elif kind == "whole":
        path.write_text(yaml.safe_dump(more[0]) if path.suffix == ".yaml" else json.dumps(more[0]))
    elif more[0] in ("gone", "folder"):
        path.unlink(missing_ok=True)
        if more[0] == "folder":
            path.mkdir(exist_ok=True)
    elif path.is_file():
        content = path.read_bytes()
        place = int(more[1] * max(len(content) - 1, 0))
        flipped = content[:place] + bytes([b ^ 0x55 for b in content[place : place + 1]]) + content[place + 1 :]
        path.write_bytes({"cut": content[:place], "empty": b"", "flipped": flipped, "deep": b"[" * 1500}[more[0]])


def _in_the_set(folder, name, key, value):
    path = folder / "support.npz"
    try:
        with np.load(path) as file:
            arrays = dict(file)
        if name == "support.npz":
            change(arrays, key, value)
        else:
            arrays["config"] = np.asarray(yaml.safe_dump(_set(yaml.safe_load(str(arrays["config"])), key, value)))
    except Exception:  # it has been harmed before, in whatever way
        return
    np.savez(path, **arrays)


def _in_a_file(folder, name, key, value):
    path = folder / name
    try:
        text = path.read_text()
        if path.suffix == ".yaml":
            path.write_text(yaml.safe_dump(_set(yaml.safe_load(text), key, value), sort_keys=False))
        else:
            lines = text.splitlines() if path.suffix == ".jsonl" else [text]
            path.write_text("".join(json.dumps(_set(json.loads(line), key, value)) + "\n" for line in lines))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):  # it has been harmed before
        return


def _set(tree, dotted, value):
    *sections, last = dotted.split(".")
    at = tree
    for section in sections:
        at = at.setdefault(section, {}) if isinstance(at, dict) else {}
    if isinstance(at, dict):
        at[last] = value
    return tree
