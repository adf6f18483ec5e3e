"""The equation: the one node from which everything in the compiler is made.

    target[i, j] = reduce(k) body          a value for every i, j
    target[expr, …] += sum(i, j) body      an accumulation (the adjoint of a gather)

A `System` is a list of equations over declared tensors, in an order in which they can be computed;
equations that read each other through an earlier index (a recurrence) stand together. Bodies are
scalar expressions. Expression nodes are interned: equal expressions are the same object, so they
compare and hash at once and common subexpressions cost nothing.

This file knows structure only. Types and folding are in `build.py`, text in `printer.py`, meaning
in `reference/evaluator.py`, rules in `verify.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, KeysView, Mapping
from dataclasses import field, replace
from functools import cached_property
from math import prod
from typing import Any

from ...dsl.records import record
from ...dsl.syntax.source import Span
from .affine import Affine
from .build import Change, renamed, rewrite
from .dtypes import ALIGNED, BYTES, LINE, NUMPY
from .expr import Expr, Idx, Read, reads
from .forms import Form, joined
from .strong_components import strong_components

# --- equations ---------------------------------------------------------------------------------


@record
class Index:
    """An index of an equation's domain: 0 <= name < size."""

    name: str
    size: int


REDUCTIONS = ("sum", "max", "min", "prod", "argmax", "argmin")


@record
class Equation:
    """`target[indices] = reduce(over) body`; with `at`, `target[at…] += sum(over) body`.

    An accumulating equation has no `indices`; its target starts from zero. argmax and argmin give
    the position in `over`, flattened in row-major order, of the first extreme value, as i32.
    """

    target: str
    indices: tuple[Index, ...]
    body: Expr
    reduce: str | None = None
    over: tuple[Index, ...] = ()
    at: tuple[Expr, ...] | None = None
    span: Span | None = field(default=None, compare=False)

    @property
    def domain(self) -> tuple[Index, ...]:
        return self.indices + self.over

    @property
    def sizes(self) -> dict[str, int]:
        return {i.name: i.size for i in self.domain}

    @property
    def dtype(self) -> str:
        """The type of its target's elements."""
        return "i32" if self.reduce in ("argmax", "argmin") else self.body.dtype

    @cached_property
    def reads(self) -> list[Read]:
        found = reads(self.body)
        # The places of an accumulation may read tensors, too: `d_table[token[b], j] += …`.
        for expr in self.at or ():
            found += [r for r in reads(expr) if r not in found]
        return found

    @cached_property
    def sources(self) -> list[str]:
        """The names of the tensors that it reads, each once, in order."""
        return list(dict.fromkeys(r.tensor for r in self.reads))

    @cached_property
    def place(self) -> tuple[Expr, ...]:
        """Where in its target a point of the domain is stored."""
        return tuple(Idx(i.name) for i in self.indices) if self.at is None else self.at

    @cached_property
    def canonical(self) -> tuple:
        """Equal for equations that differ only in their targets and the names of their indices."""
        # Numbering indices by position makes equations equal that differ in names alone (alpha
        # equivalence): a[i] = x[i] and b[j] = x[j].
        names = {i.name: f"#{n}" for n, i in enumerate(self.domain)}
        sizes = tuple(i.size for i in self.indices), tuple(i.size for i in self.over)
        at = None if self.at is None else tuple(renamed(e, {}, names) for e in self.at)
        return (*sizes, self.reduce, renamed(self.body, {}, names), at)

    @cached_property
    def form(self) -> tuple[Form, tuple[str, ...]]:
        """Equal for equations that differ only in the names of their tensors, and these: the target
        first, then what it reads."""
        at = () if self.at is None else self.at
        kind = (self.indices, self.reduce, self.over, self.at is None, len(at))
        form, names = joined(kind, (self.target,), (self.body, *at))
        return form, names  # type: ignore[return-value]

    def renamed(self, names: Mapping[str, str], span: Span | None) -> Equation:
        """The equation of another place with other names of tensors, no two of them the same."""
        at = None if self.at is None else tuple(renamed(e, names) for e in self.at)
        target, body = names.get(self.target, self.target), renamed(self.body, names)
        return Equation(target, self.indices, body, self.reduce, self.over, at, span)

    def with_body(self, body: Expr) -> Equation:
        return self if body is self.body else replace(self, body=body)

    def rewrite(self, change: Change) -> Equation:
        """The equation with its expressions rewritten as by `build.rewrite`."""
        body = rewrite(self.body, change)
        at = None if self.at is None else tuple(rewrite(e, change) for e in self.at)
        # Expressions are interned: `at == self.at` compares identities.
        unchanged = body is self.body and at == self.at
        return self if unchanged else replace(self, body=body, at=at)


