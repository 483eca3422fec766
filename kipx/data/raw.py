"""Published files that lie in a folder, as archives or extracted, checked by their decompressed content."""

import gzip
import hashlib
import pathlib
import tarfile
import zlib

from kipx import checks


def read(name, source, folder):
    """All contents of a published data set.

    Args:
      name: of the data set, for messages.
      source: kipx.data.sources.Source.
      folder: holds the archives or their contents, itself or in a subfolder of the data set's name.
    Returns:
      {name: bytes}.
    Raises:
      UserError: a file is missing, torn, or not what was published.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise checks.UserError(f"dataset.raw_dir: expected a folder with the files of {name}, got {folder}")
    contents = {}
    for archive in source.archives:
        contents |= _contents(name, archive, source.folder, [folder, folder / name])
    return contents


def file_name(archive):
    """The name of a published file."""
    return archive.url.rpartition("/")[2]


def unpack(path, folder, names):
    """The named contents of an archive, {name: bytes} of those that it has; of a plain file its own bytes.

    Raises:
      EOFError, OSError, zlib.error, tarfile.TarError: the archive is torn or none.
    """
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as tar:
            wanted = {f"{folder}/{name}": name for name in names}
            members = [m for m in tar if m.isfile() and m.name.removeprefix("./") in wanted]
            return {wanted[m.name.removeprefix("./")]: tar.extractfile(m).read() for m in members}
    (name,) = names
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            return {name: file.read()}
    return {name: path.read_bytes()}


def checksum(path, algorithm):
    """The checksum of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _contents(name, archive, subfolder, folders):
    """The checked contents of one published file, extracted ones first."""
    for folder in [f for parent in folders for f in (parent, parent / subfolder)]:
        loose = [folder / content for content in archive.contents]
        if any(path.is_file() for path in loose):
            found = {path.name: path.read_bytes() for path in loose if path.is_file()}
            return _checked(name, archive, folder, found, folders[0])
        packed = folder / file_name(archive)
        if packed.is_file():
            return _checked(name, archive, packed, _unpacked(name, archive, packed, subfolder, folders[0]), folders[0])
    raise checks.UserError(
        f"{name}: {folders[0] / file_name(archive)} is missing, expected it or what is in it "
        f"({', '.join(archive.contents)}); expected sha256 {archive.sha256}, found no file; {_mend(name, folders[0])}"
    )


def _unpacked(name, archive, path, subfolder, raw_dir):
    try:
        return unpack(path, subfolder, archive.contents)
    except (EOFError, OSError, zlib.error, tarfile.TarError) as error:
        raise checks.UserError(
            f"{name}: {path} cannot be unpacked ({error}); expected sha256 {archive.sha256} ({archive.size} bytes), "
            f"found {checksum(path, 'sha256')} ({path.stat().st_size} bytes); {_mend(name, raw_dir)}"
        ) from error


def _checked(name, archive, path, found, raw_dir):
    for content, expected in archive.contents.items():
        if content not in found:
            raise checks.UserError(
                f"{name}: {path} has no {content}; expected {_md5(expected)}, found no file; {_mend(name, raw_dir)}"
            )
        md5 = hashlib.md5(found[content], usedforsecurity=False).hexdigest()
        if expected not in (None, md5):
            raise checks.UserError(
                f"{name}: {content} in {path} is not what was published; expected {_md5(expected)}, "
                f"found {md5} ({len(found[content])} bytes); {_mend(name, raw_dir)}"
            )
    return found


def _md5(expected):
    return "text" if expected is None else f"MD5 {expected}"


def _mend(name, raw_dir):
    return (
        f"replace it and repeat kipx prepare dataset={name} dataset.raw_dir={raw_dir}, "
        f"or download with kipx prepare dataset={name}"
    )
