"""Bundles: a program, the files that it uses and what it needs of the library in one text.

    ## nnc program
    …                           the file itself
    ## nnc file blocks.nn
    …                           a file that it uses, under the name that `use` gives it
    ## nnc library
    …                           the definitions of the library that any of them needs

A run folder keeps its program so. Each part stays a text of its own: its names mean what they meant
in its file, and the library's text is the library's, which follows rules of its own for messages.
Tests: tests/runtime/test_resolved.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..records import record
from ..syntax.source import Source

_HEAD = "## nnc program\n"
_MARK = re.compile(r"^## nnc (?:library|file (?P<file>.+))$", re.MULTILINE)


@record
class Bundle:
    """The parts of a bundle. `files` are by the paths relative to the program's folder."""

    main: Source
    files: Mapping[str, Source]
    library: Source


def bundle_text(main: str, files: Mapping[str, str], library: str) -> str:
    """The parts as one text."""
    parts = [_HEAD + main, *(f"## nnc file {name}\n{text}" for name, text in files.items())]
    return "\n".join([*parts, f"## nnc library\n{library}"])


def unbundle(source: Source) -> Bundle | None:
    """The parts of a text that `bundle_text` made; None for any other text."""
    text = source.text
    if not text.startswith(_HEAD):
        return None
    marks = [*_MARK.finditer(text)]
    ends = [*(m.start() for m in marks), len(text)]
    files: dict[str, Source] = {}
    library = Source(source.name, "", True)
    for mark, end in zip(marks, ends[1:], strict=True):
        # Empty lines in place of the parts before it: messages show the lines of the whole text.
        part = "\n" * text.count("\n", 0, mark.end()) + text[mark.end() : end]
        if mark["file"]:
            files[mark["file"]] = Source(source.name, part)
        else:
            library = Source(source.name, part, True)
    return Bundle(Source(source.name, text[: ends[0]]), files, library)
