"""The data card of an exported set: README.md, in plain words."""

import pathlib
import re

import numpy as np
import yaml

from kipx import checks
from kipx.formats import hf, npz, safetensors, torch

CARD = "README.md"
_FILES = {
    "npz": f"- `{npz.FILE}`: the arrays below, for numpy; kipx reads it as it reads a run's support.npz",
    "torch": f"""\
- `{torch.FILE}`: the tensors below, `torch.load("{torch.FILE}")`; images are (n, c, h, w) in all files here
- `dc.pt`: `{{'data': [[images, labels]], 'accs_all_exps': {{}}}}`, as DC, DSA and DM write and read
- `images.pt`, `labels.pt`: the same two tensors, as MTT and DD-Ranking read
- `soft_labels.pt`: the labels as distilled; DD-Ranking takes soft labels as logits, which these are not

The images of `dc.pt` and `images.pt` are `pixels` normalized {{normalized}}.
Their labels are the classes.""",
    "safetensors": f"- `{safetensors.FILE}`: the arrays below; class names and config are in its header",
    "hf": f"""\
- `{hf.SPLIT}/`: pictures of 0 to 255, which are `pixels` of {{shown}}, clipped and rounded: to look at, and for
  `datasets.load_dataset(<folder>)`,
  with the columns `image`, `label` (the class) and `soft_label` (the label as distilled)
- `{safetensors.FILE}`: the exact set, the arrays below""",
}
_ARRAYS = """\
| name | what |
|---|---|
| `images` | {n} of {layout}, float32, as distilled: preprocessed, what a network is to be trained on |
| `pixels` | the same before preprocessing, on the scale of the training images: {span}, not clipped |
| `labels` | {n} of {classes}, float64: what to train towards |
| `classes` | the largest entry of each label |
| `{prefix}mean`, `{prefix}std`, `{prefix}whitening`, `{prefix}unit_norm` | the preprocessing, below |
| `class_names`, `config` | text |"""


def text(distilled, *, form, accuracy, parent):
    """The card.

    Args:
      distilled: kipx.artifacts.Distilled.
      form: 'npz', 'torch', 'safetensors' or 'hf'.
      accuracy: {what: share} that were measured, from a run's summary.
      parent: sha256 of the file that the set was exported from.
    Returns:
      Markdown; for 'hf' with the front matter of the hub.
    """
    parts = (_head(distilled), _made(distilled, accuracy), _held(distilled, form), _use(distilled, form))
    closing = f"Written by `kipx export format={form}` from a set with the sha256 `{parent}`."
    matter = yaml.safe_dump(hf.front_matter(distilled, dataset(distilled.config)), sort_keys=False, allow_unicode=True)
    front = f"---\n{matter}---\n\n" if form == "hf" else ""
    return front + "\n\n".join([*parts, closing]) + "\n"


def dataset(config):
    """The name of a config's data set."""
    load = config["dataset"]["load"]
    own = pathlib.Path(load["path"]).name if load.get("path") else load["_target_"].split(".")[-2]
    return load.get("name") or own


def _head(distilled):
    n, classes, size = len(distilled.images), len(distilled.class_names), "x".join(map(str, distilled.images.shape[1:]))
    title = f"# {_plain(dataset(distilled.config))}, distilled into {n} images"
    names = ", ".join(map(_plain, distilled.class_names))
    return f"{title}\n\n{n} images of {size} with labels of {classes} classes: {names}."


def _plain(text):
    """Text that is no Markdown and no HTML, in one line."""
    return re.sub(r"[\\`*<|\[]", r"\\\g<0>", checks.printable(text))


def _made(distilled, accuracy):
    """Where it comes from and what it reaches."""
    config = distilled.config
    source = config.get("source")
    if source:
        origin = (
            f"- imported from {_plain(source['file'])}, sha256 `{_plain(source['sha256'])}`; kernel and ridge are to "
            "measure it with"
        )
    else:
        seed = _plain(config.get("seed"))
        origin = f"- distilled by kipx: kernel ridge regression with an infinitely wide network, seed {seed}"
    lines = [origin, f"- kernel: {_kernel(config['kernel'])}; ridge {config['ridge']:g}, relative to the mean diagonal"]
    lines += [f"- {what}: {share:.1%}" for what, share in accuracy.items()]
    lines += [] if accuracy else ["- test accuracy: not measured by then; `kipx evaluate` does"]
    return "## Where it comes from\n\n" + "\n".join(lines)


def _kernel(section):
    """A kernel section in words; of several kernels, all of them."""
    if "members" in section:
        return "; ".join(_kernel(member) for member in section["members"].values())
    values = {key: value for key, value in section["architecture"].items() if key != "_target_"}
    name = section["architecture"]["_target_"].rpartition(".")[2]
    said = ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    )
    return _plain(f"{section['kind']} of {name}({said})")


def _held(distilled, form):
    layout = "x".join(map(str, distilled.images.shape[1:]))
    if form == "torch":
        layout = "x".join(map(str, np.roll(distilled.images.shape[1:], 1)))
    prefix = "" if form == "torch" else "preprocessing_"
    sizes = {"n": len(distilled.images), "classes": len(distilled.class_names)}
    span = _span(distilled.pixels.min(), distilled.pixels.max())
    arrays = _ARRAYS.format(**sizes, layout=layout, prefix=prefix, span=span)
    files = _FILES[form]
    if form == "torch":
        files = files.replace("{normalized}", torch.normalization(distilled))
    if form == "hf":
        files = files.replace("{shown}", _span(*hf.shown(distilled)))
    return f"## Files\n\n{files}\n\n{arrays}"


def _span(low, high):
    return f"{low:.4g} to {high:.4g}"


def _use(distilled, form):
    """What has to be known before it is used."""
    return "## Use\n\n" + "\n".join([*_labels(distilled), *_preprocessing(distilled, form)])


def _labels(distilled):
    classes = distilled.labels.shape[1]
    one_hot = np.eye(classes)[np.argmax(distilled.labels, axis=1)] - 1 / classes
    if np.allclose(distilled.labels, one_hot, atol=1e-6):
        return [f"- Labels are one-hot less 1/{classes}, so that they add up to 0: train on them with a squared error."]
    return [
        "- **Labels are learned and are no classes**: train on them as they are, with a squared error. `classes` names",
        "  the largest entry of each and carries less.",
    ]


def _preprocessing(distilled, form):
    own, first = distilled.preprocessing, form == "torch"
    steps = ["x = (pixels - mean) / std"]
    if own.whitening.size:
        order = "c, h, w" if first else "h, w, c"
        steps += [f"x = x.reshape(n, d)  # flattened as ({order})"]
        steps += ["x = x - x.mean(axis=1); x = x / norm(x, axis=1)  # each image's own"] if own.unit_norm else []
        steps += ["x = x @ whitening"]
    closing = "kipx export format=npz writes a set that kipx uses as it is; `kipx import` reads this one."
    if form == "npz":
        closing = f'In kipx: `kipx.artifacts.load("{npz.FILE}").preprocess(pixels)`.'
    return [
        "- **The preprocessing belongs to the set**: new images go through it before a network trained on `images`",
        "  sees them, from pixels on the scale of the training images:",
        "",
        *(f"      {step}" for step in steps),
        "",
        *(
            ["  It takes each image's own mean and norm away; `pixels` have typical ones instead."]
            if own.unit_norm
            else []
        ),
        f"  {closing}",
    ]
