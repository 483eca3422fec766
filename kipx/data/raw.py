"""Published files that lie in a folder, as archives or extracted, checked by their decompressed content."""

import gzip
import hashlib
import pathlib
import tarfile
import zlib

from kipx import checks

PACKED, SMALL = 20, 2**20  # no published archive unpacks to so many times its size, and so many bytes more


def read(name, source, folder, *, command):
    """All contents of a published data set.

    Args:
      name: of the data set.
      source: kipx.data.sources.Source.
      folder: holds the archives or their contents, itself or in a subfolder of the data set's name.
      command: what to type to download them instead, for messages.
    Returns:
      {name: bytes}.
    Raises:
      UserError: a file is missing, torn, or not what was published.
    """
    folder = pathlib.Path(folder).expanduser()
    if not folder.is_dir():
        raise checks.UserError(f"dataset.raw_dir: expected a folder with the files of {name}, got {folder}")
    contents = {}
    for archive in source.archives:
        try:
            contents |= _contents(archive, source.folder, [folder, folder / name])
        except _Wrong as wrong:
            raise checks.UserError(
                f"{name}: {wrong}; replace it and run {command} dataset.raw_dir={folder}, or download: {command}"
            ) from wrong
    return contents


def file_name(archive):
    """The name of a published file."""
    return archive.url.rpartition("/")[2]


def unpack(path, folder, archive):
    """The contents of an archive, {name: bytes} of those that it has; of a plain file its own bytes.

    Nothing is ever written, wherever a member of it would lie.

    Raises:
      EOFError, OSError, zlib.error, tarfile.TarError: the archive is torn or none, or unpacks to more than any
        published one of its size.
    """
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path, "r:gz") as tar:
            wanted = {f"{folder}/{name}": name for name in archive.contents}
            members = [m for m in tar if m.isfile() and m.name.removeprefix("./") in wanted]
            return {wanted[m.name.removeprefix("./")]: _whole(tar.extractfile(m), archive) for m in members}
    (name,) = archive.contents
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        return {name: _whole(file, archive)}


def _whole(file, archive):
    most = PACKED * archive.size + SMALL
    content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"it unpacks to more than {most} bytes")
    return content


def checksum(path, algorithm):
    """The checksum of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


class _Wrong(Exception):
    """A file is missing or not what was published."""


def _contents(archive, subfolder, folders):
    """The checked contents of one published file, extracted ones first."""
    for folder in [f for parent in folders for f in (parent, parent / subfolder)]:
        loose = [folder / content for content in archive.contents]
        if any(path.is_file() for path in loose):
            return _checked(archive, folder, {path.name: path.read_bytes() for path in loose if path.is_file()})
        packed = folder / file_name(archive)
        if packed.is_file():
            return _checked(archive, packed, _unpacked(archive, packed, subfolder))
    raise _Wrong(
        f"{folders[0] / file_name(archive)}, or what is in it ({', '.join(archive.contents)}), is missing; "
        f"expected sha256 {archive.sha256}, found no file"
    )


def _unpacked(archive, path, subfolder):
    try:
        return unpack(path, subfolder, archive)
    except (EOFError, OSError, zlib.error, tarfile.TarError) as error:
        raise _Wrong(
            f"{path} cannot be unpacked ({checks.reason(error)}); expected sha256 {archive.sha256} "
            f"({archive.size} bytes), found {checksum(path, 'sha256')} ({path.stat().st_size} bytes)"
        ) from error


def _checked(archive, path, found):
    for content, expected in archive.contents.items():
        name = path / content if path.is_dir() else f"{content} in {path}"
        wanted = "a text" if expected is None else f"MD5 {expected}"
        if content not in found:
            raise _Wrong(f"{name} is missing; expected {wanted}, found no file")
        md5 = hashlib.md5(found[content], usedforsecurity=False).hexdigest()
        if expected not in (None, md5):
            raise _Wrong(
                f"{name} is not what was published; expected {wanted}, found {md5} ({len(found[content])} bytes)"
            )
    return found
