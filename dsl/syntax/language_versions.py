"""Versions of the language: `language 1`, the first line of a file, says which it is written in.

A file without that line is one of version 1. `nnc fix` writes the line; once there is a second
version, it rewrites what that means otherwise. Tests: tests/language/test_language_version.py.
"""

from __future__ import annotations

import re

from ..diagnostics.diagnostic import Report
from .source import Source, Span

CURRENT = 1
FIRST = 1  # that of a file that does not say one

# Before it stand comments and blank lines alone. Found by its own pattern, as the rest of a file of
# another version need not parse.
_LINE = re.compile(r"(?:[ \t\r\f]*(?:#[^\n]*)?\n)*[ \t]*language[ \t]+(?P<version>[^\s#;]+)")


def check_version(source: Source, report: Report) -> bool:
    """Whether the file is of a version that can be read; E0113 if not."""
    found = _LINE.match(source.text)
    if found is None:
        return True
    version, span = found["version"], Span(source, *found.span("version"))
    if not version.isdecimal():
        report.add(
            "E0113",
            f"`{version}` is no version of the language",
            span,
            label="expected a whole number",
            help=f"the current one is `language {CURRENT}`",
        )
    elif int(version) > CURRENT:
        report.add(
            "E0113",
            f"`{source.name}` is written in version {version} of the language",
            span,
            label=f"this nnc knows version {CURRENT}",
            help="it needs a newer nnc: `pip install --upgrade nnc-lang`",
        )
    elif int(version) < FIRST:
        report.add(
            "E0113",
            f"there is no version {version} of the language",
            span,
            label="unknown",
            help=f"the first is `language {FIRST}`",
        )
    else:
        return True
    return False


def stated(text: str) -> str:
    """A program of the current version that says so in its first line."""
    return text if _LINE.match(text) else f"language {CURRENT}\n\n" + text.lstrip("\n")
