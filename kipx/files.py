"""Files that are whole or not there, and a lock that lets one process at a time at them.

`write` replaces a file in one step, so that whoever is killed, or finds the disk full, leaves the old one.

`held` is the operating system's lock (flock) on a file. The kernel gives it back however its holder ends, so a file
that a killed process left behind locks nobody out. It reaches as far as the file system carries it: on NFS it is the
server's, and holds among all hosts that mount it, unless they mount it with `nolock` or `local_lock=flock`; there a
host that loses its power keeps the lock until the server misses it, about a minute and a half. Lustre needs the mount
option `flock`. Where there are no locks at all, a line on stderr says so and nobody is kept away.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import platform
import uuid

from kipx import checks
from kipx.notes import note

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def write(path, content, *, shared=False):
    """Writes text or bytes so that the file is either the old one or the whole new one.

    Args:
      path: of the file, whose folder exists.
      content: str or bytes.
      shared: whether other processes may write the same file at the same time.
    Raises:
      FileExistsError: what is there is no file.
      StorageError: it cannot be written; what was there is there still.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "is there, and no file", str(path))  # /dev/null, say
    part = path.with_name(f".{uuid.uuid4().hex if shared else path.name}.part")
    with storing(path):
        try:
            part.unlink(missing_ok=True)  # of a run that was killed, or a link to elsewhere
            with open(part, "xb") as file:
                file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def storing(path):
    """Turns an OSError into StorageError that names the file, and what to do."""
    try:
        yield
    except checks.StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{path}: cannot be written ({reason}); make room, or let it be written"
        raise checks.StorageError(message, reason) from error


@contextlib.contextmanager
def held(path, *, busy):
    """Holds the lock of a file, which is there for as long; its folder is made if it is not there.

    Args:
      path: of the file, about which nobody else cares.
      busy: called once with what the holder says of itself, if there is one. It raises, or returns: then this waits.
    Raises:
      StorageError: the file cannot be written.
    """
    path = pathlib.Path(path)
    made = not path.parent.is_dir()
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    file = _locked(path, busy)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is let go: nobody else holds it
        file.close()
        if made:
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()


def _locked(path, busy):
    """The open file, locked; one that its last holder has removed meanwhile is opened again."""
    told = False
    while True:
        with storing(path):
            file = open(path, "a+")  # noqa: SIM115  open for as long as it is held
        try:
            if not _try(file, fcntl.LOCK_NB):
                if not told:
                    file.seek(0)
                    busy(file.read().strip() or "another process")
                    told = True
                _try(file, 0)
            if _is_there(path, file):
                with contextlib.suppress(OSError):  # the disk may be full; the lock holds all the same
                    file.truncate(0)
                    os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _try(file, how):
    """Whether the lock was had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        note(f"{file.name}: the file system has no locks; nobody else may work there")
    return True


def _is_there(path, file):
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
