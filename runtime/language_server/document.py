"""A text as an editor has it: its tree, however wrong it is, and what was last found out about it.

In: a text and where it lies. Out: a `Document`. Parsing is done for every text; sizes, which need
the whole program to be right, stay those of the last text that was examined.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...dsl.check.library import standard_library
from ...dsl.diagnostics.diagnostic import Report
from ...dsl.syntax import ast as s
from ...dsl.syntax.parser import parse
from ...dsl.syntax.source import Source
from ..data import Search
from ..inspect.mistakes import Examined, examine

Declaration = s.Definition | s.Train
HEAD = re.compile(r"^(layer|fn|model|optimizer|train)[ \t]+([A-Za-z_]\w*)", re.MULTILINE)
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Word:
    """An identifier in a text, from `start` on."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass
class Document:
    """A text and the path at which it lies. `examined` is of this text or of one before it, and
    `before` has the declarations of earlier texts, by how they begin."""

    source: Source
    path: Path
    examined: Examined = field(default_factory=lambda: Examined([]))
    before: Mapping[str, Declaration] = field(default_factory=dict)

    @cached_property
    def file(self) -> s.File:
        """Its declarations, without those that cannot be parsed."""
        return parse(self.source, Report())

    def examine(self) -> None:
        """Find its mistakes, and the equations of its models."""
        search = Search(None, self.path.parent, offline=True)
        found = examine(self.source, self.path, search)
        # What a text with a mistake does not tell is as it was before.
        found.systems = {**self.examined.systems, **found.systems}
        found.checked = found.checked or self.examined.checked
        self.examined = found

    def word_at(self, offset: int) -> Word | None:
        """The identifier at an offset, or the one that ends there."""
        line = self.source.text.rfind("\n", 0, offset) + 1
        end = self.source.text.find("\n", offset)
        for found in WORD.finditer(self.source.text, line, end if end >= 0 else None):  # type: ignore[arg-type]
            if found.start() <= offset <= found.end():
                return Word(found[0], found.start())
        return None

    def declaration_at(self, offset: int) -> Declaration | None:
        """The definition or train block around an offset; where that cannot be parsed, what it was
        before, whose spans are those of the earlier text."""
        for one in self.file.declarations:
            inside = one.span.start <= offset <= one.span.end
            if inside and isinstance(one, s.Definition | s.Train):
                return one
        return self.before.get(self.head_at(offset))

    def head_at(self, offset: int) -> str:
        """How the declaration around an offset begins, `model Digits`; empty outside of all."""
        heads = [f for f in HEAD.finditer(self.source.text) if f.start() <= offset]
        return " ".join(heads[-1].groups()) if heads else ""

    @cached_property
    def declarations(self) -> dict[str, Declaration]:
        """The declarations by how they begin, with those of earlier texts that are gone."""
        found = dict(self.before)
        for one in self.file.declarations:
            if isinstance(one, s.Definition):
                found[f"{one.kind} {one.name}"] = one
            elif isinstance(one, s.Train):
                found[f"train {one.model.id}"] = one
        return found

    @property
    def definitions(self) -> Iterator[s.Definition]:
        """Those of this text."""
        return (one for one in self.file.declarations if isinstance(one, s.Definition))

    @property
    def trains(self) -> Iterator[s.Train]:
        return (one for one in self.file.declarations if isinstance(one, s.Train))

    def find(self, name: str) -> s.Definition | None:
        """What a name of a definition stands for: this text's, a used file's, the library's."""
        own = next((one for one in self.definitions if one.name == name), None)
        if own is not None:
            return own
        checked = self.examined.checked
        used = checked.exported().get(name) if checked else None
        # Of an earlier text, and so no longer there.
        if used is not None and used.span.source.name == self.source.name:
            used = None
        return used or standard_library().get(name)
