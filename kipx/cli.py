"""The command line: `kipx <command> overrides`, one short function per command.

Nothing heavy is imported before a command runs, so that help and completion answer at once.
"""

import os
import pathlib
import re
import signal
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from kipx import checks

HELP = """kipx distils data sets with the kernels of infinitely wide networks.

  kipx distill [overrides]       learn a small support set; alone: the demo, digits in under 90 seconds
  kipx evaluate run=<folder>     the test accuracy of a distilled set, again or under another kernel

  kipx <command> --help          its options; -m for a sweep; --cfg job prints the config
  eval "$(kipx --shell-completion install=bash)"     completes options with the tab key"""


def distill(cfg):
    """Learns a support set, in the folder that Hydra opened or in the one to resume."""
    from kipx import config
    from kipx.commands import distill as command
    from kipx.engine import hosts

    _start_jax()
    folder, overrides = pathlib.Path(HydraConfig.get().runtime.output_dir), list(HydraConfig.get().overrides.task)
    resume = cfg.resume is not None
    if resume:
        folder, cfg = pathlib.Path(cfg.resume), config.resumed(cfg, overrides)
    values = config.plain(cfg, config.DISTILL)
    summary = command.run(folder, overrides=None if resume else overrides, config=values, **config.distill(values))
    if hosts.leads():
        _print_table(*command.table(folder, summary))


def evaluate(cfg):
    """Measures a distilled set again."""
    from kipx import artifacts, config
    from kipx.commands import evaluate as command
    from kipx.engine import hosts

    _start_jax()
    distilled = artifacts.load(cfg.run)
    values = config.plain(config.with_run(cfg, distilled.config), config.EVALUATE)
    result = command.run(distilled, **config.evaluate(values))
    if hosts.leads():
        folder = pathlib.Path(HydraConfig.get().runtime.output_dir)
        artifacts.write_json(folder / "evaluation.json", {**values, **result})
        _print_table(*command.table(result, cfg.run))


COMMANDS = {"distill": distill, "evaluate": evaluate}
_failures = []  # of the one job of this process, if it failed; Hydra would print a line of its own


def main():
    """Runs one command and exits.

    0 done, 2 the user's mistake, 3 numerical failure, 4 a process or worker lost, 130 and 143 interrupted.
    """
    arguments = sys.argv[1:]
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        return _complete(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        return print(HELP)
    _leave(run(arguments[0], arguments[1:]))


def run(command, arguments):
    """The exit code of a command; what went wrong in one line, unless it is a fault of ours."""
    try:
        checks.one_of("command", command, tuple(COMMANDS))
        _hydra(command, [*map(_without_plus, arguments), *_resume_folder(arguments)])
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


def _leave(code):
    """Exits. One of several processes that failed goes at once: saying goodbye, it would wait for the others."""
    if code and _one_of_many():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _one_of_many():
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _hydra(command, arguments):
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing them itself
    _failures.clear()
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path="pkg://kipx.conf", config_name=command)(_job(COMMANDS[command]))()
    for error in _failures:
        raise error


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


def _start_jax():
    """float64 for the solves; float32 kernels stay float32."""
    import jax

    jax.config.update("jax_enable_x64", True)


def _without_plus(argument):
    """Both groups are in the defaults list already, where Hydra refuses a plus."""
    return argument[1:] if argument.startswith(("+debug=", "+experiment=")) else argument


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


def _print_table(title, rows, closing):
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(closing, highlight=False, soft_wrap=True)


def _complete(arguments):
    """Completes the command itself; what follows is Hydra's."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if not arguments[1].startswith("query=") or (words[1:2] and words[1] in COMMANDS and len(words) > 2):
        command = words[1] if words[1:2] and words[1] in COMMANDS else "distill"
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        return _hydra(command, arguments)
    print(" ".join(name for name in COMMANDS if name.startswith(words[-1])))
