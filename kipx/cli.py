"""The command line: `kipx <command> overrides`, one short function per command.

Nothing heavy is imported before a command runs, so that help and completion answer at once.
"""

import os
import pathlib
import sys

from hydra.core.hydra_config import HydraConfig

from kipx import app, checks, exits, notes

HELP = """kipx distils data sets with the kernels of infinitely wide networks.

  kipx distill [overrides]       learn a small support set; alone: the demo, digits in under 90 seconds
  kipx label-solve [overrides]   solve for the labels that natural images should have
  kipx evaluate run=<folder>     the test accuracy of a distilled set, again or under another kernel
  kipx transfer run=<folder>     that of finite networks trained on it, beside sets that nobody learned
  kipx analyze run=<folder>      what the images and labels became, and why they work; question=images, labels, ...
  kipx plan [overrides]          what a distill with the same overrides will take: hours, memory, disk
  kipx export run=<folder>       a distilled set for others: format=npz, torch, safetensors or hf, with a data card
  kipx import path=<file>        a set that others made: the paper's npz, the .pt of DC, DSA, MTT, DD-Ranking
  kipx prepare dataset=<name>    download a published data set, or take its files from dataset.raw_dir=<folder>
  kipx report run=<folder>       the runs in a folder as a table; table=table1 puts them beside the paper's

  kipx <command> --help          its options; -m for a sweep; --cfg job prints the config
  eval "$(kipx --shell-completion install=bash)"     completes options with the tab key"""


def distill(cfg):
    """Learns a support set, in the folder that Hydra opened or in the one to resume."""
    from kipx import arguments
    from kipx.commands import distill as command

    _run_in_folder(command, cfg, arguments.DISTILL, arguments.distill)


def label_solve(cfg):
    """Solves for labels, in the folder that Hydra opened or in the one to resume."""
    from kipx import arguments
    from kipx.commands import label_solve as command

    _run_in_folder(command, cfg, arguments.LABEL_SOLVE, arguments.label_solve)


def plan(cfg):
    """Says what a run will take, before it runs."""
    import time

    began = time.monotonic()
    from kipx import arguments, config
    from kipx.commands import plan as command
    from kipx.commands import plan_table
    from kipx.engine import hosts

    _start_jax()
    folder = pathlib.Path(HydraConfig.get().runtime.output_dir)
    values = config.plain(cfg, arguments.PLAN)
    result = command.run(folder, config=values, began=began, **arguments.plan(values))
    if hosts.leads():
        _print_table(*plan_table.table(result, folder))


def evaluate(cfg):
    """Measures a distilled set again."""
    from kipx import arguments, artifacts, config, merged
    from kipx.commands import evaluate as command
    from kipx.engine import hosts

    _start_jax()
    distilled = artifacts.load(checks.text("run", cfg.run))
    values = config.plain(merged.with_run(cfg, distilled.config), arguments.EVALUATE)
    result = command.run(distilled, **arguments.evaluate(values))
    if hosts.leads():
        folder = pathlib.Path(HydraConfig.get().runtime.output_dir)
        artifacts.write_json(folder / "evaluation.json", {**values, **result})
        _print_table(*command.table(result, cfg.run))


def transfer(cfg):
    """Trains finite networks on a distilled set."""
    from kipx import arguments, merged
    from kipx.commands import transfer as command
    from kipx.commands import transfer_set

    _start_jax()
    folder, overrides, cfg = _new_or_resumed(cfg, merged.TRANSFER_MAY_CHANGE)
    values, distilled = transfer_set.read(cfg)
    summary = command.run(folder, overrides=overrides, config=values, **arguments.transfer(values, distilled))
    _print_end(*command.table(folder, summary), columns=command.COLUMNS)


def analyze(cfg):
    """Answers questions about a distilled set, and prints each answer as it comes."""
    from kipx import arguments, artifacts, config, merged
    from kipx.commands import analyze as command
    from kipx.engine import hosts

    _start_jax()
    distilled = artifacts.load(checks.text("run", cfg.run))
    values = config.plain(merged.with_run(cfg, distilled.config), arguments.ANALYZE)
    for table, path in command.run(values["run"], distilled, **arguments.analyze(values)):
        closing = [*table.notes, *([f"written to {path}"] if path else [])]
        if hosts.leads():
            _print_table(table.title, table.rows, "\n".join(closing), columns=table.columns)


def export(cfg):
    """Writes a distilled set in a format that others read."""
    from kipx import arguments, config
    from kipx.commands import export as command

    cfg.run, cfg.format  # noqa: B018  the user is asked for what is missing
    _print_table(*command.table(*command.run(**config.plain(cfg, arguments.EXPORT))))


