"""One grid as one CUDA C++ kernel.

In: a `Grid`, and which tensors its arguments are. Out: the text of the kernel. Every decision
stands in the grid; this file opens the loops and hands the points to the `Writer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ...grids import BLOCK, Each, Grid, Stream, Tile, Together
from ...ir import BYTES, Expr, Index
from .attention import stream
from .reductions import accumulator, reduced, results, start, take
from .spelling import MEMORY
from .writer import Writer

PADDING = 1  # elements after each row of a tile: neighbours of a column lie in different banks


@dataclass(frozen=True)
class Function:
    """A kernel's text and the types of its parameters. One that is `free` is a function of the
    block's number, which `group` makes kernels of."""

    name: str
    text: str
    parameters: tuple[str, ...]
    free: bool


def group(name: str, members: Sequence[tuple[Function, int]], threads: int = BLOCK) -> str:
    """One kernel for free functions, each with its number of blocks: they follow one another."""
    parameters: list[str] = []
    lines, first = [], 0
    for function, blocks in members:
        own = [f"p{len(parameters) + n}" for n in range(len(function.parameters))]
        parameters += [f"{t} {p}" for t, p in zip(function.parameters, own, strict=True)]
        call = f"{function.name}({', '.join([f'BLOCK - {first}', *own])});"
        lines.append(f"  if (BLOCK < {first + blocks}) return {call}")
        first += blocks
    return "\n".join([f"KERNEL({threads}) {name}({', '.join(parameters)}) {{", *lines, "}", ""])


def kernel(grid: Grid, name: str, arguments: Sequence[str], types: Mapping[str, str],
           extents: Mapping[str, int], exclusive: frozenset[str]) -> Function:  # fmt: skip
    """The kernel `name`. `arguments` are its tensors in order; those in `exclusive` share memory
    with no other."""
    pointers = {tensor: f"t{n}" for n, tensor in enumerate(arguments)}
    w = Writer(grid.accesses, grid.sizes, pointers, extents)
    stored = set(grid.stored)
    kinds = [
        f"{'' if t in stored else 'const '}{MEMORY[types[t]]}*"
        f"{' __restrict__' if t in exclusive else ''}" for t in arguments
    ]  # fmt: skip
    names = list(pointers.values())
    for number, index in enumerate(grid.fixed):
        w.places[index] = f"at{number}"
        kinds.append("i32")
        names.append(f"at{number}")
    match grid.how:
        case Each():
            _each(w, grid)
        case Together():
            _together(w, grid, grid.how)
        case Tile():
            _tile(w, grid, grid.how)
        case Stream():
            stream(w, grid, grid.how)
    parameters = [f"{kind} {own}" for kind, own in zip(kinds, names, strict=True)]
    free = isinstance(grid.how, Each)
    macro = "KERNEL_TWICE" if isinstance(grid.how, Stream) else "KERNEL"
    head = f"DEVICE void {name}(" if free else f"{macro}({grid.threads}) {name}("
    head += ", ".join(["const i32 block"] * free + parameters) + ") {"
    about = [f"// {line}" for line in (grid.source, *grid.why, str(grid.how)) if line]
    return Function(name, "\n".join([*about, head, *w.lines, "}", ""]), tuple(kinds), free)


def _flat_type(count: int) -> str:
    return "i32" if count < 2**31 - 2**12 else "i64"


# --- one thread per element -----------------------------------------------------------------------


def _each(w: Writer, grid: Grid) -> None:
    kind = _flat_type(grid.blocks * grid.threads)
    w.line(f"const {kind} element = ({kind})block * {grid.threads} + THREAD;")
    w.line(f"if (element >= {grid.elements}) return;")
    w.unflatten("element", grid.outputs, kind)
    if grid.reduce is None:
        w.finish(grid.statements, [(w.value(b), b.dtype) for b in grid.bodies])
        return
    start(w, grid)
    reduced(w, grid, list(grid.over))
    w.finish(grid.statements, results(grid))


# --- several threads per element ------------------------------------------------------------------


def _together(w: Writer, grid: Grid, how: Together) -> None:
    per_block = grid.threads // how.lanes
    inner, outer = ("lane", "own") if how.along == "over" else ("own", "lane")
    split = how.lanes if how.along == "over" else per_block
    kind = _flat_type(max(grid.blocks * grid.threads, grid.points + grid.threads))
    w.line(f"const i32 {inner} = THREAD % {split}, {outer} = THREAD / {split};")
    w.line(f"const {kind} element = ({kind})BLOCK * {per_block} + own;")
    start(w, grid)
    with w.block(f"if (element < {grid.elements})"):
        w.unflatten("element", grid.outputs, kind)
        first, last = _range(w, grid, kind)
        head = f"for ({kind} p = {first} + lane; p < {last}; p += {how.lanes})"
        with w.block(head):
            w.unflatten("p", grid.over, kind)
            take(w, grid)
    if grid.shared_bytes:
        count = grid.threads // 32 if how.along == "over" else grid.threads
        w.line(f"SHARED({accumulator(grid)}, shared, 0, {count});")
    for n, _ in enumerate(grid.bodies):
        if grid.by_shuffles:
            w.line(f"sum{n} = nn::across_warp(sum{n});")
        elif how.along == "over":
            w.line(f"sum{n} = nn::across_warps<{how.lanes}, {grid.threads}>(sum{n}, shared);")
        else:
            shape = f"{how.lanes}, {per_block}, {grid.threads}"
            w.line(f"sum{n} = nn::across_block<{shape}>(sum{n}, shared);")
    with w.block(f"if (lane == 0 && element < {grid.elements})"):
        w.unflatten("element", grid.outputs, kind)
        _layer(w, grid)
        w.finish(grid.statements, results(grid))


