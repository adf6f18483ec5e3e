"""Whole numbers of 8 bits in fours, for the dot-product instructions of x86.

    y[b, o]       = sum(i < 64) i32(x[b, i]) * i32(w[i, o])             x: u8, w: i8

    →   x_quads[b, i] = int8_quad(x[b, 4*i], x[b, 4*i + 1], x[b, 4*i + 2], x[b, 4*i + 3])
        w_quads[i, o] = int8_quad(w[4*i, o], w[4*i + 1, o], w[4*i + 2, o], w[4*i + 3, o])
        y[b, o]       = sum(i < 16) int8_dot(x_quads[b, i], w_quads[i, o])

Four numbers are in the 32 bits of a lane. VNNI's VPDPBUSD multiplies unsigned by signed numbers and
adds all four products to the lane, in one instruction; where it is missing, two multiply-adds of
pairs of 16 bits do (`codegen/llvm/int8_dot.py`). No sum of products saturates, so that the results
are the same on every processor. Four neighbours in memory are a quad as they are, so that x_quads
is a view (`passes/equations/views.py`); w_quads is computed once, in the prologue. Applies along a
reduced index whose size is a multiple of 4 and that runs through the last dimension of x.

Intel 64 and IA-32 Architectures Software Developer's Manual, VPDPBUSD. Tests:
tests/passes/test_pack_int8_quads.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...ir.build import call, literal
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System
from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names
from ...ir.invariants import invariants, lasting_values

QUAD = 4


def pack_int8_quads(system: System) -> System:
    """Sums of products of 8 bits over quads."""
    edit = SystemEdit(system)
    known = lasting_values(system) | invariants(system)
    for eq in system.equations:
        # Weights that change would be packed again and again.
        reads = _operands(eq, system)
        if reads is None or reads[1].tensor not in known or eq.target in known:
            continue
        index = next(_indices(eq, reads, system), None)
        if index is not None:
            edit.replace(_over_quads(eq, reads, index, edit))
    return edit.result()


def _operands(eq: Equation, system: System) -> tuple[Read, Read] | None:
    """The unsigned and the signed factor of a sum of products."""
    if eq.reduce != "sum" or eq.at is not None or eq.dtype != "i32":
        return None
    body = eq.body
    if not isinstance(body, Apply) or body.fn != "mul":
        return None
    found: dict[str, Read] = {}
    for factor in body.args:
        if isinstance(factor, Apply) and factor.fn == "i32" and isinstance(factor.args[0], Read):
            found[factor.args[0].dtype] = factor.args[0]
    if found.keys() != {"u8", "i8"} or found["i8"].other is not None:
        return None
    outside = found["u8"].other
    if outside is not None and not isinstance(outside, Const):
        return None
    # A view stands where its source does: that is no place of a param's or an input's own.
    plain = system.tensors[found["u8"].tensor].kind == "temp"
    return (found["u8"], found["i8"]) if plain else None


def _indices(eq: Equation, reads: tuple[Read, Read], system: System) -> Iterator[Index]:
    """The indices along which quads can be made, the innermost first."""
    for index in reversed(eq.over):
        axes = [_axis(read, index, system) for read in reads]
        if None not in axes and axes[0] == len(reads[0].index) - 1:
            yield index


def _axis(read: Read, index: Index, system: System) -> int | None:
    """The dimension along which the read steps with the index alone, all of it."""
    axes = [d for d, place in enumerate(read.index) if index.name in index_names(place)]
    if len(axes) != 1 or read.index[axes[0]] is not Idx(index.name) or index.size % QUAD:
        return None
    tensor = system.tensors[read.tensor]
    return axes[0] if tensor.shape[axes[0]] == index.size and not tensor.held else None


def _over_quads(eq: Equation, reads: tuple[Read, Read], index: Index, edit: SystemEdit) -> Equation:
    factors = []
    for read in reads:
        axis = _axis(read, index, edit.system)
        assert axis is not None
        other = None if read.other is None else _four_times(read.other)
        factors.append(Read(_quads(edit, read.tensor, axis), read.index, other, "i32"))
    over = tuple(replace(i, size=i.size // QUAD) if i is index else i for i in eq.over)
    return replace(eq, body=call("int8_dot", *factors), over=over)


def _four_times(number: Expr) -> Expr:
    """The quad of a constant."""
    assert isinstance(number, Const)
    byte = int(number.value)
    return literal(int.from_bytes(bytes([byte] * QUAD), "little", signed=True))


def _quads(edit: SystemEdit, name: str, axis: int) -> str:
    """The tensor in quads along a dimension."""
    source = edit.tensors[name]
    shape = tuple(n // QUAD if d == axis else n for d, n in enumerate(source.shape))
    indices = tuple(Index(f"i{d}", n) for d, n in enumerate(shape))
    names = tuple(Idx(i.name) for i in indices)
    four = []
    for k in range(QUAD):
        place = call("add", call("mul", names[axis], literal(QUAD)), literal(k))
        index = (*names[:axis], place, *names[axis + 1 :])
        four.append(Read(name, index, None, source.dtype))
    return edit.add(Equation(f"{name}_quads", indices, call("int8_quad", *four), span=source.span))
