"""Operands rounded to bf16 once, where they are computed, and multiplied in f32.

    y[b, o] = sum(i) bf16(x[b, i]) * bf16(w[i, o])

    →   x_bf16[b, i] = bf16(x[b, i]);   y[b, o] = sum(i) x_bf16[b, i] * w_bf16[i, o]

For contractions that are not of pairs (`pack_bf16_pairs.py`): rounding inside of the sum would cost
several instructions for each multiply-add. An operand is stored rounded if each of its elements is
multiplied a few times; the kernel that computes it does so in passing. Elsewhere it is rounded as
it is read: so is a parameter of a training step that is packed into panels for cache blocks, which
rounds it on the way, and spares a kernel of its own.
Tests: tests/passes/test_round_bf16_operands.py.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.build import call, rewrite
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, System, copy_equation
from ...ir.expr import Expr, Read
from ...ir.invariants import lasting_values
from ...ir.terms import is_rounded
from ...targets import CpuTarget
from ..equations.packed_factors import is_packed


def round_bf16_operands(system: System, target: CpuTarget) -> System:
    """Operands that contractions multiply again and again, rounded where they are computed."""
    edit, least = SystemEdit(system), target.layout.rounded_reuse
    held: dict[str, str] = {}  # by what is rounded of it in blocks of rows

    def rounded(eq: Equation) -> Equation:
        points = prod(i.size for i in eq.domain)

        def change(node: Expr) -> Expr | None:
            read = node.args[0] if is_rounded(node) else None
            # Not by the indices that it lacks: the elements that a gather selects are found by
            # indices that they are still the same for.
            if not isinstance(read, Read) or points < least * edit.tensors[read.tensor].size:
                return None
            if _is_rounded_in_panels(eq, read, system, target):
                return None
            # The replacement out of bounds is rounded, too, as the whole read was before.
            other = None if read.other is None else call("bf16", read.other)
            found = _rounded(edit, read.tensor)
            if edit.tensors[found].held:
                held[found] = read.tensor
            return Read(found, read.index, other, read.dtype)

        return eq.with_body(rewrite(eq.body, change))

    edit.replace(*(rounded(eq) for eq in system.equations if eq.reduce or eq.at is not None))
    blocks = tuple(
        replace(b, targets=(*b.targets, *(n for n, source in held.items() if source in b.targets)))
        for b in system.row_blocks
    )
    changed = edit.result()
    return changed.replace(row_blocks=blocks) if held else changed


def _is_rounded_in_panels(eq: Equation, read: Read, system: System, target: CpuTarget) -> bool:
    """Whether it is something given that is packed into panels. What lasts is rounded once for all
    runs, what is computed in passing."""
    given = system.tensors[read.tensor].kind != "temp"
    lasting = read.tensor in lasting_values(system)
    return given and not lasting and is_packed(eq, read, system, target)


def _rounded(edit: SystemEdit, name: str) -> str:
    """The tensor with every element rounded."""
    tensor = edit.tensors[name]
    if not tensor.held:
        copy = copy_equation(tensor, name, f"{name}_bf16")
        return edit.add(copy.with_body(call("bf16", copy.body)))
    # A block's equations share the names of their indices.
    source = edit[name]
    own = Read(name, source.place, None, tensor.dtype)
    found = edit.add(Equation(f"{name}_bf16", source.indices, call("bf16", own), span=source.span))
    edit.tensors[found] = replace(tensor, name=found, storage="")
    return found
