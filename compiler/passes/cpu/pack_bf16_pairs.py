"""bf16 on the CPU: operands packed in pairs for dot-product instructions.

    y[b, o]        = sum(i < 64) bf16(x[b, i]) * bf16(w[i, o])

    →   x_pairs[b, i] = bf16_pair(x[b, 2*i], x[b, 2*i + 1])
        w_pairs[i, o] = bf16_pair(w[2*i, o], w[2*i + 1, o])
        y[b, o]       = sum(i < 32) bf16_dot(x_pairs[b, i], w_pairs[i, o])

A pair is two bf16 numbers in 32 bits; AVX512_BF16 multiplies and adds both at once. Applies to
contractions whose operands are rounded (`precision = bf16`), along an index of even size that runs
through one dimension of each, where the cycles saved exceed those of packing. What is saved follows
from the throughputs of the target: on Intel's processors, where the instruction takes as long as
four multiply-adds, nothing, and the pass does not run. Elsewhere operands are rounded
(`round_bf16_operands.py`).

Tests: tests/passes/test_pack_bf16_pairs.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ...ir.build import call, literal
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System, is_recurrent
from ...ir.expr import Apply, Idx, Read, index_names
from ...ir.recurrence import plan_recurrence
from ...ir.terms import is_rounded, is_zero, unrounded
from ...targets import CpuTarget


def pack_bf16_pairs(system: System, target: CpuTarget) -> System:
    """Contractions of pairs, where that saves more than packing costs."""
    edit, packing = SystemEdit(system), _Packing(system, target)
    for component in system.components:
        # Before any gain is computed: a tensor of a recurrence is packed at every one of its steps.
        packing.steps |= _steps(component)
        for eq in component:
            reads = _operands(eq)
            index = packing.best_index(eq, reads)
            if index is not None and packing.gain(eq, reads, index) > 0:
                edit.replace(_over_pairs(eq, reads, index, packing, edit))
    return edit.result()


def _over_pairs(
    eq: Equation, reads: Sequence[Read], index: Index, packing: _Packing, edit: SystemEdit
) -> Equation:
    """The contraction over pairs along the index."""
    factors = []
    for read in reads:
        axis = _axis(read, index, packing.system)
        assert axis is not None
        packing.packed.add((read.tensor, axis))
        # A guard of 0 becomes a pair of two zeros: 32 bits that are 0.
        other = None if read.other is None else literal(0)
        factors.append(Read(_pairs(edit, read.tensor, axis), read.index, other, "i32"))
    # The index now counts pairs; its name stays.
    over = tuple(replace(i, size=i.size // 2) if i is index else i for i in eq.over)
    return replace(eq, body=call("bf16_dot", *factors), over=over)


def _pairs(edit: SystemEdit, name: str, axis: int) -> str:
    """The tensor in pairs along a dimension."""
    source = edit.tensors[name]
    shape = tuple(n // 2 if d == axis else n for d, n in enumerate(source.shape))
    indices = tuple(Index(f"i{d}", n) for d, n in enumerate(shape))
    names = tuple(Idx(i.name) for i in indices)
    halves = []
    # Elements 2*i and 2*i + 1 along the axis.
    for k in (0, 1):
        place = call("add", call("mul", names[axis], literal(2)), literal(k))
        index = (*names[:axis], place, *names[axis + 1 :])
        halves.append(Read(name, index, None, source.dtype))
    return edit.add(
        Equation(f"{name}_pairs", indices, call("bf16_pair", *halves), span=source.span)
    )


# --- what it costs --------------------------------------------------------------------------------


@dataclass
class _Packing:
    """The cost of packing: `packed` are the tensors in pairs so far, with the dimension; `steps`
    tells in how many steps recurrences compute a tensor."""

    system: System
    target: CpuTarget
    packed: set[tuple[str, int | None]] = field(default_factory=set)
    steps: dict[str, int] = field(default_factory=dict)

    def best_index(self, eq: Equation, reads: Sequence[Read]) -> Index | None:
        """The index along which pairs gain most, the innermost of equal ones."""
        fits = [
            index
            # `max` takes the first of equal ones, so the innermost comes first.
            for index in (reversed(eq.over) if reads else ())
            if all(_axis(r, index, self.system) is not None for r in reads)
        ]
        return max(fits, key=lambda i: self.gain(eq, reads, i), default=None)

    def gain(self, eq: Equation, reads: Sequence[Read], index: Index) -> float:
        """The cycles saved by taking two terms at a time, less those of packing."""
        tensors, costs = self.system.tensors, self.target.layout
        # A tensor that another contraction has packed along this dimension costs nothing more.
        fresh = {(r.tensor, _axis(r, index, self.system)) for r in reads} - self.packed
        packing = sum(
            tensors[name].size * costs.pack_element + costs.start_kernel * self.steps.get(name, 1)
            for name, _ in fresh
        )
        return prod(i.size for i in eq.domain) * self.target.saved_by_pairs - packing


def _steps(component: list[Equation]) -> dict[str, int]:
    """In how many steps the tensors of a recurrence are computed."""
    if not is_recurrent(component):
        return {}
    return dict.fromkeys((eq.target for eq in component), plan_recurrence(component).size)


def why_not_packed(eq: Equation, system: System, target: CpuTarget) -> str:
    """Why a contraction of rounded operands is not one of pairs; empty for anything else."""
    body = eq.body
    parts = body.args if eq.reduce == "sum" and isinstance(body, Apply) and body.fn == "mul" else ()
    reads = [
        read
        for part in parts
        if isinstance(read := unrounded(part), Read)
        and (is_rounded(part) or _is_rounded(read.tensor, system))
    ]
    if len(reads) != 2 or not target.bf16_instructions:
        return ""
    if target.saved_by_pairs <= 0:
        return "no bf16 pairs: multiply-adds in f32 are as fast"
    packing = _Packing(system, target)
    index = packing.best_index(eq, reads)
    if index is None:
        return "no bf16 pairs: no index of even size runs along one dimension of each operand"
    gain = packing.gain(eq, reads, index)
    if gain > 0:
        return f"no bf16 pairs along {index.name}: they would be packed at every step"
    return f"no bf16 pairs along {index.name}: they would cost {-gain:,.0f} cycles more"


def _is_rounded(name: str, system: System) -> bool:
    """Whether all of it is rounded, or a copy of what is."""
    eq = system.definition.get(name)
    # A transposed copy of rounded numbers is rounded.
    if eq is not None and isinstance(eq.body, Read) and eq.body.tensor != name:
        return _is_rounded(eq.body.tensor, system)
    return eq is not None and isinstance(eq.body, Apply) and eq.body.fn == "bf16"


def _operands(eq: Equation) -> list[Read]:
    """Both operands of a contraction of rounded reads; nothing for anything else."""
    body = eq.body
    # The dot-product instruction adds up in f32.
    if eq.reduce != "sum" or eq.at is not None or body.dtype != "f32":
        return []
    if not isinstance(body, Apply) or body.fn != "mul":
        return []
    found = [a.args[0] for a in body.args if isinstance(a, Apply) and a.fn == "bf16"]
    # Another guard than 0 would have no meaning for half a pair.
    reads = [r for r in found if isinstance(r, Read) and (r.other is None or is_zero(r.other))]
    return reads if len(reads) == 2 else []


def _axis(read: Read, index: Index, system: System) -> int | None:
    """The dimension along which the read steps with the index, and no other does, if all of it is
    read and can be halved."""
    axes = [d for d, place in enumerate(read.index) if index.name in index_names(place)]
    # A shifted or scaled index, as in a convolution, would need pairs that begin at odd elements.
    if len(axes) != 1 or read.index[axes[0]] is not Idx(index.name) or index.size % 2:
        return None
    tensor = system.tensors[read.tensor]
    # Pairs of what exists for a block of rows at a time would have to be made for every block.
    whole = tensor.shape[axes[0]] == index.size and not tensor.held
    return axes[0] if whole else None
