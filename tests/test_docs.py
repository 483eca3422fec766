"""The pages of docs/ and the README: commands run, or at least compose; names, files and links are there.

A block of commands runs in a folder of its page's own, unless the line above it is `<!-- not run: why -->`; below
`<!-- into: path -->` it becomes part of that file, in a copy of the sources. Pages that kipx wrote record what was run.
"""

import configparser
import doctest
import functools
import importlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from markdown_it import MarkdownIt
from omegaconf import OmegaConf
from test_config import ROOT, composed, resolved

from kipx import app, arguments, cli, config, merged
from kipx.commands import report

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if p.parent.parent != DOCS / "results")]
MARKER = re.compile(r"<!-- (not run|into): (.+) -->\s*")
INDENTED = "indented"
PROGRAMS = ("kipx", "make", "python", "pip", "wandb")


class Block(NamedTuple):
    """A block of code on a page; `marker` is what the line above says of it, `about` the rest of that line."""

    language: str
    text: str
    marker: str | None
    about: str | None


def named(page):
    return str(page.relative_to(ROOT))


def tokens(page):
    return MarkdownIt().enable("table").parse(page.read_text())


def blocks(page):
    """Fenced blocks, and indented ones of commands."""
    above = None
    for token in tokens(page):
        if token.type == "fence" or (token.type == "code_block" and token.content.startswith(PROGRAMS)):
            yield Block(token.info or INDENTED, token.content, *(above.groups() if above else (None, None)))
        above = MARKER.fullmatch(token.content) if token.type == "html_block" else None


def inline(page):
    """Code in lines of text."""
    for token in tokens(page):
        yield from (child.content for child in token.children or () if child.type == "code_inline")


def commands(page):
    """Every command line of a page, in words; what stands for something of the user's is an x or a number."""
    texts = [block.text for block in blocks(page) if block.language in ("bash", INDENTED)]
    for text in [*texts, *(text for text in inline(page) if text.startswith("kipx ") and "..." not in text)]:
        plain = re.sub(r"<\w[^<>]*>", "x", text.replace("<more>", "9").replace("srun ", ""))
        for line in plain.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"^([A-Z_]+=\S* )+", "", line.strip()), comments=True)
            while words:
                end = next((i for i, word in enumerate(words) if word in ("&&", "&", "|", ">")), len(words))
                if words[:end]:
                    yield words[:end]
                words = words[end + 1 :] if words[end : end + 1] != [">"] else []


def overrides_of(words):
    """The overrides of the first job of a command line."""
    typed = app.without_plus(words[0], [word for word in words[1:] if re.match(r"[+~]*[\w/@.]+=", word)])
    for text, parsed in zip(typed, OverridesParser.create().parse_overrides(typed), strict=True):
        if not parsed.is_sweep_override():
            yield text
            continue
        assert {"-m", "--multirun"} & set(words), text
        yield f"{parsed.get_key_element()}={next(parsed.sweep_string_iterator())}"


@functools.cache
def of_pages():
    """The options that pages make: their commands compose where these pages are run."""
    paths = [pathlib.Path(block.about) for page in PAGES for block in blocks(page) if block.marker == "into"]
    return {f"{path.parent.name}={path.stem}" for path in paths if path.suffix == ".yaml"}


def check_kipx(words):
    """A command, its groups, keys and types; of a set that is not there that it is the demo's."""
    if words[0].startswith(("-", "x")) or len(words) == 1 or of_pages() & set(words):
        return
    assert words[0] in cli.COMMANDS
    overrides = list(overrides_of(words))
    if words[0] == "transfer":
        others = [override for override in overrides if not override.startswith("run=")]
        return config.plain(resolved("transfer", *others), arguments.TRANSFER)
    cfg = composed(*overrides, command=words[0])
    saved = OmegaConf.to_container(composed(), resolve=True)
    if words[0] in ("evaluate", "analyze"):
        config.plain(merged.with_run(cfg, saved), getattr(arguments, words[0].upper()))
    elif words[0] == "import":
        config.plain({"path": cfg.path, "labels": cfg.labels, "entry": cfg.entry}, arguments.SOURCE)
    else:
        values = config.plain(cfg, getattr(arguments, words[0].upper().replace("-", "_")))
        assert values.get("table", "runs") in (*report.TABLES, "table2", *report.FIGURES)


def check_make(words):
    for target in words:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def check_python(words):
    if words[0] == "-c":
        compile(words[1], "-c", "exec")
    else:
        assert words[0] == "-m" or (ROOT / words[0]).is_file(), words


