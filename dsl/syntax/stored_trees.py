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

    def node(plain: dict[str, list[Any]]) -> Span | s.Node:
        ((kind, (first, last, *values)),) = plain.items()
        span = Span(source, start + first, start + last)
        if kind == _SPAN:
            return span
        return _kinds()[kind](span, *(tuple(v) if type(v) is list else v for v in values))

    # The digest says that this is what `tree_line` wrote.
    found = json.loads(tree, object_hook=node)
    assert isinstance(found, s.Definition)
    return found


def tree_line(definition: s.Definition, grammar: str, start: int, end: int) -> str:
    """The line of a definition that its source has from `start` to `end`. The same definition gives
    the same line."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(each) for each in value]
        if isinstance(value, Span):
            return {_SPAN: [value.start - start, value.end - start]}
        if isinstance(value, s.Node):
            place = [value.span.start - start, value.span.end - start]
            values = (getattr(value, name) for name in _fields(type(value)))
            return {type(value).__name__: [*place, *map(plain, values)]}
        return value

    tree = json.dumps(plain(definition), separators=(",", ":"))
    text = definition.span.source.text[start:end]
    return f"{definition.name}\t{_digest(grammar, text, tree)}\t{tree}"


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
