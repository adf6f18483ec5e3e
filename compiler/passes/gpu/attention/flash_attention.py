"""Flash attention: softmax and its sums in one kernel, without storing the matrix of scores.

    m[t]    = max(s) score[t, s]
    n[t]    = sum(s) exp(score[t, s] - m[t])
    y[t, c] = sum(s) exp(score[t, s] - m[t]) / n[t] * v[s, c]
→
    one kernel, a block of threads for some rows t, that visits tiles of columns s:
        m' = max(m, max(s) score);  r = exp(m - m');  w = exp(score - m')
        n  = n * r + sum(s) w;      y = y * r + sum(s) w * v;      m = m'
    and stores m, n and y / n

The matrix has T * S elements, rows have one: memory traffic falls from quadratic to linear, and
so does memory. Other reductions of the matrix, the gradients above all, compute its elements again
from m and n: a kernel for what belongs to a key, one for what belongs to a query, and no atomic
additions, so that every run gives the same bits.

Applies to a softmax whose matrices are read by reductions alone (`find_attention.py`), that is at
least as large as a tile, and whose vectors fit into shared memory.

The equations round weights to bf16 (`precision = bf16`) after the division by n. The kernel of the
softmax does not have n yet and rounds exp(score - m): each weight is off by a relative 2^-8 at
most, as by the equations, but by another rounding.

Source: Dao et al. 2022 (FlashAttention, arXiv:2205.14135) with the online softmax of Milakov and
Gimelshein 2018 (arXiv:1805.02867). Tests: tests/passes/test_attention.py, tests/backends/
test_cuda_attention.py, test_cuda_attention_cores.py.
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
from ....targets import GpuTarget
from ...kernels.kernel import Plan
from ...kernels.kernel_order import is_acyclic
from .attention_kernel import AttentionKernel, MatrixProduct, RowMax, RowTotal
from .find_attention import Attention, MatrixReduction, find_attention, renaming, result_of
from .mma_operands import mma_contractions

Names = Mapping[str, str]


def flash_attention(plan: Plan, target: GpuTarget) -> Plan:
    """Begins the plan with the kernels of every softmax whose matrices need not be stored."""
    found = fused_attention(plan.system, target)
    return replace(plan, items=found.kernels, notes={**plan.notes, **found.notes})


@dataclass(frozen=True)
class FusedAttention:
    """The kernels of all of `attentions`; `notes` say of other softmaxes why they have none."""

    attentions: tuple[Attention, ...] = ()
    kernels: tuple[AttentionKernel, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


def fused_attention(system: System, target: GpuTarget) -> FusedAttention:
    ancestors = _ancestors(system)
    found: list[Attention] = []
    kernels: list[AttentionKernel] = []
    notes: dict[str, str] = {}
    for attention in find_attention(system):
        problem = attention.problem or _why_unfused(attention, target)
        if not problem:
            made = _AttentionKernels(system, attention, ancestors, target).kernels()
            if is_acyclic(system, (*kernels, *made)):
                found.append(attention)
                kernels += made
                continue
            problem = "its kernels would wait for each other"
        notes[attention.softmax.target] = f"its matrix of scores is stored: {problem}"
    return FusedAttention(tuple(found), tuple(kernels), notes)


def _why_unfused(attention: Attention, target: GpuTarget) -> str:
    """Why separate kernels are better, if they are."""
    limits = target.attention
    for one in attention.reductions:
        if min(one.row.size, one.column.size) < limits.min_side:
            return f"{one.row.size} by {one.column.size} is less than a tile of {limits.min_side}"
        vectors = [
            prod(i.size for i in indices)
            for indices in (one.features, *(p.inner for p in one.products))
        ]
        if max(vectors) > limits.max_vector or sum(vectors) > limits.max_vectors:
            return f"vectors of {max(vectors)} do not fit into shared memory"
    return ""


def _ancestors(system: System) -> dict[str, int]:
    """The set of the tensors that each is computed from, itself included, as bits."""
    bit = {eq.target: 1 << n for n, eq in enumerate(system.equations)}
    found: dict[str, int] = {}
    for component in system.components:
        everything = 0
        for eq in component:
            everything |= bit[eq.target]
            for source in eq.sources:
                everything |= found.get(source, 0)
        found.update(dict.fromkeys((eq.target for eq in component), everything))
    return found


# --- which reductions share a kernel --------------------------------------------------------------


class _AttentionKernels:
    """The kernels of one attention."""

    def __init__(
        self, system: System, attention: Attention, ancestors: Mapping[str, int], target: GpuTarget
    ):
        self.system, self.attention, self.ancestors = system, attention, ancestors
        self.max_vector_totals = target.attention.max_vector_totals
        self.no_tensor_cores = mma_contractions(attention, system).problem

    def kernels(self) -> list[AttentionKernel]:
        waiting = [r for r in self.attention.reductions if r.equation.reduce == "sum"]
        made = []
        for one in self.attention.reductions:
            if one.equation.reduce == "max":
                made.append(self._softmax(one, waiting))
        while waiting:
            group = _ReductionGroup(waiting[0])
            for one in waiting:
                names = renaming(one, group.first)
                if one is waiting[0] or (names and self._may_join(one, group, frozenset())):
                    group.add(one, names)
            waiting = [r for r in waiting if r.equation not in group.equations]
            made.append(self._kernel(group))
        return made

    def _softmax(self, maximum: MatrixReduction, waiting: list[MatrixReduction]) -> AttentionKernel:
        """The kernel of a maximum and of the sums that are linear in the exponentials over it;
        these are taken from `waiting`."""
        group = _ReductionGroup(maximum)
        score = maximum.weight[0]
        result = result_of(maximum.equation)
        element = (*result.index, Idx(maximum.column.name))
        weight = Read(f"weight of {maximum.equation.target}", element, None, "f32")
        shift = None
        for one in list(waiting):
            names = renaming(one, maximum)
            if names is None or not self._may_join(one, group, group.stored):
                continue
            divided_last = _divided_last(one)
            renamed = _renamed(divided_last, names)
            found = _exponential(renamed, result, score)
            if found is None or shift not in (None, found.args[0].args[1]):  # type: ignore
                continue
            weights = tuple(_with(w, found, weight) for w in renamed.weight)
            if _is_linear(weights, weight) and group.needs_results_last(renamed, weights):
                shift = found.args[0].args[1]  # type: ignore[attr-defined]
                group.add(divided_last, names, weights)
                waiting.remove(one)
        row_max = RowMax(result, score, result if shift is None else shift, weight)
        return self._kernel(group, row_max)

    def _may_join(
        self, one: MatrixReduction, group: _ReductionGroup, known: frozenset[str]
    ) -> bool:
        """Whether a kernel in which the results `known` are available may compute this, too: its
        sources must not depend on the kernel."""
        members = [*group.reductions, one]
        if sum(bool(m.features) for m in members) > self.max_vector_totals:
            return False
        computed = 0
        for member in members:
            computed |= 1 << self.order[member.equation.target]
        sources = {s for m in members for s in self._sources(m.equation)} - known
        return not any(self.ancestors.get(s, 0) & computed for s in sources)

    @cached_property
    def order(self) -> dict[str, int]:
        return {eq.target: n for n, eq in enumerate(self.system.equations)}

    def _sources(self, eq: Equation) -> set[str]:
        """What an equation reads, and what the matrices that it reads are computed from."""
        found: set[str] = set()
        for source in eq.sources:
            if source in self.attention.matrices:
                found |= self._sources(self.system.definition[source])
            else:
                found.add(source)
        return found

    def _matrices(self, equations: Sequence[Equation]) -> set[str]:
        """The matrices that must be computed for the equations."""
        found: set[str] = set()
        waiting = list(equations)
        while waiting:
            for source in waiting.pop().sources:
                if source in self.attention.matrices and source not in found:
                    found.add(source)
                    waiting.append(self.system.definition[source])
        return found

    def _kernel(self, group: _ReductionGroup, row_max: RowMax | None = None) -> AttentionKernel:
        matrices = self._matrices(group.equations)
        needed = matrices | group.stored
        equations = tuple(e for e in self.system.equations if e.target in needed)
        first = group.first
        return AttentionKernel(
            group.equations[-1].target,
            equations[0],
            equations[1:],
            frozenset(matrices),
            reason=_reason(group, row_max, self.no_tensor_cores),
            batch=first.batch,
            row=first.row,
            extra=first.extra,
            column=first.column,
            products=tuple(group.products.values()),
            row_max=row_max,
            totals=tuple(group.totals),
        )


class _ReductionGroup:
    """Reductions that become one kernel, in the names of the first."""

    def __init__(self, first: MatrixReduction):
        self.first = first
        self.reductions: list[MatrixReduction] = []
        self.products: dict[Read, MatrixProduct] = {}
        self.totals: list[RowTotal] = []
        self.taken = {i.name for i in (*first.batch, first.row, *first.extra, first.column)}
        if first.equation.reduce == "max":
            self.reductions.append(first)
            self._add_products(first)

    @property
    def equations(self) -> list[Equation]:
        return [r.equation for r in self.reductions]

    @property
    def stored(self) -> frozenset[str]:
        return frozenset(eq.target for eq in self.equations)

    def needs_results_last(self, one: MatrixReduction, weight: Sequence[Expr]) -> bool:
        """Whether a reduction, in the names of the group, needs the group's results only once the
        sum is complete, and of its own row."""
        known = {result_of(self.first.equation), *(t.result for t in self.totals)}
        operands = (e for p in one.products for e in (p.row_operand, p.column_operand))
        first = {r.tensor for e in (*weight, *one.factor, *operands) for r in reads(e)}
        last = {r for e in one.outer for r in reads(e) if r.tensor in self.stored}
        return not first & self.stored and last <= known

    def add(self, one: MatrixReduction, names: Names | None, weight: tuple[Expr, ...] = ()) -> None:
        """Another reduction; `weight` replaces its own if given."""
        names = dict(names or {})
        for index in one.features:
            names[index.name] = self._fresh(index.name)
        renamed = _renamed(one, names)
        self.reductions.append(one)
        self._add_products(renamed)
        result = result_of(one.equation, names)
        total = Read(f"sum of {one.equation.target}", result.index, None, "f32")
        features = tuple(Index(names[i.name], i.size) for i in one.features)
        self.totals.append(
            RowTotal(
                result,
                product((total, *renamed.outer)),
                total,
                product(weight or renamed.weight),
                product(renamed.factor) if features else None,
                features,
            )
        )

    def _add_products(self, one: MatrixReduction) -> None:
        for each in one.products:
            if each.read in self.products:
                continue
            names = {i.name: self._fresh(i.name) for i in each.inner}
            inner = tuple(Index(names[i.name], i.size) for i in each.inner)
            row, column = (with_indices(e, names) for e in (each.row_operand, each.column_operand))
            self.products[each.read] = MatrixProduct(each.read, row, column, inner)

    def _fresh(self, name: str) -> str:
        found = free_name(name, self.taken)
        self.taken.add(found)
        return found


def _renamed(one: MatrixReduction, names: Names) -> MatrixReduction:
    """The reduction with other names of indices, which the products' inner indices avoid."""
    taken = {*names, *names.values()}
    products = []
    for p in one.products:
        every = {**names, **{i.name: free_name(i.name, taken) for i in p.inner}}
        read = Read(p.read.tensor, tuple(with_indices(e, names) for e in p.read.index), None, "f32")
        inner = tuple(Index(every[i.name], i.size) for i in p.inner)
        row, column = (with_indices(e, every) for e in (p.row_operand, p.column_operand))
        products.append(MatrixProduct(read, row, column, inner))
    weight, factor, outer = (
        tuple(with_indices(e, names) for e in part) for part in (one.weight, one.factor, one.outer)
    )
    return replace(one, products=tuple(products), weight=weight, factor=factor, outer=outer)


