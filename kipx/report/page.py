"""A report as one HTML file that needs nothing else: no network, no other file."""

import base64
import importlib.resources
import urllib.parse
from typing import NamedTuple

import jinja2

TEMPLATE = "page.jinja"


class Frames(NamedTuple):
    """A sheet of images at several times, to be moved through with a slider.

    Attributes:
      labels: of each time, such as 'step 12'.
      sheets: PNG as bytes of each, all laid out alike.
      columns: cells in a row of a sheet.
      names: of each cell, in reading order.
      note: a line below.
    """

    labels: list
    sheets: list
    columns: int
    names: list
    note: str


class Page(NamedTuple):
    """What a report says, in the order in which it says it.

    Attributes:
      title: one line.
      lead: one sentence below it.
      facts: (number, what it is) of the few that matter most.
      command: what to type to repeat it; '' where that is not known.
      warnings: lines on what has not ended, failed or could not be read.
      frames: Frames, or None.
      figures: (title, picture as a data URI), side by side where there is room.
      pictures: the same, one below the other.
      tables: kipx.report.tables.Table.
      details: the same, folded away.
      links: (text, where, what it is) of files and pages, seen from the page's own folder.
      hrefs: {first cell of a row: where} of rows of `tables` that lead somewhere.
    """

    title: str
    lead: str
    facts: list
    command: str = ""
    warnings: list = ()
    frames: Frames | None = None
    figures: list = ()
    pictures: list = ()
    tables: list = ()
    details: list = ()
    links: list = ()
    hrefs: dict = {}  # noqa: RUF012  never written to


def render(page):
    """The page as HTML; every text in it is escaped.

    Args:
      page: Page.
    Returns:
      str.
    """
    loader = jinja2.DictLoader({TEMPLATE: (importlib.resources.files(__package__) / TEMPLATE).read_text()})
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(png=lambda content: data_uri(content, "image/png"), path=_path)
    return environment.get_template(TEMPLATE).render(page=page)


def data_uri(content, kind):
    """A picture's bytes as what stands in an img's src."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _path(where):
    """A file's relative address: never one with a scheme, whatever the file is called."""
    return "./" + urllib.parse.quote(str(where))
