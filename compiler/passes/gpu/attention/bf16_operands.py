"""Operands of attention stored as bf16 numbers, two in a word, for tensor cores to take.

In: a system, and the families of squares that are streamed. Out: an equal system. Where a family's
operands are rounded, and rows of them have a multiple of 16 numbers, they are rounded once:

    fit[t, s]       = sum(a < 64) bf16(q[t, a]) * bf16(k[s, a])

    q_pairs[t, a]   = bf16_pair(q[t, 2*a], q[t, 2*a + 1])
    fit[t, s]       = sum(a < 64) half(q_pairs[t, a // 2], a % 2) * half(k_pairs[s, a // 2], a % 2)

where `half` is written as a `bf16_dot` with (1, 0) or (0, 1). Rows lie along what products sum or
sums run along, whatever the order in memory was. Weights, which are never stored, stay as they are.
`words` is the way back: from an operand to the words that it is read from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ....ir.build import call, literal, rewrite, substitute
from ....ir.equation import Equation, Index, System, Tensor, free_name
from ....ir.expr import Apply, Const, Expr, Idx, Read, index_names, reads, walk
from ....ir.terms import is_rounded
from .find_attention import Family

MATRIX = 16  # numbers of a row that tensor cores take at once
FIRST, SECOND = 0x3F80, 0x3F800000  # the pairs (1, 0) and (0, 1)


@dataclass(frozen=True)
class Paired:
    """`why` says of softmaxes whose operands are rounded why they are not stored in pairs."""

    system: System
    why: Mapping[str, str]


def in_pairs(system: System, families: Sequence[Family]) -> Paired:
    """The system with all operands in pairs of every family that allows it."""
    made = _Made(system)
    better: dict[str, Equation] = {}
    why: dict[str, str] = {}
    for family in families:
        operands = _operands(family, system)
        if not any(is_rounded(o) for one in operands for o in (one.left, one.right)):
            continue
        problem = next((p for p in map(_problem, operands) if p), "")
        if problem:
            why[family.softmax.target] = f"no tensor cores: {problem}"
            continue
        for one in operands:
            better[one.equation.target] = _paired(one, made)
    equations = tuple(better.get(eq.target, eq) for eq in system.equations)
    return Paired(made.system(equations), why)


# --- a contraction --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Contraction:
    """A product, of which both sides are stored, or a sum of weights and values, of which `stored`
    has the values' side alone. Rows of what is stored lie along `along`."""

    equation: Equation
    left: Expr
    right: Expr
    stored: tuple[Expr, ...]
    along: tuple[Index, ...]


def _operands(family: Family, system: System) -> list[_Contraction]:
    """Every contraction of a family once."""
    found: dict[str, _Contraction] = {}
    for use in family.uses:
        for own in use.products:
            eq = system.definition[own.read.tensor]
            left, right = _sides(eq)
            found[eq.target] = _Contraction(eq, left, right, (left, right), eq.over)
        if use.wide:
            left, right = _sides(use.equation)
            values = tuple(
                side
                for side in (left, right)
                if not any(r.tensor in family.squares for r in reads(side))
            )
            found[use.equation.target] = _Contraction(use.equation, left, right, values, use.wide)
    return list(found.values())


def _sides(eq: Equation) -> tuple[Expr, Expr]:
    body = eq.body
    if isinstance(body, Apply) and body.fn == "mul":
        return body.args[0], body.args[1]
    return body, literal(1.0)


def _problem(one: _Contraction) -> str:
    """Why the operands of a contraction cannot be stored in pairs."""
    if not (is_rounded(one.left) and is_rounded(one.right) and one.stored):
        return f"`{one.equation.target}` is no sum of products of two rounded numbers"
    size = prod(i.size for i in one.along)
    if size % MATRIX or _long(one.along)[-1].size % 2:
        return f"rows of {size} numbers are no multiple of {MATRIX}"
    return ""


def _paired(one: _Contraction, made: _Made) -> Equation:
    sizes = {i.name: i.size for i in one.equation.domain}
    sides = [
        made.half(side, one.along, sizes) if side in one.stored else side
        for side in (one.left, one.right)
    ]
    return one.equation.with_body(call("mul", *sides))


# --- pairs ----------------------------------------------------------------------------------------


