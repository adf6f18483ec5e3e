"""How many elements of an operand one asynchronous copy can move to shared memory.

In: an operand of a tile, its own output indices and its grid. Out: that number, or 0 for what
threads must compute. Copied is what is read as it is, or is zero outside its tensor, at a place
that no tensor decides; several elements at once where they are certainly neighbours, aligned and
inside.
"""

from __future__ import annotations

from ..affine import is_static
from ..grids import Grid
from ..ir import BYTES, Const, Expr, Idx, Index, Read, walk

WIDEST = 16  # bytes of a copy


def copied(part: Expr, grid: Grid, along: tuple[Index, ...]) -> int:
    """Elements per copy, where neighbours are numbered `along` these indices; 0 for none."""
    access = grid.accesses.get(part) if isinstance(part, Read) else None
    if access is None or access.dtype != grid.dtype or not all(map(is_static, access.atoms)):
        return 0
    if access.checks:
        zero = isinstance(access.other, Const) and access.other.value == 0
        return 1 if zero else 0
    count, last = WIDEST // BYTES[access.dtype], along[-1]
    own, offset = Idx(last.name), access.offset
    apart = [offset.constant, *(c for atom, c in offset.coefficients.items() if atom is not own)]
    inside = any(own in walk(atom) for atom in offset.coefficients if atom is not own)
    neighbours = offset.coefficients.get(own) == 1 and not inside
    aligned = last.size % count == 0 and all(step % count == 0 for step in apart)
    return count if neighbours and aligned else 1