def is_identity(read: Read, eq: Equation) -> bool:
    """Whether the read is at the equation's own indices."""
    return read.other is None and read.index == tuple(Idx(i.name) for i in eq.indices)


@record
class Tensor:
    """A named array. `kind` is one of

    input   given from outside at every run (data, and the scalars `step` and `seed`)
    param   learnt; kept between runs        state   kept between runs
    temp    computed by exactly one equation (or recurrently, by one)

    `init` is how a param or state starts, as text of the language (`~ glorot_uniform`, `= 0`). The
    first `pad_after` dimensions count rows, each followed by one cache line of padding. `storage`
    is the type in memory if it is not `dtype`: f16 or bf16 for floats that are rounded to it. Rows
    of an `aligned` tensor begin at multiples of 16 bytes, as GPUs copy bf16. `held` is how much of
    each dimension is in memory at once, if that is not all: of a temp that a `RowBlock` computes
    and reads (1 for what is fixed).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str = "temp"
    init: str = ""
    span: Span | None = field(default=None, compare=False)
    pad_after: int = 0
    storage: str = ""
    held: tuple[int, ...] = ()
    aligned: bool = False

    @property
    def storage_dtype(self) -> str:
        """The type of its elements in memory."""
        return self.storage or self.dtype

    @property
    def array_type(self) -> type:
        """The NumPy type of arrays for its elements: that of memory, if NumPy has it."""
        return NUMPY.get(self.storage) or NUMPY[self.dtype]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @cached_property
    def bytes(self) -> int:
        """Of the memory that it takes, gaps included."""
        # Rows of the last dimension, rounded up for bf16, then one gap for each slice that the
        # first `pad_after` dimensions count.
        shape = self.held or self.shape
        rows = prod(shape[:-1]) * self._row
        return (rows + prod(shape[: self.pad_after]) * self._gap) * BYTES[self.storage_dtype]

    @property
    def strides(self) -> tuple[int, ...]:
        """How many elements each dimension steps over."""
        # From the innermost dimension out. A slice of dimension `pad_after - 1` ends in a gap,
        # which counts into the strides from there on.
        found, stride, shape = [], 1, self.held or self.shape
        for axis in range(len(shape) - 1, -1, -1):
            stride += self._gap if axis == self.pad_after - 1 else 0
            found.append(stride)
            stride *= self._row if axis == len(shape) - 1 else shape[axis]
        return tuple(reversed(found))

    @property
    def _row(self) -> int:
        """Elements of memory from one row, of the last dimension, to the next."""
        row = self.shape[-1] if self.shape else 1
        return -(-row // ALIGNED) * ALIGNED if self.aligned else row

    @property
    def _gap(self) -> int:
        return LINE // BYTES[self.storage_dtype] if self.pad_after else 0


def free_name(name: str, taken: Container[str]) -> str:
    """The name, made longer until nothing has it."""
    while name in taken:
        name += "_"
    return name


def unused_name(name: str, taken: Container[str]) -> str:
    """The name itself, or with the first number from 2 that makes it new."""
    number, full = 1, name
    while full in taken:
        number += 1
        full = f"{name}_{number}"
    return full


def copy_equation(tensor: Tensor, source: str, target: str) -> Equation:
    """The equation that makes one of two tensors like `tensor` a copy of the other."""
    indices = tuple(Index(f"i{axis}", size) for axis, size in enumerate(tensor.shape))
    place = tuple(Idx(i.name) for i in indices)
    return Equation(target, indices, Read(source, place, None, tensor.dtype), span=tensor.span)


@record
class Gradient:
    """A placeholder, `target = grad(of, wrt)`: the derivative of the number `of` with respect to
    every element of `wrt`. The pass `differentiate` replaces it by equations."""

    target: str
    of: str
    wrt: str
    span: Span | None = field(default=None, compare=False)


@record
class RematBlock:
    """A `remat` block: the temps that it computes, and the place of the word `remat`."""

    targets: tuple[str, ...]
    span: Span | None = field(default=None, compare=False)


@record
class Clipping:
    """Gradients of a sum over the `batch` examples of a run, of which each example's share is to be
    clipped: its norm over all of `gradients` to at most `limit`, then times `scale`. Only as many
    of the first examples count as the input `drawn` says."""

    gradients: tuple[str, ...]
    batch: int
    limit: float
    scale: float
    drawn: str
    span: Span | None = field(default=None, compare=False)


@record
class RowBlock:
    """Equations that are computed together, block by block: `rows` values of the index `row` for
    each value of the `fixed` indices. All of them have these indices by these names; what they
    reduce, or compute along, is `column`. The blocks are independent of each other. Temps that are
    `held` exist for one block at a time."""

    targets: tuple[str, ...]
    fixed: tuple[Index, ...]
    row: Index
    column: Index
    rows: int


CHECK = "integers!"  # an output that `integer_checks` adds; no name of a program has a `!`


@record
class System:
    """Equations over tensors. `updates` maps a param or state to the temp that becomes its value
    after a run (named with a prime). `outputs` are what a run is for.

    What is left for passes to do: `gradients` are placeholders to expand; `backward` the targets of
    the equations that came of those; `remat` the blocks that the backward pass computes again
    (`rematerialize`); `clipping` what becomes of the share of each example (`clip_examples`);
    `precision` that of the operands of contractions (`mixed_precision`).
    `index_inputs` are the inputs that are indices and how many places these choose from: the
    runtime compares the data with that (`ir/integer_ranges.py`). None where nobody looks at
    integers: then they are not checked (`integer_checks`).

    `averages` are the states that evaluation uses in place of params, by these.

    `row_blocks` are the equations that are computed block by block (`row_blocks`). With a `batch`,
    the first dimension of the inputs counts so many examples, and a run may be of fewer: the rest
    of the results then means nothing (`dynamic_batch`).

    `sized` are the dimensions of inputs and outputs that depend on sizes which a run is given, by
    tensor: how long they are in that run, where the tensor has the greatest length
    (`dynamic_sizes`).

    `initializers` are the program's own functions that draw first values, as they are written: a
    printed program needs them to be read.

    For messages: `adjoints` are the tensors by the temps that are their gradients, `contributions`
    by those that are parts of a gradient. No name says this, as the user may have taken any."""

    name: str
    tensors: Mapping[str, Tensor]
    equations: tuple[Equation, ...]
    outputs: tuple[str, ...]
    updates: Mapping[str, str] = field(default_factory=dict)
    remat: tuple[RematBlock, ...] = ()
    gradients: tuple[Gradient, ...] = ()
    clipping: Clipping | None = None
    backward: frozenset[str] = frozenset()
    precision: str = "f32"
    adjoints: Mapping[str, str] = field(default_factory=dict)
    contributions: Mapping[str, str] = field(default_factory=dict)
    index_inputs: Mapping[str, int] | None = None
    row_blocks: tuple[RowBlock, ...] = ()
    batch: int = 0
    averages: Mapping[str, str] = field(default_factory=dict)
    sized: Mapping[str, Mapping[int, Affine]] = field(default_factory=dict)
    initializers: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> list[Tensor]:
        return [t for t in self.tensors.values() if t.kind == kind]

    @cached_property
    def roots(self) -> KeysView[str]:
        """The tensors that must be computed: outputs, and next values of params and states."""
        return dict.fromkeys((*self.outputs, *self.updates.values())).keys()

    @cached_property
    def updated(self) -> frozenset[str]:
        """The temps that become values of params and states."""
        return frozenset(self.updates.values())

    @cached_property
    def block(self) -> Mapping[str, int]:
        """The number of the outermost `remat` block that each temp of one stands in."""
        found: dict[str, int] = {}
        # An outer block has all targets of the blocks inside it and more, so it comes first.
        largest_first = sorted(self.remat, key=lambda block: len(block.targets), reverse=True)
        for number, block in enumerate(largest_first):
            if not any(t in found for t in block.targets):  # else it stands in a larger one
                found |= dict.fromkeys(block.targets, number)
        return found

    @cached_property
    def definition(self) -> Mapping[str, Equation]:
        """The equation that computes each temp."""
        return {e.target: e for e in self.equations}

    @cached_property
    def readers(self) -> Mapping[str, list[Equation]]:
        """The equations that read each tensor, in order; a tensor that none reads is missing."""
        found: dict[str, list[Equation]] = {}
        for eq in self.equations:
            for source in eq.sources:
                found.setdefault(source, []).append(eq)
        return found

    @cached_property
    def placeholder(self) -> Mapping[str, Gradient]:
        """The placeholder that stands for the equation of each temp without one."""
        return {g.target: g for g in self.gradients}

    def dependencies(self, eq: Equation) -> list[str]:
        """The tensors that an equation reads, and those that placeholders among them stand for."""
        if not self.gradients:
            return eq.sources
        # A placeholder depends on its number and its `wrt`, which may depend on placeholders in
        # turn (second derivatives): a depth-first search through all of them.
        found: dict[str, None] = {}
        stack = eq.sources[::-1]
        while stack:
            name = stack.pop()
            if name not in found:
                found[name] = None
                stack += self._gradient_sources(name)
        return list(found)

    def _gradient_sources(self, name: str) -> tuple[str, ...]:
        gradient = self.placeholder.get(name)
        return () if gradient is None else (gradient.wrt, gradient.of)

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """These tensors and all that their values depend on."""

        def sources(name: str) -> Iterable[str]:
            # An input, param or state has no equation and depends on nothing.
            eq = self.definition.get(name)
            return self._gradient_sources(name) if eq is None else eq.sources

        return reachable(names, sources)

    def descendants(self, names: Iterable[str]) -> set[str]:
        """These tensors and all whose values depend on them."""

        # A placeholder has no equation in `readers`, so its edges are added here.
        gradients: dict[str, list[str]] = {}
        for g in self.gradients:
            gradients.setdefault(g.of, []).append(g.target)
            gradients.setdefault(g.wrt, []).append(g.target)

        def readers(name: str) -> Iterable[str]:
            return (eq.target for eq in self.readers.get(name, ()))

        return reachable(names, lambda name: [*readers(name), *gradients.get(name, ())])

    @cached_property
    def blocked(self) -> frozenset[str]:
        """The temps that are computed in blocks of rows."""
        return frozenset(target for block in self.row_blocks for target in block.targets)

    @cached_property
    def components(self) -> list[list[Equation]]:
        """Its strongly connected components, in dependence order."""
        return components(self.equations, self.dependencies)

    @cached_property
    def recurrent(self) -> frozenset[str]:
        """The temps that recurrences compute."""
        return frozenset(eq.target for c in self.components if is_recurrent(c) for eq in c)

    def in_order(self) -> System:
        """The system with its equations in dependence order."""
        ordered = self.replace(equations=tuple(eq for c in self.components for eq in c))
        # In this order the same components are found, in the same order.
        ordered.__dict__["components"] = self.components
        return ordered

    def rewrite(self, change: Change) -> System:
        """The system with every expression rewritten as by `build.rewrite`, by a change that does
        not look at the names of tensors: equations of one form are rewritten once."""
        first: dict[Form, tuple[Equation, Equation]] = {}  # before and after
        found = []
        for eq in self.equations:
            form, names = eq.form
            before, after = first.setdefault(form, (eq, eq))
            if before is eq:
                after = eq.rewrite(change)
                first[form] = before, after
            elif after is before:
                after = eq
            else:
                after = after.renamed(dict(zip(before.form[1], names, strict=True)), eq.span)
            found.append(after)
        return self.replace(equations=tuple(found))

    def replace(self, **changes: Any) -> System:
        return replace(self, **changes)


def reachable(start: Iterable[str], edges: Callable[[str], Iterable[str]]) -> set[str]:
    """All names that `edges` lead to from those at the start, these included."""
    found: set[str] = set()
    stack = list(start)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += edges(name)
    return found


def components(
    equations: tuple[Equation, ...],
    sources: Callable[[Equation], list[str]] = lambda equation: equation.sources,
) -> list[list[Equation]]:
    """The strongly connected components in an order in which they can be computed.

    `sources` gives the names that an equation depends on. A component of more than one equation,
    or of one that reads its own target, is a recurrence. The order is the given one wherever
    dependencies leave a choice.
    """
    named = {e.target: e for e in equations}
    found = strong_components(named, lambda name: sources(named[name]))
    return [[named[name] for name in component] for component in found]


def is_recurrent(component: list[Equation]) -> bool:
    return len(component) > 1 or component[0].target in component[0].sources
