"""The grammar's rules to nodes of the syntax tree, bottom up and without recursion.

In: Lark's tree. Out: `syntax` nodes with their spans. What a grammar cannot say of an index list, a
type or a number is said here.
"""

from __future__ import annotations

import math
import re
from typing import Any

from lark import Token
from lark.tree import Meta
from lark.visitors import Transformer_NonRecursive, v_args

from ..diagnostics.diagnostic import Note, Report
from ..diagnostics.foreign_terms import suggest_dtype
from . import ast as s
from .lexer_rules import DTYPES
from .source import Source, Span


class Doc(s.String):
    """A docstring, on its way to the declaration it documents."""


class _Shape(tuple):  # type: ignore[type-arg]
    """The dimensions of a type, told apart from no dimensions at all."""


class _Results(tuple):  # type: ignore[type-arg]
    """The parameters after an arrow."""


class _Block(tuple):  # type: ignore[type-arg]
    """The statements between braces, perhaps after a docstring."""


def attach_docs(parts: list[Any], report: Report) -> tuple[str, list[Any]]:
    """The file's docstring, and the declarations with the docstrings that stand before them."""
    doc, declarations = "", []
    waiting: Doc | None = None
    for k, part in enumerate(parts):
        if isinstance(part, Doc):
            if k == 0:
                doc = part.value
                continue
            if waiting is not None:
                _stray_doc(waiting, report)
            waiting = part
            continue
        if waiting is not None:
            if isinstance(part, s.Use):
                _stray_doc(waiting, report)
            elif part.doc:
                report.add(
                    "E0112",
                    f"`{_called(part)}` has two docstrings",
                    waiting.span,
                    notes=(Note(part.span, "the other is inside"),),
                    help="keep one of them",
                )
            else:
                part = _with_doc(part, waiting.value)
            waiting = None
        declarations.append(part)
    if waiting is not None:
        _stray_doc(waiting, report)
    return doc, declarations


def _called(part: s.Definition | s.Train) -> str:
    return part.name if isinstance(part, s.Definition) else f"train {part.model.id}"


def _with_doc(part: Any, doc: str) -> Any:
    values = dict(vars(part))
    return type(part)(**values | {"doc": doc})


def _stray_doc(doc: Doc, report: Report) -> None:
    report.add(
        "E0112",
        "this docstring documents nothing",
        doc.span,
        label="no layer, fn, model, optimizer or train follows",
        help="put it before a declaration or first in its body, or write a `#` comment",
    )


def _dedent(text: str) -> str:
    """A docstring's text without the indentation that its lines share."""
    first, *rest = text.expandtabs(4).split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
    return "\n".join([first.strip(), *(line[margin:].rstrip() for line in rest)]).strip()


_ESCAPES = {"n": "\n", "t": "\t"}


