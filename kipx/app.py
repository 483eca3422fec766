"""A command as a Hydra job: its config composed, its errors turned into one line and an exit code."""

import os
import pathlib
import re
import signal
import sys
import traceback
from importlib import resources

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from kipx import checks

SWEEPS = "hydra.searchpath=[pkg://kipx.sweeps]"  # no config may include one that says this itself
_failures = []  # of the one job of this process, if it failed; Hydra would print a line of its own


def run(commands, command, arguments):
    """The exit code of a command; what went wrong in one line, unless it is a fault of ours."""
    try:
        checks.one_of("command", command, tuple(commands))
        _hydra(commands, command, [*without_plus(command, arguments), *_resume_folder(arguments)])
    except checks.UserError as error:
        return _say(error, 2)
    except checks.NumericalError as error:
        return _say(error, 3)
    except checks.EngineError as error:
        return _say(error, 4)
    except (HydraException, OmegaConfBaseException) as error:
        return _say(_in_one_line(error, command), 2)
    except KeyboardInterrupt as stopped:
        return _say(str(stopped) or "interrupted", 128 + getattr(stopped, "number", signal.SIGINT))
    except Exception:
        if not _one_of_many():
            raise
        traceback.print_exc()
        return 1
    return 0


def leave(code):
    """Exits. One of several processes that failed goes at once: saying goodbye, it would wait for the others."""
    if code and _one_of_many():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _one_of_many():
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _hydra(commands, command, arguments):
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing them itself
    _failures.clear()
    sys.argv = [sys.argv[0], *_with_sweeps(arguments)]
    hydra.main(version_base="1.3", config_path="pkg://kipx.conf", config_name=command)(_job(commands[command]))()
    for error in _failures:
        raise error


def _with_sweeps(arguments):
    """With the folder of sweeps on the search path; overrides must stand together."""
    if {"-sc", "--shell-completion"} & set(arguments):
        return arguments
    first = next((i for i, a in enumerate(arguments) if "=" in a and not a.startswith("-")), len(arguments))
    return [*arguments[:first], SWEEPS, *arguments[first:]]


def _job(command):
    """The command as a Hydra job; a job of a sweep raises, so that Hydra goes on and says which one failed."""

    def job(cfg):
        folder = pathlib.Path(HydraConfig.get().runtime.output_dir)
        try:
            command(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            _failures.append(error)
        finally:
            if folder.is_dir() and not any(folder.iterdir()):  # of a refused run, or of a process that does not lead
                folder.rmdir()

    return job


def without_plus(command, arguments):
    """The arguments; groups that the command's defaults list holds open lose their plus, which Hydra would refuse."""
    opened = tuple(f"+{group}=" for group in _open_groups(command))
    return [argument[1:] if argument.startswith(opened) else argument for argument in arguments]


def _open_groups(config):
    """Groups that a config, or one that it includes, has in its defaults list without a choice."""
    text = (resources.files("kipx.conf") / f"{config}.yaml").read_text()
    included = [name for name in re.findall(r"^  - (\w+)$", text, re.MULTILINE) if name != "_self_"]
    return [*re.findall(r"^  - (\w+): null", text, re.MULTILINE), *(g for name in included for g in _open_groups(name))]


def _resume_folder(arguments):
    """Hydra's run folder of a resumed run is the run's own."""
    folder = next((a.partition("=")[2] for a in arguments if a.startswith("resume=")), "null").strip("'\"")
    if folder == "null" or {"-m", "--multirun"} & set(arguments):
        return []
    if not (pathlib.Path(folder) / "config.yaml").is_file():
        raise checks.UserError(f"resume: expected a run folder, one with config.yaml, got {folder}")
    quoted = folder.replace("'", "\\'")
    return [f"hydra.run.dir='{quoted}'"]


def _in_one_line(error, command):
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: expected a value, got none; give {error.full_key}=..."
    lines = [line.strip() for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    unknown = re.match(r"Could not override '(.*)'", lines[0]) if lines else None
    if unknown:
        return f"{unknown[1]}: unknown key or group; kipx {command} --help lists them"
    return " ".join(lines) or type(error).__name__


def _say(message, code):
    print(f"kipx: {message}", file=sys.stderr)
    return code


def complete(commands, arguments):
    """Completes the command itself; what follows is Hydra's."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if not arguments[1].startswith("query=") or (words[1:2] and words[1] in commands and len(words) > 2):
        command = words[1] if words[1:2] and words[1] in commands else "distill"
        os.environ["COMP_LINE"] = " ".join([words[0], SWEEPS, *words[2:]])
        return _hydra(commands, command, arguments)
    print(" ".join(name for name in commands if name.startswith(words[-1])))
