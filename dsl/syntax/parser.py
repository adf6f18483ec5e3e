"""Parser: source text to syntax tree, by the LALR grammar of `grammar.lark`.

Syntax errors (E01xx) go into the `Report`; after one the parser resumes at the next declaration.
Names are resolved later, by `check/`. Tests: tests/language/test_parser.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ..diagnostics.diagnostic import Report
from . import ast as s
from .docstrings import Doc, attach_docs
from .language_versions import check_version
from .numbers import NUMBER, number_of
from .source import Source, Span

# Lark is imported where something is parsed: most starts find all trees stored.
if TYPE_CHECKING:
    from lark import Lark, Token, Tree

    from .lexer_rules import PostLexer

MAX_DEPTH = 200  # of the parse tree, so that every later stage may recurse through it

# Docstrings, strings and comments. Strings are matched so that a `#` in them begins no comment.
_OPAQUE = r'"""(?:(?!""")[\s\S])*"""|"(?:\\.|[^"\\\n])*"|#[^\n]*'
_COMMENTS = re.compile(_OPAQUE)
# A declaration begins a line with its keyword and a name. Opaque text is matched first, so that
# `layer X` in a docstring or comment is no boundary.
_BOUNDARIES = re.compile(
    rf"(?P<opaque>{_OPAQUE})|"
    r'^(?=use\s*"|(?:layer|fn|model|optimizer|train)[ \t]+(?P<name>[A-Za-z_]\w*))',
    re.MULTILINE,
)


def parse(source: Source, report: Report) -> s.File:
    """The tree of a file; if `report` gains errors, of the declarations that could be parsed."""
    if not check_version(source, report):
        return s.File(Span(source, 0, len(source.text)), source, None, "", (), ())
    # Nearly all files are correct: one parse, without explanations. After an error the file is cut
    # at its declarations (panic mode), so that each of them can have a mistake of its own.
    parts = _read(source, source.text, 0, None)
    if parts is None:
        parts = []
        for start, end, _ in chunks(source.text):
            parts += _read(source, source.text[start:end], start, report) or []
    language = next((part for part in parts if isinstance(part, s.Language)), None)
    rest, doc = [part for part in parts if not isinstance(part, s.Language)], ""
    # The first docstring is the file's.
    if rest and isinstance(rest[0], Doc):
        doc, rest = rest[0].value, rest[1:]
    declarations = tuple(attach_docs(rest, report))
    span = Span(source, 0, len(source.text))
    return s.File(span, source, language, doc, declarations, tuple(_comments(source)))


def parse_value(source: Source, start: int, report: Report) -> s.Expr | None:
    """The expression from `start` to the end of a source, such as the value of a flag; None where
    there is something else. Errors are reported at their place in the source."""
    text = source.text[start:]
    number = number_of(text) if NUMBER.fullmatch(text) else None
    if number is not None:  # as most flags have, which no parser need be loaded for
        return s.Number(Span(source, start, len(source.text)), number, text)
    # Wrapped in a program, as the grammar has one start symbol. The offset takes the prefix off
    # again, so that spans fit the source.
    prefix = "train M {\nvalue = "
    found = Report()
    parts = _read(source, f"{prefix}{text}\n}}", start - len(prefix), found) or []
    spans = [d.span for d in found.diagnostics if d.span is not None]
    # a mistake in the wrapping: the value closed a brace or ended too early
    if any(not start <= span.start <= len(source.text) for span in spans):
        return None
    report.extend(found.diagnostics)
    match parts:
        case [s.Train(body=(s.Field(value=value),), doc="")]:
            return value
    return None


def parse_declarations(source: Source, start: int, end: int, report: Report) -> list[s.Declaration]:
    """The declarations of one chunk of a file."""
    parts = _read(source, source.text[start:end], start, report) or []
    return attach_docs([p for p in parts if not isinstance(p, s.Language)], report)


# --- parsing, and resuming after an error ---------------------------------------------------------


@cache
def _parser() -> tuple[Lark, PostLexer]:
    from .lexer_rules import PostLexer
    from .parser_tables import load_parser

    postlexer = PostLexer()
    return load_parser(grammar(), postlexer), postlexer


@cache
def grammar() -> str:
    """The text of grammar.lark."""
    return files(__package__.split(".")[0]).joinpath("grammar.lark").read_text("utf-8")


def _read(
    source: Source, text: str, offset: int, report: Report | None
) -> list[s.Declaration | s.Language | Doc] | None:
    """The declarations and docstrings of a stretch of text that begins at `offset`; None if it has
    a syntax error. Without a `report` errors are only detected, not explained."""
    from lark.exceptions import UnexpectedInput

    from ..diagnostics.syntax_errors import explain
    from .ast_builder import AstBuilder

    parser, postlexer = _parser()
    found, parts = Report(), None
    try:
        tree = parser.parse(text)
    except UnexpectedInput as error:
        # Detected is enough: `parse` comes back for the explanation, chunk by chunk.
        if report is None:
            return None
        found.extend([explain(error, source, text, offset, postlexer, parser)])
    else:
        # Before the AST is built: a tree this deep would overflow Python's stack in later stages.
        deep = _beyond_depth(tree)
        if deep is None:
            parts = AstBuilder(source, offset, found).transform(tree)
        else:
            start = offset + deep.meta.start_pos
            found.add(
                "E0110",
                f"this is nested more than {MAX_DEPTH} levels deep",
                Span(source, start, start + 1),
                label="the level that is too deep",
                help="name a part of it in an equation or a `let` of its own",
            )
    if report is None:
        return None if found.diagnostics else parts
    report.extend(found.diagnostics)
    return parts


class Chunk(NamedTuple):
    """A stretch of a file with at most one declaration, and the name that this one defines."""

    start: int
    end: int
    name: str | None


def chunks(text: str) -> list[Chunk]:
    """The text, cut before every declaration that begins a line, or the docstring above it."""
    # what stands before the first declaration: comments, the file's docstring
    cuts: dict[int, str | None] = {0: None}
    doc = None  # where the docstring lies that is the last thing found, if it begins its line
    for match in _BOUNDARIES.finditer(text):
        start, end = match.span()
        if match["opaque"]:
            # Any comment or string in between separates a docstring from the declaration below it.
            begins_line = start == 0 or text[start - 1] == "\n"
            doc = (start, end) if begins_line and match["opaque"].startswith('"""') else None
        # Nothing but blanks between: the docstring belongs to this declaration.
        elif doc is not None and not text[doc[1] : start].strip():
            cuts[doc[0]] = match["name"]
        else:
            cuts[start] = match["name"]
    # An empty text is one chunk as well.
    ends = pairwise([*cuts, len(text) or 1])
    return [Chunk(start, end, cuts[start]) for start, end in ends]


def _beyond_depth(tree: Tree[Token]) -> Tree[Token] | None:
    """The first subtree beyond the depth limit. Iterative, as the tree may have any depth."""
    kind, stack = type(tree), [(tree, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH and node.children:
            return node
        stack += [(child, depth + 1) for child in node.children if isinstance(child, kind)]
    return None


def _comments(source: Source) -> Iterator[s.Comment]:
    for match in _COMMENTS.finditer(source.text):
        # The pattern also finds strings, whose `#` is text.
        if match.group().startswith("#"):
            line = source.text.rfind("\n", 0, match.start()) + 1
            alone = not source.text[line : match.start()].strip()
            yield s.Comment(Span(source, *match.span()), match.group()[1:].rstrip(), alone)
