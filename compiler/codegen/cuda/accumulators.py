"""What a thread keeps of a reduction: accumulators, and the values that they take.

In: a `Grid` and a `Writer` at one point of its domain. Out: lines. A grid has an accumulator for
each of its bodies, `sum0`, `sum1` …; where a thread reduces for several rows at once, `sum0[r]` is
that of its row r. Their types are in `prelude.cuh`. Who joins them is up to the caller.
"""

from __future__ import annotations

from ...ir.equation import Index
from ...ir.expr import Apply, Const
from ...passes.gpu.grid_ir import Grid
from .expressions import Writer
from .instructions import HIGHEST, LOWEST, constant

ACCUMULATOR = {"sum": "Sum", "prod": "Prod", "max": "Max", "min": "Min",
               "argmax": "ArgMax", "argmin": "ArgMin"}  # fmt: skip


def accumulator(grid: Grid) -> str:
    """The type."""
    assert grid.reduce is not None
    return f"nn::{ACCUMULATOR[grid.reduce]}<{grid.dtype}>"


def start(w: Writer, grid: Grid, rows: int = 1) -> None:
    """An accumulator for every body, and for every one of several rows."""
    assert grid.reduce is not None
    # what changes nothing: 0, 1, or the end of the type's range
    extreme = (LOWEST if "max" in grid.reduce else HIGHEST)[grid.dtype]
    worst = constant({"sum": 0, "prod": 1}.get(grid.reduce, extreme), grid.dtype)
    many = f"[{rows}]" if rows > 1 else ""
    for n, _ in enumerate(grid.bodies):
        w.line(f"{accumulator(grid)} sum{n}{many};")
        # unrolled, so that the array lies in registers
        if rows > 1:
            w.line("#pragma unroll")
            w.line(f"for (i32 r = 0; r < {rows}; ++r) sum{n}[r].value = {worst};")
        else:
            w.line(f"sum{n}.value = {worst};")
        if grid.block:
            w.line(f"nn::BlockedSum<{grid.dtype}, {grid.block}> block{n};")


def reduced(w: Writer, grid: Grid, indices: list[Index]) -> None:
    """Loops over what is reduced, in order, and the value that is taken."""
    # all indices are bound: this is one point
    if not indices:
        take(w, grid)
        return
    index, *rest = indices
    name = w.fresh("r")
    with w.block(f"for (i32 {name} = 0; {name} < {index.size}; ++{name})"):
        w.places[index.name] = name
        reduced(w, grid, rest)


def take(w: Writer, grid: Grid, row: str = "") -> None:
    """One value more. Where a condition fails and nothing is to be added, nothing is read."""
    # the position among all points decides which of equal values argmax returns
    position = "0"
    if grid.reduce in ("argmax", "argmin"):
        assert grid.position is not None
        position = w.value(grid.position)
    into = "block" if grid.block else "sum"
    for n, body in enumerate(grid.bodies):
        # `sum(b) if token[b] == i then d[b] else 0`, as gradients of embeddings have it: reading d
        # only where the condition holds saves nearly all loads
        search = (
            grid.reduce == "sum"
            and isinstance(body, Apply)
            and body.fn == "select"
            and isinstance(body.args[2], Const)
            and body.args[2].value == 0
        )
        if search:
            assert isinstance(body, Apply)
            with w.block(f"if ({w.value(body.args[0])})"):
                w.line(f"{into}{n}{row}.take({w.value(body.args[1])}, 0);")
        else:
            w.line(f"{into}{n}{row}.take({w.value(body)}, {position});")


def finish_blocks(w: Writer, grid: Grid) -> None:
    """After the last value: the accumulators have the sums of their blocks."""
    for n, _ in enumerate(grid.bodies if grid.block else ()):
        w.line(f"sum{n}.value = block{n}.result();")


def alone(w: Writer, grid: Grid) -> None:
    """An element by one thread: all of its reduction, if it has one, and what is stored."""
    if grid.reduce is None:
        w.finish(grid.statements, [(w.value(b), b.dtype) for b in grid.bodies])
        return
    start(w, grid)
    reduced(w, grid, list(grid.over))
    finish_blocks(w, grid)
    w.finish(grid.statements, results(grid))


def results(grid: Grid, name: str = "sum") -> list[tuple[str, str]]:
    """The results of the accumulators of this name, with their type."""
    # a position is a whole number whatever the values are
    kind = "i32" if grid.reduce in ("argmax", "argmin") else grid.dtype
    return [(f"{name}{n}.result()", kind) for n, _ in enumerate(grid.bodies)]
