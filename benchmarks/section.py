"""Sections of a page that commands write: between `<!-- name -->` and `<!-- /name -->`."""


def replaced(page, name, text):
    """The page with another text in a section.

    Raises:
      ValueError: it has no such section, or several.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"expected one {begin} and one {end} in the page")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end)[1]}"
