"""kipx export: a distilled set in a format that others read, with its data card."""

import hashlib
import pathlib

from kipx import artifacts, checks, untrusted
from kipx.formats import card, hf, npz, safetensors, torch
from kipx.report import folders

FORMATS = {"npz": npz.files, "torch": torch.files, "safetensors": safetensors.files, "hf": hf.files}
SAID = {  # of a run's summary, in the words of the card
    "test_accuracy": "test accuracy by kernel ridge regression",
    "initial_test_accuracy": "that of the images or labels it began with",
    "natural_test_accuracy_mean": "that of as many natural images, in the mean",
}


def run(run, *, format, out):
    """Writes a distilled set in a format, with README.md and manifest.json.

    Args:
      run: a run folder, or an npz of kipx's.
      format: 'npz', 'torch', 'safetensors' or 'hf'.
      out: the folder to write; None: `export/<format>` in the run folder.
    Returns:
      (folder, {name: bytes written}).
    Raises:
      UserError: an unknown format, no set, or a file in the way: one that kipx export did not write, that was changed,
        or that is a picture of another set.
    """
    write = FORMATS[checks.one_of("format", format, tuple(FORMATS))]
    distilled, source = artifacts.load(run), _source(run)
    parent = hashlib.sha256(source.read_bytes()).hexdigest()
    said = {"form": format, "accuracy": _accuracy(source.parent), "parent": parent}
    try:
        distilled = distilled._replace(config=_anywhere(distilled.config))
        files = {**write(distilled), card.CARD: card.text(distilled, **said).encode()}
    except checks.UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise checks.UserError(
            f"{source}: its config is not that of a set ({checks.reason(error)}); take it from the run again"
        ) from error
    folder = pathlib.Path(out) if out else source.parent / "export" / format
    manifest = {
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "config": {"format": format, **distilled.config},
        "parents": [{"file": source.name, "sha256": parent}],
    }
    _write(folder, files, manifest)
    return folder, {name: len(content) for name, content in files.items()}


def table(folder, sizes):
    """Title, rows and closing line of what is printed; of a folder of pictures one row."""
    folders = {}
    for name, size in sizes.items():
        inside, _, file = name.rpartition("/")
        count, before = folders.get(f"{inside}/" if inside else file, (0, 0))
        folders[f"{inside}/" if inside else file] = count + 1, before + size
    rows = [
        (name, f"{size / 1000:,.0f} kB" + (f", {count} files" if count > 1 else ""))
        for name, (count, size) in folders.items()
    ]
    return "exported", rows, f"folder: {folder}"


def _source(run):
    path = pathlib.Path(run)
    return path / artifacts.SUPPORT if path.is_dir() else path


def _anywhere(config):
    """The config without the folders of this machine's data; of a user's file the name stays."""
    section = {key: _nameless(key, value) for key, value in config["dataset"].items()}
    section["load"] = {key: _nameless(key, value) for key, value in section["load"].items()}
    return {**config, "dataset": section}


def _nameless(key, value):
    if key == "path" and isinstance(value, str):
        return pathlib.Path(value).name
    return None if key in ("data_dir", "raw_dir") else value


def _accuracy(folder):
    """{what: share} that the run measured at its end."""
    try:
        found = folders.summary(folder)
    except folders.DAMAGE as error:
        raise checks.UserError(
            f"{folder}: summary.json or config.yaml is torn, or none of a run ({checks.reason(error)}); take it from a "
            "backup, or remove it"
        ) from error
    return {SAID[key]: found[key] for key in SAID if isinstance(found.get(key), int | float)}


def _write(folder, files, manifest):
    """Writes the files and then the manifest, over nothing that is not an export's own."""
    known, path = _known(folder), folder
    for name, content in files.items():
        path = folder / name
        if path.exists() and _digest(path) not in (known.get(name), hashlib.sha256(content).hexdigest()):
            raise checks.UserError(
                f"out: {path} is there and not as kipx export wrote it; remove it, or choose another folder with out="
            )
    _check_alone(folder, files)
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            artifacts.write(path, content)
        artifacts.write_json(folder / artifacts.MANIFEST, manifest)
    except OSError as error:
        raise checks.UserError(f"out: cannot write {path} ({error.strerror})") from error


def _check_alone(folder, files):
    """Refuses files beside those of a folder of pictures: who loads it would take them for the set's."""
    for inside in {(folder / name).parent for name in files} - {folder}:
        for path in sorted(inside.glob("[!.]*")):
            if str(path.relative_to(folder)) not in files:
                raise checks.UserError(
                    f"out: {path} is there and not of this set; remove {inside}, or choose another folder with out="
                )


def _known(folder):
    """{name: sha256} of what an export left in the folder."""
    path = folder / artifacts.MANIFEST
    if (folder / artifacts.CONFIG).exists():
        raise checks.UserError(f"out: {folder} is the folder of a run; choose another with out=")
    if not path.is_file():
        return {}
    try:
        return dict(untrusted.from_json(path.read_bytes())["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise checks.UserError(f"out: {path} is no manifest of an export; choose another folder with out=") from error


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