@dataclass
class _Made:
    """The tensors of pairs, by what is in them."""

    source: System
    tensors: dict[str, Tensor] = field(default_factory=dict)
    equations: list[Equation] = field(default_factory=list)
    names: dict[tuple[Expr, tuple[Index, ...]], str] = field(default_factory=dict)

    def half(self, side: Expr, along: tuple[Index, ...], sizes: Mapping[str, int]) -> Expr:
        """The rounded number, read from its pair."""
        assert is_rounded(side)
        value = substitute(side.args[0], {i.name: literal(0) for i in along if i.size == 1})
        along = _long(along)
        last = along[-1]
        whole = _dimensions(value, along, self.source)
        places = _places(value, along, sizes) if whole is None else whole
        indices = (
            *(Index(f"i{n}", size) for n, (_, size) in enumerate(places)),
            *(Index(f"a{n}", i.size) for n, i in enumerate(along[:-1])),
            Index("pair", last.size // 2),
        )
        old = (*(place for place, _ in places), *(Idx(i.name) for i in along[:-1]))
        new = tuple(Idx(i.name) for i in indices)
        ends = []
        for k in (0, 1):
            end = call("add", call("mul", new[-1], literal(2)), literal(k))
            moved = dict(zip((*old, Idx(last.name)), (*new[:-1], end), strict=True))
            ends.append(_elsewhere(value, moved, whole is not None))
        name = self._stored(call("bf16_pair", *ends), indices, value)
        own = Idx(last.name)
        word = Read(name, (*old, call("floordiv", own, literal(2))), None, "i32")
        first = call("eq", call("mod", own, literal(2)), literal(0))
        return call("bf16_dot", word, call("select", first, literal(FIRST), literal(SECOND)))

    def _stored(self, pair: Expr, indices: tuple[Index, ...], value: Expr) -> str:
        found = self.names.get((pair, indices))
        if found is None:
            of = next(r.tensor for r in reads(value))
            found = free_name(f"{of}_pairs", {*self.source.tensors, *self.tensors})
            span = self.source.tensors[of].span
            self.names[pair, indices] = found
            shape = tuple(i.size for i in indices)
            self.tensors[found] = Tensor(found, shape, "i32", "temp", "", span)
            self.equations.append(Equation(found, indices, pair, span=span))
        return found

    def system(self, equations: tuple[Equation, ...]) -> System:
        if not self.equations:
            return self.source
        tensors = {**self.source.tensors, **self.tensors}
        return self.source.replace(
            tensors=tensors, equations=(*equations, *self.equations)
        ).in_order()


def _long(along: tuple[Index, ...]) -> tuple[Index, ...]:
    """The indices that have more than one value."""
    return tuple(i for i in along if i.size > 1)


def _elsewhere(value: Expr, places: Mapping[Expr, Expr], whole: bool) -> Expr:
    """The value at other places: of a tensor whose rows are whole these are its index, which may be
    numbers or be computed."""
    if whole:
        assert isinstance(value, Read)
        return Read(value.tensor, tuple(places[e] for e in value.index), None, value.dtype)
    return rewrite(value, lambda node: places.get(node))


Places = list[tuple[Expr, int]]  # where an operand is taken from, and the values each has


def _dimensions(value: Expr, along: tuple[Index, ...], system: System) -> Places | None:
    """The other dimensions of a tensor whose rows an operand is as they are; None if it is not."""
    if not isinstance(value, Read) or value.other is not None:
        return None
    rows: dict[Expr, int] = {Idx(i.name): i.size for i in along}
    shape = system.tensors[value.tensor].shape
    others = [(e, n) for e, n in zip(value.index, shape, strict=True) if e not in rows]
    names = {i.name for i in along}
    whole = all(rows.get(e, n) == n for e, n in zip(value.index, shape, strict=True))
    once = len(others) + len(rows) == len(shape) and len({e for e, _ in others}) == len(others)
    return others if whole and once and not any(names & index_names(e) for e, _ in others) else None


def _places(value: Expr, along: tuple[Index, ...], sizes: Mapping[str, int]) -> Places:
    """What else a computed operand depends on: its indices, in their order, or what an index is
    divided by where nothing else is read of it, as of heads in groups."""
    quotients = {
        n
        for n in walk(value)
        if isinstance(n, Apply)
        and n.fn == "floordiv"
        and isinstance(n.args[0], Idx)
        and isinstance(n.args[1], Const)
        and n.args[1].value > 0
    }
    bare = {
        n
        for node in walk(value)
        if node not in quotients
        for n in node.children
        if isinstance(n, Idx)
    }
    skipped = {i.name for i in along}
    found: Places = []
    for node in walk(value):
        if isinstance(node, Idx) and node in bare and node.name not in skipped:
            found.append((node, sizes[node.name]))
        elif node in quotients and not skipped & index_names(node):
            own, by = node.children
            if own not in bare:
                found.append((node, -(-sizes[own.name] // by.value)))  # type: ignore[attr-defined]
    return found


# --- the way back ---------------------------------------------------------------------------------


def words(operand: Expr, along: tuple[Index, ...]) -> tuple[Read, tuple[Index, ...]] | None:
    """The pairs that an operand is read from and the indices of a row of them, which have the same
    names wherever rows are as long; None if it is not read from pairs."""
    if not (isinstance(operand, Apply) and operand.fn == "bf16_dot"):
        return None
    read, along = operand.args[0], _long(along)
    last = call("floordiv", Idx(along[-1].name), literal(2))
    if not isinstance(read, Read) or read.index[-1] is not last:
        return None
    own = tuple(replace(i, size=i.size // 2) if i is along[-1] else i for i in along)
    new = tuple(Index(f"word{n} of {i.size}", i.size) for n, i in enumerate(own))
    names = {Idx(o.name): Idx(i.name) for o, i in zip(own[:-1], new, strict=False)}
    index = (
        *(rewrite(e, lambda n: names.get(n)) for e in read.index[:-1]),  # type: ignore
        Idx(new[-1].name),
    )
    return Read(read.tensor, index, None, "i32"), new
