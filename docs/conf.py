"""The documentation site: `make docs` builds it from these pages and the docstrings, without network."""

import importlib.metadata
import re
from xml.etree import ElementTree

import ziamath
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

project = "kipx"
author = "The kipx authors"
copyright = "The kipx authors; Apache-2.0"
release = importlib.metadata.version("kipx")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["results/*/**"]  # run folders
default_role = "py:obj"  # what docstrings put in backticks
highlight_language = "none"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]

html_theme = "furo"
html_title = "kipx"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "drawn"
ziamath.config.svg2 = False  # no names that two formulas could share
ziamath.config.precision = 3
PIXELS = 16  # of a letter's height while it is drawn


def source_as_field(app, what, name, obj, options, lines):
    """Puts a docstring's `Source: ...` among the fields that napoleon makes of the other sections."""
    text = re.sub(r"^Source: ((?:.+\n?)+)", _field, "\n".join(lines), flags=re.MULTILINE)
    lines[:] = text.splitlines()


def _field(found):
    return "\n:Source: " + found[1].replace("\n", "\n   ")


LINKED = (nodes.reference, nodes.title, addnodes.pending_xref)


class NamesAsLinks(SphinxTransform):
    """Code that names something of kipx leads to it in the reference, and stays plain on GitHub."""

    default_priority = 400

    def apply(self, **_):
        """Wraps what is not in a link already."""
        for code in list(self.document.findall(nodes.literal)):
            name = code.astext()
            if re.fullmatch(r"kipx(\.\w+)+", name) and not isinstance(code.parent, LINKED):
                link = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=name, refwarn=False)
                code.replace_self(link)
                link += code


def math_inline(self, node):
    """Formulas are drawn here, so that they look alike everywhere and need no script, font or network."""
    self.body.append(_drawn(node.astext(), inline=True))
    raise nodes.SkipNode


def math_block(self, node):
    """As `math_inline`, on lines of their own."""
    self.body.append(f'<div class="math">{_drawn(node.astext(), inline=False)}</div>')
    raise nodes.SkipNode


def _drawn(latex, *, inline):
    formula = ziamath.Latex(latex, size=PIXELS, inline=inline, color="currentColor")
    drawn = formula.svgxml()
    sides = "; ".join(f"{side}: {float(drawn.attrib.pop(side)) / PIXELS:.3f}em" for side in ("width", "height"))
    drawn.set("style", f"{sides}; vertical-align: {formula.getyofst() / PIXELS:.3f}em")
    drawn.set("role", "img")
    drawn.set("aria-label", latex)
    return ElementTree.tostring(drawn, encoding="unicode")


def short_arrays(app, what, name, obj, options, signature, returned):
    """Names JAX's arrays as its users do."""
    return tuple(text and text.replace("jaxlib._jax.Array", "Array") for text in (signature, returned))


def skip_fields(app, what, name, obj, skip, options):
    """Fields of named tuples stand in their class's docstring."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """What the lines above need of Sphinx."""
    app.connect("autodoc-process-docstring", source_as_field, priority=900)
    app.connect("autodoc-process-signature", short_arrays)
    app.connect("autodoc-skip-member", skip_fields)
    app.add_transform(NamesAsLinks)
    app.add_html_math_renderer("drawn", (math_inline, None), (math_block, None))
