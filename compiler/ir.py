"""The equation: the one node from which everything in the compiler is made.

    target[i, j] = reduce(k) body          a value for every i, j
    target[expr, …] += sum(i, j) body      an accumulation (the adjoint of a gather)

A `System` is a list of equations over declared tensors, in an order in which they can be computed;
equations that read each other through an earlier index (a recurrence) stand together. Bodies are
scalar expressions. Expression nodes are interned: equal expressions are the same object, so they
compare and hash at once and common subexpressions cost nothing.

This file knows structure only. Types and folding are in `scalar.py`, text in `printer.py`,
meaning in `evaluate.py`, rules in `verify.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from ..dsl.source import Span

DTYPES = ("bool", "u8", "i32", "i64", "f32", "f64")  # in order of promotion
BYTES = {"bool": 1, "u8": 1, "i32": 4, "i64": 8, "f32": 4, "f64": 8, "bf16": 2}  # in memory
LINE = 64  # bytes of a line of cache
ALIGNED = 8  # elements of bf16 that a GPU copies at once


def is_float(dtype: str) -> bool:
    return dtype in ("f32", "f64")


# --- expressions -------------------------------------------------------------------------------


class _Interned(type):
    """Equal constructions give the identical object."""

    _table: ClassVar[WeakValueDictionary[tuple, Any]] = WeakValueDictionary()

    def __call__(cls, *parts):
        # 0.0 and -0.0 are equal, nan is not: what is written decides
        key = (cls, repr(parts[0]), *parts[1:]) if cls is Const else (cls, *parts)
        found = cls._table.get(key)
        if found is None:
            found = cls._table[key] = super().__call__(*parts)
        return found


class Expr(metaclass=_Interned):
    """A scalar expression at one point of an equation's domain. Immutable; equality is identity."""

    __slots__ = ("__weakref__", "_below", "_memo", "dtype")
    dtype: str

    @property
    def children(self) -> tuple[Expr, ...]:
        return ()

    def __repr__(self) -> str:
        from .printer import expr_text

        return expr_text(self)


class Const(Expr):
    """A number; `value` is a Python bool, int or float."""

    __slots__ = ("value",)

    def __init__(self, value: float, dtype: str):
        self.value, self.dtype = value, dtype