def check_pip(words):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extras in re.findall(r"kipx\[(.+?)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(setup["options.extras_require"]), extras


def check_wandb(words):
    assert words[0] in ("sync", "sweep", "agent")
    assert words[0] != "sweep" or (ROOT / words[1]).is_file()


CHECKS = {
    "kipx": check_kipx,
    "make": check_make,
    "python": check_python,
    "pip": check_pip,
    "wandb": check_wandb,
    "source": lambda words: None,
    "wait": lambda words: None,
}


def check_options(words):
    """The command and the options of groups exist: what can be seen without composing a config."""
    assert words[0] in ("x", *cli.COMMANDS) or words[0].startswith("-")
    for word in words:
        group, _, options = word.lstrip("+").partition("=")
        for folder in (ROOT / "conf" / group, ROOT / "sweeps" / group):
            if options and folder.is_dir() and word not in of_pages():
                assert all((folder / f"{option}.yaml").is_file() for option in options.split(",")), word


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_of_a_page_is_one(page):
    for program, *words in commands(page):
        {**CHECKS, "kipx": check_options}[program](words)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_of_a_page_composes(page):
    for program, *words in commands(page):
        CHECKS[program](words)


def is_a_record(page):
    """Whether a page says what was run, or is the README, which lists what can be."""
    return page == ROOT / "README.md" or "Written by `kipx" in page.read_text()


def runs(page):
    """The blocks of a page that are run, in order."""
    if is_a_record(page):
        return []
    return [b for b in blocks(page) if b.marker == "into" or (b.language in ("bash", "python") and not b.marker)]


def sources(folder):
    """A copy of kipx as a wheel has it, to be changed."""
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kipx", folder / "kipx", ignore=skipped)
    for name in ("conf", "sweeps"):
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
        (folder / "kipx" / name).symlink_to(folder / name)
    return folder


def environment(changed):
    """What a reader's shell has, with kipx as the page changes it."""
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = {**os.environ, "PATH": path, "XLA_FLAGS": "", "WANDB_MODE": "offline"}
    return {**known, "PYTHONPATH": str(changed)} if changed else known


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)], ids=named)
def test_what_a_page_says_runs(page, tmp_path):
    found, scratch = runs(page), tmp_path / "scratch"
    scratch.mkdir()
    changed = sources(tmp_path / "sources") if any(block.marker == "into" for block in found) else None
    for block in found:
        if block.marker == "into":
            with open(changed / block.about, "a") as file:
                file.write(f"\n\n{block.text}")
            continue
        shell = ["bash", "-euo", "pipefail", "-s"] if block.language == "bash" else [sys.executable, "-"]
        around = {"cwd": scratch, "env": environment(changed), "timeout": 900}
        done = subprocess.run(shell, input=block.text, capture_output=True, text=True, **around)
        assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_how_tos_are_run():
    for page in PAGES:
        assert is_a_record(page) or INDENTED not in [block.language for block in blocks(page)], f"{page}: wants ```bash"
    how_tos = ("start", "tutorial", "kernels_alone", "own_data", "own_architecture", "own_augmentation", "cluster")
    for name in (*how_tos, "resume", "wandb"):
        assert runs(DOCS / f"{name}.md"), name


def test_the_formulas_are_what_is_computed():
    for block in runs(DOCS / "mathematics.md"):
        exec(block.text, {})


def links(page):
    """Where a page's links and pictures lead to, in this repository."""
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrs.get("href") or child.attrs.get("src")
            if target and "://" not in target:
                yield target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_names_and_files_of_a_page_are_there(page):
    for target in links(page):
        assert (page.parent / target.partition("#")[0]).exists(), target
    made = {block.about for block in blocks(page) if block.marker == "into"}
    for text in inline(page):
        if re.fullmatch(r"kipx(\.\w+)+", text):
            assert there(text), text
        if re.fullmatch(r"(kipx|conf|sweeps|benchmarks|tests)/[\w./]+", text) and text not in made:
            assert (ROOT / text).exists(), text


def there(name):
    """Whether a dotted name of a module, or of something in one, leads somewhere."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def test_every_page_is_reached_from_the_index():
    trees = [block.text for block in blocks(DOCS / "index.md") if "toctree" in block.language]
    entries = [line for text in trees for line in text.splitlines() if line and line[0] != ":"]
    listed = [re.sub(r".*<(.+)>", r"\1", entry) for entry in entries]
    reached = {path.with_suffix("") for entry in listed for path in DOCS.glob(f"{entry}.*")}
    assert reached >= {page.with_suffix("") for page in (*PAGES[1:], *DOCS.glob("api/*.rst"))} - {DOCS / "index"}


def documented():
    return re.findall(r"automodule:: (\S+)", "\n".join(p.read_text() for p in DOCS.glob("api/*.rst")))


@pytest.mark.slow
@pytest.mark.parametrize("name", documented())
def test_examples_of_the_reference_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
