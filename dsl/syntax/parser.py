"""Text to syntax tree, by the rules of `grammar.lark`.

In: a `Source`. Out: a `syntax.File` with every comment, and in the `Report` every syntax error
(E01xx). After an error the parser goes on at the next declaration. It does not look up names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput

from ..diagnostics.diagnostic import Report
from ..diagnostics.syntax_errors import explain
from . import ast as s
from .ast_builder import Builder, attach_docs
from .lexer_rules import DTYPES, WORDS, Lines
from .parser_tables import parser_of
from .source import Source, Span

__all__ = ["DTYPES", "MAXIMUM_DEPTH", "WORDS", "parse"]

MAXIMUM_DEPTH = 200  # of the tree, so that every later stage may recurse through it

# What is neither code nor blank; strings and docstrings are here so that a `#` in them is none.
_TRIVIA = re.compile(r'"""(?:(?!""")[\s\S])*"""|"(?:\\.|[^"\\\n])*"|#[^\n]*')

_DECLARATION = re.compile(
    r'^(?=use\s*"|(?:layer|fn|model|optimizer|train)[ \t]+[A-Za-z_])', re.MULTILINE
)


def parse(source: Source, report: Report) -> s.File:
    """The tree of a file; where `report` gains errors, of the declarations that could be read."""
    parts = _read(source, source.text, 0, None)
    if parts is None:
        parts = []
        for start, end in chunks(source.text):
            parts += _read(source, source.text[start:end], start, report) or []
    doc, declarations = attach_docs(parts, report)
    span = Span(source, 0, len(source.text))
    return s.File(span, source, doc, tuple(declarations), tuple(_comments(source)))


def parse_value(source: Source, start: int, report: Report) -> s.Expr | None:
    """The expression that stands in a source from `start` to its end, as a flag's value does; None
    where there is something else. What is wrong in it is marked there."""
    before = "train M {\nvalue = "
    found = Report()
    parts = _read(source, f"{before}{source.text[start:]}\n}}", start - len(before), found) or []
    block = parts[0] if len(parts) == 1 else None
    alone = isinstance(block, s.Train) and not block.doc and len(block.body) == 1
    field = block.body[0] if isinstance(block, s.Train) and alone else None
    spans = [d.span for d in found.diagnostics if d.span is not None]
    if any(not start <= span.start <= len(source.text) for span in spans):
        return None
    report.diagnostics += found.diagnostics
    return field.value if isinstance(field, s.Field) else None


def parse_chunks(source: Source, pieces: Iterable[tuple[int, int]], report: Report) -> list[Any]:
    """The declarations in some of a file's `chunks`, of which the first must be one."""
    parts = []
    for start, end in pieces:
        parts += _read(source, source.text[start:end], start, report) or []
    return attach_docs(parts, report)[1]


# --- reading, and starting over after an error ----------------------------------------------------


@cache
def _machine() -> tuple[Lark, Lines]:
    """The parser of grammar.lark, and what stands between its lexer and its tables."""
    lines = Lines()
    return parser_of(grammar(), lines), lines


def grammar() -> str:
    """The text of grammar.lark."""
    return files(__package__.split(".")[0]).joinpath("grammar.lark").read_text("utf-8")


def _read(source: Source, text: str, offset: int, report: Report | None) -> list[s.Node] | None:
    """The declarations and docstrings of one stretch of text; None if it has a syntax error.

    Without a `report` a syntax error is only noticed: the caller then reads piece by piece.
    """
    machine, lines = _machine()
    try:
        tree = machine.parse(text)
    except UnexpectedInput as error:
        if report is not None:
            found = explain(error, source, text, offset, lines, machine)
            if found not in report.diagnostics:
                report.diagnostics.append(found)
        return None
    deep = _too_deep(tree)
    own = Report()
    builder = Builder(source, offset, own)
    if deep is not None:
        start = offset + deep.meta.start_pos
        own.add(
            "E0110",
            f"this is nested more than {MAXIMUM_DEPTH} levels deep",
            Span(source, start, start + 1),
            label="the level that is too deep",
            help="name a part of it in an equation or a `let` of its own",
        )
    if own.diagnostics and report is None:
        return None
    parts = [] if deep is not None else builder.transform(tree)
    if report is None and own.diagnostics:
        return None
    if report is not None:
        report.diagnostics += [d for d in own.diagnostics if d not in report.diagnostics]
    return parts


def chunks(text: str) -> list[tuple[int, int]]:
    """The text cut before every declaration that begins a line, with the docstring above it."""
    hidden = [m.span() for m in _TRIVIA.finditer(text)]
    starts = []
    k = 0
    for match in _DECLARATION.finditer(text):
        while k < len(hidden) and hidden[k][1] <= match.start():
            k += 1
        if k < len(hidden) and hidden[k][0] < match.start():
            continue  # a line of a docstring
        start = match.start()
        if k and text.startswith('"""', hidden[k - 1][0]):
            above = hidden[k - 1]
            if not text[above[1] : start].strip() and above[0] in _line_starts(text, above[0]):
                start = above[0]
        starts.append(start)
    cuts = sorted({0, *starts, len(text)})
    return list(pairwise(cuts)) or [(0, 0)]


def _line_starts(text: str, offset: int) -> tuple[int, ...]:
    """The offset itself if a line starts there."""
    return (offset,) if offset == 0 or text[offset - 1] == "\n" else ()


def _too_deep(tree: Tree[Token]) -> Tree[Token] | None:
    """The first subtree beyond the depth limit. Iterative, as the tree may be any depth."""
    stack = [(tree, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > MAXIMUM_DEPTH and node.children:
            return node
        stack += [(child, depth + 1) for child in node.children if isinstance(child, Tree)]
    return None


def _comments(source: Source) -> Iterator[s.Comment]:
    for match in _TRIVIA.finditer(source.text):
        if match.group().startswith("#"):
            line = source.text.rfind("\n", 0, match.start()) + 1
            alone = not source.text[line : match.start()].strip()
            yield s.Comment(Span(source, *match.span()), match.group()[1:].rstrip(), alone)
