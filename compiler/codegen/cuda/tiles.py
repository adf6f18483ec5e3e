"""A grid of tiles as CUDA C++: operands go through a ring of steps in shared memory.

In: a `Grid` whose `how` is a `Tile`. Out: lines of its kernel. While a step is multiplied, later
ones are on their way: asynchronous copies go to shared memory by themselves; what threads compute
stays in registers, `held`, until the multiplication is done. One barrier per step is enough: a step
is written where the one before has been read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ...grids import GAP, Grid, Operand, Tile
from ...ir import BYTES, Read
from .layers import place_layer, points
from .writer import Writer

UNROLLED = 4  # points whose products stand in a row


@dataclass(frozen=True)
class _Side:
    """One operand as the kernel sees it: its array in shared memory, the variable that has the
    first element of the tile, and the tile's length along it."""

    operand: Operand
    array: str
    base: str
    length: int


def tile(w: Writer, grid: Grid, how: Tile) -> None:
    """The kernel's body."""
    sides = _sides(how)
    offset = 0
    for side in sides:
        count = how.stages * how.slot(side.length)
        w.line(f"SHARED({grid.dtype}, {side.array}, {offset}, {count});")
        offset += count * BYTES[grid.dtype]
    tall, wide = -(-how.left.size // how.height), -(-how.rights[0].size // how.width)
    across = how.width // how.columns
    w.line(f"const i32 row = THREAD / {across}, column = THREAD % {across};")
    w.line(f"const i32 m0 = BLOCK / {wide} % {tall} * {how.height}, "
           f"n0 = BLOCK % {wide} * {how.width};")  # fmt: skip
    w.unflatten(w.let("i32", f"BLOCK / {tall * wide}", "batch"), how.batch)
    first, last = points(w, grid, "i32")
    w.line(f"{grid.dtype} sum[{len(how.rights)}][{how.rows}][{how.columns}] = {{}};")
    _steps(w, grid, how, sides, first, last)
    _store(w, grid, how)


def _sides(how: Tile) -> list[_Side]:
    rights = [_Side(o, f"right{n}", "n0", how.width) for n, o in enumerate(how.rights)]
    return [_Side(how.left, "left", "m0", how.height), *rights]


# --- the ring -------------------------------------------------------------------------------------


def _steps(w: Writer, grid: Grid, how: Tile, sides: list[_Side], first: str, last: str) -> None:
    """The loop over the points. `load` asks for copies; `fetch` computes, `put` stores."""
    copied = [s for s in sides if s.operand.copied]
    computed = [s for s in sides if not s.operand.copied]
    for side in copied:
        _loader(w, grid, how, side, last)
    for side in computed:
        _computer(w, grid, how, side, last)
    before = how.stages - 1
    with w.block(f"for (i32 s = 0; s < {before}; ++s)"):
        ahead = w.let("i32", f"{first} + s * {how.depth}", "ahead")
        _ask(w, copied, ahead, "s", last)
        if computed:
            with w.block(f"if ({ahead} < {last})"):
                _call(w, "fetch", computed, ahead)
                _call(w, "put", computed, "s")
    w.line("i32 slot = 0;")
    with w.block(f"for (i32 k0 = {first}; k0 < {last}; k0 += {how.depth})"):
        if copied:
            w.line(f"WAIT({how.stages - 2});")
        w.line("BARRIER();")
        w.line(f"const i32 ahead = k0 + {before * how.depth};")
        w.line(f"const i32 into = slot == 0 ? {before} : slot - 1;")
        _ask(w, copied, "ahead", "into", last)
        if computed:
            with w.block(f"if (ahead < {last})"):
                _call(w, "fetch", computed, "ahead")
        _multiply(w, grid, how, sides)
        if computed:
            with w.block(f"if (ahead < {last})"):
                _call(w, "put", computed, "into")
        w.line(f"slot = slot == {before} ? 0 : slot + 1;")


def _ask(w: Writer, copied: list[_Side], ahead: str, slot: str, last: str) -> None:
    """Copies of one step, which are one group, if there is such a step."""
    if copied:
        with w.block(f"if ({ahead} < {last})"):
            _call(w, "load", copied, f"{ahead}, {slot}")
        w.line("COMMIT();")


def _call(w: Writer, what: str, sides: list[_Side], arguments: str) -> None:
    for side in sides:
        w.line(f"{what}_{side.array}({arguments});")


def _loader(w: Writer, grid: Grid, how: Tile, side: _Side, last: str) -> None:
    """A function of a step and its place in the ring: asks for the copies of one operand. What is
    outside the domain is zero."""
    n = side.operand.copied
    assert isinstance(side.operand.part, Read)
    access = grid.accesses[side.operand.part]
    with w.block(f"const auto load_{side.array} = [&](const i32 k0, const i32 slot)", "};"), \
            _elements(w, grid, how, side, n):  # fmt: skip
        inside = _point(w, grid, side, last)
        checks = w.condition(access.checks)
        ok = f"{inside} && {checks}" if checks else inside
        source = w.element(access.tensor, access.offset)
        w.line(f"COPY({n}, {_element(how, side, 'slot', 'k', 'x')}, {source}, {ok});")


def _computer(w: Writer, grid: Grid, how: Tile, side: _Side, last: str) -> None:
    """Two functions: of a step, that computes an operand's elements into registers, and of a place
    in the ring, that stores them there."""
    held, count = f"held_{side.array}", side.length * how.depth
    w.line(f"{grid.dtype} {held}[{count // grid.threads}];")
    with w.block(f"const auto fetch_{side.array} = [&](const i32 k0)", "};"), \
            _elements(w, grid, how, side, 1):  # fmt: skip
        w.line(f"{held}[u] = 0;")
        with w.block(f"if ({_point(w, grid, side, last)})"):
            w.line(f"{held}[u] = {w.value(side.operand.part)};")
    with w.block(f"const auto put_{side.array} = [&](const i32 slot)", "};"), \
            _elements(w, grid, how, side, 1):  # fmt: skip
        w.line(f"AT({_element(how, side, 'slot', 'k', 'x')}) = {held}[u];")


@contextmanager
def _elements(w: Writer, grid: Grid, how: Tile, side: _Side, n: int) -> Iterator[None]:
    """Around what a thread does with its elements of one step, `n` at a time: the point `k`, the
    element `x` along the side, and the number `u` of the time."""
    groups = side.length * how.depth // n
    w.line("#pragma unroll")
    with w.block(f"for (i32 u = 0; u < {-(-groups // grid.threads)}; ++u)"):
        w.line(f"const i32 e = THREAD + u * {grid.threads};")
        if side.operand.deep:
            w.line(f"const i32 x = e / {how.depth}, k = e % {how.depth};")
        else:
            row = side.length // n
            w.line(f"const i32 x = e % {row}{f' * {n}' if n > 1 else ''}, k = e / {row};")
        if groups % grid.threads:
            with w.block(f"if (e < {groups})"):
                yield
        else:
            yield


def _point(w: Writer, grid: Grid, side: _Side, last: str) -> str:
    """Gives the indices their values at this element; the condition that it is in the domain."""
    w.unflatten(w.let("i32", f"{side.base} + x", "m"), side.operand.own)
    w.unflatten(w.let("i32", "k0 + k", "p"), grid.over)
    return f"{side.base} + x < {side.operand.size} && k0 + k < {last}"


def _element(how: Tile, side: _Side, slot: str, k: str, x: str) -> str:
    """An element in shared memory: the array, the place and the array's size."""
    size = how.slot(side.length)
    return (f"{side.array}, {slot} * {size} + {k} * {side.length + GAP} + {x}, "
            f"{how.stages * size}")  # fmt: skip


# --- products and results -------------------------------------------------------------------------


def _multiply(w: Writer, grid: Grid, how: Tile, sides: list[_Side]) -> None:
    """The products of one step. A thread takes neighbours together, `rows` and `columns` of them or
    4, as often as it has results."""
    left, *rights = sides
    w.line(f"#pragma unroll {UNROLLED}")
    with w.block(f"for (i32 k = 0; k < {how.depth}; ++k)"):
        _get(w, grid, how, left, "a", "row", how.rows)
        for n, right in enumerate(rights):
            _get(w, grid, how, right, f"b{n}", "column", how.columns)
            w.line("#pragma unroll")
            with w.block(f"for (i32 r = 0; r < {how.rows}; ++r)"):
                w.line("#pragma unroll")
                w.line(f"for (i32 c = 0; c < {how.columns}; ++c) "
                       f"sum[{n}][r][c] += a[r] * b{n}[c];")  # fmt: skip


def _get(w: Writer, grid: Grid, how: Tile, side: _Side, name: str, number: str, count: int) -> None:
    """The thread's elements of one operand at the point `k`."""
    n = min(count, GAP)
    w.line(f"{grid.dtype} {name}[{count}];")
    for start in range(0, count, n):
        element = _element(how, side, "slot", "k", _own(number, start, side.length, count))
        w.line(f"GET({n}, {name}{f' + {start}' if start else ''}, {element});")


def _own(number: str, at: int, length: int, count: int) -> str:
    """Where the thread's elements from `at` on, a multiple of its neighbours, lie along a side."""
    n = min(count, GAP)
    first = number if n == 1 else f"{number} * {n}"
    return f"{first} + {at * (length // count)}" if at else first


def _store(w: Writer, grid: Grid, how: Tile) -> None:
    """The statements on every result, and their stores."""
    w.line("#pragma unroll")
    with w.block(f"for (i32 r = 0; r < {how.rows}; ++r)"):
        m = w.let("i32", f"m0 + {_along('row', 'r', how.height, how.rows)}", "m")
        w.line("#pragma unroll")
        with w.block(f"for (i32 c = 0; c < {how.columns}; ++c)"):
            x = w.let("i32", f"n0 + {_along('column', 'c', how.width, how.columns)}", "n")
            with w.block(f"if ({m} < {how.left.size} && {x} < {how.rights[0].size})"):
                w.unflatten(m, how.left.own)
                w.unflatten(x, how.rights[0].own)
                place_layer(w, grid)
                sums = [(f"sum[{n}][r][c]", grid.dtype) for n, _ in enumerate(how.rights)]
                w.finish(grid.statements, sums)


def _along(number: str, at: str, length: int, count: int) -> str:
    """As `_own`, of any element."""
    n = min(count, GAP)
    return f"{number} * {n} + {at} % {n} + {at} / {n} * {n * (length // count)}"
