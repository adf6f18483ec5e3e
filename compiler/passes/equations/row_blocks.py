"""Row blocks: products whose results are only reduced are computed again, block by block of rows.

    score[t, s] = sum(a) q[t, a] * k[s, a]
    m[t]        = max(s) score[t, s]
    y[t, c]     = sum(s) exp(score[t, s] - m[t]) * v[s, c]
    d_v[s, c]   = sum(t) exp(score[t, s] - m[t]) * d_y[t, c]
→
    for blocks of rows t:  score1 of the block, then its m and its y
    for blocks of rows s:  score2 of the block, transposed, then its d_v

A matrix has T * S elements, what it is computed from and what becomes of it only T + S rows. So the
matrix is not stored: whatever reduces its columns is computed together for a few rows, and whatever
reduces its rows for a few columns, each time from a copy of the matrix's equations, of which a
thread holds one block in its cache. No result is rounded in another way, and the order of every sum
is fixed. Attention becomes linear in memory, masked or not, and so does everything else written
like it: the pass knows products, maps and reductions, not softmax.

The search starts from a product that is much larger than its operands. What is computed from it
element by element, or read beside it at the same elements, is a matrix, too. All other readers must
be reductions over one of its indices. Applies where the matrix does not fit into the caches.

Cf. Dao et al. 2022 (FlashAttention, arXiv:2205.14135), which visits blocks of columns, too; Rabe
and Staats 2021 (arXiv:2112.05682); tile and fuse in Halide (`compute_at`).
Tests: tests/passes/test_row_blocks.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...ir.build import rewrite, substitute
from ...ir.dtypes import BYTES, is_float
from ...ir.equation import Equation, Index, RowBlock, System, Tensor, free_name, unused_name
from ...ir.expr import Idx, Read, index_names
from ...targets import CpuTarget

Axes = tuple[int, ...]  # for each dimension of a matrix the axis that it runs along


class NotReduced(Exception):
    """Why a matrix must be stored; `matrix` is its name."""

    def __init__(self, matrix: str, why: str):
        super().__init__(why)
        self.matrix = matrix


@dataclass(frozen=True)
class _Reduction:
    """An equation that reduces matrices over the axis `column`; `axes` are those of its indices."""

    equation: Equation
    axes: Mapping[str, int]
    column: int


@dataclass
class _Matrices:
    """The matrices that belong to one product. An axis has the name and size of the product's
    index at that dimension."""

    product: Equation
    axes: dict[str, Axes] = field(default_factory=dict)
    reductions: list[_Reduction] = field(default_factory=list)

    def row(self, column: int) -> int | None:
        """The axis to take blocks of where `column` is reduced: the longest along which an operand
        of the product stays the same, so that it is read once for a block."""
        indices = self.product.indices
        operands = [index_names(read) for read in self.product.reads]
        shared = [
            axis
            for axis, index in enumerate(indices)
            if axis != column and any(index.name not in names for names in operands)
        ]
        return max(shared, key=lambda axis: (indices[axis].size, axis), default=None)


def row_blocks(system: System, target: CpuTarget) -> System:
    """The system with a copy of the matrices for every group of reductions."""
    for name in [eq.target for eq in system.equations]:
        eq = system.definition.get(name)  # what earlier ones have not replaced
        if eq is None or not _is_expanding(eq, system, target):
            continue
        found = _matrices(eq, system)
        if found is not None:
            system = _blocked(found, _groups(found, system), system, target)
    return system


def _is_expanding(eq: Equation, system: System, target: CpuTarget) -> bool:
    """Whether it is a product that is worth computing again rather than storing."""
    limits, tensor = target.row_blocks, system.tensors[eq.target]
    # Its size first, by which nearly all sums are left out.
    if eq.reduce != "sum" or tensor.bytes < limits.least_bytes or not is_float(eq.dtype):
        return False
    if not _is_recomputable(eq.target, system):
        return False
    operands = sum(system.tensors[name].bytes for name in eq.sources)
    return tensor.bytes >= limits.expansion * operands


def _is_recomputable(name: str, system: System) -> bool:
    """Whether any element of a temp can be computed at any place."""
    eq = system.definition.get(name)
    return eq is not None and name not in system.roots and _is_free(eq, system)


def _is_free(eq: Equation, system: System) -> bool:
    """Whether the equation may be computed block by block."""
    elsewhere = eq.target in system.recurrent or eq.target in system.blocked
    return eq.at is None and not elsewhere


# --- which tensors are matrices -------------------------------------------------------------------


def _matrices(product: Equation, system: System) -> _Matrices | None:
    """The matrices of a product, with all that reduces them; None if one must be stored."""
    stored: set[str] = set()
    while True:
        found = _Matrices(product)
        try:
            _grow(found, stored, system)
        except NotReduced as problem:
            # Something that is read beside matrices may as well be read from memory.
            if problem.matrix == product.target or problem.matrix in stored:
                return None
            stored.add(problem.matrix)
            continue
        return found if found.reductions else None


def _grow(found: _Matrices, stored: set[str], system: System) -> None:
    found.axes[found.product.target] = tuple(range(len(found.product.indices)))
    reductions: dict[str, _Reduction] = {}
    waiting = [found.product.target]
    while waiting:
        name = waiting.pop(0)
        own = system.definition[name]
        named = {i.name: axis for i, axis in zip(own.indices, found.axes[name], strict=True)}
        waiting += _beside(own, named, found, stored, system)
        for eq in system.readers.get(name, ()):
            axes = _axes(eq, name, found, system)
            waiting += _beside(eq, axes, found, stored, system)
            if eq.reduce is not None:
                reductions[eq.target] = _reduction(eq, name, axes, found)
            elif eq.target not in found.axes:
                if {i.name for i in eq.indices} != axes.keys():
                    raise NotReduced(name, f"`{eq.target}` has other indices")
                if not _is_recomputable(eq.target, system) or eq.target in stored:
                    raise NotReduced(name, f"`{eq.target}` is stored")
                found.axes[eq.target] = tuple(axes[i.name] for i in eq.indices)
                waiting.append(eq.target)
    order = {eq.target: n for n, eq in enumerate(system.equations)}
    found.reductions = sorted(reductions.values(), key=lambda r: order[r.equation.target])


def _axes(eq: Equation, matrix: str, found: _Matrices, system: System) -> dict[str, int]:
    """The axes of the equation's indices, by which it reads matrices element by element."""
    if not _is_free(eq, system):
        raise NotReduced(matrix, f"`{eq.target}` accumulates, or is a recurrence")
    axes: dict[str, int] = {}
    for read in eq.reads:
        for place, axis in zip(read.index, found.axes.get(read.tensor, ()), strict=False):
            plain = isinstance(place, Idx) and read.other is None
            if not plain or axes.setdefault(str(place), axis) != axis:
                raise NotReduced(matrix, f"`{eq.target}` reads `{read.tensor}` at other elements")
    if len(set(axes.values())) != len(found.product.indices) or len(axes) != len(
        set(axes.values())
    ):
        raise NotReduced(matrix, f"`{eq.target}` reads a diagonal")
    return axes