def _range(w: Writer, grid: Grid, kind: str) -> tuple[str, str]:
    """The points that this layer of blocks reduces over."""
    if grid.part is None:
        return "0", str(grid.points)
    w.line(f"const {kind} first = ({kind})LAYER * {grid.chunk};")
    w.line(f"const {kind} last = first + {grid.chunk} < {grid.points} ? "
           f"first + {grid.chunk} : {grid.points};")  # fmt: skip
    return "first", "last"


def _layer(w: Writer, grid: Grid) -> None:
    if grid.part is not None:
        w.place(grid.part.name, "LAYER")


# --- tiles ----------------------------------------------------------------------------------------


def _tile(w: Writer, grid: Grid, how: Tile) -> None:
    height, width = (prod(i.size for i in group) for group in (how.down, how.across))
    tall, wide = -(-height // how.height), -(-width // how.width)
    dtype, depth, sums = grid.dtype, how.depth, len(how.rights)
    high, broad = how.height + PADDING, how.width + PADDING
    w.line(f"SHARED({dtype}, left, 0, {depth * high});")
    for n in range(sums):
        start = depth * (high + n * broad) * BYTES[dtype]
        w.line(f"SHARED({dtype}, right{n}, {start}, {depth * broad});")
    down, across = how.height // how.rows, how.width // how.columns
    w.line(f"const i32 row = THREAD / {across}, column = THREAD % {across};")
    w.line(f"const i32 m0 = BLOCK / {wide} % {tall} * {how.height}, "
           f"n0 = BLOCK % {wide} * {how.width};")  # fmt: skip
    w.unflatten(w.let("i32", f"BLOCK / {tall * wide}", "batch"), how.batch)
    first, last = _range(w, grid, "i32")
    w.line(f"{dtype} sum[{sums}][{how.rows}][{how.columns}] = {{}};")
    with w.block(f"for (i32 k0 = {first}; k0 < {last}; k0 += {depth})"):
        _load(w, grid, how.left, how.down, "left", "m0", how.height, how.left_deep, height, last)
        for n, right in enumerate(how.rights):
            _load(w, grid, right, how.across, f"right{n}", "n0", how.width, how.right_deep, width,
                  last)  # fmt: skip
        w.line("BARRIER();")
        with w.block(f"for (i32 k = 0; k < {depth}; ++k)"):
            w.line(f"{dtype} a[{how.rows}];")
            w.line("#pragma unroll")
            w.line(f"for (i32 r = 0; r < {how.rows}; ++r) "
                   f"a[r] = AT(left, k * {high} + row + r * {down}, {depth * high});")  # fmt: skip
            w.line("#pragma unroll")
            with w.block(f"for (i32 c = 0; c < {how.columns}; ++c)"):
                for n in range(sums):
                    place = f"k * {broad} + column + c * {across}"
                    w.line(f"const {dtype} b{n} = AT(right{n}, {place}, {depth * broad});")
                    w.line("#pragma unroll")
                    w.line(f"for (i32 r = 0; r < {how.rows}; ++r) sum[{n}][r][c] += a[r] * b{n};")
        w.line("BARRIER();")
    _store_tile(w, grid, how, height, width)


def _load(w: Writer, grid: Grid, part: Expr, own: tuple[Index, ...], tile: str, base: str,
          side: int, deep: bool, size: int, last: str) -> None:  # fmt: skip
    """All threads fill one operand's tile; what is outside the domain is zero."""
    depth = grid.how.depth  # type: ignore[union-attr]
    row = side + PADDING
    w.line("#pragma unroll")
    with w.block(f"for (i32 e = THREAD; e < {side * depth}; e += {grid.threads})"):
        if deep:
            w.line(f"const i32 x = e / {depth}, k = e % {depth};")
        else:
            w.line(f"const i32 x = e % {side}, k = e / {side};")
        dtype = grid.dtype
        w.line(f"{dtype} loaded = 0;")
        with w.block(f"if ({base} + x < {size} && k0 + k < {last})"):
            w.unflatten(w.let("i32", f"{base} + x", "m"), own)
            w.unflatten(w.let("i32", "k0 + k", "p"), grid.over)
            w.line(f"loaded = {w.value(part)};")
        w.line(f"AT({tile}, k * {row} + x, {depth * row}) = loaded;")


def _store_tile(w: Writer, grid: Grid, how: Tile, height: int, width: int) -> None:
    down, across = how.height // how.rows, how.width // how.columns
    w.line("#pragma unroll")
    with w.block(f"for (i32 r = 0; r < {how.rows}; ++r)"):
        m = w.let("i32", f"m0 + row + r * {down}", "m")
        w.line("#pragma unroll")
        with w.block(f"for (i32 c = 0; c < {how.columns}; ++c)"):
            x = w.let("i32", f"n0 + column + c * {across}", "n")
            with w.block(f"if ({m} < {height} && {x} < {width})"):
                w.unflatten(m, how.down)
                w.unflatten(x, how.across)
                _layer(w, grid)
                sums = [(f"sum[{n}][r][c]", grid.dtype) for n, _ in enumerate(how.rights)]
                w.finish(grid.statements, sums)
