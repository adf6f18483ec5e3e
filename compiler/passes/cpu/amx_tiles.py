"""bf16 products by AMX: operands stored as tiles of 16 by 16 pairs of numbers.

    y[b, o] = sum(i < 784) bf16(x[b, i]) * bf16(w[i, o])                      o < 512

    →   x_rows[t < 25, b, c < 16]           = bf16_pair(x[b, 32*t + 2*c], x[b, 32*t + 2*c + 1])
        w_columns[p < 32, i < 400, c < 16]  = bf16_pair(w[2*i, 16*p + c], w[2*i + 1, 16*p + c])
        y[b, o] = sum(t < 25, c < 16) bf16_dot(x_rows[t, b, c], w_columns[o // 16, 16*t + c,
                                                                         o % 16])

One instruction, `tdpbf16ps`, multiplies a tile of 16 rows of `b` by 16 pairs with one of 16 pairs
by 16 columns of `o` and adds to a tile of 16 by 16 sums in f32: 8192 products in 16 cycles. Either
operand's tile is 1 KB of memory in one piece. What a tile has beyond the ends of its tensor is 0,
and so is a border that a convolution reads around an image: it is stored with it.

`tile_operands` is a pass over equations: it stores the operands so where the cycles saved exceed
those of storing them, by the throughputs of the target. `amx_tiles` finds such a product again in
its kernel and gives it loops over tiles; `codegen/llvm/amx.py` writes them. A kernel that does not
fit multiplies the same pairs as any other (`pack_bf16_pairs.py`). The sums have an order of their
own, which follows from the target's record alone.

Source: Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter "Intel AMX".
Tests: tests/backends/test_amx.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ...ir.affine import affine, bounds, inside
from ...ir.build import call, literal
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System, is_recurrent
from ...ir.expr import Apply, Expr, Idx, Read, index_names, walk
from ...ir.terms import is_rounded, is_zero
from ...targets import TILE_SIDE, CpuTarget
from ..lowering.access import Access
from ..lowering.coalesce_indices import CoalescedKernel
from .loop_ir import AmxTiles, Loop, Segment

OPERANDS = 2  # tiles of each operand that are loaded at a time
Extents = tuple[tuple[int, int], ...]  # of each dimension the first element and their number

# --- the pass over equations ----------------------------------------------------------------------


def tile_operands(system: System, target: CpuTarget) -> System:
    """Contractions of tiles, where that saves more than storing the operands costs."""
    edit, packed = SystemEdit(system), _Packed(system, target)
    for component in system.components:
        # A recurrence would store its tiles anew at every step, a block of rows for every block.
        if is_recurrent(component) or component[0].target in system.blocked:
            continue
        (eq,) = component
        forms = _forms(eq, system)
        best = max(forms, key=packed.gain, default=None)
        if best is not None and packed.gain(best) > 0:
            packed.tensors |= best.operands
            edit.replace(best.equation(edit))
    return edit.result()


@dataclass(frozen=True)
class _Form:
    """A contraction as products of tiles: `rows` has the summed index `along` and not `columns`,
    the index of `right` that vectors run over."""

    eq: Equation
    left: Read
    right: Read
    along: Index
    columns: Index
    system: System

    @property
    def left_axis(self) -> int:
        return self.left.index.index(Idx(self.along.name))

    @property
    def right_axes(self) -> tuple[int, int]:
        """The dimensions of the right operand that are summed over and that vectors run over."""
        index = self.right.index
        return index.index(Idx(self.along.name)), index.index(Idx(self.columns.name))

    @property
    def operands(self) -> set[tuple]:
        """What is stored: a tensor, how much of it, and which of its dimensions are whose."""
        left, right = (self.extents(r) for r in (self.left, self.right))
        return {
            (self.left.tensor, left, self.left_axis),
            (self.right.tensor, right, *self.right_axes),
        }

    def extents(self, read: Read) -> Extents:
        """What is stored of each dimension: all of the tensor, and the border that is read."""
        spans = (bounds(place, self.eq.sizes) for place in read.index)
        shape = self.system.tensors[read.tensor].shape
        return tuple(
            (min(low, 0), max(high + 1, size) - min(low, 0))
            for (low, high), size in zip(spans, shape, strict=True)
        )

    def places(self, read: Read) -> list[Expr]:
        """Where in what is stored the read finds its element."""
        firsts = (first for first, _ in self.extents(read))
        return [
            call("sub", place, literal(first))
            for place, first in zip(read.index, firsts, strict=True)
        ]

    @property
    def rows(self) -> Index | None:
        """The longest index of which tiles can have rows."""
        own = index_names(self.left) - index_names(self.right)
        found = [i for i in self.eq.indices if i.name in own]
        return max(found, key=lambda i: i.size, default=None)

    def equation(self, edit: SystemEdit) -> Equation:
        """The contraction over stored tiles."""
        pairs = _tiles(self.along.size, 2)
        steps, lane = (
            Index(self.along.name, _tiles(pairs)),
            Index(f"{self.along.name}_c", TILE_SIDE),
        )
        step = call("add", call("mul", Idx(steps.name), literal(TILE_SIDE)), Idx(lane.name))
        column = Idx(self.columns.name)
        axis, across = self.right_axes
        left = Read(
            _rows(edit, self.left.tensor, self.extents(self.left), self.left_axis),
            (Idx(steps.name), *_without(self.places(self.left), self.left_axis), Idx(lane.name)),
            None,
            "i32",
        )
        right = Read(
            _columns(edit, self.right.tensor, self.extents(self.right), axis, across),
            (
                call("floordiv", column, literal(TILE_SIDE)),
                *(p for d, p in enumerate(self.places(self.right)) if d not in (axis, across)),
                step,
                call("mod", column, literal(TILE_SIDE)),
            ),
            None,
            "i32",
        )
        others = [i for i in self.eq.over if i is not self.along]
        body = call("bf16_dot", left, right)
        return replace(self.eq, body=body, over=(*others, steps, lane))


def _forms(eq: Equation, system: System) -> list[_Form]:
    """The ways to see an equation as products of tiles."""
    body = eq.body
    if eq.reduce != "sum" or eq.at is not None or body.dtype != "f32" or not eq.indices:
        return []
    if not (isinstance(body, Apply) and body.fn == "mul" and all(map(is_rounded, body.args))):
        return []
    reads = [a.args[0] for a in body.args if isinstance(a, Apply)]
    if not all(isinstance(r, Read) and _is_plain(r, eq, system) for r in reads):
        return []
    columns = eq.indices[-1]  # vectors of results are neighbours in memory
    found = []
    for left, right in (reads, reads[::-1]):
        assert isinstance(left, Read) and isinstance(right, Read)
        if columns.name in index_names(left):
            continue
        for along in eq.over:
            whole = _is_axis(left, along, system) and _is_axis(right, along, system)
            if whole and _is_axis(right, columns, system):
                found.append(_Form(eq, left, right, along, columns, system))
    return found


def _is_plain(read: Read, eq: Equation, system: System) -> bool:
    """Whether all places are affine in indices, and inside of the tensor or read as 0."""
    shape = system.tensors[read.tensor].shape
    if read.other is not None and not is_zero(read.other):
        return False
    return all(
        (read.other is not None or inside(place, size, eq.sizes))
        and all(isinstance(atom, Idx) for atom in affine(place).coefficients)
        for place, size in zip(read.index, shape, strict=True)
    )


def _is_axis(read: Read, index: Index, system: System) -> bool:
    """Whether the index runs through one whole dimension and through no other."""
    axes = [d for d, place in enumerate(read.index) if index.name in index_names(place)]
    if len(axes) != 1 or read.index[axes[0]] is not Idx(index.name):
        return False
    return system.tensors[read.tensor].shape[axes[0]] == index.size


@dataclass
class _Packed:
    """The cost of storing tiles; `tensors` are the operands that are stored so far."""

    system: System
    target: CpuTarget
    tensors: set[tuple] = field(default_factory=set)

    def gain(self, form: _Form) -> float:
        """The cycles saved, less those of storing the operands."""
        target, costs = self.target, self.target.layout
        rows = form.rows
        domain = form.eq.domain
        terms = prod(i.size for i in domain)
        # As many sums in f32 as would have to be stored and loaded again for each tile.
        if rows is None or prod(i.size for i in form.eq.over) > target.layout.max_tile_terms:
            return 0.0
        side = {rows: TILE_SIDE, form.columns: TILE_SIDE, form.along: 2 * TILE_SIDE}
        tiles = prod(_tiles(i.size, side.get(i, 1)) for i in domain)
        saved = terms * target.fma_cycles / target.lanes - tiles * target.amx_cycles
        fresh = form.operands - self.tensors
        storing = sum(
            prod(n for _, n in extents) * costs.pack_element * 2 + 2 * costs.start_kernel
            for _, extents, *_ in fresh
        )
        return saved - storing


def _rows(edit: SystemEdit, name: str, extents: Extents, axis: int) -> str:
    """The tensor in pairs along a dimension, 16 of which are the last dimension of the result, and
    the others the first."""
    if axis == len(extents) - 1:
        return _split(edit, name, extents, axis, f"{name}_rows", paired=axis)
    pairs = _pairs(edit, name, extents, axis)
    return _split(edit, pairs, _whole(edit, pairs), axis, f"{name}_rows")


def _columns(edit: SystemEdit, name: str, extents: Extents, axis: int, across: int) -> str:
    """The tensor in pairs along the dimension `axis`; of the dimension `across`, 16 elements are
    the last dimension of the result, after the pairs, and the number of such stretches the
    first."""
    if across == len(extents) - 1:
        return _split(edit, name, extents, across, f"{name}_columns", paired=axis, late=axis)
    # Pairs along neighbours first: what is transposed then are whole pairs.
    pairs = _pairs(edit, name, extents, axis)
    return _split(edit, pairs, _whole(edit, pairs), across, f"{name}_columns", late=axis)


def _whole(edit: SystemEdit, name: str) -> Extents:
    return tuple((0, size) for size in edit.tensors[name].shape)


def _pairs(edit: SystemEdit, name: str, extents: Extents, axis: int) -> str:
    """The tensor in pairs along a dimension, a whole number of tiles of them."""
    source = edit.tensors[name]
    counts = [_padded(_tiles(n, 2)) if d == axis else n for d, (_, n) in enumerate(extents)]
    indices = tuple(Index(f"i{d}", n) for d, n in enumerate(counts))
    places = [
        call("add", Idx(i.name), literal(first))
        for i, (first, _) in zip(indices, extents, strict=True)
    ]
    body = _pair(edit, name, places, axis, indices)
    return edit.add(Equation(f"{name}_pairs", indices, body, span=source.span))


def _split(
    edit: SystemEdit,
    name: str,
    extents: Extents,
    axis: int,
    target: str,
    paired: int = -1,
    late: int = -1,
) -> str:
    """The tensor with 16 elements of a dimension last, after the dimension `late`, and the number
    of such stretches first; in pairs along the dimension `paired`."""
    source = edit.tensors[name]
    sizes = [_padded(_tiles(n, 2)) if d == paired else n for d, (_, n) in enumerate(extents)]
    stretches, lane = Index("t", _tiles(sizes[axis])), Index("c", TILE_SIDE)
    others = [Index(f"i{d}", n) for d, n in enumerate(sizes)]
    order = [d for d in range(len(sizes)) if d not in (axis, late)] + [late] * (late >= 0)
    indices = (stretches, *(others[d] for d in order), lane)
    split = call("add", call("mul", Idx("t"), literal(TILE_SIDE)), Idx("c"))
    places = [
        split if d == axis else call("add", Idx(others[d].name), literal(first))
        for d, (first, _) in enumerate(extents)
    ]
    if paired >= 0:
        body = _pair(edit, name, places, paired, indices)
    else:
        body = _guarded(edit, name, places, indices)
    return edit.add(Equation(target, indices, body, span=source.span))


def _pair(
    edit: SystemEdit, name: str, places: list[Expr], axis: int, indices: Sequence[Index]
) -> Expr:
    """Two neighbours along a dimension whose place counts pairs."""
    halves = []
    for k in (0, 1):
        place = call("add", call("mul", places[axis], literal(2)), literal(k))
        moved = [place if d == axis else p for d, p in enumerate(places)]
        halves.append(_guarded(edit, name, moved, indices))
    return call("bf16_pair", *halves)


def _guarded(edit: SystemEdit, name: str, places: list[Expr], indices: Sequence[Index]) -> Expr:
    """The element, 0 beyond the ends of the tensor."""
    source, sizes = edit.tensors[name], {i.name: i.size for i in indices}
    within = all(inside(p, n, sizes) for p, n in zip(places, source.shape, strict=True))
    other = None if within else literal(0, source.dtype)
    return Read(name, tuple(places), other, source.dtype)


def _tiles(size: int, side: int = TILE_SIDE) -> int:
    return -(-size // side)


def _padded(size: int) -> int:
    """Up to whole tiles."""
    return _tiles(size) * TILE_SIDE


def _without(items: Sequence, axis: int) -> tuple:
    return (*items[:axis], *items[axis + 1 :])


# --- the loops of a kernel ------------------------------------------------------------------------


def amx_tiles(
    form: CoalescedKernel, accesses: Mapping[Read, Access], target: CpuTarget
) -> AmxTiles | None:
    """How the kernel's products are those of tiles; None if they are not."""
    if not target.amx_cycles or len(form.bodies) != 1 or form.at is not None:
        return None
    body = form.bodies[0].value
    if not (isinstance(body, Apply) and body.fn == "bf16_dot" and len(form.over) > 1):
        return None
    if not all(isinstance(r, Read) and not accesses[r].checks for r in body.args):
        return None
    left, right = (accesses[r].offset for r in body.args if isinstance(r, Read))
    lane, columns = form.over[-1], form.outputs[-1]
    strides = [f.coefficients.get(Idx(lane.name), 0) for f in (left, right)]
    if lane.size != TILE_SIDE or strides != [1, TILE_SIDE]:
        return None
    stretch = call("floordiv", Idx(columns.name), literal(TILE_SIDE))
    # Neighbouring columns are 16 elements in a row, and then as many in the next stretch.
    plain = all(isinstance(a, Idx) for a in left.coefficients) and all(
        isinstance(a, Idx) or a is stretch for a in right.coefficients
    )
    if not plain or right.coefficients.get(Idx(columns.name)) != 1:
        return None
    if Idx(columns.name) in left.coefficients or (
        columns.size > TILE_SIDE and stretch not in right.coefficients
    ):
        return None
    own = [
        i
        for i in form.outputs
        if Idx(i.name) in left.coefficients and Idx(i.name) not in right.coefficients
    ]
    rows = max(own, key=lambda i: i.size, default=None)
    if rows is None or any(Idx(rows.name) in walk(a) for a in right.coefficients):
        return None
    return AmxTiles(rows.name, columns.name, lane.name, left.coefficients[Idx(rows.name)])