def _beside(
    eq: Equation, axes: Mapping[str, int], found: _Matrices, stored: set[str], system: System
) -> Iterator[str]:
    """Temps that are read at the same elements as matrices."""
    for read in eq.reads:
        if read.tensor in found.axes or read.tensor in stored or read.other is not None:
            continue
        names = [place.name for place in read.index if isinstance(place, Idx)]
        every = len(names) == len(read.index) == len(axes) and set(names) == axes.keys()
        if every and _is_recomputable(read.tensor, system):
            found.axes[read.tensor] = tuple(axes[name] for name in names)
            yield read.tensor


def _reduction(eq: Equation, matrix: str, axes: Mapping[str, int], found: _Matrices) -> _Reduction:
    reduced = [axes[i.name] for i in eq.over if i.name in axes]
    if len(reduced) != 1 or found.row(reduced[0]) is None:
        raise NotReduced(matrix, f"`{eq.target}` does not reduce rows or columns")
    return _Reduction(eq, axes, reduced[0])


# --- which reductions are computed together -------------------------------------------------------


def _groups(found: _Matrices, system: System) -> list[list[_Reduction]]:
    """The reductions of one axis that do not wait for each other through other equations."""
    groups: list[list[_Reduction]] = []
    for one in found.reductions:
        for group in groups:
            if group[0].column == one.column and not _waits(one, group, groups, found, system):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _waits(
    one: _Reduction,
    group: list[_Reduction],
    groups: list[list[_Reduction]],
    found: _Matrices,
    system: System,
) -> bool:
    """Whether the reduction depends on the group through something that is not computed in it."""
    members = {r.equation.target for r in group}
    together = {r.equation.target: other for other in groups for r in other}
    # Depth first. Inside of the group are the matrices and the group's own results; a path that has
    # left them must not come back.
    stack = [(name, True) for name in one.equation.sources]
    seen: set[tuple[str, bool]] = set()
    while stack:
        name, inside = stack.pop()
        if (name, inside) in seen or name not in system.definition:
            continue
        seen.add((name, inside))
        if name in members:
            if not inside:
                return True
            continue
        inside = inside and name in found.axes
        stack += [(source, inside) for source in system.definition[name].sources]
        for other in together.get(name, ()):
            stack += [(source, False) for source in other.equation.sources]
    return False


