"""Contractions of bf16 numbers two terms at a time, and operands that are rounded once.

In: a system whose contractions round their operands (`passes/precision.py`). Out: an equal one.
Where it pays, both operands are stored as pairs along an index that is summed over, two numbers in
32 bits, for an instruction that multiplies and adds two at once:

    y[b, o]        = sum(i < 64) bf16(x[b, i]) * bf16(w[i, o])

    x_pairs[b, i]  = bf16_pair(x[b, 2*i], x[b, 2*i + 1])
    w_pairs[i, o]  = bf16_pair(w[2*i, o], w[2*i + 1, o])
    y[b, o]        = sum(i < 32) bf16_dot(x_pairs[b, i], w_pairs[i, o])

Elsewhere an operand is rounded where it is computed, x_bf16[b, i] = bf16(x[b, i]), and not again
for each of its products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ...ir.build import call, literal, rewrite
from ...ir.equation import Equation, Index, System, Tensor, free_name, is_recurrent
from ...ir.expr import Apply, Expr, Idx, Read, index_names
from ...ir.recurrence import plan_recurrence
from ...ir.terms import is_zero

TERMS = 64  # of a contraction, for each cycle that pairs save
PACKING = 0.25  # cycles to store an element in a pair
STARTING = 4000  # cycles to begin one more kernel
USES = 4  # results for which an element is rounded anew rather than stored


def pack_bf16_pairs(system: System) -> System:
    """Contractions of pairs, where that saves more than it costs to make them."""
    made = _Made(system)
    equations = []
    for component in system.components:
        made.steps |= _steps(component)
        equations += [_paired(eq, made) for eq in component]
    return made.system(equations)


def round_bf16_operands(system: System) -> System:
    """Operands that contractions read again and again, rounded where they are computed."""
    made = _Made(system)
    return made.system(
        [
            eq if eq.reduce is None and eq.at is None else _reading_rounded(eq, made)
            for eq in system.equations
        ]
    )


def _reading_rounded(eq: Equation, made: _Made) -> Equation:
    def change(node: Expr) -> Expr | None:
        read = node.args[0] if isinstance(node, Apply) and node.fn == "bf16" else None
        if not isinstance(read, Read) or _uses(read, eq) < USES:
            return None
        other = None if read.other is None else call("bf16", read.other)
        return Read(made.rounded(read.tensor), read.index, other, read.dtype)

    return eq.with_body(rewrite(eq.body, change))


def _uses(read: Read, eq: Equation) -> int:
    """For how many results an element is read."""
    own = index_names(read)
    return prod(i.size for i in (eq.indices if eq.at is None else eq.over) if i.name not in own)


@dataclass
class _Made:
    """The tensors that are made, by what they are made of."""

    source: System
    tensors: dict[str, Tensor] = field(default_factory=dict)
    equations: list[Equation] = field(default_factory=list)
    names: dict[tuple[str, int | None], str] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)  # in which a recurrence computes a tensor

    def rounded(self, name: str) -> str:
        """The tensor with every element rounded."""
        dtype = self.source.tensors[name].dtype
        return self._made(name, None, "bf16", dtype, lambda i: call("bf16", self._at(name, i)))

    def paired(self, name: str, axis: int) -> str:
        """The tensor in pairs along a dimension."""

        def body(index: tuple[Expr, ...]) -> Expr:
            ends = []
            for k in (0, 1):
                place = call("add", call("mul", index[axis], literal(2)), literal(k))
                ends.append(self._at(name, (*index[:axis], place, *index[axis + 1 :])))
            return call("bf16_pair", *ends)

        return self._made(name, axis, "pairs", "i32", body)

    def _at(self, name: str, index: tuple[Expr, ...]) -> Read:
        return Read(name, index, None, self.source.tensors[name].dtype)

    def _made(
        self,
        name: str,
        axis: int | None,
        ending: str,
        dtype: str,
        body: Callable[[tuple[Expr, ...]], Expr],
    ) -> str:
        found = self.names.get((name, axis))
        if found is not None:
            return found
        source = self.source.tensors[name]
        fresh = free_name(f"{name}_{ending}", {*self.source.tensors, *self.tensors})
        shape = tuple(n // 2 if d == axis else n for d, n in enumerate(source.shape))
        indices = tuple(Index(f"i{d}", n) for d, n in enumerate(shape))
        value = body(tuple(Idx(i.name) for i in indices))
        self.names[name, axis] = fresh
        self.tensors[fresh] = Tensor(fresh, shape, dtype, "temp", "", source.span)
        self.equations.append(Equation(fresh, indices, value, span=source.span))
        return fresh

    def system(self, equations: list[Equation]) -> System:
        if not self.equations:
            return self.source
        tensors = {**self.source.tensors, **self.tensors}
        return self.source.replace(
            tensors=tensors, equations=(*equations, *self.equations)
        ).in_order()


def _paired(eq: Equation, made: _Made) -> Equation:
    """The equation over pairs, if it can be had and pays."""
    reads = _operands(eq)
    index = _best(eq, reads, made) if reads else None
    if index is None or _gain(eq, reads, index, made) <= 0:
        return eq
    factors = []
    for read in reads:
        axis = _axis(read, index, made.source)
        assert axis is not None
        other = None if read.other is None else literal(0)
        factors.append(Read(made.paired(read.tensor, axis), read.index, other, "i32"))
    over = tuple(replace(i, size=i.size // 2) if i is index else i for i in eq.over)
    return replace(eq, body=call("bf16_dot", *factors), over=over)


# --- what it costs --------------------------------------------------------------------------------


def _best(eq: Equation, reads: Sequence[Read], made: _Made) -> Index | None:
    """The index along which pairs gain most, the innermost of equal ones."""
    system = made.source
    fits = [i for i in reversed(eq.over) if all(_axis(r, i, system) is not None for r in reads)]
    return max(fits, key=lambda i: _gain(eq, reads, i, made), default=None)


def _gain(eq: Equation, reads: Sequence[Read], index: Index, made: _Made) -> float:
    """The cycles saved by taking two terms at a time, less those to make pairs not yet stored."""
    tensors, steps = made.source.tensors, made.steps
    fresh = {(r.tensor, _axis(r, index, made.source)) for r in reads} - set(made.names)
    making = sum(tensors[name].size * PACKING + STARTING * steps.get(name, 1) for name, _ in fresh)
    return prod(i.size for i in eq.domain) / TERMS - making


def _steps(component: list[Equation]) -> dict[str, int]:
    """In how many steps the tensors of a recurrence are computed."""
    if not is_recurrent(component):
        return {}
    return dict.fromkeys((eq.target for eq in component), plan_recurrence(component).size)


def why_not(eq: Equation, system: System) -> str:
    """Of a contraction of rounded operands, why it is not one of pairs; nothing for others."""
    body = eq.body
    parts = body.args if eq.reduce == "sum" and isinstance(body, Apply) and body.fn == "mul" else ()
    reads = [p for p in parts if isinstance(p, Read) and _is_rounded(p.tensor, system)]
    if len(reads) != 2:
        return ""
    made = _Made(system)
    index = _best(eq, reads, made)
    if index is None:
        return "not of pairs: no index of even size runs along one dimension of each operand"
    gain = _gain(eq, reads, index, made)
    if gain > 0:
        return f"not of pairs along {index.name}: they would have to be made at every step"
    return f"not of pairs along {index.name}: they would cost {-gain:,.0f} cycles more"


def _is_rounded(name: str, system: System) -> bool:
    """Whether all of it is rounded, or a copy of what is."""
    eq = system.definition.get(name)
    if eq is not None and isinstance(eq.body, Read) and eq.body.tensor != name:
        return _is_rounded(eq.body.tensor, system)
    return eq is not None and isinstance(eq.body, Apply) and eq.body.fn == "bf16"


def _operands(eq: Equation) -> list[Read]:
    """Both operands of a contraction of rounded reads; nothing for anything else."""
    body = eq.body
    if eq.reduce != "sum" or eq.at is not None or body.dtype != "f32":
        return []
    if not isinstance(body, Apply) or body.fn != "mul":
        return []
    found = [a.args[0] for a in body.args if isinstance(a, Apply) and a.fn == "bf16"]
    reads = [r for r in found if isinstance(r, Read) and (r.other is None or is_zero(r.other))]
    return reads if len(reads) == 2 else []


def _axis(read: Read, index: Index, system: System) -> int | None:
    """The dimension along which the read steps with the index, and no other does, if all of it is
    read and can be halved."""
    axes = [d for d, place in enumerate(read.index) if index.name in index_names(place)]
    if len(axes) != 1 or read.index[axes[0]] is not Idx(index.name) or index.size % 2:
        return None
    return axes[0] if system.tensors[read.tensor].shape[axes[0]] == index.size else None
