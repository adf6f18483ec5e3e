"""Stored trees: the syntax trees of the standard library, parsed once and stored as JSON.

Parsing the fifty definitions that a GPT needs takes a third of a second, reading their trees some
milliseconds. The trees are part of the package, written by `tools/library_trees.py`, one definition
a line:

    Dense ⇥ SHA-256 of the grammar, the kinds of nodes, the text and the tree ⇥ the tree

A definition whose text or grammar has changed since, or whose line is damaged, is parsed from its
text. In a tree `{"Name": [start, end, "x", false]}` is a node: its span, relative to the text of
the definition, then its fields; a list is a tuple. JSON cannot run code, as a pickle can.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from . import ast as s
from .source import Source, Span

PACKAGED = Path(__file__).parents[1] / "stdlib" / "library.trees"
_SPAN = "Span"


def stored_trees(path: Path = PACKAGED) -> dict[str, tuple[str, str]]:
    """The digest and the tree of each definition, by name; none where there is no such file."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    parts = (line.split("\t") for line in lines)
    return {part[0]: (part[1], part[2]) for part in parts if len(part) == 3}


def load_tree(
    stored: tuple[str, str], grammar: str, source: Source, start: int, end: int
) -> s.Definition | None:
    """The definition from `start` to `end` of a source; None if what is stored is not its tree."""
    digest, tree = stored
    if digest != _digest(grammar, source.text[start:end], tree):
        return None
    # The digest says that this is what `tree_line` wrote.
    found = tree_of(tree, source, start)
    assert isinstance(found, s.Definition)
    return found


def tree_line(definition: s.Definition, grammar: str, start: int, end: int) -> str:
    """The line of a definition that its source has from `start` to `end`. The same definition gives
    the same line."""
    tree = tree_text(definition, start)
    text = definition.span.source.text[start:end]
    return f"{definition.name}\t{_digest(grammar, text, tree)}\t{tree}"


def tree_text(node: s.Node, start: int = 0) -> str:
    """A tree of one source as JSON, its spans relative to `start`."""
    return json.dumps(
        plain_tree(node, lambda span: [span.start - start, span.end - start]), separators=(",", ":")
    )


def plain_tree(value: Any, place: Callable[[Span], list[int]]) -> Any:
    """A tree as what JSON can hold; `place` writes two numbers or more for a span. A source, which
    only a file has, is left out."""
    if isinstance(value, tuple):
        return [plain_tree(each, place) for each in value]
    if isinstance(value, Span):
        return {_SPAN: place(value)}
    if isinstance(value, Source):
        return None
    if isinstance(value, s.Node):
        values = (getattr(value, name) for name in _fields(type(value)))
        return {type(value).__name__: [*place(value.span), *(plain_tree(v, place) for v in values)]}
    return value


def tree_of(text: str, source: Source, start: int = 0) -> s.Node:
    """The tree of a source of which this is the `tree_text`."""

    def node(plain: dict[str, list[Any]]) -> Span | s.Node:
        ((kind, (first, last, *values)),) = plain.items()
        span = Span(source, start + first, start + last)
        if kind == _SPAN:
            return span
        if kind == s.File.__name__:
            values[0] = source
        return _kinds()[kind](span, *(tuple(v) if type(v) is list else v for v in values))

    found = json.loads(text, object_hook=node)
    assert isinstance(found, s.Node)
    return found


def _digest(grammar: str, text: str, tree: str) -> str:
    parts = (grammar, _shape(), text, tree)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@cache
def _kinds() -> dict[str, type]:
    """The kinds of nodes, by name."""
    found = (kind for kind in vars(s).values() if isinstance(kind, type))
    return {kind.__name__: kind for kind in found if issubclass(kind, s.Node)}


def _fields(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.name != "span")


@cache
def _shape() -> str:
    """The kinds of nodes and their fields: trees of other kinds are not those of this parser."""
    return "\n".join(f"{name} {' '.join(_fields(kind))}" for name, kind in _kinds().items())
