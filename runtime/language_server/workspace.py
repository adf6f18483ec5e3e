"""What a name stands for in all files of a workspace: its places, and the names that it may take.

In: a document, and all documents of the workspace. Out: places by document. A definition is known
in the files that use the one it is in, directly or in turn; so are the names of its settings, where
calls give them, and of a model, where a train block names them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from .document import Document, Word
from .symbols import DEFINITION, LOCAL, Symbol, declared_names, symbol_at, symbol_in, train_names

Places = list[tuple[Document, tuple[Span, ...]]]


def real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def home_of(found: Symbol, document: Document, every: Sequence[Document]) -> Document | None:
    """The document that declares the symbol; None for the library, or for a file whose text in the
    editor is another than the one that was read."""
    if found.source is document.source:
        return document
    if found.source.library:
        return None
    path = real(Path(found.source.name))
    known = (one for one in every if real(one.path) == path)
    return next((one for one in known if one.source.text == found.source.text), None)


def places_of_symbol(found: Symbol, home: Document, every: Sequence[Document]) -> Places:
    """Where the symbol is named, in the document that declares it first."""
    own = symbol_at(home, Word(found.name, found.declared.start))
    if own is None:
        return []
    result = [(home, own.places)]
    if own.kind in (DEFINITION, LOCAL) and own.owner is not None:
        for other in users(home, every):
            if there := symbol_in(other, own.owner, own).places:
                result.append((other, there))
    return result


def users(home: Document, every: Sequence[Document]) -> Iterator[Document]:
    """The other documents that use this one, directly or in turn."""
    for one in every:
        if one is not home and real(home.path) in {real(d.path) for d in used_by(one, every)}:
            yield one


def used_by(document: Document, every: Sequence[Document]) -> list[Document]:
    """What a document uses, directly or in turn."""
    by_path = {real(one.path): one for one in every}
    found: dict[Path, Document] = {}
    stack = [document]
    while stack:
        for path in map(real, used_paths(stack.pop())):
            if path in by_path and path not in found:
                found[path] = by_path[path]
                stack.append(by_path[path])
    return list(found.values())


def used_paths(document: Document) -> list[Path]:
    """The files that a document itself uses, of those that a program may: beside it or below."""
    written = [one.path.value for one in document.file.declarations if isinstance(one, s.Use)]
    inside = (t for t in written if t.endswith(".nn") and ".." not in PurePath(t).parts)
    return [document.path.parent / t for t in inside if not PurePath(t).is_absolute()]


def taken_names(found: Symbol, places: Places, every: Sequence[Document]) -> set[str]:
    """Names that mean something else where the symbol is named: definitions that are known there,
    and what the declarations around its places declare themselves."""
    taken: set[str] = set()
    for document, spans in places:
        for one in (document, *used_by(document, every)):
            taken |= {definition.name for definition in one.definitions}
        for span in spans:
            around = document.declaration_at(span.start)
            if isinstance(around, s.Definition):
                taken |= set(declared_names(around))
            elif isinstance(around, s.Train):
                taken |= set(train_names(around))
    return taken - {found.name}
