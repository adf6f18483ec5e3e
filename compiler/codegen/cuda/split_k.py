"""Split-K: the part of a reduction that one split of the grid computes.

In: a grid. Out: the split's first and last point as C++, and its number as an index. `LAYER` is
the number of the split: the blocks of a grid are laid out as blocks by splits.
"""

from __future__ import annotations

from ...passes.gpu.grid_ir import Grid
from .expressions import Writer


def points(w: Writer, grid: Grid, kind: str) -> tuple[str, str]:
    """The points that this split reduces over, numbers of type `kind`."""
    if grid.part is None:
        return "0", str(grid.points)
    # each layer of blocks takes one chunk; the last one may be shorter
    w.line(f"const {kind} first = ({kind})LAYER * {grid.chunk};")
    w.line(
        f"const {kind} last = first + {grid.chunk} < {grid.points} ? "
        f"first + {grid.chunk} : {grid.points};"
    )
    return "first", "last"


def place_layer(w: Writer, grid: Grid) -> None:
    if grid.part is not None:
        w.place(grid.part.name, "LAYER")