def import_set(cfg):
    """Reads a distilled set that others made into a run folder."""
    from kipx import arguments, artifacts, config, formats
    from kipx.commands import import_config
    from kipx.commands import import_set as command

    _start_jax()
    overrides, folder = list(HydraConfig.get().overrides.task), pathlib.Path(HydraConfig.get().runtime.output_dir)
    source = config.plain({"path": cfg.path, "labels": cfg.labels, "entry": cfg.entry}, arguments.SOURCE)
    arrays = formats.read(source["path"], labels=source["labels"]["path"], entry=source["entry"])
    saved = artifacts.read_text(arrays["config"], cfg.path) if formats.is_own(arrays) else None
    cfg = import_config.complete(cfg, saved, overrides)
    values = config.plain(cfg, arguments.IMPORT if saved is None else arguments.IMPORT_OWN)
    given = arguments.import_set(values)
    found = command.run(folder, arrays, overrides=overrides, config=values, **given)
    _print_table(*command.table(folder, found, arrays))


def prepare(cfg):
    """Makes a published data set ready to be read."""
    from kipx import arguments, config
    from kipx.commands import prepare as command

    values = arguments.prepare(config.plain(cfg, arguments.PREPARE))
    if values["name"] is None:
        return print(f"dataset={HydraConfig.get().runtime.choices.dataset} needs no preparing; see kipx prepare --help")
    _print_table(*command.table(values["name"], command.run(**values)))


def report(cfg):
    """Shows the runs in a folder."""
    from kipx import arguments, config
    from kipx.commands import report as command

    values = config.plain(cfg, arguments.REPORT)
    html, to, where = values.pop("html") and values["table"] == "runs", values.pop("to"), values.pop("wandb")
    if to is not None:
        checks.one_of("to", to, ("wandb",))
    table, troubles, path = command.run(**values)
    page, more = command.write_pages(values["run"]) if html else (None, [])
    written = [f"written to {one}" for one in (path, page) if one]
    written += [command.publish(values["run"], **where)] if to else []
    closing = [*table.notes, *troubles, *more, *written]
    _print_table(table.title, table.rows, "\n".join(closing), columns=table.columns)


COMMANDS = {
    "distill": distill,
    "label-solve": label_solve,
    "evaluate": evaluate,
    "transfer": transfer,
    "analyze": analyze,
    "plan": plan,
    "prepare": prepare,
    "export": export,
    "import": import_set,
    "report": report,
}


def main():
    """Runs one command and exits with a code of `kipx.exits`."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        return app.complete(COMMANDS, arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        return print(HELP)
    try:
        exits.heed_sigterm()
        exits.leave(run(arguments[0], arguments[1:]))
    except KeyboardInterrupt as error:  # before the command has begun, or behind its end
        exits.leave(exits.say(*exits.explain(error, arguments[0])))


def run(command, arguments):
    """The exit code of a command, see `app.run`."""
    return app.run(COMMANDS, command, arguments)


def _run_in_folder(command, cfg, schema, build):
    """Runs a command that can be resumed; prints its table."""
    from kipx import config
    from kipx.engine import hosts

    _start_jax()
    folder, overrides, cfg = _new_or_resumed(cfg)
    values = config.plain(cfg, schema)
    summary = command.run(folder, overrides=overrides, config=values, **build(values))
    if hosts.leads():
        _print_end(*command.table(folder, summary))


def _new_or_resumed(cfg, *may_change):
    """(folder, overrides, config): of a new run, or of the one to resume, which has its overrides already."""
    from kipx import merged

    overrides = list(HydraConfig.get().overrides.task)
    if cfg.resume is None:
        return pathlib.Path(HydraConfig.get().runtime.output_dir), overrides, cfg
    return pathlib.Path(checks.text("resume", cfg.resume)), None, merged.resumed(cfg, overrides, *may_change)


def _start_jax():
    """float64 for the solves; float32 kernels stay float32."""
    import jax

    jax.config.update("jax_enable_x64", True)


def _print_end(*table, **how):
    """Prints the table that a run ends with; the run is whole without it."""
    try:
        _print_table(*table, **how)
    except checks.StorageError as error:
        notes.note(error)


def _print_table(title, rows, closing, columns=()):
    from rich.table import Table
    from rich.text import Text

    from kipx import files, track

    title = Text(checks.printable(title), style="table.title")  # a Text in which brackets are brackets
    table = Table(title=title, title_justify="left", show_header=bool(columns))
    for name in columns:
        table.add_column(Text(checks.printable(name.lstrip(">"))), justify="right" if name.startswith(">") else "left")
    for row in rows:
        table.add_row(*(Text(checks.printable(cell)) for cell in row))
    console = track.Steady()
    if columns and not console.is_terminal:
        console.width = 250  # nobody's screen
    try:
        with files.storing("stdout"):
            console.print(table)
            for line in closing.split("\n"):
                console.print(Text(checks.printable(line)), soft_wrap=True)
    except checks.StorageError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes what is left when it ends
        if not isinstance(error.__cause__, BrokenPipeError):  # `| head` has read what it wanted
            raise
