"""Builds kipx, installs the wheel in an empty environment elsewhere, and uses it there (`make test-install`).

    python tests/install.py

The sources' archive must build into the same wheel; the environment must hold together (`pip check`); conf and sweeps
must be inside: a run, a sweep and a refusal are tried in an empty folder.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from setuptools import build_meta

ROOT = pathlib.Path(__file__).parents[1]


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        wheel = built(folder)
        python = installed(wheel, folder / "environment")
        used(python.parent / "kipx", folder / "elsewhere")
    print("test-install: passed")


def built(folder):
    """The wheel, after a look that the sources' archive makes the same one."""
    with contextlib.chdir(ROOT):
        archive = build_meta.build_sdist(str(folder))
        wheel = folder / build_meta.build_wheel(str(folder))
    with tarfile.open(folder / archive) as file:
        file.extractall(folder / "sources", filter="data")
    (folder / "again").mkdir()
    (sources,) = (folder / "sources").iterdir()
    with contextlib.chdir(sources):
        again = folder / "again" / build_meta.build_wheel(str(folder / "again"))
    assert names(wheel) == names(again), names(wheel) ^ names(again)
    return wheel


def names(wheel):
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def installed(wheel, environment):
    """Python of a fresh environment that holds the wheel and what it asks for."""
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel)
    run(python, "-m", "pip", "check")
    return python


def used(kipx, folder):
    folder.mkdir()
    run(kipx, "distill", "steps=3", "baseline.draws=1", cwd=folder)
    run(kipx, "distill", "-m", "+experiment=digits_fixed_labels", "seed=0,1", "steps=1", "baseline.draws=1", cwd=folder)
    run(kipx, "distill", "+table1=mnist", "--cfg", "job", cwd=folder)
    assert len(list(folder.rglob("support.npz"))) == 3
    refused = subprocess.run([kipx, "distill", "no_such_key=1"], cwd=folder, env=clean(), check=False)
    assert refused.returncode == 2, refused


def run(*command, cwd=None):
    print(*(pathlib.Path(command[0]).name, *command[1:]), flush=True)
    subprocess.run(command, cwd=cwd, env=clean(), check=True)


def clean():
    """The environment without what would lead back to the sources."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


if __name__ == "__main__":
    main()
