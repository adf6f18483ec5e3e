"""Attention: what is computed through squares of queries by keys without storing these.

In: a system. Out: `Attention`: the system and the kernels that stream its squares, for `fuse` to
take as they are. A softmax, its sums and the values it finds are one kernel, in which the maximum
is taken while the sums run (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022,
arXiv:2205.14135): of a row only its maximum and its sum are stored. Everything else, the gradients
among it, computes the weights again from those two: one kernel for what belongs to a key, one for
what belongs to a query, no accumulation anywhere.

Weights that the equations round to bf16 after they are divided by their sum are rounded before in
that first kernel, which has no sum yet, as exponentials over the maximum so far: of every weight a
part in 2^8 at most, as by the equations, but another one.

How a square is cut into tiles is `streams.py`, and how rounded operands are stored
`stored_pairs.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from ....ir.build import call, rewrite
from ....ir.equation import Equation, Index, System, free_name
from ....ir.expr import Apply, Const, Expr, Idx, Read, index_names, reads, walk
from ....ir.terms import factors, is_rounded, product, with_indices
from ...kernels.kernel import Plan, Product, RowMax, RowTotal, Streamed
from ...kernels.kernel_order import is_acyclic
from .find_attention import Family, Use, families, result_of, same_square
from .mma_operands import mma_contractions

LEAST = 32  # queries and keys below which a tile would be mostly empty
DEEPEST = 128  # elements of a query, a key or a value for which tiles fit into shared memory,
ALTOGETHER = 512  # and those of all queries, keys and values together
TOTALS = 2  # results of one kernel that are as wide as a value: more would not fit in registers

Names = Mapping[str, str]


@dataclass(frozen=True)
class Attention:
    """`kernels` that `fuse` leaves as they are, those of all `families`; `notes` say of equations
    why they are in none."""

    families: tuple[Family, ...] = ()
    kernels: tuple[Streamed, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


def stream_attention(plan: Plan) -> Plan:
    """Begins the plan with the kernels of every softmax whose square need not be stored."""
    found = tiled_attention(plan.system)
    return replace(plan, items=found.kernels, notes={**plan.notes, **found.notes})


def tiled_attention(system: System) -> Attention:
    """The kernels of every softmax whose square need not be stored."""
    ancestors = _ancestors(system)
    found: list[Family] = []
    kernels: list[Streamed] = []
    notes: dict[str, str] = {}
    for family in families(system):
        problem = family.problem or _unfit(family)
        if not problem:
            made = _Maker(system, family, ancestors).kernels()
            if is_acyclic(system, (*kernels, *made)):
                found.append(family)
                kernels += made
                continue
            problem = "its kernels would wait for each other"
        notes[family.softmax.target] = f"its square is stored: {problem}"
    return Attention(tuple(found), tuple(kernels), notes)


def _unfit(family: Family) -> str:
    """Why a family is better computed by separate kernels, if it is."""
    for use in family.uses:
        if min(use.own.size, use.other.size) < LEAST:
            return f"{use.own.size} by {use.other.size} is less than a tile of {LEAST}"
        depths = [
            prod(i.size for i in indices) for indices in (use.wide, *(p.deep for p in use.products))
        ]
        if max(depths) > DEEPEST or sum(depths) > ALTOGETHER:
            return f"tiles {max(depths)} deep do not fit into shared memory"
    return ""


# --- kernels --------------------------------------------------------------------------------------


def _ancestors(system: System) -> dict[str, int]:
    """The set of the tensors that each is computed from, itself included, as bits."""
    bit = {eq.target: 1 << n for n, eq in enumerate(system.equations)}
    found: dict[str, int] = {}
    for part in system.components:
        everything = 0
        for eq in part:
            everything |= bit[eq.target]
            for source in eq.sources:
                everything |= found.get(source, 0)
        found.update(dict.fromkeys((eq.target for eq in part), everything))
    return found


class _Maker:
    """The kernels of one family."""

    def __init__(self, system: System, family: Family, ancestors: Mapping[str, int]):
        self.system, self.family, self.ancestors = system, family, ancestors
        self.no_tensor_cores = mma_contractions(family, system).problem

    def kernels(self) -> list[Streamed]:
        left = [u for u in self.family.uses if u.equation.reduce == "sum"]
        made = []
        for use in self.family.uses:
            if use.equation.reduce == "max":
                made.append(self._softmax(use, left))
        while left:
            group = _Group(left[0])
            for use in left:
                names = same_square(use, group.first)
                if use is left[0] or (names and self._may_join(use, group, frozenset())):
                    group.add(use, names)
            left = [u for u in left if u.equation not in group.equations]
            made.append(self._kernel(group))
        return made

    def _softmax(self, top: Use, left: list[Use]) -> Streamed:
        """The kernel of a maximum and of the sums that are linear in the exponentials below it;
        these are taken from `left`."""
        group = _Group(top)
        score = top.weight[0]
        result = result_of(top.equation)
        place = (*result.index, Idx(top.other.name))
        weight = Read(f"weight of {top.equation.target}", place, None, "f32")
        shift = None
        for use in list(left):
            names = same_square(use, top)
            if names is None or not self._may_join(use, group, group.stored):
                continue
            late = _divided_late(use)
            moved = _renamed(late, names)
            found = _exponential(moved, result, score)
            if found is None or shift not in (None, found.args[0].args[1]):  # type: ignore
                continue
            weights = tuple(_with(w, found, weight) for w in moved.weight)
            if _is_linear(weights, weight) and group.takes(moved, weights):
                shift = found.args[0].args[1]  # type: ignore[attr-defined]
                group.add(late, names, weights)
                left.remove(use)
        highest = RowMax(result, score, result if shift is None else shift, weight)
        return self._kernel(group, highest)

    def _may_join(self, use: Use, group: _Group, given: frozenset[str]) -> bool:
        """Whether a kernel may compute this, too, if it has what is `given` at hand."""
        uses = [*group.uses, use]
        if sum(bool(u.wide) for u in uses) > TOTALS:
            return False
        own = 0
        for member in uses:
            own |= 1 << self.order[member.equation.target]
        sources = {s for u in uses for s in self._sources(u.equation)} - given
        return not any(self.ancestors.get(s, 0) & own for s in sources)

    @cached_property
    def order(self) -> dict[str, int]:
        return {eq.target: n for n, eq in enumerate(self.system.equations)}

    def _sources(self, eq: Equation) -> set[str]:
        """What an equation reads, and what the squares that it reads are computed from."""
        found: set[str] = set()
        for source in eq.sources:
            if source in self.family.squares:
                found |= self._sources(self.system.definition[source])
            else:
                found.add(source)
        return found

    def _squares(self, equations: Sequence[Equation]) -> set[str]:
        """The squares that must be computed for the equations."""
        found: set[str] = set()
        waiting = list(equations)
        while waiting:
            for source in waiting.pop().sources:
                if source in self.family.squares and source not in found:
                    found.add(source)
                    waiting.append(self.system.definition[source])
        return found

    def _kernel(self, group: _Group, highest: RowMax | None = None) -> Streamed:
        squares = self._squares(group.equations)
        stored = {eq.target for eq in group.equations}
        equations = tuple(e for e in self.system.equations if e.target in squares | stored)
        first = group.first
        return Streamed(
            group.equations[-1].target,
            equations[0],
            equations[1:],
            frozenset(squares),
            reason=_reason(group, highest, self.no_tensor_cores),
            batch=first.batch,
            own=first.own,
            extra=first.extra,
            other=first.other,
            products=tuple(group.products.values()),
            highest=highest,
            totals=tuple(group.totals),
        )


class _Group:
    """Uses that become one kernel, in the names of the first."""

    def __init__(self, first: Use):
        self.first = first
        self.uses: list[Use] = []
        self.products: dict[Read, Product] = {}
        self.totals: list[RowTotal] = []
        self.taken = {i.name for i in (*first.batch, first.own, *first.extra, first.other)}
        if first.equation.reduce == "max":
            self.uses.append(first)
            self._take(first)

    @property
    def equations(self) -> list[Equation]:
        return [u.equation for u in self.uses]

    @property
    def stored(self) -> frozenset[str]:
        return frozenset(eq.target for eq in self.equations)

    def takes(self, use: Use, weight: Sequence[Expr]) -> bool:
        """Whether the use, in the names of the group, needs the group's results only after the sum,
        and at its own place."""
        at_hand = {result_of(self.first.equation), *(t.result for t in self.totals)}
        sides = (e for p in use.products for e in (p.mine, p.theirs))
        early = {r.tensor for e in (*weight, *use.factor, *sides) for r in reads(e)}
        late = {r for e in use.outer for r in reads(e) if r.tensor in self.stored}
        return not early & self.stored and late <= at_hand

    def add(self, use: Use, names: Names | None, weight: tuple[Expr, ...] = ()) -> None:
        """Another use; `weight` is the one it has if that is not its own."""
        names = dict(names or {})
        for index in use.wide:
            names[index.name] = self._fresh(index.name)
        moved = _renamed(use, names)
        self.uses.append(use)
        self._take(moved)
        result = result_of(use.equation, names)
        total = Read(f"sum of {use.equation.target}", result.index, None, "f32")
        wide = tuple(Index(names[i.name], i.size) for i in use.wide)
        factor = product(moved.factor) if wide else None
        self.totals.append(
            RowTotal(
                result,
                product((total, *moved.outer)),
                total,
                product(weight or moved.weight),
                factor,
                wide,
            )
        )

    def _take(self, use: Use) -> None:
        for own in use.products:
            if own.read in self.products:
                continue
            names = {i.name: self._fresh(i.name) for i in own.deep}
            deep = tuple(Index(names[i.name], i.size) for i in own.deep)
            self.products[own.read] = Product(
                own.read, with_indices(own.mine, names), with_indices(own.theirs, names), deep
            )

    def _fresh(self, name: str) -> str:
        found = free_name(name, self.taken)
        self.taken.add(found)
        return found


def _renamed(use: Use, names: Names) -> Use:
    """The use with other names of indices. A product's own are none of them."""
    taken = {*names, *names.values()}
    products = []
    for p in use.products:
        every = {**names, **{i.name: free_name(i.name, taken) for i in p.deep}}
        read = Read(p.read.tensor, tuple(with_indices(e, names) for e in p.read.index), None, "f32")
        deep = tuple(Index(every[i.name], i.size) for i in p.deep)
        products.append(
            Product(read, with_indices(p.mine, every), with_indices(p.theirs, every), deep)
        )
    weight, factor, outer = (
        tuple(with_indices(e, names) for e in part) for part in (use.weight, use.factor, use.outer)
    )
    return replace(use, products=tuple(products), weight=weight, factor=factor, outer=outer)