# --- copies for each group ------------------------------------------------------------------------


def _blocked(
    found: _Matrices, groups: Sequence[list[_Reduction]], system: System, target: CpuTarget
) -> System:
    """The system in which every group of reductions has copies of its own."""
    tensors = {n: t for n, t in system.tensors.items() if n not in found.axes}
    equations = {eq.target: eq for eq in system.equations if eq.target not in found.axes}
    blocks = []
    for number, group in enumerate(groups, 1):
        axes = _Order(found, group[0].column, target)
        names: dict[str, str] = {}
        for name in _needed(group, found, system):
            taken = {*system.tensors, *tensors, *names.values()}
            names[name] = unused_name(f"{name}_{number}", taken)
        for name, copy in names.items():
            eq = system.definition[name]
            given = {i.name: a for i, a in zip(eq.indices, found.axes[name], strict=True)}
            made = axes.renamed(eq, given, names)
            equations[copy] = replace(made, target=copy, indices=axes.indices)
            shape = tuple(i.size for i in axes.indices)
            tensors[copy] = Tensor(
                copy,
                shape,
                system.tensors[name].dtype,
                span=system.tensors[name].span,
                pad_after=len(shape) - 1,
                held=axes.held,
            )
        for one in group:
            equations[one.equation.target] = axes.renamed(one.equation, one.axes, names)
        targets = (*names.values(), *(one.equation.target for one in group))
        blocks.append(RowBlock(targets, axes.fixed, axes.row, axes.column, axes.rows))
    changed = system.replace(
        tensors=tensors,
        equations=tuple(equations.values()),
        row_blocks=(*system.row_blocks, *blocks),
    )
    return changed.in_order()


def _needed(group: list[_Reduction], found: _Matrices, system: System) -> list[str]:
    """The matrices that the group's results are computed from."""
    needed: dict[str, None] = {}
    stack = [name for one in group for name in one.equation.sources]
    while stack:
        name = stack.pop()
        if name in found.axes and name not in needed:
            needed[name] = None
            stack += system.definition[name].sources
    order = [eq.target for eq in system.equations]
    return sorted(needed, key=order.index)


class _Order:
    """The indices of one group's copies: those that stay the same in a block, rows, columns."""

    def __init__(self, found: _Matrices, column: int, target: CpuTarget):
        every, row = found.product.indices, found.row(column)
        assert row is not None
        order = [a for a in range(len(every)) if a not in (row, column)]
        self.names = {axis: index.name for axis, index in enumerate(every)}
        self.fixed = tuple(every[axis] for axis in order)
        self.row, self.column = every[row], every[column]
        self.indices = (*self.fixed, self.row, self.column)
        self.rows = _rows(self.row.size, self.column.size * BYTES[found.product.dtype], target)
        self.held = (*(1 for _ in self.fixed), self.rows, self.column.size)

    def renamed(self, eq: Equation, axes: Mapping[str, int], copies: Mapping[str, str]) -> Equation:
        """The equation with the names of this order, reading copies."""
        taken = {*self.names.values(), *eq.sizes}
        names: dict[str, str] = {}
        for index in eq.domain:
            if index.name in axes:
                names[index.name] = self.names[axes[index.name]]
            elif index.name in self.names.values():
                names[index.name] = free_name(index.name, taken)
                taken.add(names[index.name])

        def change(node: object) -> Read | None:
            if not isinstance(node, Read) or node.tensor not in copies:
                return None
            place = tuple(Idx(i.name) for i in self.indices)
            return Read(copies[node.tensor], place, None, node.dtype)

        indices, over = (
            tuple(Index(names.get(i.name, i.name), i.size) for i in part)
            for part in (eq.indices, eq.over)
        )
        body = substitute(eq.body, {old: Idx(new) for old, new in names.items()})
        return replace(eq, indices=indices, over=over, body=rewrite(body, change))


def _rows(size: int, row_bytes: int, target: CpuTarget) -> int:
    """The rows of a block: as many as fit into their share of a core's cache, in blocks as equal as
    can be."""
    limits = target.row_blocks
    fit = int(limits.cache_share * target.l2.bytes) // row_bytes
    most = min(max(fit, limits.least_rows), limits.most_rows, size)
    return -(-size // -(-size // most))
