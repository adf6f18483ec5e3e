"""Asynchronous copies: how many elements of an operand one `cp.async` moves to shared memory.

    shared[k, j] = b[k, j]   →   cp.async shared[k, j..j+3], b[k, j..j+3]

An asynchronous copy needs no registers and overlaps with arithmetic; the wider it is, the fewer
instructions it takes. It applies to what is read unchanged, or is zero outside its tensor, at an
offset that no tensor decides. Several elements are copied at once if they are certainly adjacent,
aligned, and all of them inside the tensor or none; only the last copy of all may have fewer.
Source: PTX ISA, `cp.async`. Tests: tests/backends/test_cuda_tiles.py (which width where).
"""

from __future__ import annotations

from ...ir.affine import is_static
from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Const, Idx, walk
from ...targets import GpuTarget
from ..lowering.access import Access


def async_copy_width(
    access: Access | None,
    along: tuple[Index, ...],
    dtype: str,
    widths: tuple[int, ...] = GpuTarget.copy_bytes,
) -> int:
    """Elements per copy, of the given `widths` in bytes, if consecutive elements are numbered
    `along` these indices and memory must have elements of the type; 0 if threads must compute."""
    # the copy moves bytes: types must be the same, and the address must not wait for a load
    if access is None or access.dtype != dtype or not all(map(is_static, access.atoms)):
        return 0
    # outside a tensor `cp.async` writes zeros and nothing else
    if access.checks and not (isinstance(access.other, Const) and access.other.value == 0):
        return 0
    last, offset = along[-1], access.offset
    index = Idx(last.name)
    # everything but the index itself: these must keep the address a multiple of the width
    steps = [offset.constant, *(c for atom, c in offset.coefficients.items() if atom is not index)]
    others = [atom for atom in offset.coefficients if atom is not index]
    # A check that the index takes part in may hold for the first element and fail for the second.
    others += [atom for form, _ in access.checks for atom in form.coefficients]
    adjacent = offset.coefficients.get(index) == 1 and not any(index in walk(a) for a in others)
    # the widest first, of 16, 8 and 4 bytes
    for count in (width // BYTES[dtype] for width in widths):
        # a copy must not go on into the next row; of a single index only the last copy has fewer
        whole = last.size % count == 0 or len(along) == 1
        aligned = all(step % count == 0 for step in steps)
        # one element is always aligned and inside or outside as a whole
        if count == 1 or (adjacent and whole and aligned):
            return count
    # bf16 alone is 2 bytes, less than any copy moves
    return 0