@v_args(meta=True)
class Builder(Transformer_NonRecursive):  # type: ignore[type-arg]
    """One method per rule of the grammar: its children, already built, to its node."""

    def __init__(self, source: Source, offset: int, report: Report):
        super().__init__()
        self.source, self.offset, self.report = source, offset, report

    def _span(self, place: Meta | Token) -> Span:
        start = getattr(place, "start_pos", None)  # an empty rule has no place
        if start is None:
            return Span(self.source, self.offset, self.offset)
        return Span(self.source, self.offset + start, self.offset + (place.end_pos or start))

    # files and declarations

    def file(self, meta: Meta, parts: list[Any]) -> list[Any]:
        return parts

    def docstring(self, meta: Meta, parts: list[Token]) -> Doc:
        return Doc(self._span(meta), _dedent(parts[0].value[3:-3]))

    def use(self, meta: Meta, parts: list[Any]) -> s.Use:
        return s.Use(self._span(meta), parts[0])

    def layer(self, meta: Meta, parts: list[Any]) -> s.Definition:
        name, *groups, results, block = parts
        settings = groups[0] if len(groups) == 2 else ()
        return self._definition("layer", meta, name, settings, groups[-1], results, block)

    def model(self, meta: Meta, parts: list[Any]) -> s.Definition:
        name, inputs, results, block = parts
        return self._definition("model", meta, name, (), inputs, results, block)

    def function(self, meta: Meta, parts: list[Any]) -> s.Definition:
        name, inputs, *rest = parts
        if isinstance(rest[0], _Results):
            return self._definition("fn", meta, name, (), inputs, rest[0], rest[1])
        span = self._span(meta)
        return s.Definition(
            span, "fn", str(name), self._span(name), (), inputs, (), (), rest[0], ""
        )

    def optimizer(self, meta: Meta, parts: list[Any]) -> s.Definition:
        name, *groups, block = parts
        settings = groups[0] if groups else ()
        return self._definition("optimizer", meta, name, settings, (), (), block)

    def _definition(
        self,
        kind: str,
        meta: Meta,
        name: Token,
        settings: Any,
        inputs: Any,
        results: Any,
        block: _Block,
    ) -> s.Definition:
        doc, body = self._body(block)
        return s.Definition(
            self._span(meta),
            kind,
            str(name),
            self._span(name),
            tuple(settings),
            tuple(inputs),
            tuple(results),
            body,
            None,
            doc,
        )

    def train(self, meta: Meta, parts: list[Any]) -> s.Train:
        doc, body = self._body(parts[1])
        return s.Train(self._span(meta), parts[0], body, doc)

    def _body(self, block: _Block) -> tuple[str, tuple[Any, ...]]:
        if block and isinstance(block[0], Doc):
            return block[0].value, tuple(block[1:])
        return "", tuple(block)

    def block(self, meta: Meta, parts: list[Any]) -> _Block:
        return _Block(parts)

    train_block = block

    def group(self, meta: Meta, parts: list[Any]) -> tuple[s.Parameter, ...]:
        return tuple(parts)

    def results(self, meta: Meta, parts: list[Any]) -> _Results:
        return _Results(parts)

    def parameter(self, meta: Meta, parts: list[Any]) -> s.Parameter:
        name, *rest = parts
        written = next((part for part in rest if isinstance(part, s.Type)), None)
        default = next((part for part in rest if not isinstance(part, s.Type)), None)
        return s.Parameter(self._span(meta), str(name), written, default)

    def type(self, meta: Meta, parts: list[Any]) -> s.Type:
        dtype, shape = None, None
        for part in parts:
            if isinstance(part, _Shape):
                shape = tuple(part)
            else:
                dtype = str(part)
                self._known_dtype(part)
        return s.Type(self._span(meta), dtype, shape)

    def _known_dtype(self, token: Token) -> None:
        if token.value not in DTYPES:
            self.report.add(
                "E0111",
                f"`{token}` is not an element type",
                self._span(token),
                label=f"expected one of {', '.join(DTYPES)}",
                help=suggest_dtype(token.value, DTYPES),
            )

    def shape(self, meta: Meta, parts: list[Any]) -> _Shape:
        return _Shape(parts)

    # statements

    def let(self, meta: Meta, parts: list[Any]) -> s.Let:
        return s.Let(self._span(meta), *parts)

    def param(self, meta: Meta, parts: list[Any]) -> s.Param:
        names, written, sign, value = parts
        return s.Param(self._span(meta), names, written, value, sign.value == "~")

    def state(self, meta: Meta, parts: list[Any]) -> s.State:
        written = parts[1] if len(parts) == 3 else None
        return s.State(self._span(meta), parts[0], written, parts[-1])

    def repeat(self, meta: Meta, parts: list[Any]) -> s.Repeat:
        count, block = parts
        return s.Repeat(self._span(meta), count, self._statements(block))

    def remat(self, meta: Meta, parts: list[Any]) -> s.Remat:
        return s.Remat(self._span(meta), self._statements(parts[0]))

    def _statements(self, block: _Block) -> tuple[s.Statement, ...]:
        """Those of a block inside a body, which has no docstring of its own."""
        if block and isinstance(block[0], Doc):
            _stray_doc(block[0], self.report)
            block = _Block(block[1:])
        return tuple(block)

    def equation(self, meta: Meta, parts: list[Any]) -> s.Equation:
        names, sign, value = parts
        return s.Equation(self._span(meta), names, None, sign.value == "+=", value)

    def indexed(self, meta: Meta, parts: list[Any]) -> s.Equation:
        target, sign, value = parts
        accumulate = sign.value == "+="
        indices = tuple(self._left_index(e, accumulate) for e in target.indices)
        return s.Equation(self._span(meta), (target.tensor,), indices, accumulate, value)

    def _left_index(self, element: s.Expr, accumulate: bool) -> s.Axis | s.Expr:
        axis = _axis(element)
        if axis is None and not accumulate:
            self.report.add(
                "E0106",
                "an index on the left of `=` is a name",
                element.span,
                label="expected a name such as `i`, or `i < n`, or `...`",
                help=_on_the_left(element),
            )
        return axis or element

    def names(self, meta: Meta, parts: list[Any]) -> tuple[s.Name, ...]:
        return tuple(parts)

    plains = names

    def field(self, meta: Meta, parts: list[Any]) -> s.Field:
        return s.Field(self._span(meta), *parts)

    def metric(self, meta: Meta, parts: list[Any]) -> s.Metric:
        return s.Metric(self._span(meta), *parts)

    def until(self, meta: Meta, parts: list[Any]) -> s.Until:
        return s.Until(self._span(meta), parts[0])

    def input(self, meta: Meta, parts: list[Any]) -> s.Input:
        return s.Input(self._span(meta), *parts)

    # operators

    def binary(self, meta: Meta, parts: list[Any]) -> s.Binary:
        left, sign, right = parts
        return s.Binary(self._span(meta), str(sign), left, right)

    def either(self, meta: Meta, parts: list[Any]) -> s.Binary:
        return s.Binary(self._span(meta), "or", *parts)

    def both(self, meta: Meta, parts: list[Any]) -> s.Binary:
        return s.Binary(self._span(meta), "and", *parts)

    def power(self, meta: Meta, parts: list[Any]) -> s.Binary:
        return s.Binary(self._span(meta), "^", *parts)

    def negation(self, meta: Meta, parts: list[Any]) -> s.Unary:
        return s.Unary(self._span(meta), "not", parts[0])

    def minus(self, meta: Meta, parts: list[Any]) -> s.Unary:
        return s.Unary(self._span(meta), "-", parts[1])

    def if_else(self, meta: Meta, parts: list[Any]) -> s.If:
        return s.If(self._span(meta), *parts)

    if_body = if_else

    def pipe(self, meta: Meta, parts: list[Any]) -> s.Pipe:
        return s.Pipe(self._span(meta), *parts)

    def reduction(self, meta: Meta, parts: list[Any]) -> s.Reduce:
        word, arguments, body = parts
        axes = tuple(self._reduced(word, argument) for argument in arguments)
        if not axes:
            self.report.add(
                "E0107",
                f"`{word}()` names no index to reduce over",
                self._span(meta),
                help=f"write `{word}(i) …`, or `{word}(...) …` for the leading dimensions",
            )
        return s.Reduce(self._span(meta), str(word), axes, body)

    def _reduced(self, word: Token, argument: s.Argument) -> s.Axis:
        axis = _axis(argument.value) if argument.name is None else None
        if axis is None:
            self.report.add(
                "E0107",
                f"`{word}(…)` before a value reduces over indices, and this is not one",
                argument.span,
                label="expected `i`, `i < n` or `...`",
                help=f"an index begins at 0 and has a bound: `{word}({argument.name} < n)`"
                if argument.name
                else "put an operator before the value that follows, if this was to "
                f"be the {word} of a tensor",
            )
        return axis or s.Axis(argument.span, argument.span.text)

    # values

    def call(self, meta: Meta, parts: list[Any]) -> s.Call:
        function, arguments = parts
        if isinstance(function, Token):
            function = s.Name(self._span(function), str(function))
        return s.Call(self._span(meta), function, arguments)

    def arguments(self, meta: Meta, parts: list[Any]) -> tuple[s.Argument, ...]:
        return tuple(parts)

    def argument(self, meta: Meta, parts: list[Any]) -> s.Argument:
        name = str(parts[0]) if len(parts) == 2 else None
        return s.Argument(self._span(meta), name, parts[-1])

    def index(self, meta: Meta, parts: list[Any]) -> s.Index:
        return s.Index(self._span(meta), parts[0], tuple(parts[1:]))

    def guarded(self, meta: Meta, parts: list[Any]) -> s.Guarded:
        return s.Guarded(self._span(meta), *parts)

    def listing(self, meta: Meta, parts: list[Any]) -> s.List:
        return s.List(self._span(meta), tuple(parts))

    def ellipsis(self, meta: Meta, parts: list[Any]) -> s.Ellipsis_:
        return s.Ellipsis_(self._span(meta))

    def name(self, meta: Meta, parts: list[Token]) -> s.Name:
        return s.Name(self._span(meta), parts[0].value.rstrip("'"), parts[0].type == "PRIMED")

    def plain(self, meta: Meta, parts: list[Token]) -> s.Name:
        return s.Name(self._span(meta), str(parts[0]))

    def word(self, meta: Meta, parts: list[Token]) -> s.Name:
        return s.Name(self._span(meta), str(parts[0]))

    def boolean(self, meta: Meta, parts: list[Token]) -> s.Boolean:
        return s.Boolean(self._span(meta), parts[0].value == "true")

    def string(self, meta: Meta, parts: list[Token]) -> s.String:
        text = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), parts[0].value[1:-1])
        return s.String(self._span(meta), text)

    def number(self, meta: Meta, parts: list[Token]) -> s.Number:
        text = str(parts[0])
        value: int | float
        if set(".eE") & set(text):
            value = float(text)
            fits = math.isfinite(value)
        else:
            fits = len(text) < 30 and int(text) < 2**63
            value = int(text) if fits else 0
        if not fits:
            self.report.add(
                "E0108",
                "this number is too large",
                self._span(meta),
                label="beyond what 64 bits can hold",
                help="infinity is written `inf`",
            )
        return s.Number(self._span(meta), value, text)


def _axis(element: s.Expr) -> s.Axis | None:
    """`i`, `i < n` or `...` as the index that it introduces, or None."""
    match element:
        case s.Name(span, name, primed=False):
            return s.Axis(span, name)
        case s.Binary(span, "<", s.Name(_, name, primed=False), bound):
            return s.Axis(span, name, bound)
        case s.Ellipsis_(span):
            return s.Axis(span, "...")
    return None


def _on_the_left(element: s.Expr) -> str:
    """What is meant by something else than an index on the left."""
    if not isinstance(element, s.Number):
        return (
            "put the arithmetic on the right, as in `y[t] = … (y[t-1] else 0)`, or accumulate "
            "with `+=`"
        )
    if element.value == 0:
        return "a recurrence starts with what it reads outside: `y[t] = … (y[t-1] else 0)`"
    return f"how far an index runs is said behind it: `i < {element.text}`"
