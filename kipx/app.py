"""A command as a Hydra job: its config composed, its errors turned into one line and an exit code."""

import contextlib
import io
import os
import pathlib
import re
import sys
import traceback
from functools import partial
from importlib import resources

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from kipx import checks, exits, jobs, sweep

SWEEPS = "hydra.searchpath=[pkg://kipx.sweeps]"  # no config may include one that says this itself
PATHS = ("resume", "run", "path", "dataset.path", "dataset.data_dir", "dataset.raw_dir", "hydra.run.dir")
ONE_OF = ("multirun", "run", "cfg", "info")  # what Hydra does, one at a time
_begun = []  # holds something once overrides have been composed
_failures = []  # of the one job of this process, if it failed; Hydra would print a line of its own


def run(commands, command, arguments):
    """The exit code of a command; what went wrong in one line, unless it is a fault of ours."""
    with sweep.launch() as launch:
        try:
            checks.one_of("command", command, tuple(commands))
            check_options(arguments)
            typed = map(quoted, without_plus(command, arguments))
            _hydra(commands[command], command, [*typed, *_resume_folder(arguments)], launch)
        except (Exception, KeyboardInterrupt) as error:
            failed = sweep.close(launch)
            code, message = sweep.explain(error, command)
            if isinstance(error, KeyboardInterrupt):
                return exits.say(code, message)
            if code != exits.OURS:
                return max(failed, exits.say(code, message))
            if not exits.one_of_many():
                raise
            traceback.print_exc()
            return code
        return sweep.close(launch)


def check_options(arguments):
    """Refuses options that Hydra does not know, or of which it says in a traceback that they do not go together.

    Raises:
      UserError: an unknown option, overrides apart from each other, more than one thing asked for, or --resolve of
        nothing that is shown.
    """
    parser = get_args_parser()
    parser.error = _refuse  # which would print the usage and exit
    given = parser.parse_args([argument for argument in arguments if argument != "--version"])
    asked = [f"--{name}" for name in ONE_OF if getattr(given, name)]
    if given.help or given.hydra_help:
        return
    if len(asked) > 1:
        raise checks.UserError(
            f"{' '.join(asked)}: expected one of them; --cfg and --info show one job, without a sweep"
        )
    if given.resolve and not given.cfg:
        raise checks.UserError("--resolve: expected --cfg job beside it, whose values it resolves")


def _refuse(message):
    raise checks.UserError(f"options: {message}; overrides stand together, and --hydra-help lists the rest")


def _hydra(command, name, arguments, launch):
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing them itself
    _failures.clear()
    _begun.clear()
    sys.argv = [sys.argv[0], *with_sweeps(arguments)]
    task = partial(_job, command, launch)
    task.__module__ = __name__  # Hydra asks
    try:
        hydra.main(version_base="1.3", config_path="pkg://kipx.conf", config_name=name)(task)()
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError) as error:
        if _begun or launch.opened.get("folder") or isinstance(error, HydraException | OmegaConfBaseException):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__  # Hydra lets some overrides lead it to anything
        raise checks.UserError(f"overrides: {checks.said(' '.join(arguments))}: {reason}") from error
    for error in _failures:
        raise error


def with_sweeps(arguments):
    """The arguments with the folder of sweeps on the search path, where the overrides are: they must stand together."""
    if {"-sc", "--shell-completion"} & set(arguments):
        return arguments
    first = next((i for i, a in enumerate(arguments) if a[:1] == "~" or ("=" in a and a[:1] != "-")), 0)
    return [*arguments[:first], SWEEPS, *arguments[first:]]


def _job(command, launch, cfg):
    """A command as Hydra's task function."""
    _begun.append(True)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return jobs.run(command, launch, cfg)
    folder = pathlib.Path(HydraConfig.get().runtime.output_dir)
    try:
        command(cfg)
        jobs.mend(folder)
    except Exception as error:
        _failures.append(error)
    finally:
        if folder.is_dir() and not any(folder.iterdir()):  # of a refused run, or of a process that does not lead
            folder.rmdir()


def without_plus(command, arguments):
    """The arguments; groups that the command's defaults list holds open lose their plus, which Hydra would refuse.

    Hydra refuses an option that is a number too, such as figure=3: it gets quotes.
    """
    opened = re.compile(rf"\+?({'|'.join(_open_groups(command))})=(.*)")

    def plain(argument):
        if not (found := opened.fullmatch(argument)):
            return argument
        group, option = found.groups()
        return f"{group}='{option}'" if option.isdigit() else f"{group}={option}"

    return [plain(argument) for argument in arguments]


def quoted(argument):
    """The argument; a path of characters that Hydra's grammar has other uses for, or does not know, gets quotes.

    Left as they are: quotes, interpolations, Hydra's functions, and several paths where there is none of that name.
    """
    key, _, path = argument.partition("=")
    if key.lstrip("+") not in PATHS or re.fullmatch(r"[\w/.:+@%-]*", path, re.ASCII):
        return argument
    if re.match(r"['\"\[]|\w+\(", path) or "${" in path or ("," in path and not pathlib.Path(path).exists()):
        return argument
    return f"{key}={sweep.in_quotes(path)}"


def _open_groups(config):
    """Groups that a config, or one that it includes, has in its defaults list without a choice."""
    text = (resources.files("kipx.conf") / f"{config}.yaml").read_text()
    included = [name for name in re.findall(r"^  - (\w+)$", text, re.MULTILINE) if name != "_self_"]
    return [*re.findall(r"^  - (\w+): null", text, re.MULTILINE), *(g for name in included for g in _open_groups(name))]


def _resume_folder(arguments):
    """Hydra's run folder of a resumed run is the run's own."""
    folder = next((a.partition("=")[2] for a in arguments if a.lstrip("+").startswith("resume=")), "null").strip("'\"")
    if folder == "null" or {"-m", "--multirun"} & set(arguments):
        return []
    if not (pathlib.Path(folder) / "config.yaml").is_file():
        raise checks.UserError(f"resume: expected a run folder, one with config.yaml, got {folder}")
    return [f"hydra.run.dir={sweep.in_quotes(folder)}"]


def complete(commands, arguments):
    """Completes the command itself; what follows is Hydra's."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if not arguments[1].startswith("query=") or (words[1:2] and words[1] in commands and len(words) > 2):
        command = words[1] if words[1:2] and words[1] in commands else "distill"
        os.environ["COMP_LINE"] = " ".join([words[0], SWEEPS, *words[2:]])
        return _complete_by_hydra(commands[command], command, arguments)
    print(" ".join(name for name in commands if name.startswith(words[-1])))


def _complete_by_hydra(command, name, arguments):
    """Hydra's completions without those of sweeps/wandb, which are no group: it takes every folder for one."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        _hydra(command, name, arguments, jobs.Launch("", ""))
    print(re.sub(r"(?<!\S)\+*wandb=\S*[ \n]?", "", said.getvalue()), end="")
