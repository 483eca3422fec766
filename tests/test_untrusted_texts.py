"""Attacks by names and notes that others wrote: on the terminal, in tables, on cards, in pictures and pages."""

import markdown_it
import numpy as np
import pytest
import yaml
from attacks import CONFIG, DIGITS, NAMES, PIXELS, SECRET, save
from in_process import refused, run

from kipx import artifacts, checks
from kipx.commands import export
from kipx.report import pages, pictures
from kipx.report.tables import Table, markdown

pytestmark = pytest.mark.usefixtures("within_time")


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e[red]a[/red] [link=http://evil]b[/link] |\n<script>alert(1)</script>"


@pytest.mark.parametrize("command", ["evaluate", "export", "report", "analyze"])
def test_no_terminal_is_told_anything(command, tmp_path):
    given = save(tmp_path / "g[red]iven", names=(ESCAPES, *NAMES[1:]))
    artifacts.write_config(given, {**CONFIG, ESCAPES: ESCAPES, "support": {"per_class": 1}, "steps": 1})
    artifacts.write_json(given / "summary.json", {"test_accuracy": 0.5, ESCAPES: ESCAPES})
    artifacts.write_json(given / "job.json", {"message": ESCAPES, "code": 3})
    (given / "overrides.yaml").write_text(yaml.safe_dump([ESCAPES]))
    more = {"export": ["format=torch"], "analyze": ["question=labels"]}.get(command, [])
    ended = run(tmp_path, command, "run='g[red]iven'", *more)
    assert ended.code == 0, ended.err
    assert not set(ended.out + ended.err) & set("\x1b\x07\x9b\r\u202e")
    assert "g[red]iven" in ended.out


@pytest.mark.parametrize("command", ["evaluate", "distill"])
def test_no_message_moves_the_cursor(command, tmp_path):
    given = save(tmp_path / "given", {**CONFIG, ESCAPES: 1, "dataset": {**DIGITS, ESCAPES: ESCAPES}})
    artifacts.write_config(given, {**CONFIG, ESCAPES: ESCAPES})
    ended = run(tmp_path, command, "run=given" if command == "evaluate" else "resume=given")
    assert refused(ended)
    assert "\\x1b" in ended.err and ended.err[:-1].isprintable()


@pytest.mark.parametrize(
    "text", ["a|b", "a\\|b", "a\\\\|b", "a\nb", "a\r\nb|", "`a|b`", "<script>x</script>", "a\\", "|"]
)
def test_no_cell_leaves_its_table(text, tmp_path):
    page = markdown(Table(f"title\n{text}", ("one", "two"), [(text, "next"), ("x", text)], (f"note\n{text}",)))
    tokens = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)
    cells = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    assert len(cells) == 4
    shown = ["".join(part.content for part in cell.children) for cell in cells]
    shown_as = checks.printable(text).replace("`", "") if text.startswith("`") else checks.printable(text)
    assert shown == [shown_as, "next", "x", shown_as]
    assert not [part for cell in cells for part in cell.children if part.type == "html_inline"]


def test_no_name_breaks_the_card(tmp_path):
    names = ("a\n# Heading\n", "<img src=x onerror=alert(1)>", "| a | b |", "`code`", "---\nlicense: x\n---")
    config = {**CONFIG, "source": {"file": "x`\n# Heading", "sha256": "`<b>"}}
    given = save(tmp_path / "given", config, names)
    for form in export.FORMATS:
        folder, _ = export.run(given, format=form, out=tmp_path / form)
        text = (folder / "README.md").read_text()
        if form == "hf":
            front = yaml.safe_load(text.removeprefix("---\n").split("\n---\n\n#")[0])
            stated = (
                front["configs"][0]["data_files"],
                front["configs"][0]["features"][1]["dtype"]["class_label"]["names"],
            )
            assert list(stated[1].values()) == list(names)
            text = "#" + text.split("\n---\n\n#", 1)[1]
        tokens = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
        headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
        assert headings[1:] == ["Where it comes from", "Files", "Use"]
        kinds = {part.type for token in tokens for part in [token, *(token.children or [])]}
        assert not kinds & {"html_block", "html_inline", "hr"}


@pytest.mark.parametrize("name", ["$x$", "$\\frac{$", "a$b$c$", "\0", "\n", "$" * 100, "x" * 10**5, "_", "\u202e"])
def test_no_name_is_a_formula(name, tmp_path):
    images = PIXELS[:2]
    assert pictures.support_png(images, images, np.eye(2), (name, name)).startswith(b"\x89PNG")
    assert pictures.labels_png(images, np.eye(2), (name, name)).startswith(b"\x89PNG")


def test_a_link_puts_no_other_file_into_the_page(tmp_path):
    (tmp_path / "id_rsa").write_text(SECRET)
    (tmp_path / "given" / "analysis").mkdir(parents=True)
    (tmp_path / "given" / "analysis" / "a.png").symlink_to(tmp_path / "id_rsa")
    (tmp_path / "given" / "analysis" / "b.png").write_bytes(b"\x89PNG")
    assert [title for title, _ in pages._analysis(tmp_path / "given")] == ["kipx analyze: b"]
