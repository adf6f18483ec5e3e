"""AST builder: parse tree to syntax tree, bottom up and without recursion.

One method for each rule of grammar.lark makes a node of the rule's children, which are nodes
already. What the grammar accepts too generously in index lists, types and numbers is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lark import Token
from lark.tree import Meta
from lark.visitors import Transformer_NonRecursive, v_args

from ..diagnostics.diagnostic import Report
from ..diagnostics.foreign_terms import suggest_dtype
from . import ast as s
from .docstrings import Doc, report_stray_doc
from .lexer_rules import DTYPES
from .numbers import number_of
from .source import Source, Span


def _dedent(text: str) -> str:
    """A docstring's text without the indentation that its lines share."""
    first, *rest = text.expandtabs(4).split("\n")
    # The first line stands behind the quotes and has no indentation to share.
    margin = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
    return "\n".join([first.strip(), *(line[margin:].rstrip() for line in rest)]).strip()


# Most rules need no code of their own; these helpers make their methods.
_Method = Callable[["AstBuilder", Meta, list[Any]], Any]


def _node(kind: Callable[..., s.Node]) -> _Method:
    """For a rule whose children are the fields of a node, in order."""
    return lambda self, meta, parts: kind(self._span(meta), *parts)


def _operator(kind: Callable[..., s.Node], op: str) -> _Method:
    """For a rule with one operator; the operands are its children that are nodes."""
    # A terminal with a name, such as MINUS, is among the children as a token.
    return lambda self, meta, parts: kind(
        self._span(meta), op, *(part for part in parts if not isinstance(part, Token))
    )


def _tuple(_self: AstBuilder, _meta: Meta, parts: list[Any]) -> tuple[Any, ...]:
    return tuple(parts)


