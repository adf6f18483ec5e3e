"""Factors of products that are packed into panels when kernels are lowered to loops.

What passes do about where such a factor lies in memory, such as a copy with other strides, is then
of no use. Packing itself is decided in `passes/cpu/cache_blocks.py`.
Tests: tests/passes/test_cache_blocks.py.
"""

from __future__ import annotations

from math import prod

from ...ir.equation import Equation, System
from ...ir.expr import Idx, Read, index_names
from ...ir.terms import is_rounded, multiplicands, unrounded
from ...targets import CpuTarget


def is_packed(eq: Equation, read: Read, system: System, target: CpuTarget) -> bool:
    """Whether lowering can be relied on to pack a factor of a product, as many rows of the result
    are multiplied by it, so that nothing else need be done about where it lies in memory. A factor
    that is rounded to bf16 is rounded into the panel, which pays for fewer rows, and not for
    many: beside these a copy costs nothing."""
    rounds = any(is_rounded(f) and unrounded(f) is read for f in multiplicands(eq.body))
    factors = [unrounded(f) for f in multiplicands(eq.body)]
    if eq.reduce != "sum" or eq.at is not None or eq.dtype != "f32" or len(factors) != 2:
        return False
    if not all(isinstance(f, Read) and f.dtype == "f32" for f in factors) or read.other is not None:
        return False
    if system.tensors[read.tensor].held:
        return False
    if system.batch or eq.target in system.recurrent or eq.target in system.blocked:
        return False
    names, limits = {e.name for e in read.index if isinstance(e, Idx)}, target.tiling
    last, over = eq.indices[-1], {i.name: i.size for i in eq.over}
    if len(names) != len(read.index) or not names >= {last.name, *over}:
        return False
    # Where vectors run across it, blocks of it are transposed.
    (contiguous,) = index_names(read.index[-1])
    long = contiguous == last.name or over.get(contiguous, 0) >= target.lanes
    rows = prod(i.size for i in eq.indices if i.name not in names)
    wide = last.size >= limits.panel_vectors * target.lanes and prod(over.values()) >= target.lanes
    least = min(limits.packed_rows, limits.rounded_rows) if rounds else limits.packed_rows
    many = rounds and rows > limits.most_rounded_rows
    return long and wide and 0 < least <= rows and not many


def rows_are_packed(eq: Equation, read: Read, system: System, target: CpuTarget) -> bool:
    """Whether the rows of a product's other factor are packed, too: those of a matrix that is
    summed over its first dimensions are, so large that it comes from memory."""
    others = [r for r in eq.reads if r is not read]
    if len(others) != 1 or not is_packed(eq, others[0], system, target) or read.other is not None:
        return False
    last, tensor = read.index[-1], system.tensors[read.tensor]
    rows = {i.name: i.size for i in eq.indices[:-1]}
    if not isinstance(last, Idx) or rows.get(last.name, 0) < target.lanes:
        return False
    # The windows of a convolution have elements in common, of each of which a copy would be packed.
    elements = prod(i.size for i in eq.domain if i.name in index_names(read))
    far = tensor.bytes > target.tiling.cached_panel * target.l2.bytes
    return far and elements <= tensor.size
