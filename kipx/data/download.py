"""Downloads that go on where they stopped, checked by length and sha256."""

import http.client
import os
import pathlib
import time
import urllib.request

from kipx import checks
from kipx.data import raw

PIECE = 1 << 16  # bytes
PAUSES = (1, 2, 4)  # seconds before another try without progress
BY_HAND = "or get it otherwise and add dataset.raw_dir=<its folder>"


def fetch(archive, folder, *, command, advance=lambda done: None, pauses=PAUSES, timeout=30):
    """Downloads a published file, or goes on with what an earlier call left; one that is there already is checked.

    Args:
      archive: kipx.data.sources.Archive.
      folder: where to; made if it is not there. A download that is not whole is named `<file>.part`.
      command: what was typed, for messages.
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
        _complete(archive, part, command, advance, pauses, timeout)
        _check(archive, part, command)
        os.replace(part, path)
    else:
        _check(archive, path, command)
    advance(archive.size)
    return path


def _complete(archive, part, command, advance, pauses, timeout):
    """Tries until all is there; tries that bring more than there ever was are not counted."""
    left, most = list(pauses), _size(part)
    whole = most >= archive.size
    while not whole:
        try:
            whole, error = _try(archive, part, advance, timeout), "the connection was lost"
        except (OSError, http.client.HTTPException) as lost:  # urllib's errors are OSErrors
            code = getattr(lost, "code", None)
            if code == 416:  # what is there is no beginning of this file
                part.unlink(missing_ok=True)
            elif code is not None and code < 500 and code not in (408, 429):
                raise _failed(archive, part, command, lost) from lost
            error = lost
        if _size(part) > most:
            left, most = list(pauses), _size(part)
        elif not whole and not left:
            raise _failed(archive, part, command, error)
        elif not whole:
            time.sleep(left.pop(0))


def _try(archive, part, advance, timeout):
    """One request, from where the part ends; a server that cannot do that sends all of it. Whether that was all."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "kipx", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(archive.url, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        with open(part, "ab" if goes_on else "wb") as file:
            while file.tell() <= archive.size and (piece := answer.read(PIECE)):
                file.write(piece)
                advance(file.tell())
            return file.tell() >= min(_announced(answer, archive.size), archive.size)


def _announced(answer, default):
    """The length of the whole file, as the server has it."""
    length = answer.headers.get("Content-Range", "").rpartition("/")[2] or answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else default


def _check(archive, path, command):
    size, found = _size(path), raw.checksum(path, "sha256")
    if found != archive.sha256:
        path.unlink()
        raise checks.UserError(
            f"{archive.url} is not what was published; expected sha256 {archive.sha256} ({archive.size} bytes)"
            f", found {found} ({size} bytes); removed it, run {command} again, {BY_HAND}"
        )


def _failed(archive, part, command, error):
    return checks.UserError(
        f"{archive.url} cannot be downloaded ({error}); expected {archive.size} bytes with sha256 "
        f"{archive.sha256}, found {_size(part)}; {command} goes on from there, {BY_HAND}"
    )


def _size(path):
    return path.stat().st_size if path.is_file() else 0
