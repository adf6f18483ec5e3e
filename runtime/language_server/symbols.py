"""What a word of a program stands for, and where else it stands.

In: a `Document` and a word. Out: a `Symbol`: where it is declared, and every place of it in the
text, by which it can be renamed. Scopes are those of the language: a definition has names of its
own, its train block sees them, an index is known in its statement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Source, Span
from .document import Document, Word

# What it is: a definition, a name of one, an index of a statement, a name of a train block.
DEFINITION, LOCAL, INDEX, TRAIN = "definition", "local", "index", "train"


@dataclass(frozen=True)
class Symbol:
    """A name: its kind, where it is declared, and the places in the document that name it. Its
    `owner` is the definition that it is the name of, or a name in."""

    name: str
    kind: str
    declared: Span
    places: tuple[Span, ...]
    owner: s.Definition | None = None

    @property
    def source(self) -> Source:
        return self.declared.source


def symbol_at(document: Document, word: Word) -> Symbol | None:
    """What the word stands for; None for what only the language or the data know."""
    around = document.declaration_at(word.start)
    # Places in a declaration of an earlier text are not those of this one.
    if around is not None and around.span.source is document.source:
        # The own name of a definition is not a name in it.
        if isinstance(around, s.Definition) and around.name_span.start == word.start:
            return _of_definition(document, around)
        if called := _called_with(around, word):
            return _setting(document, called, word.text)
    if isinstance(around, s.Definition) and word.text in declared_names(around):
        return _of_local(document, around, word.text)
    if isinstance(around, s.Train) and (found := _of_train(document, around, word.text)):
        return found
    definition = document.find(word.text)
    if definition is not None:
        return _of_definition(document, definition)
    return _of_index(around, word) if isinstance(around, s.Definition) else None


def symbol_in(document: Document, owner: s.Definition, found: Symbol) -> Symbol:
    """A definition, or a name in one, that another document declares, with its places in this one;
    these are none where the document has a definition of its own like it."""
    if any(one.name == owner.name for one in document.definitions):
        return Symbol(found.name, found.kind, found.declared, (), owner)
    if found.kind == DEFINITION:
        return _of_definition(document, owner)
    return _of_local(document, owner, found.name)


# --- what is declared -----------------------------------------------------------------------------


def declared_names(definition: s.Definition) -> dict[str, Span]:
    """The names of a definition and where each is declared first: settings, inputs, results, sizes
    in their types, and what its statements assign."""
    found: dict[str, Span] = {}
    parameters = (*definition.settings, *definition.inputs, *definition.results)
    for parameter in parameters:
        found.setdefault(parameter.name, _start(parameter.span, parameter.name))
    for statement in statements(definition.body):
        for name in _assigned(statement):
            found.setdefault(name.id, _start(name.span, name.id))
    # After all others: in `-> y: [m]` the m may be a `let` of the body.
    for parameter in parameters:
        for size in s.walk(parameter.type):
            if isinstance(size, s.Name):
                found.setdefault(size.id, _start(size.span, size.id))
    return found


def statements(body: tuple[s.Statement, ...]) -> Iterator[s.Statement]:
    """All statements of a body, those of blocks in it included."""
    for statement in body:
        yield statement
        if isinstance(statement, s.Repeat | s.Remat):
            yield from statements(statement.body)


def _assigned(statement: s.Statement) -> tuple[s.Name, ...]:
    match statement:
        case s.Let(name=name) | s.State(name=name):
            return (name,)
        case s.Param(names=names) | s.Equation(targets=names):
            return names
    return ()


def train_names(train: s.Train) -> dict[str, Span]:
    """The names that a train block declares itself."""
    return {
        item.name.id: item.name.span
        for item in train.body
        if isinstance(item, s.Let | s.Metric | s.Input | s.Loss)
    }


# --- the kinds of symbols -------------------------------------------------------------------------


def _of_definition(document: Document, definition: s.Definition) -> Symbol:
    name = definition.name
    places: list[Span] = []
    for one in document.file.declarations:
        # Where a definition has a name of its own like it, that is what the name stands for.
        if isinstance(one, s.Definition) and name in declared_names(one):
            continue
        if isinstance(one, s.Train) and name in train_names(one):
            continue
        places += places_of(name, one)
    if definition.span.source is document.source:
        places.append(definition.name_span)
    return Symbol(name, DEFINITION, definition.name_span, _ordered(places), definition)


def _of_local(document: Document, definition: s.Definition, name: str) -> Symbol:
    here = definition.span.source is document.source
    places = list(places_of(name, definition)) if here else []
    if definition.kind == "model":
        for train in document.trains:
            if train.model.id == definition.name and name not in train_names(train):
                places += places_of(name, *train.body)
    if any(setting.name == name for setting in definition.settings):
        places += _arguments(document, definition.name, name)
    return Symbol(name, LOCAL, declared_names(definition)[name], _ordered(places), definition)


def _setting(document: Document, callee: str, name: str) -> Symbol | None:
    """A setting or an input that a call gives by name."""
    definition = document.find(callee)
    if definition is None or name not in declared_names(definition):
        return None
    return _of_local(document, definition, name)


def _of_train(document: Document, train: s.Train, name: str) -> Symbol | None:
    own = train_names(train)
    if name in own:
        return Symbol(name, TRAIN, own[name], _ordered(places_of(name, *train.body)))
    model = document.find(train.model.id)
    if model is None or name not in declared_names(model):
        return None
    return _of_local(document, model, name)


def _of_index(definition: s.Definition, word: Word) -> Symbol | None:
    """An index, which its statement introduces."""
    for statement in statements(definition.body):
        inside = statement.span.start <= word.start < statement.span.end
        if inside and not isinstance(statement, s.Repeat | s.Remat):
            places = _ordered(places_of(word.text, statement))
            return Symbol(word.text, INDEX, places[0], places) if places else None
    return None


# --- places ---------------------------------------------------------------------------------------


def places_of(name: str, *nodes: s.Node) -> Iterator[Span]:
    """Every place in the nodes that stands for the name, in names with dots their first part."""
    fields: set[int] = set()  # the names of a train block's settings, which are words of it
    for top in nodes:
        for node in s.walk(top):
            match node:
                case s.Field(name=field):
                    fields.add(id(field))
                    continue
                case s.Name(id=found):
                    same = found.partition(".")[0] == name and id(node) not in fields
                case s.Axis(name=found) | s.Parameter(name=found):
                    same = found == name
                case s.Pattern(text=found):
                    same = found.partition(".")[0] == name
                case _:
                    continue
            # A name that is not written there, as one that a shorter form stands for.
            if same and node.span.source.text.startswith(name, node.span.start):
                yield _start(node.span, name)


def _arguments(document: Document, callee: str, name: str) -> Iterator[Span]:
    """Where calls of a definition give a setting by name."""
    for node in s.walk(document.file.declarations):
        if isinstance(node, s.Call) and isinstance(node.function, s.Name):
            for argument in node.arguments:
                if node.function.id == callee and argument.name == name:
                    yield _start(argument.span, name)


def _called_with(around: s.Node, word: Word) -> str:
    """What is called where the word names an argument; empty where it does not."""
    for node in s.walk(around):
        if isinstance(node, s.Call) and isinstance(node.function, s.Name):
            for argument in node.arguments:
                if argument.name == word.text and argument.span.start == word.start:
                    return node.function.id
    return ""


def _start(span: Span, name: str) -> Span:
    return Span(span.source, span.start, span.start + len(name))


def _ordered(places: Iterator[Span] | list[Span]) -> tuple[Span, ...]:
    return tuple(sorted({p.start: p for p in places}.values(), key=lambda p: p.start))