def _divided_late(use: Use) -> Use:
    """The use with what stays the same along the sum taken out of rounded weights."""
    moving = {use.other.name, *(i.name for i in use.extra)}
    weight, outer = [], list(use.outer)
    for piece in use.weight:
        if is_rounded(piece):
            inside = factors(piece.args[0])
            stays = [f for f in inside if not moving & index_names(f)]
            piece = call("bf16", product([f for f in inside if f not in stays]))
            outer += stays
        weight.append(piece)
    return replace(use, weight=tuple(weight), outer=tuple(outer))


def _is_linear(weights: Sequence[Expr], weight: Expr) -> bool:
    """Whether the product of the weights grows as this one does, but for roundings."""
    pieces = [f for w in weights for f in (factors(w.args[0]) if is_rounded(w) else [w])]
    return weight in pieces and sum(weight in reads(p) for p in pieces) == 1


def _with(expr: Expr, old: Expr, new: Expr) -> Expr:
    return rewrite(expr, lambda node: new if node is old else None)


def _exponential(use: Use, result: Read, score: Expr) -> Apply | None:
    """exp(score - shift) in the use's weight, where shift is the maximum, or that and no less than
    a constant."""
    for weight in use.weight:
        for node in walk(weight):
            if not (isinstance(node, Apply) and node.fn == "exp"):
                continue
            inner = node.args[0]
            if (
                isinstance(inner, Apply)
                and inner.fn == "sub"
                and inner.args[0] is score
                and _is_shift(inner.args[1], result)
            ):
                return node
    return None


def _is_shift(expr: Expr, result: Read) -> bool:
    if isinstance(expr, Apply) and expr.fn == "max":
        return expr.args[0] is result and isinstance(expr.args[1], Const)
    return expr is result


def _reason(group: _Group, highest: RowMax | None, no_tensor_cores: str) -> str:
    names = ", ".join(eq.target for eq in group.equations)
    first = group.first
    how = "a softmax in one run" if highest and group.totals else "computed again where it is read"
    why = f"; no tensor cores: {no_tensor_cores}" if no_tensor_cores else ""
    return f"{names} through a square of {first.own.size} by {first.other.size}, {how}{why}"
