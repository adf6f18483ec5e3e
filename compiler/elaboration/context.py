"""The context of elaboration: the system under construction, fresh names and mistakes.

Every function of this package takes a `Context` first. It collects tensors and equations, which
`system` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ...dsl.diagnostics.diagnostic import Note, Report, UserError
from ...dsl.syntax import ast as s
from ...dsl.syntax.lexer_rules import KEYWORDS
from ...dsl.syntax.source import Span
from ..ir.dtypes import HALVES
from ..ir.equation import Equation, Gradient, Index, RematBlock, System, Tensor
from ..ir.expr import Apply, Expr, Idx
from .applications import Application, Layer, Part
from .limits import MAX_ELEMENTS, MAX_EQUATIONS, excess, number_that_does_not_fit
from .scopes import BodyScope
from .values import Array, Shape, Static, Value, of_tensor

# the compiler's own inputs, which any equation may read
DRAWN = "examples_drawn"  # how many examples of a batch count, the first ones, in private training
NOISE_KEY = tuple(f"noise_key_{n}" for n in range(4))  # that its noise depends on
RESERVED_INPUTS = ("step", "seed", "microbatches_left", DRAWN, *NOISE_KEY)
# names for indices where the program gives none
LETTERS = ("i", "j", "k", "l", "m", "n", "p", "q", "r", "s")


class Abort(Exception):
    """The current statement is wrong and its mistake is in the report."""


Rule = Callable[["Context", Any, BodyScope], Any]


@dataclass
class Context:
    """A system under construction. `float_type` is what `f32` means (f64 for verification).

    `rules` has one function for each class of syntax node; `fields` are the names of the data's
    fields, None where no data is known.
    """

    definitions: Mapping[str, s.Definition]
    report: Report
    training: bool
    float_type: str
    rules: Mapping[type[s.Node], Rule]
    fields: Collection[str] | None = ()
    most_elements: int = MAX_ELEMENTS  # of a tensor, and how far an index goes
    patch: tuple[str, str] | None = None  # a tensor, and the model's value that it has instead
    fullness: float = 1.0  # the examples of this batch per example of a whole one
    accumulate: int = 1  # the batches of a training step
    phased: bool = False  # whether what is computed depends on any of the three, or on `training`

    # the system
    tensors: dict[str, Tensor] = field(default_factory=dict)
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # names of dimensions
    equations: list[Equation] = field(default_factory=list)
    updates: dict[str, str] = field(default_factory=dict)
    averages: dict[str, str] = field(default_factory=dict)  # states, by parameter
    blocks: list[RematBlock] = field(default_factory=list)
    gradients: list[Gradient] = field(default_factory=list)
    inits: dict[str, tuple[s.Expr, BodyScope]] = field(default_factory=dict)  # of parameters
    origins: dict[str, Application] = field(default_factory=dict)  # the user's layer of a parameter
    layers: list[Layer] = field(default_factory=list)  # for those who list them
    parts: dict[str, Part] = field(default_factory=dict)  # for those who compute one alone
    streams: int = 0  # of random numbers

    # names
    reserved: set[str] = field(default_factory=lambda: {*RESERVED_INPUTS, *KEYWORDS})
    counts: dict[str, int] = field(default_factory=dict)
    stems: set[str] = field(default_factory=set)  # `dense1`: names of the applied layers
    outermost: BodyScope | None = None  # of the model; and its results that a `repeat` computes
    repeated: frozenset[str] = frozenset()

    # where elaboration stands
    calls: list[Application] = field(default_factory=list)
    inferring: list[str] = field(default_factory=list)  # targets whose index ranges are inferred
    repeats: int = 0  # open `repeat` blocks
    copies: int = 1  # of the innermost, as all of them together ask for
    statements: int = 0  # elaborated so far
    recordings: dict[Hashable, Any] = field(default_factory=dict)  # repetition.py

    # what is the same wherever it is asked for
    pointwise: dict[Hashable, Array] = field(default_factory=dict)  # by function and operands
    applied: dict[Hashable, Static | Array] = field(default_factory=dict)  # by fn and arguments
    applications: int = 0  # of fns, elaborated so far
    numbers: dict[Hashable, str] = field(default_factory=dict)  # differentiated, by body and value

    # --- mistakes ------------------------------------------------------------------------------

    def error(self, code: str, message: str, span: Span, **more) -> Abort:
        """Add a mistake to the report; `raise ctx.error(…)` abandons the statement. A mistake
        inside the library is shown where the user's file applies it."""
        use = self.user_call()
        if use is not None and span.source.library:
            if any(d.is_error and d.span == use.span for d in self.report.diagnostics):
                return Abort()  # one mistake has many consequences inside
            # The library's text becomes a note; the caret goes to the user's application.
            place = Note(span, more.get("label") or message)
            settings = self.calls[-1].settings
            more = {
                "label": f"in this use of `{use.name}`",
                "notes": (place, *more.get("notes", ())),
                "help": f"inside `{self.calls[-1].name}`: {settings}" if settings else "",
            }
            # A size below zero after a convolution: PyTorch's order of dimensions is the usual
            # cause.
            if code == "E0309" and _channels_first(self.calls[-1].names):
                more["help"] += "; images are [batch, height, width, channels]"
            span = use.span
        elif any(d.code == code and d.span == span for d in self.report.diagnostics):
            return Abort()  # a layer that is applied again: its mistake is in the report
        # The mistake is in a layer of the user's own: show which application met it.
        elif use is not None and not within(span, use.span):
            more["notes"] = (*more.get("notes", ()), Note(use.span, f"`{use.name}` is used here"))
        self.report.add(code, message, span, **more)
        return Abort()

    def user_call(self) -> Application | None:
        """The innermost application that stands in a file of the user's."""
        return next((c for c in reversed(self.calls) if not c.span.source.library), None)

    def located(self, span: Span | None) -> Span | None:
        """The place together with the user's application that led to it."""
        use = self.user_call()
        return span if span is None or use is None else replace(span, call_site=use.span)

    @contextmanager
    def recursion_limit(self, node: s.Node) -> Iterator[None]:
        """Report code that is nested so deeply that Python's stack ends; all other limits should
        be met before."""
        # What was being inlined when the stack ended does not pop itself off `calls`.
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

    # --- names ---------------------------------------------------------------------------------

    def reserve(self, names: Iterable[str]) -> None:
        """Keep the names that the user's model and train block spell out from all that is
        generated. Called before the first tensor, so that it matters nowhere which comes first."""
        self.reserved.update(names)

    def unique(self, name: str) -> str:
        """A name for what the compiler makes: this one, or with a number, so that no two tensors
        share one and none has a name of the user's."""
        if self._is_free(name):
            return name
        # `y`, `y_2`, `y_3`, …; the count goes on from the last one, as a deep model would otherwise
        # try all numbers for every layer.
        number = self.counts.get(name, 1) + 1
        while not self._is_free(f"{name}_{number}"):
            number += 1
        self.counts[name] = number
        return f"{name}_{number}"

    def _is_free(self, name: str) -> bool:
        return name not in self.tensors and name not in self.reserved

    def own_name(self, name: str) -> str:
        """The name of a tensor that the user calls so: as it stands, but for a second one."""
        taken = name in self.tensors or name in RESERVED_INPUTS
        return self.unique(name) if taken else name

    def is_model(self, scope: BodyScope) -> bool:
        """Whether it is the scope of the model's own body, or of an equation in it."""
        return self.outermost is not None and scope.names is self.outermost.names

    def declared_name(self, name: str, scope: BodyScope) -> str:
        """The name of a tensor that a body declares: after the layer's prefix, but the model's own
        are called as the user calls them."""
        own = self.is_model(scope) and name not in self.repeated
        return self.own_name(name) if own else self.unique(scope.prefix + name)

    def instance(self, name: str) -> str:
        """`conv1`, `conv2`, … for the layers of a model in the order of their use."""
        # `#` begins no name, so this count is not one of `unique`.
        number = self.counts.get(f"#{name}", 0) + 1
        # the eleventh Dense is not the first Dense1
        while f"{name}{number}" in self.stems:
            number += 1
        self.counts[f"#{name}"] = number
        self.stems.add(f"{name}{number}")
        return f"{name}{number}"

    def named_instance(self, name: str) -> str:
        """The stem of names in an application of a layer that the user calls so."""
        stem, number = name, 1
        while stem in self.stems:
            number += 1
            stem = f"{name}_{number}"
        self.stems.add(stem)
        return stem

    def target_name(self, target: s.Name, scope: BodyScope) -> str:
        """The tensor of an equation's target: its name after the layer's prefix; a next value is
        named after its state or parameter."""
        if target.primed:
            state = scope.state(target.id)
            assert state.tensor
            return self.unique(state.tensor.name + "'")
        return self.declared_name(target.id, scope)

    # --- tensors and equations -----------------------------------------------------------------

    def float_for(self, dtype: str | None) -> str:
        """The type that a declaration means; none and f32 are the program's float type."""
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
        """A new tensor. One of f16 or bf16 has values of the program's float type, which memory
        holds in this format. E0311 if it has too many elements, E0309 if it has none."""
        storage = dtype if dtype in HALVES else ""
        own = self.float_type if storage else dtype
        tensor = Tensor(name, shape, own, kind, init, self.located(span), storage=storage)
        if not tensor.size and span is not None:
            raise self.error(
                "E0309",
                f"`{name}` would have no elements",
                span,
                label=f"its shape is {list(shape)}",
                help="every size is at least 1",
            )
        # Without a span it is the compiler's own tensor, as large as one that was checked.
        if tensor.size > self.most_elements and span is not None:
            raise self.error(
                "E0311",
                f"`{name}` would have {tensor.size:,} elements",
                span,
                label=f"its shape is {list(shape)}",
                help=f"the limit is {self.most_elements:,} elements",
            )
        # For messages: `dense1_w` says little, `Dense(10)` is what the user wrote.
        use = self.user_call()
        if kind == "param" and use is not None:
            self.origins[name] = use
        self.tensors[name] = tensor
        # Names of dimensions are a suggestion; incomplete ones are dropped.
        self.axes[name] = axes if len(axes) == len(shape) else LETTERS[: len(shape)]
        return of_tensor(tensor, self.axes[name])

    def array_of(self, name: str) -> Array:
        """A tensor of the system as an array."""
        return of_tensor(self.tensors[name], self.axes[name])

    def scalar_input(self, name: str) -> Array:
        """One of the compiler's own inputs, such as `step`."""
        # Declared on first use: a model that draws nothing has no input `seed`.
        if name not in self.tensors:
            return self.declare(name, (), "i32", "input", None)
        return of_tensor(self.tensors[name], ())

    def add(
        self,
        name: str,
        indices: tuple[Index, ...],
        body: Expr,
        span: Span | None,
        reduce: str | None = None,
        over: tuple[Index, ...] = (),
        dtype: str = "",
    ) -> Array:
        """A new equation and the tensor that it computes, of the type that is declared, if any."""
        self.check_limits(body, span)
        # argmax and argmin give a place, whatever the type of what they compare
        if reduce in ("argmax", "argmin"):
            dtype = "i32"
        # What is rounded at last is stored as such, if no wider type is declared.
        elif not dtype and reduce is None and isinstance(body, Apply) and body.fn in HALVES:
            dtype = body.fn
        dtype = dtype or body.dtype
        shape = tuple(i.size for i in indices)
        array = self.declare(name, shape, dtype, "temp", span, tuple(i.name for i in indices))
        self.compute(Equation(name, indices, body, reduce, over, None, self.located(span)))
        return array

    def compute(self, equation: Equation) -> None:
        """Add an equation for a tensor that is declared. That of a patched tensor reads the patch,
        a value of the model's own body, instead."""
        if self.patch is not None and equation.target == self.patch[0]:
            assert self.outermost is not None
            patch = self.outermost.names[self.patch[1]]
            assert isinstance(patch, Array) and patch.shape == self.tensors[equation.target].shape
            places = [Idx(i.name) for i in equation.indices]
            body = patch.element(places, patch.shape)
            equation = replace(equation, body=body, reduce=None, over=())
        self.equations.append(equation)

    def check_limits(self, body: Expr, span: Span | None) -> None:
        """E0110 or E0311 for what no later stage could take: numbers that do not fit their types,
        too many equations, bodies that are too deep or too large."""
        # the compiler's own equations are small
        if span is None:
            return
        number = number_that_does_not_fit(body) if self.most_elements <= MAX_ELEMENTS else None
        if number is not None:
            raise self.error(
                "E0311",
                f"{number.value} does not fit {number.dtype}",
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
            # Not an Abort: going on with the next statement would only add more equations.
            raise UserError(self.report.diagnostics)
        if too_much := excess(body):
            raise self.error(
                "E0110",
                f"this equation {too_much}",
                span,
                label="with the functions that it applies written out",
                help="name a part of it in an equation of its own",
            )

    def system(self, name: str, outputs: tuple[str, ...]) -> System:
        return System(
            name,
            self.tensors,
            tuple(self.equations),
            outputs,
            self.updates,
            tuple(self.blocks),
            tuple(self.gradients),
            averages=self.averages,
        )


def reserved(ctx: Context, name: str, span: Span) -> Abort:
    """E0319 for a name of the user's that an input of the compiler's own has."""
    return ctx.error(
        "E0319",
        f"`{name}` is an input of the compiler's own",
        span,
        label="the number of the step, or of the run",
        help=f"such as `{name}_1`",
    )


def within(inner: Span, outer: Span) -> bool:
    same = inner.source is outer.source
    return same and outer.start <= inner.start and inner.end <= outer.end


def _channels_first(names: Mapping[str, Value]) -> bool:
    """Whether an image is likely to have its channels where its height belongs."""
    height, channels = names.get("h"), names.get("c")
    return isinstance(height, int) and isinstance(channels, int) and height < channels
