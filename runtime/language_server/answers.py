"""What an editor is told of a program: hover, completion, definitions, renaming.

In: a `Document` and an offset. Out: texts, spans and edits; how they are sent is `server.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from ...compiler.ir.equation import System, Tensor
from ...dsl.check.library import standard_library
from ...dsl.check.names import BUILTINS, CONSTANTS, MANY
from ...dsl.check.train_block import TRAIN_FIELDS
from ...dsl.diagnostics.diagnostic import Report, UserError
from ...dsl.syntax import ast as s
from ...dsl.syntax.formatter import format as formatted
from ...dsl.syntax.highlighting import IN_PLACE
from ...dsl.syntax.lexer_rules import DTYPES, KEYWORDS
from ...dsl.syntax.parser import parse
from ...dsl.syntax.source import Span
from ..compiling import compiling
from ..data import SOURCES
from .document import WORD, Document, Word
from .symbols import DEFINITION, Symbol, declared_names, symbol_at, train_names
from .workspace import Places, home_of, places_of_symbol, taken_names

LISTED = 4  # places of a layer whose sizes are shown
VARIABLE, FUNCTION, LAYER, KEYWORD, FIELD, CONSTANT = (
    "variable", "function", "class", "keyword", "property", "constant",
)  # fmt: skip


class CannotRename(Exception):
    """Why a name cannot be changed, as a text for the user."""


@dataclass(frozen=True)
class Completion:
    """What may stand at a place. `rank` orders: what is near comes first."""

    name: str
    kind: str
    detail: str = ""
    doc: str = ""
    rank: int = 5


# --- hover ----------------------------------------------------------------------------------------


def hover(document: Document, offset: int) -> tuple[str, Word] | None:
    """What is known of the word at an offset, as Markdown; None for nothing."""
    word = document.word_at(offset)
    if word is None:
        return None
    symbol = symbol_at(document, word)
    if symbol is None:
        text = _predefined(word.text)
    elif symbol.kind == DEFINITION:
        definition = document.find(symbol.name)
        text = _described(definition) if definition else ""
    else:
        text = _sizes(document, word, symbol)
    return (text, word) if text else None


def _described(definition: s.Definition) -> str:
    return f"{_code(_head(definition))}\n\n{definition.doc.strip()}".strip()


def _head(definition: s.Definition) -> str:
    """`layer Dense(units)(x: [..., n]) -> y: [..., units]`, from its name on as it was written."""
    text = definition.span.source.text
    begin, end = definition.name_span.start, definition.span.end
    # The body begins with the first brace; a function may be an expression.
    stop = text.find("{", begin, end)
    if definition.value is not None:
        stop = definition.value.span.end
    head = text[begin : stop if stop >= 0 else end]
    return " ".join(f"{definition.kind} {head}".split())


def _predefined(name: str) -> str:
    """What the language or the runtime knows of a name."""
    if name in SOURCES:
        source = SOURCES[name]
        return f"{_code(f'data = {source.signature}')}\n\n{source.doc}"
    if name in BUILTINS:
        least, most = BUILTINS[name]
        count = (
            f"{least}"
            if least == most
            else f"{least} or more"
            if most == MANY
            else f"{least} to {most}"
        )
        return f"{_code(name)}\n\nBuilt in; takes {count} argument{'s' * (count != '1')}."
    return ""


def _sizes(document: Document, word: Word, symbol: Symbol) -> str:
    """What a name of a definition is in the models of the program: its type, and of a parameter how
    many numbers it has. Without sizes, where it is declared."""
    found = list(dict.fromkeys(_tensors(document, word, symbol)))
    if not found:
        line = symbol.source.line(symbol.declared.line).strip()
        return _code(line)
    lines = [f"{name}: {tensor.dtype}{list(tensor.shape)}" for name, tensor in found[:LISTED]]
    more = f"\n\n… and {len(found) - LISTED} more" if len(found) > LISTED else ""
    kinds = {tensor.kind for _, tensor in found}
    numbers = sum(tensor.size for _, tensor in found)
    trained = f"\n\n{numbers:,} parameters" if kinds == {"param"} else ""
    return _code("\n".join(lines)) + more + trained


def _tensors(document: Document, word: Word, symbol: Symbol) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a name stands for: of a model one, of a layer one where it is applied."""
    definition = next(
        (
            one
            for one in document.declarations.values()
            if isinstance(one, s.Definition)
            and one.span.source is symbol.source
            and one.span.start <= symbol.declared.start <= one.span.end
        ),
        None,
    )
    for model, make in document.examined.systems.items():
        system = _system(make)
        if system is None:
            continue
        if definition is not None and definition.name == model:
            if symbol.name in system.tensors:
                yield symbol.name, system.tensors[symbol.name]
        elif definition is not None:
            yield from _within(system, definition, symbol.name)


