"""kipx prepare: a published data set, downloaded or from a folder, as tensorflow-datasets would have prepared it."""

import contextlib

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from kipx import checks
from kipx.data import download, prepare, published, raw
from kipx.data.sources import SOURCES

CONSOLE = Console(stderr=True)


def _say(text):
    CONSOLE.print(checks.printable(text), markup=False, highlight=False, soft_wrap=True)


def run(*, name, data_dir, raw_dir, source=None, say=_say):
    """Prepares a published data set, unless it is there already, and reads it back.

    Args:
      name: as tensorflow-datasets has it.
      data_dir: folder of prepared data sets; None: see `kipx.data.published.folder`.
      raw_dir: folder with the published files; None: download them.
      source: kipx.data.sources.Source; None: the published one.
      say: text -> None, for news.
    Returns:
      {'folder', 'new', 'train', 'test', 'shape', 'classes'}.
    Raises:
      UserError: files that are missing or wrong, or a folder that cannot be written.
    """
    place = published.place(name, data_dir)
    source = SOURCES[name] if source is None else source
    data, new = _whole(name, data_dir, say), False
    if data is None:
        try:
            data, new = _prepare(name, source, data_dir, raw_dir, say)
        except (OSError, RuntimeError) as error:  # the writers of records raise RuntimeErrors
            reason = getattr(error, "strerror", None) or checks.reason(error)
            again = published.prepare_command(name, data_dir)
            raise checks.UserError(
                f"{name}: cannot prepare in {published.folder(data_dir)}: {reason}; make room or take another "
                f"dataset.data_dir, and run {again} again"
            ) from error
    return {
        "folder": str(place),
        "new": new,
        "train": len(data.y_train),
        "test": len(data.y_test),
        "shape": data.x_train.shape[1:],
        "classes": data.classes,
    }


def _prepare(name, source, data_dir, raw_dir, say):
    """The data set, and whether it was this call that prepared it."""
    with prepare.alone(name, data_dir, waiting=lambda holder: say(f"{name}: waiting for another kipx prepare")):
        data = _whole(name, data_dir, lambda text: None)  # by now
        if data is not None:
            return data, False
        splits, class_names = source.read(_contents(name, source, data_dir, raw_dir, say))
        prepare.write(name, splits, class_names, data_dir, watch=_watch(f"writing {name}"))
        return published.load(name=name, data_dir=data_dir), True


def _whole(name, data_dir, say):
    """The data set, if all of it can be read, or None; a damaged one is announced."""
    if not published.is_prepared(name, data_dir):
        return None
    try:
        return published.load(name=name, data_dir=data_dir)
    except checks.UserError as error:
        say(str(error))
        return None


def _contents(name, source, data_dir, raw_dir, say):
    """{name: bytes} of all that was published, from `raw_dir` or downloaded."""
    command = published.prepare_command(name, data_dir)
    if raw_dir is not None:
        return raw.read(name, source, raw_dir, command=command)
    contents, folder = {}, published.folder(data_dir) / "downloads" / name
    for archive in source.archives:
        say(f"{name}: {archive.url}, {archive.size / 1e6:.1f} MB")
        with _bar(archive) as advance:
            path = download.fetch(archive, folder, command=command, advance=advance)
        contents |= raw.unpack(path, source.folder, archive)
    return contents


@contextlib.contextmanager
def _bar(archive):
    """A bar on a terminal, nothing elsewhere; yields bytes so far -> None."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=CONSOLE, disable=not CONSOLE.is_terminal) as progress:
        task = progress.add_task(raw.file_name(archive), total=archive.size)
        yield lambda done: progress.update(task, completed=done)


def _watch(title):
    def watch(examples, total):
        with Progress(console=CONSOLE, disable=not CONSOLE.is_terminal, transient=True) as progress:
            yield from progress.track(examples, total=total, description=title)

    return watch


def table(name, result):
    """Title, rows and closing line of what is printed."""
    shape = "x".join(map(str, result["shape"]))
    rows = [(f"{split} images", f"{result[split]:,} of {shape}") for split in ("train", "test")]
    title = f"{name} {'prepared' if result['new'] else 'was prepared already'}"
    return title, [*rows, ("classes", str(result["classes"]))], f"folder: {result['folder']}"
