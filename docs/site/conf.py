"""Settings of Sphinx for the site of these pages; `python tools/site_of_docs.py` builds it."""

from nnc.dsl.syntax.pygments_lexer import NnLexer

project = "nnc"
author = "The nnc authors"
copyright = "the nnc authors, Apache 2.0"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "nnc"
# Every address is relative and nothing is loaded from elsewhere: a folder that can be read without
# a server or a network.
html_permalinks_icon = "#"
html_copy_source = False
html_show_sourcelink = False
html_extra_path = ["extra"]  # the sounds that players of the gallery name
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # links to headings, as `running.md#predicting`


def setup(app) -> None:
    app.add_lexer("nn", NnLexer)
    app.add_lexer("nn-fragment", NnLexer)  # lines of a program, which no test compiles
