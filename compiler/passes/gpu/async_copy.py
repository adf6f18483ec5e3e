"""How many elements of an operand one asynchronous copy can move to shared memory.

In: the memory access of an operand of a tile, and the indices along which memory runs. Out: that
number, or 0 for what threads must compute. Copied is what is read as it is, or is zero outside its
tensor, at a place that no tensor decides; several elements at once where they are certainly
neighbours, aligned, and all of them inside or none; only at the end of all there may be fewer.
"""

from __future__ import annotations

from ...ir.affine import is_static
from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Const, Idx, walk
from ..cpu.loop_ir import Access

WIDTHS = (16, 8, 4)  # bytes of a copy


def async_copy_width(access: Access | None, along: tuple[Index, ...], dtype: str) -> int:
    """Elements per copy, where neighbours are numbered `along` these indices and memory must have
    elements of the type; 0 for none."""
    if access is None or access.dtype != dtype or not all(map(is_static, access.atoms)):
        return 0
    if access.checks and not (isinstance(access.other, Const) and access.other.value == 0):
        return 0
    last, offset = along[-1], access.offset
    own = Idx(last.name)
    apart = [offset.constant, *(c for atom, c in offset.coefficients.items() if atom is not own)]
    elsewhere = [atom for atom in offset.coefficients if atom is not own]
    elsewhere += [atom for form, _ in access.checks for atom in form.coefficients]
    neighbours = offset.coefficients.get(own) == 1 and not any(own in walk(a) for a in elsewhere)
    for count in (width // BYTES[dtype] for width in WIDTHS):
        whole = last.size % count == 0 or len(along) == 1
        if count == 1 or (neighbours and whole and all(step % count == 0 for step in apart)):
            return count
    return 0
