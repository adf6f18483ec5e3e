"""One grid as one CUDA C++ kernel.

In: a `Grid`, and which tensors its arguments are. Out: the text of the kernel. Every decision
stands in the grid; this file opens the loops and hands the points to the `Writer`;
tiles are spelled by `tile_loader.py`, `simt.py` and `mma.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.expr import Read
from ...passes.gpu.attention.attention_tile import AttentionTile
from ...passes.gpu.grid_ir import Grid, MatmulTile, ThreadPerElement, TreeReduction
from ...passes.gpu.launch_ir import Function, FusedKernel
from ...passes.lowering.access import Access
from ...targets import WARP
from .accumulators import accumulator, alone, finish_blocks, results, start, take
from .attention_mma import MmaAttention
from .attention_simt import SimtAttention
from .expressions import Writer
from .instructions import HIGHEST, MEMORY
from .mma import MmaMatmul
from .simt import SimtMatmul
from .split_k import place_layer, points


def fused_kernel(kernel: FusedKernel) -> str:
    """One kernel whose blocks are those of its functions, one function after the other."""
    parameters: list[str] = []
    lines, first = [], 0
    # blocks are numbered through: the next function's begin where this one's end
    for function in kernel.members:
        types = parameter_types(function)
        # parameters of all members side by side
        names = [f"p{len(parameters) + n}" for n in range(len(types))]
        parameters += [f"{t} {p}" for t, p in zip(types, names, strict=True)]
        call = f"{function.name}({', '.join([f'BLOCK - {first}', *names])});"
        # a whole block takes the same branch, so barriers in a function stay legal
        lines.append(f"  if (BLOCK < {first + function.body.blocks}) return {call}")
        first += function.body.blocks
    body = kernel.members[0].body
    head = f"KERNEL({body.threads}, {body.resident}) {kernel.name}({', '.join(parameters)}) {{"
    return "\n".join([head, *lines, "}", ""])


def parameter_types(function: Function) -> list[str]:
    """The C++ types of all parameters: the tensors, the counters of groups of blocks, the indices
    that are bound outside."""
    tensors = [
        # read-only pointers without aliases are loaded through the read-only cache
        f"{'' if p.written else 'const '}{MEMORY[p.dtype]}*{' __restrict__' if p.restrict else ''}"
        for p in function.parameters
    ]
    return [*tensors, *["u32*"] * bool(function.groups), *["i32"] * len(function.body.fixed)]


def function_writer(
    function: Function, accesses: Mapping[Read, Access], sizes: Mapping[str, int]
) -> tuple[Writer, list[str]]:
    """A writer that knows the function's parameters, and these as C++ declarations."""
    # tensors are t0, t1, …; indices of loops outside are at0, at1, …
    pointers = {p.tensor: f"t{n}" for n, p in enumerate(function.parameters)}
    extents = {p.tensor: p.elements for p in function.parameters}
    w = Writer(accesses, sizes, pointers, extents, {p.tensor: p.dtype for p in function.parameters})
    w.places = {index: f"at{n}" for n, index in enumerate(function.body.fixed)}
    # in the order of `parameter_types` and of the launch's arguments
    names = [*pointers.values(), *["counters"] * bool(function.groups), *w.places.values()]
    types = parameter_types(function)
    return w, [f"{kind} {name}" for kind, name in zip(types, names, strict=True)]


def grid_function(function: Function, grid: Grid) -> str:
    """A grid as a kernel, or as a function of the number of its block if it may be fused."""
    w, parameters = function_writer(function, grid.accesses, grid.sizes)
    match grid.how:
        case ThreadPerElement():
            _each(w, grid)
        case TreeReduction():
            _together(w, grid, grid.how)
        case MatmulTile():
            (MmaMatmul if grid.how.tensor_cores else SimtMatmul)(w, grid, grid.how).write()
        case AttentionTile():
            (MmaAttention if grid.how.tensor_cores else SimtAttention)(w, grid, grid.how).write()
    head = f"KERNEL({grid.threads}, {grid.resident})"
    if function.fusible:
        # a fusible function is called by a kernel, which tells it the number of its block
        head, parameters = "DEVICE void", ["const i32 block", *parameters]
    about = [f"// {line}" for line in (grid.source, *grid.why, str(grid.how)) if line]
    head = f"{head} {function.name}({', '.join(parameters)}) {{"
    return "\n".join([*about, head, *w.lines, "}", ""])


def _flat_type(count: int) -> str:
    # 32 bits are faster where they are enough
    return "i32" if count <= HIGHEST["i32"] else "i64"


# --- one thread per element -----------------------------------------------------------------------


def _each(w: Writer, grid: Grid) -> None:
    # the last block may reach beyond the last element
    kind = _flat_type(grid.blocks * grid.threads)
    w.line(f"const {kind} element = ({kind})block * {grid.threads} + THREAD;")
    w.line(f"if (element >= {grid.elements}) return;")
    w.unflatten("element", grid.outputs, kind)
    alone(w, grid)


# --- several threads per element ------------------------------------------------------------------


def _together(w: Writer, grid: Grid, how: TreeReduction) -> None:
    per_block = grid.threads // how.lanes
    # which of the two is fastest decides what adjacent threads load
    inner, outer = ("lane", "own") if how.along == "reduction" else ("own", "lane")
    split = how.lanes if how.along == "reduction" else per_block
    # `p` steps beyond the last point before the loop ends
    kind = _flat_type(max(grid.blocks * grid.threads, grid.points + grid.threads))
    w.line(f"const i32 {inner} = THREAD % {split}, {outer} = THREAD / {split};")
    w.line(f"const {kind} element = ({kind})BLOCK * {per_block} + own;")
    start(w, grid)
    # threads without an element take part in the joining below all the same
    with w.block(f"if (element < {grid.elements})"):
        w.unflatten("element", grid.outputs, kind)
        first, last = points(w, grid, kind)
        # adjacent lanes take adjacent points
        head = f"for ({kind} p = {first} + lane; p < {last}; p += {how.lanes})"
        with w.block(head):
            w.unflatten("p", grid.over, kind)
            take(w, grid)
    finish_blocks(w, grid)
    # shuffles need no shared memory
    if grid.shared_bytes:
        count = grid.threads // WARP if how.along == "reduction" else grid.threads
        w.line(f"SHARED({accumulator(grid)}, shared, 0, {count});")
    for n, _ in enumerate(grid.bodies):
        if grid.by_shuffles:
            w.line(f"sum{n} = nn::warp_reduce(sum{n});")
        elif how.along == "reduction":
            w.line(f"sum{n} = nn::multi_warp_reduce<{how.lanes}, {grid.threads}>(sum{n}, shared);")
        else:
            shape = f"{how.lanes}, {per_block}, {grid.threads}"
            w.line(f"sum{n} = nn::block_reduce<{shape}>(sum{n}, shared);")
    # one lane stores for all
    with w.block(f"if (lane == 0 && element < {grid.elements})"):
        w.unflatten("element", grid.outputs, kind)
        place_layer(w, grid)
        w.finish(grid.statements, results(grid))