def amx_loops(form: CoalescedKernel, tiles: AmxTiles) -> tuple[list[Loop], list[Loop]]:
    """The output loops and the reduction loops. Of the rows and columns those are outside of which
    there are more: the operand that is read again for each of them is the smaller one."""
    index = {i.name: i for i in form.outputs}
    rows, columns = index[tiles.rows], index[tiles.columns]
    pair = [_rows_loop(rows), _columns_loop(columns)]
    if columns.size > rows.size:
        pair.reverse()
    others = [_steps(i, "serial") for i in form.outputs if i not in (rows, columns)]
    return [*others, *pair], [_steps(i, "reduce") for i in form.over]


def _steps(index: Index, kind: str) -> Loop:
    return Loop(index, kind, (Segment(0, index.size, 1, 1),))


def _rows_loop(index: Index) -> Loop:
    """As many rows at a time as two tiles have, or so many that all steps are alike."""
    most = min(index.size, OPERANDS * TILE_SIDE)
    even = next(n for n in range(most, 0, -1) if index.size % n == 0)
    step = even if even >= TILE_SIDE // 2 else most
    count, rest = divmod(index.size, step)
    segments = [Segment(0, count, step, 1)]
    if rest:
        segments.append(Segment(count * step, 1, rest, 1))
    return Loop(index, "serial", tuple(segments))


def _columns_loop(index: Index) -> Loop:
    """Two tiles at a time; the last of all may have fewer columns."""
    vectors = _tiles(index.size)
    valid = index.size - (vectors - 1) * TILE_SIDE
    # The last step has a segment of its own if it is shorter, or ends within a tile.
    whole = vectors // OPERANDS - (vectors % OPERANDS == 0 and valid < TILE_SIDE)
    width = OPERANDS * TILE_SIDE
    segments = [Segment(0, whole, OPERANDS, TILE_SIDE)] if whole else []
    if rest := vectors - whole * OPERANDS:
        segments.append(Segment(whole * width, 1, rest, valid))
    return Loop(index, "serial", tuple(segments), TILE_SIDE)