def _within(system: System, definition: s.Definition, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a definition that is applied in a system: by their places in the source."""
    places = {eq.target: eq.span for eq in system.equations}
    for tensor in system.tensors.values():
        span = places.get(tensor.name) or tensor.span
        here = span is not None and span.source.name == definition.span.source.name
        inside = here and definition.span.start <= span.start <= definition.span.end  # type: ignore[union-attr]
        if inside and (tensor.name == name or tensor.name.endswith(f"_{name}")):
            yield tensor.name, tensor


@lru_cache(maxsize=8)  # models of a few texts
@compiling()
def _system(make: Callable[[], System]) -> System | None:
    """The equations of a model; None where they cannot be made after all."""
    try:
        return make()
    except UserError:
        return None


def _code(text: str) -> str:
    return f"```nn\n{text}\n```"


# --- definitions and renaming ---------------------------------------------------------------------


def definition(document: Document, offset: int) -> Span | None:
    """Where what stands at an offset is declared."""
    word = document.word_at(offset)
    found = symbol_at(document, word) if word else None
    return found.declared if found else None


def places(document: Document, offset: int, every: Sequence[Document]) -> Places:
    """Where what stands at an offset is named, in `every` document that is known."""
    word = document.word_at(offset)
    found = symbol_at(document, word) if word else None
    if found is None:
        return []
    home = home_of(found, document, every)
    return [(document, found.places)] if home is None else places_of_symbol(found, home, every)


def renamable(document: Document, offset: int, every: Sequence[Document]) -> Word:
    """The word that would be renamed. CannotRename."""
    word = document.word_at(offset)
    found = symbol_at(document, word) if word else None
    if word is None or found is None:
        what = f"`{word.text}` is a word of the language or of the data" if word else "no name"
        raise CannotRename(f"{what}: there is nothing to rename here")
    if found.source is not document.source and found.source.name == document.source.name:
        raise CannotRename(f"what stands around `{word.text}` has a mistake: mend it first")
    if home_of(found, document, every) is None:
        if found.source.library:
            raise CannotRename(f"`{word.text}` is defined in the library")
        file = found.source.name
        raise CannotRename(f"`{word.text}` is defined in {file}, which is not saved: save it first")
    return word


def renaming(document: Document, offset: int, name: str, every: Sequence[Document]) -> Places:
    """The places to write the new name to, in all documents. CannotRename for a name that cannot be
    one."""
    word = renamable(document, offset, every)
    found = symbol_at(document, word)
    assert found is not None
    home = home_of(found, document, every)
    assert home is not None
    if not WORD.fullmatch(name) or name in KEYWORDS:
        raise CannotRename(f"`{name}` cannot be a name")
    places = places_of_symbol(found, home, every)
    if name in taken_names(found, places, every):
        raise CannotRename(f"`{name}` is taken")
    return places


# --- formatting -----------------------------------------------------------------------------------


def laid_out(document: Document) -> str | None:
    """The text in the one canonical way; None where it has mistakes of syntax."""
    report = Report()
    tree = parse(document.source, report)
    return None if report.errors else formatted(tree)


# --- completion -----------------------------------------------------------------------------------


def completions(document: Document, offset: int) -> list[Completion]:
    """What may stand at an offset: names in scope, definitions, what the language knows. An editor
    chooses those that begin as the word there."""
    text = document.source.text
    word = document.word_at(offset)
    begin = word.start if word and word.end >= offset > word.start else offset
    before = text[text.rfind("\n", 0, begin) + 1 : begin]
    chunk = _chunk(text, begin)
    in_train = chunk.lstrip().startswith("train")
    found: list[Completion] = []
    if in_train and not before.strip():
        found += [Completion(name, FIELD, "train block", rank=1) for name in TRAIN_FIELDS]
        words = ("metric", "until", "input", "freeze", "let")
        found += [Completion(name, KEYWORD, rank=2) for name in words]
    elif in_train and before.replace(" ", "") == "data=":
        return [
            Completion(name, FUNCTION, one.signature, one.doc, 1) for name, one in SOURCES.items()
        ]
    elif in_train and before.replace(" ", "") == "optimizer=":
        return [c for c in _definitions(document) if c.detail.startswith("optimizer")]
    if callee := _callee(text, begin):
        found += _settings(document, callee)
    found += _names(document, chunk, word, begin)
    found += [c for c in _definitions(document) if not c.detail.startswith("optimizer")]
    found += [Completion(name, FUNCTION, "built in", rank=4) for name in BUILTINS]
    found += [Completion(name, CONSTANT, rank=6) for name in (*CONSTANTS, *DTYPES)]
    found += [Completion(name, KEYWORD, rank=7) for name in (*KEYWORDS, *IN_PLACE)]
    # The first of a name is the nearest.
    return list({c.name: c for c in sorted(found, key=lambda c: -c.rank)}.values())


def _chunk(text: str, offset: int) -> str:
    """The declaration around an offset, which need not be right: from the last line that begins
    one."""
    starts = ("layer ", "fn ", "model ", "optimizer ", "train ")
    begin = max(text.rfind(f"\n{start}", 0, offset) + 1 for start in starts)
    end = min((at for s_ in starts if (at := text.find(f"\n{s_}", offset)) >= 0), default=len(text))
    return text[begin:end]


def _names(document: Document, chunk: str, word: Word | None, begin: int) -> Iterator[Completion]:
    """Names of the declaration around; while it is typed it seldom parses, so its words, too."""
    around = document.declaration_at(begin)
    names = declared_names(around) if isinstance(around, s.Definition) else {}
    if isinstance(around, s.Train):
        model = document.find(around.model.id)
        names = {**(declared_names(model) if model else {}), **train_names(around)}
    yield from (Completion(name, VARIABLE, rank=1) for name in names)
    other = {found[0] for found in WORD.finditer(chunk)} - set(KEYWORDS) - set(names)
    if word is not None:
        other.discard(word.text)
    yield from (
        Completion(n, VARIABLE, rank=3) for n in sorted(other) if n not in standard_library()
    )


def _definitions(document: Document) -> list[Completion]:
    checked = document.examined.checked
    used = checked.exported() if checked else {}
    own = {one.name: one for one in document.definitions}
    near = [_completion(one, 2) for one in ({**used, **own}).values()]
    return [*near, *(c for c in _library() if c.name not in own and c.name not in used)]


@cache
def _library() -> tuple[Completion, ...]:
    return tuple(_completion(one, 3) for one in standard_library().values())


def _completion(one: s.Definition, rank: int) -> Completion:
    kind = LAYER if one.kind in ("layer", "model") else FUNCTION
    return Completion(one.name, kind, _head(one), one.doc.strip(), rank)


def _callee(text: str, offset: int) -> str:
    """What is called where an offset is among its arguments; empty elsewhere."""
    depth = 0
    for at in range(offset - 1, max(offset - 2000, -1), -1):
        if text[at] in ")]":
            depth += 1
        elif text[at] in "([":
            if depth == 0:
                named = WORD.search(text[:at][::-1]) if text[at] == "(" else None
                return named[0][::-1] if named and named.start() == 0 else ""
            depth -= 1
        elif text[at] in "{}":
            return ""
    return ""


def _settings(document: Document, callee: str) -> Iterator[Completion]:
    """What a call may give by name."""
    found = document.find(callee)
    if found is not None:
        for parameter in (*found.settings, *found.inputs):
            yield Completion(f"{parameter.name} = ", FIELD, _head(found), rank=0)
    elif callee in SOURCES:
        for setting in SOURCES[callee].settings:
            yield Completion(f"{setting.name} = ", FIELD, SOURCES[callee].signature, rank=0)
