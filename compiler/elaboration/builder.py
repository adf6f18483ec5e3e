"""The system under construction: tensors, equations, names that do not clash, mistakes.

In: what the other files of this folder decide. Out: a `System`. No syntax is looked at here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ...dsl.diagnostics.diagnostic import Note, Report, UserError
from ...dsl.syntax.ast import Definition, Node, Statement
from ...dsl.syntax.source import Span
from ..ir.equation import Equation, Index, System, Tensor
from ..ir.expr import Const, Expr, walk
from .values import Array, Shape, Value, of_tensor

LETTERS = ("i", "j", "k", "l", "m", "n", "p", "q", "r", "s")
MAX_ELEMENTS = 2**31 - 1
MAX_EQUATIONS = 10_000
MAX_LEVELS = 120  # of one equation's body, so that every later stage may recurse through it
MAX_PARTS = 20_000  # of one equation's body when it is written out


class Abort(Exception):
    """The statement at hand is wrong and its mistake is in the report."""


@dataclass
class Application:
    """A layer or fn that is being elaborated: where it is used, and what its body can name."""

    name: str
    span: Span
    names: Mapping[str, Value]

    @property
    def settings(self) -> str:
        """`filters = 4, kernel = 9, h = 5`: what its sizes follow from."""
        known = [(n, v) for n, v in self.names.items() if isinstance(v, int | str)]
        return ", ".join(f"{n} = {_written(v)}" for n, v in known[:9])


def _written(value: int | str) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


@dataclass(frozen=True)
class Block:
    """What a `remat` computes; the place is that of the word."""

    span: Span
    targets: tuple[str, ...]


@dataclass
class Scope:
    """Names visible in one body. `indices` are those of the equation at hand, outermost first;
    `ellipsis` are the names of the indices that `...` stands for in it."""

    prefix: str
    names: dict[str, Value]
    indices: dict[str, int] = field(default_factory=dict)
    ellipsis: tuple[str, ...] | None = None
    target: str = "value"
    span: Span | None = None
    hidden: frozenset[str] = frozenset()  # indices of the caller that an argument's name hides
    awaited: dict[str, Statement] = field(default_factory=dict)  # what computes each name
    origins: dict[str, tuple[Span, str]] = field(default_factory=dict)  # where a size was first met
    renamed: Mapping[str, str] = field(default_factory=dict)  # indices called otherwise inside

    def inner(
        self,
        indices: Mapping[str, int],
        ellipsis: tuple[str, ...] | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> Scope:
        """The same scope with more indices; `renamed` are those whose own names were taken."""
        return Scope(
            self.prefix,
            self.names,
            {**self.indices, **indices},
            self.ellipsis if ellipsis is None else ellipsis,
            self.target,
            self.span,
            self.hidden - indices.keys(),
            self.awaited,
            self.origins,
            {**{k: v for k, v in self.renamed.items() if k not in indices}, **(renamed or {})},
        )


class Builder:
    """Collects tensors and equations. `float_type` is what `f32` means (f64 when verifying)."""

    def __init__(
        self, definitions: Mapping[str, Definition], report: Report, training: bool, float_type: str
    ):
        self.definitions = definitions
        self.report = report
        self.training = training
        self.float_type = float_type
        self.tensors: dict[str, Tensor] = {}
        self.axes: dict[str, tuple[str, ...]] = {}
        self.equations: list[Equation] = []
        self.updates: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.reserved = {"step", "seed"}  # and the names of a model's results
        self.streams = 0
        self.blocks: list[Block] = []
        self.calls: list[Application] = []
        self.origins: dict[str, Application] = {}  # the user's layer that declares a parameter

    # --- mistakes -----------------------------------------------------------------------------

    def error(self, code: str, message: str, span: Span, **more) -> Abort:
        """Add a mistake to the report; `raise self.error(…)` gives up the statement. A mistake
        that surfaces inside the library is shown where the user's file uses it."""
        use = self.use()
        if use is not None and span.source.library:
            if any(d.is_error and d.span == use.span for d in self.report.diagnostics):
                return Abort()  # one mistake has many consequences inside
            place = Note(span, more.get("label") or message)
            settings = self.calls[-1].settings
            more = {
                "label": f"in this use of `{use.name}`",
                "notes": (place, *more.get("notes", ())),
                "help": f"inside `{self.calls[-1].name}`: {settings}" if settings else "",
            }
            if code == "E0309" and _channels_first(self.calls[-1].names):
                more["help"] += "; images are [batch, height, width, channels]"
            span = use.span
        elif any(d.code == code and d.span == span for d in self.report.diagnostics):
            return Abort()  # a layer that is used again: its mistake has been told
        elif use is not None and not _within(span, use.span):
            more["notes"] = (*more.get("notes", ()), Note(use.span, f"`{use.name}` is used here"))
        self.report.add(code, message, span, **more)
        return Abort()

    def use(self) -> Application | None:
        """The innermost application that a file of the user's writes."""
        return next((c for c in reversed(self.calls) if not c.span.source.library), None)

    def used(self, span: Span | None) -> Span | None:
        """The place together with the one in the user's file that asks for it."""
        use = self.use()
        return span if span is None or use is None else replace(span, call_site=use.span)

    @contextmanager
    def shallow(self, node: Node) -> Iterator[None]:
        """Python's stack is the last limit; the others should be met before."""
        depth = len(self.calls)
        try:
            yield
        except RecursionError:
            del self.calls[depth:]
            raise self.error(
                "E0110",
                "this is nested too deeply",
                node.span,
                label="with the functions that it applies written out",
                help="name a part of it in an equation of its own",
            ) from None

    # --- names --------------------------------------------------------------------------------

    def unique(self, name: str) -> str:
        """The name, or the name with a number, so that no two tensors share one."""
        if name not in self.tensors and name not in self.reserved:
            return name
        number = self.counts.get(name, 1)
        while f"{name}_{number + 1}" in self.tensors:
            number += 1
        self.counts[name] = number + 1
        return f"{name}_{number + 1}"

    def instance(self, name: str) -> str:
        """`conv1`, `conv2`, … for the layers of a model in the order of their use."""
        number = self.counts.get(f"#{name}", 0) + 1
        self.counts[f"#{name}"] = number
        return f"{name}{number}"

    # --- tensors ------------------------------------------------------------------------------

    def float_for(self, dtype: str | None) -> str:
        """The type that a declaration means: f32 unless said, and f64 everywhere if asked."""
        return self.float_type if dtype in (None, "f32") else dtype

    def declare(
        self,
        name: str,
        shape: Shape,
        dtype: str,
        kind: str,
        span: Span | None,
        axes: tuple[str, ...] = (),
        init: str = "",
    ) -> Array:
        tensor = Tensor(name, shape, dtype, kind, init, self.used(span))
        if tensor.size > MAX_ELEMENTS and span is not None:
            raise self.error(
                "E0311",
                f"`{name}` would have {tensor.size:,} elements",
                span,
                label=f"its shape is {list(shape)}",
                help=f"the limit is {MAX_ELEMENTS:,} elements",
            )
        use = self.use()
        if kind == "param" and use is not None:
            self.origins[name] = use
        self.tensors[name] = tensor
        self.axes[name] = axes if len(axes) == len(shape) else self.fresh_axes(shape)
        return of_tensor(tensor, self.axes[name])

    def scalar_input(self, name: str) -> Array:
        """One of the compiler's own inputs, `step` and `seed`."""
        if name not in self.tensors:
            return self.declare(name, (), "i32", "input", None)
        return of_tensor(self.tensors[name], ())

    def fresh_axes(self, shape: Shape) -> tuple[str, ...]:
        return LETTERS[: len(shape)]

    def add(
        self,
        name: str,
        indices: tuple[Index, ...],
        body: Expr,
        span: Span | None,
        reduce: str | None = None,
        over: tuple[Index, ...] = (),
    ) -> Array:
        """A new equation and the tensor that it computes."""
        self.limit(body, span)
        dtype = "i32" if reduce in ("argmax", "argmin") else body.dtype
        shape = tuple(i.size for i in indices)
        array = self.declare(name, shape, dtype, "temp", span, tuple(i.name for i in indices))
        self.equations.append(Equation(name, indices, body, reduce, over, None, self.used(span)))
        return array

    def limit(self, body: Expr, span: Span | None) -> None:
        """Refuse what no later stage could take: bodies and systems without measure."""
        if span is None:
            return
        for node in walk(body):
            if isinstance(node, Const) and not fits(node.value, node.dtype):
                raise self.error(
                    "E0311",
                    f"{node.value} does not fit {node.dtype}",
                    span,
                    label="the number is too large for what it is computed with",
                    help="convert the other side: `i64(…)`",
                )
        if len(self.equations) >= MAX_EQUATIONS:
            self.error(
                "E0311",
                f"the program has more than {MAX_EQUATIONS:,} equations",
                span,
                label="with all layers written out",
                help="is a `repeat` too large?",
            )
            raise UserError(self.report.diagnostics)
        levels: dict[Expr, int] = {}
        parts: dict[Expr, int] = {}
        for node in walk(body):
            levels[node] = 1 + max((levels[c] for c in node.children), default=0)
            parts[node] = 1 + sum(parts[c] for c in node.children)
        if levels[body] > MAX_LEVELS:
            raise self.error(
                "E0110",
                f"this equation is nested more than {MAX_LEVELS} levels deep",
                span,
                label="with the functions that it applies written out",
                help="name a part of it in an equation of its own",
            )
        if parts[body] > MAX_PARTS:
            raise self.error(
                "E0110",
                f"this equation has more than {MAX_PARTS:,} parts",
                span,
                label="with the functions that it applies written out",
                help="name a part of it in an equation of its own",
            )

    def system(self, name: str, outputs: tuple[str, ...]) -> System:
        remat = tuple(block.targets for block in self.blocks)
        return System(name, self.tensors, tuple(self.equations), outputs, self.updates, remat)


def _within(inner: Span, outer: Span) -> bool:
    same = inner.source is outer.source
    return same and outer.start <= inner.start and inner.end <= outer.end


def _channels_first(names: Mapping[str, Value]) -> bool:
    """Whether an image is likely to have its channels where its height belongs."""
    height, channels = names.get("h"), names.get("c")
    return isinstance(height, int) and isinstance(channels, int) and height < channels


_LAST = {"bool": 1, "u8": 2**8 - 1, "i32": 2**31 - 1, "i64": 2**63 - 1}


def fits(value: float, dtype: str) -> bool:
    """Whether a type can hold a number: real ones any, whole ones those in their range."""
    if dtype not in _LAST:
        return True
    first = 0 if dtype in ("bool", "u8") else -_LAST[dtype] - 1
    return first <= value <= _LAST[dtype]
