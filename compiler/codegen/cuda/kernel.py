"""One grid as one CUDA C++ kernel.

In: a `Grid`, and which tensors its arguments are. Out: the text of the kernel. Every decision
stands in the grid; this file opens the loops and hands the points to the `Writer`;
tiles are spelled by `ring.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...passes.gpu.attention.mma_ir import WarpStream
from ...passes.gpu.grid_ir import BLOCK, RESIDENT, Each, Grid, Stream, Tile, Together
from .accumulators import accumulator, alone, results, start, take
from .attention_mma import warp_stream
from .attention_simt import stream
from .expressions import Writer
from .instructions import MEMORY
from .mma import Warps
from .simt import Threads
from .split_k import place_layer, points


@dataclass(frozen=True)
class Function:
    """A kernel's text and the types of its parameters. One that is `free` is a function of the
    block's number, which `group` makes kernels of."""

    name: str
    text: str
    parameters: tuple[str, ...]
    free: bool


def group(
    name: str,
    members: Sequence[tuple[Function, int]],
    threads: int = BLOCK,
    resident: int = RESIDENT,
) -> str:
    """One kernel for free functions, each with its number of blocks: they follow one another."""
    parameters: list[str] = []
    lines, first = [], 0
    for function, blocks in members:
        own = [f"p{len(parameters) + n}" for n in range(len(function.parameters))]
        parameters += [f"{t} {p}" for t, p in zip(function.parameters, own, strict=True)]
        call = f"{function.name}({', '.join([f'BLOCK - {first}', *own])});"
        lines.append(f"  if (BLOCK < {first + blocks}) return {call}")
        first += blocks
    head = f"KERNEL({threads}, {resident}) {name}({', '.join(parameters)}) {{"
    return "\n".join([head, *lines, "}", ""])


def kernel(
    grid: Grid,
    name: str,
    arguments: Sequence[str],
    types: Mapping[str, str],
    extents: Mapping[str, int],
    exclusive: frozenset[str],
) -> Function:
    """The kernel `name`. `arguments` are its tensors in order; those in `exclusive` share memory
    with no other."""
    pointers = {tensor: f"t{n}" for n, tensor in enumerate(arguments)}
    w = Writer(grid.accesses, grid.sizes, pointers, extents, types)
    stored = set(grid.stored)
    kinds = [
        f"{'' if t in stored else 'const '}{MEMORY[types[t]]}*"
        f"{' __restrict__' if t in exclusive else ''}"
        for t in arguments
    ]
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
            (Warps if grid.how.tensor_cores else Threads)(w, grid, grid.how).write()
        case WarpStream():
            warp_stream(w, grid, grid.how)
        case Stream():
            stream(w, grid, grid.how)
    parameters = [f"{kind} {own}" for kind, own in zip(kinds, names, strict=True)]
    free = isinstance(grid.how, Each)
    head = f"DEVICE void {name}(" if free else f"KERNEL({grid.threads}, {grid.resident}) {name}("
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
    alone(w, grid)


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
        first, last = points(w, grid, kind)
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
        place_layer(w, grid)
        w.finish(grid.statements, results(grid))
