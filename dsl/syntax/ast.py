"""The syntax tree: frozen nodes, each with the span of its text, and their traversal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import TypeVar, dataclass_transform

from .source import Source, Span

N = TypeVar("N")


@dataclass_transform(frozen_default=True)
def node(kind: type[N]) -> type[N]:
    """A kind of node: a dataclass that type checkers hold to be frozen.

    Its methods are those of `Node`. Those that `dataclass(frozen=True)` writes and compiles for
    each class take as long as parsing a program."""
    return dataclass(eq=False, repr=False)(kind)


@node
class Node:
    span: Span

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({values})"


# --- expressions -------------------------------------------------------------------------------


@node
class Number(Node):
    """`3` (an int) or `1e-3` (a float); `text` is the spelling."""

    value: int | float
    text: str


@node
class Boolean(Node):
    """`true` or `false`."""

    value: bool


@node
class String(Node):
    """`"train.csv"`: file names and words in `train` blocks and `use`."""

    value: str


@node
class Name(Node):
    """`x`; `p'` has `primed` set and `id` without the prime."""

    id: str
    primed: bool = False


@node
class Ellipsis_(Node):
    """`...`, any leading dimensions."""


@node
class List(Node):
    """`[a, b, c]` in a setting."""

    items: tuple[Expr, ...]


@node
class Unary(Node):
    """`op` is `-` or `not`."""

    op: str
    operand: Expr


@node
class Binary(Node):
    """`op` is one of + - * / // % ^ @ == != < <= > >= and or."""

    op: str
    left: Expr
    right: Expr


@node
class If(Node):
    """`if condition then yes else no`."""

    condition: Expr
    yes: Expr
    no: Expr


@node
class Index(Node):
    """`x[..., i*2 + u, label[b]]`."""

    tensor: Name
    indices: tuple[Expr, ...]


@node
class Guarded(Node):
    """`(x[i - 1] else 0)`."""

    read: Index
    other: Expr


@node
class Axis(Node):
    """The introduction of an index: `i`, `u < 3` with a `bound`, or `...` as its name."""

    name: str
    bound: Expr | None = None


@node
class Reduce(Node):
    """`sum(i, u < 3) body`; `op` is one of `REDUCTIONS`."""

    op: str
    axes: tuple[Axis, ...]
    body: Expr


@node
class Argument(Node):
    """`3` or `stride = 2` in a call."""

    name: str | None
    value: Expr


@node
class Call(Node):
    """`softmax(x)`, `mean(x)`, or an applied layer: `Dense(10)(x)` has a Call as its `function`."""

    function: Expr
    arguments: tuple[Argument, ...]


@node
class Pipe(Node):
    """`value |> stage`; the stage is a Name or a Call."""

    value: Expr
    stage: Expr


Expr = (
    Number
    | Boolean
    | String
    | Name
    | Ellipsis_
    | List
    | Unary
    | Binary
    | If
    | Index
    | Guarded
    | Reduce
    | Call
    | Pipe
)

REDUCTIONS = ("sum", "max", "min", "prod", "mean", "argmax", "argmin")


# --- statements --------------------------------------------------------------------------------


@node
class Type(Node):
    """`f32[B, 10]`, `[..., n]`, `i32`; None for an omitted part. `[]` is shape ()."""

    dtype: str | None
    shape: tuple[Expr, ...] | None


@node
class Let(Node):
    """`let e = d // heads`: a size or another compile-time value."""

    name: Name
    value: Expr


@node
class Param(Node):
    """`param w, u: [n, m] ~ normal(0, 0.02)` (drawn is True) or `param b: [m] = 0`."""

    names: tuple[Name, ...]
    type: Type
    value: Expr
    drawn: bool


@node
class State(Node):
    """`state m = 0` (optimizers: of the parameter's shape) or `state mean: [c] = 0`."""

    name: Name
    type: Type | None
    value: Expr


@node
class Equation(Node):
    """`y[..., o] = …`, `y = …`, `h, c = …`, `m' = …`, or `table[token[b], j] += …`.

    `indices` is None without brackets, as always with several targets. A name, `i < n` or `...` is
    an Axis. `accumulate` is empty, or "+=", "max=" or "min=": then an index can be any Expr.
    """

    targets: tuple[Name, ...]
    indices: tuple[Axis | Expr, ...] | None
    accumulate: str
    value: Expr


@node
class Repeat(Node):
    """`repeat 4 { … }`: the body's statements, each time with new parameters."""

    count: Expr
    body: tuple[Statement, ...]


@node
class Remat(Node):
    """`remat { … }`: statements whose results the backward pass computes again."""

    body: tuple[Statement, ...]


Statement = Let | Param | State | Equation | Repeat | Remat


