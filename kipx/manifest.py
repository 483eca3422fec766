"""Files that come after a run: entered into the manifest that it closed with."""

import hashlib
import pathlib

from kipx import artifacts, checks, untrusted


def enter(folder, names):
    """Enters files that were written after the run, or again, into its manifest.json; nothing where there is none yet.

    Args:
      folder: the run folder.
      names: of files in it, as seen from it.
    Raises:
      UserError: the manifest is torn.
    """
    path = pathlib.Path(folder) / artifacts.MANIFEST
    if not path.is_file():
        return
    try:
        manifest = untrusted.from_json(path.read_bytes())
        files = dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise checks.UserError(f"{path}: is torn or no manifest; take it from a backup") from error
    files.update({name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in names})
    artifacts.write_json(path, {**manifest, "files": dict(sorted(files.items()))})