@v_args(meta=True)
class AstBuilder(Transformer_NonRecursive):  # type: ignore[type-arg]
    """Builds the nodes of a text that begins at `offset` of a source."""

    def __init__(self, source: Source, offset: int, report: Report):
        super().__init__()
        self.source, self.offset, self.report = source, offset, report

    def _span(self, place: Meta | Token) -> Span:
        # Lark counts from the start of the parsed text; `offset` is where that lies in the source.
        start = getattr(place, "start_pos", None)  # an empty rule has no position
        if start is None:
            return Span(self.source, self.offset, self.offset)
        return Span(self.source, self.offset + start, self.offset + (place.end_pos or start))

    # files and declarations

    def file(self, meta: Meta, parts: list[Any]) -> list[Any]:
        return parts

    def docstring(self, meta: Meta, parts: list[Token]) -> Doc:
        return Doc(self._span(meta), _dedent(parts[0].value[3:-3]))

    use = _node(s.Use)
    language = _node(s.Language)
    group = results = shape = block = train_block = _tuple

    def layer(self, meta: Meta, parts: list[Any]) -> s.Definition:
        # One parenthesised group is the inputs, of two the first is the settings.
        name, *groups, inputs, results, block = parts
        settings = groups[0] if groups else ()
        return self._definition("layer", meta, name, settings, inputs, results, block)

    def model(self, meta: Meta, parts: list[Any]) -> s.Definition:
        name, inputs, results, block = parts
        return self._definition("model", meta, name, (), inputs, results, block)

    def function(self, meta: Meta, parts: list[Any]) -> s.Definition:
        # `fn f(x) = value`; the other form has results and a body
        if len(parts) == 3:
            name, inputs, value = parts
            return self._definition("fn", meta, name, (), inputs, (), (), value)
        name, inputs, results, block = parts
        return self._definition("fn", meta, name, (), inputs, results, block)

    def optimizer(self, meta: Meta, parts: list[Any]) -> s.Definition:
        name, *groups, block = parts
        settings = groups[0] if groups else ()
        return self._definition("optimizer", meta, name, settings, (), (), block)

    def _definition(
        self, kind, meta: Meta, name: Token, settings, inputs, results, block, value=None
    ) -> s.Definition:
        doc, body = _split_doc(block)
        span, name_span = self._span(meta), self._span(name)
        return s.Definition(
            span, kind, str(name), name_span, settings, inputs, results, body, value, doc
        )

    def train(self, meta: Meta, parts: list[Any]) -> s.Train:
        doc, body = _split_doc(parts[1])
        return s.Train(self._span(meta), parts[0], body, doc)

    def parameter(self, meta: Meta, parts: list[Any]) -> s.Parameter:
        name, *rest = parts
        # Both parts are optional, so they are told apart by their class.
        dtype = next((part for part in rest if isinstance(part, s.Type)), None)
        default = next((part for part in rest if not isinstance(part, s.Type)), None)
        return s.Parameter(self._span(meta), str(name), dtype, default)

    def type(self, meta: Meta, parts: list[Any]) -> s.Type:
        # `f32[B]` is a token and a tuple, `[n]` a tuple, `i32` a token.
        dtype = parts[0] if isinstance(parts[0], Token) else None
        shape = parts[-1] if isinstance(parts[-1], tuple) else None
        # Types are names to the grammar, so that `float32` gets a message of its own.
        if dtype is not None and dtype not in DTYPES:
            self.report.add(
                "E0111",
                f"`{dtype}` is not an element type",
                self._span(dtype),
                label=f"expected one of {', '.join(DTYPES)}",
                help=suggest_dtype(str(dtype), DTYPES),
            )
        return s.Type(self._span(meta), None if dtype is None else str(dtype), shape)

    # statements

    let = _node(s.Let)
    metric = _node(s.Metric)
    until = _node(s.Until)
    input = _node(s.Input)
    names = plains = _tuple

    def field(self, meta: Meta, parts: list[Any]) -> s.Field:
        # `optimizer` is a keyword here, for `optimizer encoder.* = …`
        head, value = parts
        name = s.Name(self._span(head), str(head)) if isinstance(head, Token) else head
        return s.Field(self._span(meta), name, value)

    def limit(self, meta: Meta, parts: list[Any]) -> s.Limit:
        name, sign, value = parts
        return s.Limit(self._span(meta), name, str(sign), value)

    def patterns(self, meta: Meta, parts: list[Token]) -> tuple[s.Pattern, ...]:
        return tuple(s.Pattern(self._span(part), str(part)) for part in parts)

    def loss(self, meta: Meta, parts: list[Any]) -> s.Loss:
        name, patterns, _, value = parts
        return s.Loss(self._span(meta), name, patterns, value)

    def param_group(self, meta: Meta, parts: list[Any]) -> s.ParamGroup:
        patterns, _, value = parts
        return s.ParamGroup(self._span(meta), patterns, value)

    def freeze(self, meta: Meta, parts: list[Any]) -> s.ParamGroup:
        return s.ParamGroup(self._span(meta), parts[0], None)

    def param(self, meta: Meta, parts: list[Any]) -> s.Param:
        names, dtype, sign, value = parts
        return s.Param(self._span(meta), names, dtype, value, sign.value == "~")

    def state(self, meta: Meta, parts: list[Any]) -> s.State:
        dtype = parts[1] if len(parts) == 3 else None
        return s.State(self._span(meta), parts[0], dtype, parts[-1])

    def repeat(self, meta: Meta, parts: list[Any]) -> s.Repeat:
        return s.Repeat(self._span(meta), parts[0], self._inner_body(parts[1]))

    def remat(self, meta: Meta, parts: list[Any]) -> s.Remat:
        return s.Remat(self._span(meta), self._inner_body(parts[0]))

    def _inner_body(self, block: tuple[Any, ...]) -> tuple[Any, ...]:
        """The statements of a block within a body, which has no docstring of its own."""
        if block and isinstance(block[0], Doc):
            report_stray_doc(block[0], self.report)
        return _split_doc(block)[1]

    def equation(self, meta: Meta, parts: list[Any]) -> s.Equation:
        names, sign, value = parts
        return s.Equation(self._span(meta), names, None, _accumulation(sign), value)

    def indexed(self, meta: Meta, parts: list[Any]) -> s.Equation:
        target, sign, value = parts
        accumulate = _accumulation(sign)
        indices = tuple(self._left_index(e, accumulate) for e in target.indices)
        return s.Equation(self._span(meta), (target.tensor,), indices, accumulate, value)

    def _left_index(self, element: s.Expr, accumulate: str) -> s.Axis | s.Expr:
        # The grammar reads the left side as a read, `y[i]`; here its indices become introductions
        # of indices. Only `+=` and its like may have an expression there.
        axis = _axis(element)
        if axis is None and not accumulate:
            self.report.add(
                "E0106",
                "an index on the left of `=` is a name",
                element.span,
                label="expected a name such as `i`, or `i < n`, or `...`",
                help=_left_index_hint(element),
            )
        return axis or element

    # operators

    either = _operator(s.Binary, "or")
    both = _operator(s.Binary, "and")
    power = _operator(s.Binary, "^")
    negation = _operator(s.Unary, "not")
    minus = _operator(s.Unary, "-")
    if_else = if_body = _node(s.If)
    pipe = _node(s.Pipe)

    def binary(self, meta: Meta, parts: list[Any]) -> s.Binary:
        left, sign, right = parts
        return s.Binary(self._span(meta), str(sign), left, right)

    def reduction(self, meta: Meta, parts: list[Any]) -> s.Reduce:
        word, arguments, body = parts
        axes = tuple(self._reduced_axis(word, argument) for argument in arguments)
        # `sum() x`
        if not axes:
            self.report.add(
                "E0107",
                f"`{word}()` names no index to reduce over",
                self._span(meta),
                help=f"write `{word}(i) …`, or `{word}(...) …` for the leading dimensions",
            )
        return s.Reduce(self._span(meta), str(word), axes, body)

    def _reduced_axis(self, word: Token, argument: s.Argument) -> s.Axis:
        # The grammar reads `sum(i, u < 3)` as a call's arguments, so `i < n` arrives as a
        # comparison.
        axis = _axis(argument.value) if argument.name is None else None
        if axis is None:
            self.report.add(
                "E0107",
                f"`{word}(…)` before a value reduces over indices, and this is not one",
                argument.span,
                label="expected `i`, `i < n` or `...`",
                help=f"an index begins at 0 and has a bound: `{word}({argument.name} < n)`"
                if argument.name
                else "if this should be the "
                f"{word} of a tensor, an operator is missing before the value that follows",
            )
        # A stand-in, so that the tree can be finished; the error is in the report.
        return axis or s.Axis(argument.span, argument.span.text)

    # values

    guarded = _node(s.Guarded)
    ellipsis = _node(s.Ellipsis_)
    arguments = _tuple

    def call(self, meta: Meta, parts: list[Any]) -> s.Call:
        function, arguments = parts
        # `max(a, b)`: the name is a REDUCE token, as the word can also begin a reduction
        if isinstance(function, Token):
            function = s.Name(self._span(function), str(function))
        return s.Call(self._span(meta), function, arguments)

    def argument(self, meta: Meta, parts: list[Any]) -> s.Argument:
        name = str(parts[0]) if len(parts) == 2 else None
        return s.Argument(self._span(meta), name, parts[-1])

    def index(self, meta: Meta, parts: list[Any]) -> s.Index:
        return s.Index(self._span(meta), parts[0], tuple(parts[1:]))

    def listing(self, meta: Meta, parts: list[Any]) -> s.List:
        return s.List(self._span(meta), tuple(parts))

    def name(self, meta: Meta, parts: list[Token]) -> s.Name:
        # The prime is a part of the token, but not of the name.
        return s.Name(self._span(meta), parts[0].value.rstrip("'"), parts[0].type == "PRIMED")

    plain = word = name

    def boolean(self, meta: Meta, parts: list[Token]) -> s.Boolean:
        return s.Boolean(self._span(meta), parts[0].value == "true")

    def string(self, meta: Meta, parts: list[Token]) -> s.String:
        # `\"` and `\\` stand for the character after the backslash, as does any unknown escape.
        escapes = {"n": "\n", "t": "\t"}
        text = re.sub(r"\\(.)", lambda m: escapes.get(m[1], m[1]), parts[0].value[1:-1])
        return s.String(self._span(meta), text)

    def number(self, meta: Meta, parts: list[Token]) -> s.Number:
        text = str(parts[0])
        value = number_of(text)
        if value is None:
            self.report.add(
                "E0108",
                "this number is too large",
                self._span(meta),
                label="does not fit in 64 bits",
                help="infinity is written `inf`",
            )
        return s.Number(self._span(meta), 0 if value is None else value, text)