# --- a softmax ------------------------------------------------------------------------------------


def _divided_last(one: MatrixReduction) -> MatrixReduction:
    """The reduction with what is the same for all columns moved out of rounded weights."""
    reduced = {one.column.name, *(i.name for i in one.extra)}
    weight, outer = [], list(one.outer)
    for piece in one.weight:
        if is_rounded(piece):
            inside = factors(piece.args[0])
            invariant = [f for f in inside if not reduced & index_names(f)]
            piece = call("bf16", product([f for f in inside if f not in invariant]))
            outer += invariant
        weight.append(piece)
    return replace(one, weight=tuple(weight), outer=tuple(outer))


def _is_linear(weights: Sequence[Expr], weight: Expr) -> bool:
    """Whether the product of the weights is proportional to `weight`, but for roundings."""
    pieces = [f for w in weights for f in (factors(w.args[0]) if is_rounded(w) else [w])]
    return weight in pieces and sum(weight in reads(p) for p in pieces) == 1


def _with(expr: Expr, old: Expr, new: Expr) -> Expr:
    return rewrite(expr, lambda node: new if node is old else None)


def _exponential(one: MatrixReduction, result: Read, score: Expr) -> Apply | None:
    """exp(score - shift) in the reduction's weight; `shift` is the maximum `result`, or the greater
    of that and a constant."""
    for node in (n for weight in one.weight for n in walk(weight)):
        match node:
            case Apply(fn="exp", args=(Apply(fn="sub", args=(s, shift)),)) if s is score:
                if shift is result or _is_bounded_below(shift, result):
                    return node
    return None


def _is_bounded_below(shift: Expr, result: Read) -> bool:
    return (
        isinstance(shift, Apply)
        and shift.fn == "max"
        and shift.args[0] is result
        and isinstance(shift.args[1], Const)
    )


def _reason(group: _ReductionGroup, row_max: RowMax | None, no_tensor_cores: str) -> str:
    names = ", ".join(eq.target for eq in group.equations)
    first = group.first
    how = "online softmax" if row_max and group.totals else "computed again where it is read"
    why = f"; no tensor cores: {no_tensor_cores}" if no_tensor_cores else ""
    return f"{names} over scores of {first.row.size} by {first.column.size}, {how}{why}"