class Idx(Expr):
    """The current value of an index, an i32."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name, self.dtype = name, "i32"


class Read(Expr):
    """`tensor[index…]`, or `(tensor[index…] else other)` where an index may fall outside.

    Without `other`, affine indices are proven inside when the system is verified; an index that
    itself reads a tensor (a gather) and falls outside reads NaN (0 for integers, false for bool).
    """

    __slots__ = ("index", "other", "tensor")

    def __init__(self, tensor: str, index: tuple[Expr, ...], other: Expr | None, dtype: str):
        self.tensor, self.index, self.other, self.dtype = tensor, index, other, dtype

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.index if self.other is None else (*self.index, self.other)


class Apply(Expr):
    """A scalar function of `scalar.TABLE`. Build with `scalar.call`, which types and folds."""

    __slots__ = ("args", "fn")

    def __init__(self, fn: str, args: tuple[Expr, ...], dtype: str):
        self.fn, self.args, self.dtype = fn, args, dtype

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.args


def walk(expr: Expr) -> Iterator[Expr]:
    """Every distinct node of an expression, each after its children."""
    return chain(_below(expr), (expr,))


def _below(expr: Expr) -> tuple[Expr, ...]:
    """What `walk` gives before the expression itself, remembered on the node."""
    try:
        return expr._below  # type: ignore[attr-defined]
    except AttributeError:
        pass
    seen: set[Expr] = set()
    ordered: list[Expr] = []
    stack: list[Expr] = [expr]
    while stack:
        node = stack[-1]
        waiting = [c for c in node.children if c not in seen]
        if waiting:
            stack += waiting[::-1]
            continue
        stack.pop()
        if node not in seen:
            seen.add(node)
            ordered.append(node)
    expr._below = tuple(ordered[:-1])  # type: ignore[attr-defined]
    return expr._below  # type: ignore[attr-defined]


def reads(expr: Expr) -> list[Read]:
    """The distinct reads in an expression, those inside indices included, in order."""
    return list(_facts(expr)[0])


def index_names(expr: Expr) -> frozenset[str]:
    """The names of the indices that an expression depends on."""
    return _facts(expr)[1]


def _facts(expr: Expr) -> tuple[tuple[Read, ...], frozenset[str]]:
    """Reads and index names, remembered on the node: every pass asks for them again and again."""
    try:
        return expr._memo  # type: ignore[attr-defined]
    except AttributeError:
        pass
    found: dict[Read, None] = {}
    names: set[str] = set()
    for child in expr.children:
        theirs = _facts(child)
        found |= dict.fromkeys(theirs[0])
        names |= theirs[1]
    if isinstance(expr, Read):
        found[expr] = None
    elif isinstance(expr, Idx):
        names.add(expr.name)
    expr._memo = (tuple(found), frozenset(names))  # type: ignore[attr-defined]
    return expr._memo  # type: ignore[attr-defined]


def rewrite(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """The expression with every node for which `change` (given the node with its children already
    rewritten) returns something replaced by that. A node that folds into something of another kind
    when its children change is not offered again: what it became has been rewritten already."""
    from .scalar import rebuild  # folding must see every rebuilt node; scalar imports this file

    done: dict[Expr, Expr] = {}  # what has become something else
    for node in walk(expr):
        fresh = node
        if done and not done.keys().isdisjoint(node.children):
            fresh = rebuild(node, tuple(done.get(c, c) for c in node.children))
        changed = change(fresh) if fresh is node or _kind(fresh) == _kind(node) else None
        result = fresh if changed is None else changed
        if result is not node:
            done[node] = result
    return done.get(expr, expr)


def _kind(expr: Expr) -> tuple:
    if isinstance(expr, Apply):
        return Apply, expr.fn
    return type(expr), expr.tensor if isinstance(expr, Read) else ""


def substitute(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """The expression with indices replaced by expressions."""
    moved = {n: e for n, e in values.items() if not (isinstance(e, Idx) and e.name == n)}
    own = index_names(expr)
    if not moved or own.isdisjoint(moved):
        return expr
    names = {n: e.name for n, e in moved.items() if isinstance(e, Idx) and n in own}
    if len(names) == len(own & moved.keys()) == len(set(names.values()) - (own - moved.keys())):
        return renamed(expr, {}, names)
    return rewrite(expr, lambda n: moved.get(n.name) if isinstance(n, Idx) else None)


def renamed(
    expr: Expr, tensors: Mapping[str, str], indices: Mapping[str, str] = MappingProxyType({})
) -> Expr:
    """The expression with other names of tensors and of indices, no two of them the same. Nothing
    can fold that has not folded already."""
    reads, names = _facts(expr)
    if names.isdisjoint(indices) and not any(read.tensor in tensors for read in reads):
        return expr
    done: dict[Expr, Expr] = {}
    for node in walk(expr):
        moved = not done.keys().isdisjoint(node.children)
        if isinstance(node, Read) and (moved or node.tensor in tensors):
            index = tuple(done.get(c, c) for c in node.index)
            other = None if node.other is None else done.get(node.other, node.other)
            done[node] = Read(tensors.get(node.tensor, node.tensor), index, other, node.dtype)
        elif isinstance(node, Apply) and moved:
            done[node] = Apply(node.fn, tuple(done.get(c, c) for c in node.args), node.dtype)
        elif isinstance(node, Idx) and node.name in indices:
            done[node] = Idx(indices[node.name])
    return done.get(expr, expr)


# --- equations ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Index:
    """An index of an equation's domain: 0 <= name < size."""

    name: str
    size: int


REDUCTIONS = ("sum", "max", "min", "prod", "argmax", "argmin")


@dataclass(frozen=True)
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

    @cached_property
    def reads(self) -> list[Read]:
        found = reads(self.body)
        for expr in self.at or ():
            found += [r for r in reads(expr) if r not in found]
        return found

    @cached_property
    def sources(self) -> list[str]:
        """The names of the tensors that it reads, each once, in order."""
        return list(dict.fromkeys(r.tensor for r in self.reads))

    def with_body(self, body: Expr) -> Equation:
        return self if body is self.body else replace(self, body=body)