def _accumulation(sign: Token) -> str:
    """The sign of an equation if it accumulates, else nothing."""
    return "" if sign.value == "=" else sign.value


def _split_doc(block: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The docstring at the start of a block, if any, and the statements after it."""
    if block and isinstance(block[0], Doc):
        return block[0].value, block[1:]
    return "", block


def _axis(element: s.Expr) -> s.Axis | None:
    """The index that `i`, `i < n` or `...` introduces; None for any other expression."""
    match element:
        case s.Name(span, name, primed=False):
            return s.Axis(span, name)
        # only a plain name on the left: `2*i < n` introduces nothing
        case s.Binary(span, "<", s.Name(_, name, primed=False), bound):
            return s.Axis(span, name, bound)
        case s.Ellipsis_(span):
            return s.Axis(span, "...")
    return None


def _left_index_hint(element: s.Expr) -> str:
    """What an expression on the left of `=` was probably meant for."""
    if not isinstance(element, s.Number):
        return (
            "put the arithmetic on the right, as in `y[t] = … (y[t-1] else 0)`, or accumulate "
            "with `+=`"
        )
    if element.value == 0:
        return "the first value of a recurrence follows `else`: `y[t] = … (y[t-1] else 0)`"
    return f"the range of an index follows its name: `i < {element.text}`"
