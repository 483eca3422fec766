"""Downloads that go on where they stopped, checked by length and sha256."""

import http.client
import os
import pathlib
import time
import urllib.error
import urllib.request

from kipx import checks
from kipx.data import raw

PIECE = 1 << 16  # bytes
PAUSES = (1, 2, 4, 8)  # seconds before another try without progress


def fetch(name, archive, folder, *, advance=lambda done: None, pauses=PAUSES, timeout=30):
    """Downloads a published file, or goes on with what an earlier call left; one that is there already is checked.

    Args:
      name: of the data set, for messages.
      archive: kipx.data.sources.Archive.
      folder: where to; made if it is not there. A download that is not whole is named `<file>.part`.
      advance: called with the bytes that there are, again and again.
      pauses: seconds before each further try after one that brought nothing.
      timeout: seconds without a byte that end a try.
    Returns:
      Its path.
    Raises:
      UserError: it cannot be had, or is not what was published; then it has been removed.
    """
    path = pathlib.Path(folder) / raw.file_name(archive)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        _complete(name, archive, part, advance, pauses, timeout)
        _check(name, archive, part)
        os.replace(part, path)
    else:
        _check(name, archive, path)
    advance(archive.size)
    return path


def _complete(name, archive, part, advance, pauses, timeout):
    """Tries until the length is right; a try that brought something does not count."""
    left = list(pauses)
    while (before := _size(part)) < archive.size:
        try:
            _try(archive, part, advance, timeout)
            if _size(part) > before:
                left = list(pauses)
                continue
            error = "the server sent nothing"
        except urllib.error.HTTPError as refused:
            if refused.code == 416:  # no such range: what is there cannot be the beginning of this file
                part.unlink()
                continue
            if refused.code < 500:
                raise _failed(name, archive, part, refused) from refused
            error = refused
        except (OSError, http.client.HTTPException) as lost:  # URLError is an OSError
            if _size(part) > before:
                left = list(pauses)
            error = lost
        if not left:
            raise _failed(name, archive, part, error)
        time.sleep(left.pop(0))


def _try(archive, part, advance, timeout):
    """One request, from where the part ends; a server that cannot do that sends all of it."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "kipx", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(archive.url, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        with open(part, "ab" if goes_on else "wb") as file:
            while (piece := answer.read(PIECE)) and file.tell() <= archive.size:
                file.write(piece)
                advance(file.tell())


def _check(name, archive, path):
    size, found = _size(path), raw.checksum(path, "sha256")
    if found != archive.sha256:
        path.unlink()
        raise checks.UserError(
            f"{name}: {archive.url} is not what was published; expected sha256 {archive.sha256} ({archive.size} bytes)"
            f", found {found} ({size} bytes); removed it, run kipx prepare dataset={name} again, {_by_hand(name)}"
        )


def _failed(name, archive, part, error):
    return checks.UserError(
        f"{name}: {archive.url} cannot be downloaded ({error}); expected {archive.size} bytes with sha256 "
        f"{archive.sha256}, found {_size(part)}; kipx prepare dataset={name} goes on from there, {_by_hand(name)}"
    )


def _by_hand(name):
    return f"or get it otherwise and run kipx prepare dataset={name} dataset.raw_dir=<its folder>"


def _size(path):
    return path.stat().st_size if path.is_file() else 0