@dataclass(frozen=True)
class Tensor:
    """A named array. `kind` is one of

    input   given from outside at every run (data, and the scalars `step` and `seed`)
    param   learnt; kept between runs        state   kept between runs
    temp    computed by exactly one equation (or recurrently, by one)

    `init` is how a param or state starts, as text of the language (`~ glorot_uniform`, `= 0`). The
    first `apart` dimensions count rows that have a gap of a line of cache between them. The values
    of a `rounded` f32 tensor are numbers of bf16, which is what memory has of them; its rows begin
    at multiples of 16 bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str = "temp"
    init: str = ""
    span: Span | None = field(default=None, compare=False)
    apart: int = 0
    rounded: bool = False

    @property
    def memory(self) -> str:
        """The type of its elements in memory."""
        return "bf16" if self.rounded else self.dtype

    @property
    def size(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of the memory that it takes, gaps included."""
        rows = prod(self.shape[:-1]) * self._row
        return (rows + prod(self.shape[: self.apart]) * self._gap) * BYTES[self.memory]

    @property
    def strides(self) -> tuple[int, ...]:
        """How many elements each dimension steps over."""
        found, stride = [], 1
        for axis in range(len(self.shape) - 1, -1, -1):
            stride += self._gap if axis == self.apart - 1 else 0
            found.append(stride)
            stride *= self._row if axis == len(self.shape) - 1 else self.shape[axis]
        return tuple(reversed(found))

    @property
    def _row(self) -> int:
        """Elements of memory from one row, of the last dimension, to the next."""
        row = self.shape[-1] if self.shape else 1
        return -(-row // ALIGNED) * ALIGNED if self.rounded else row

    @property
    def _gap(self) -> int:
        return LINE // BYTES[self.dtype] if self.apart else 0


def free_name(name: str, taken: Container[str]) -> str:
    """The name, made longer until nothing has it."""
    while name in taken:
        name += "_"
    return name


def copied(tensor: Tensor, source: str, target: str) -> Equation:
    """The equation that makes one of two tensors like `tensor` a copy of the other."""
    indices = tuple(Index(f"i{axis}", size) for axis, size in enumerate(tensor.shape))
    place = tuple(Idx(i.name) for i in indices)
    return Equation(target, indices, Read(source, place, None, tensor.dtype), span=tensor.span)


@dataclass(frozen=True)
class System:
    """Equations over tensors. `updates` maps a param or state to the temp that becomes its value
    after a run (named with a prime). `outputs` are what a run is for. `remat` are the temps of each
    block that is to be computed again on the way back (`passes/recompute.py`)."""

    name: str
    tensors: Mapping[str, Tensor]
    equations: tuple[Equation, ...]
    outputs: tuple[str, ...]
    updates: Mapping[str, str] = field(default_factory=dict)
    remat: tuple[tuple[str, ...], ...] = ()

    def of_kind(self, kind: str) -> list[Tensor]:
        return [t for t in self.tensors.values() if t.kind == kind]

    @cached_property
    def roots(self) -> list[str]:
        """The tensors that must be computed: outputs, and next values of params and states."""
        return [*self.outputs, *(n for n in self.updates.values() if n not in self.outputs)]

    @cached_property
    def block(self) -> Mapping[str, int]:
        """The number of the outermost `remat` block that each temp of one stands in."""
        found: dict[str, int] = {}
        for number, targets in enumerate(sorted(self.remat, key=len, reverse=True)):
            if not any(t in found for t in targets):  # else it stands in a larger one
                found |= dict.fromkeys(targets, number)
        return found

    @cached_property
    def definition(self) -> Mapping[str, Equation]:
        """The equation that computes each temp."""
        return {e.target: e for e in self.equations}

    def replace(self, **changes: Any) -> System:
        return replace(self, **changes)


def components(
    equations: tuple[Equation, ...],
    sources: Callable[[Equation], list[str]] = lambda equation: equation.sources,
) -> list[list[Equation]]:
    """The strongly connected components in an order in which they can be computed (Tarjan 1972).

    `sources` gives the names that an equation depends on. A component of more than one equation,
    or of one that reads its own target, is a recurrence. The order is the given one wherever
    dependencies leave a choice.
    """
    by_target = {e.target: e for e in equations}
    place = {e.target: n for n, e in enumerate(equations)}
    waiting = set(by_target)  # those that are in no component yet
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    found: list[list[Equation]] = []
    for root in by_target:
        if root not in waiting:
            continue
        if waiting.isdisjoint(sources(by_target[root])):  # as nearly all are, once in order
            waiting.discard(root)
            found.append([by_target[root]])
            continue
        work: list[tuple[str, Iterator[str]]] = []

        def enter(name: str) -> None:
            number[name] = low[name] = len(number)
            stack.append(name)
            on_stack.add(name)  # noqa: B023
            nexts = [s for s in sources(by_target[name]) if s in waiting]  # noqa: B023
            work.append((name, iter(nexts)))  # noqa: B023

        enter(root)
        while work:
            name, nexts = work[-1]
            for source in nexts:
                if source not in number:
                    enter(source)
                    break
                if source in on_stack:
                    low[name] = min(low[name], number[source])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == number[name]:
                    members = set()
                    while name not in members:
                        members.add(stack.pop())
                    on_stack -= members
                    waiting -= members
                    found.append([by_target[n] for n in sorted(members, key=place.__getitem__)])
    return found


def is_recurrent(component: list[Equation]) -> bool:
    return len(component) > 1 or component[0].target in component[0].sources