def flatten_remat(body: Iterable[Statement]) -> Iterator[Let | Param | State | Equation | Repeat]:
    """The statements of a body, each `remat`, which opens no scope, replaced by its own."""
    for statement in body:
        # A `repeat` opens a scope and stays as it is.
        if isinstance(statement, Remat):
            yield from flatten_remat(statement.body)
        else:
            yield statement


# --- declarations ------------------------------------------------------------------------------


@node
class Parameter(Node):
    """A name in a declaration's parentheses or after its arrow: `x: [..., n]`, `stride = 1`."""

    name: str
    type: Type | None
    default: Expr | None


@node
class Definition(Node):
    """A `layer`, `fn`, `model` or `optimizer`, which `kind` names.

    layer Conv(filters, stride = 1)(x: [..., h, w, c]) -> y: […] { … }   settings, inputs, results
    model Mnist(image: f32[B, 784]) -> logits: f32[B, 10] { … }          inputs, results
    fn    softmax(x: [..., n]) -> y: [..., n] { … }                      inputs, results
    fn    relu(x, slope = 0) = max(x, slope*x)                           inputs, value
    optimizer adam(lr = 1e-3) { … }                                      settings
    """

    kind: str
    name: str
    name_span: Span
    settings: tuple[Parameter, ...]
    inputs: tuple[Parameter, ...]
    results: tuple[Parameter, ...]
    body: tuple[Statement, ...]
    value: Expr | None
    doc: str


@node
class Field(Node):
    """`batch = 32` in a `train` block."""

    name: Name
    value: Expr


@node
class Limit(Node):
    """`T <= 512`: the greatest value of a size; the checks refuse other comparisons."""

    name: Name
    op: str
    value: Expr


@node
class Metric(Node):
    """`metric accuracy = mean(argmax(logits) == label)`."""

    name: Name
    value: Expr


@node
class Until(Node):
    """`until loss < 0.01`."""

    condition: Expr


@node
class Input(Node):
    """`input label: i32[B]`: a field of the data with its type."""

    name: Name
    type: Type


@node
class Pattern(Node):
    """Names of parameters in a train block: `encoder.*`, `*.b`, `table`."""

    text: str


@node
class ParamGroup(Node):
    """`optimizer encoder.* = sgd(lr = 1e-3)`; without a value `freeze encoder.*`."""

    patterns: tuple[Pattern, ...]
    value: Expr | None


@node
class Loss(Node):
    """`loss critic for critic.* = mean(fake) - mean(real)`: one of several losses, and the
    parameters that it trains."""

    name: Name
    patterns: tuple[Pattern, ...]
    value: Expr


@node
class Train(Node):
    """`train Mnist { … }`."""

    model: Name
    body: tuple[Field | Limit | Loss | Metric | Until | Input | Let | ParamGroup, ...]
    doc: str

    @property
    def losses(self) -> list[Field | Loss]:
        """`loss = …`, or the losses with names, in order."""
        return [
            i
            for i in self.body
            if isinstance(i, Loss) or (isinstance(i, Field) and i.name.id == "loss")
        ]

    @property
    def measures(self) -> list[Field | Loss | Metric]:
        """What a step reports: the losses, then the metrics."""
        return [*self.losses, *(i for i in self.body if isinstance(i, Metric))]


@node
class Use(Node):
    """`use "blocks.nn"`."""

    path: String


Declaration = Use | Definition | Train


@node
class Comment(Node):
    """`# …`: the text after the `#`; `own_line` if nothing precedes it on its line."""

    text: str
    own_line: bool


@node
class Language(Node):
    """`language 1`: the version of the language that a file is written in."""

    version: Number


@node
class File(Node):
    """A whole file. The comments are listed in order; the formatter places them by their spans."""

    source: Source
    language: Language | None
    doc: str
    declarations: tuple[Declaration, ...]
    comments: tuple[Comment, ...]


# --- traversal ---------------------------------------------------------------------------------


def walk(node: object, branches: bool = True) -> Iterator[Node]:
    """The node and every node below it, parents first, in source order.

    Without `branches`, only the condition of an `if` is entered.
    """
    stack = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, tuple):
            # A stack takes from its end, so what comes first in the source is put on last.
            stack += reversed(top)
        elif isinstance(top, Node):
            yield top
            # Which branch is taken may depend on sizes.
            if isinstance(top, If) and not branches:
                stack.append(top.condition)
                continue
            kind: type = type(top)
            stack += [getattr(top, name) for name in _fields_of_nodes(kind)]


@cache
def _fields_of_nodes(kind: type) -> tuple[str, ...]:
    """The fields of a kind of node that hold nodes, the last in the order of the text first."""
    plain = {"Span", "Source", "str", "str | None", "bool", "int | float"}
    return tuple(f.name for f in reversed(fields(kind)) if f.type not in plain)
