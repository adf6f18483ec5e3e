"""The syntax trees of programs, kept between runs: parsing a text takes many times as long as
reading its tree, and importing the parser as long as that.

An entry is found by a hash of the text, of the grammar and of all that makes trees of texts. A text
with an error or a warning has no entry: it is parsed again, and gives the same messages. The
library's trees are part of the package (`dsl/syntax/stored_trees.py`, which has the form, too).
Tests: tests/runtime/test_kept_trees.py.
"""

from __future__ import annotations

from .. import __version__
from ..dsl.diagnostics.diagnostic import Report
from ..dsl.syntax import ast as s
from ..dsl.syntax.parser import grammar, parse
from ..dsl.syntax.source import Source
from ..dsl.syntax.stored_trees import tree_of, tree_text
from .cache import digest_of, kernel_cache
from .installed import texts_digest


def parse_kept(source: Source, report: Report) -> s.File:
    """As `parse`, from the cache where the same text was parsed before."""
    entries = kernel_cache()
    if entries is None:
        return parse(source, report)
    name = _name(source.text)
    stored = entries.read(name)
    if stored is not None:
        # Its checksum says that it is what was written below.
        found = tree_of(stored.decode(), source)
        assert isinstance(found, s.File)
        return found
    before = len(report.diagnostics)
    file = parse(source, report)
    if len(report.diagnostics) == before:
        entries.write(name, tree_text(file).encode())
    return file


def _name(text: str) -> str:
    name = digest_of(__version__, texts_digest("dsl/syntax"), grammar(), text)
    return f"{name}.tree"
