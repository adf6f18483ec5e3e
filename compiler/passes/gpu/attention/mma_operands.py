"""What tensor cores multiply for an attention, and whether they can.

    score[t, s] = sum(a < 64) bf16(q[t, a]) * bf16(k[s, a])             both operands are stored
    y[t, c]     = sum(s) bf16(weight[t, s]) * bf16(v[s, c])             v is; weights are never

An `mma.sync.m16n8k16` takes 16 consecutive bf16 numbers of a row, which asynchronous copies bring
to shared memory 8 at a time. So every contraction of one attention, gradients included, must have
two rounded operands, in rows of a multiple of 16 numbers: along the summed indices of a score,
along the result's own indices for values. All kernels of one attention use tensor cores or none do.
`bf16_storage.py` stores the operands; `tiling.py` asks whether they are.

Tests: tests/backends/test_cuda_attention_cores.py.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from ....ir.build import literal
from ....ir.equation import Equation, Index, System, Tensor
from ....ir.expr import Apply, Expr, Read, reads
from ....ir.terms import is_rounded
from ...lowering.addressing import access_of
from ..async_copy import async_copy_width
from .find_attention import Attention

DEPTH = 16  # numbers of a row that one instruction takes
COPIED = 8  # numbers of a row that one asynchronous copy moves


@dataclass(frozen=True)
class Contraction:
    """An equation, and those of its rounded `operands` that are stored, in rows along `along`."""

    equation: Equation
    operands: tuple[Apply, ...]
    along: tuple[Index, ...]


@dataclass(frozen=True)
class MmaContractions:
    """The contractions whose operands are to be stored; none if there are no rounded ones or, for
    the `problem`, not all can be."""

    contractions: tuple[Contraction, ...]
    problem: str = ""


def mma_contractions(attention: Attention, system: System) -> MmaContractions:
    """Every contraction of an attention once."""
    found: dict[str, Contraction] = {}
    rounds, problems = False, []
    for eq, along, computed in _contractions(attention, system):
        sides = _sides(eq)
        stored = tuple(s for s in sides if not any(r.tensor in computed for r in reads(s)))
        rounds |= any(map(is_rounded, sides))
        problems.append(_problem(eq, sides, stored, along))
        found[eq.target] = Contraction(eq, stored, along)  # type: ignore[arg-type]
    problem = next(filter(None, problems), "") if rounds else ""
    return MmaContractions(tuple(found.values()) if rounds and not problem else (), problem)


def _contractions(
    attention: Attention, system: System
) -> Iterator[tuple[Equation, tuple[Index, ...], Container[str]]]:
    """Equations, what their operands have rows along, and the matrices that are never stored."""
    for reduction in attention.reductions:
        for product in reduction.products:
            eq = system.definition[product.read.tensor]
            yield eq, eq.over, ()
        if reduction.features:
            yield reduction.equation, reduction.features, attention.matrices


def _sides(eq: Equation) -> tuple[Expr, Expr]:
    body = eq.body
    if isinstance(body, Apply) and body.fn == "mul":
        return body.args[0], body.args[1]
    return body, literal(1.0)


def _problem(
    eq: Equation, sides: tuple[Expr, ...], stored: tuple[Expr, ...], along: tuple[Index, ...]
) -> str:
    """Why tensor cores cannot take the operands of a contraction."""
    if not (all(map(is_rounded, sides)) and stored):
        return f"`{eq.target}` is no sum of products of two rounded numbers"
    size = prod(i.size for i in along)
    if size % DEPTH or longer_than_one(along)[-1].size % COPIED:
        return f"rows of {size} numbers are no multiple of {DEPTH}"
    return ""


def longer_than_one(along: tuple[Index, ...]) -> tuple[Index, ...]:
    """The indices that have more than one value."""
    return tuple(i for i in along if i.size > 1)


def has_bf16_rows(
    operand: Expr, along: tuple[Index, ...], tensor: Tensor, sizes: Mapping[str, int]
) -> bool:
    """Whether an operand is read from bf16 numbers of memory that lie in rows along the indices, at
    multiples of 16 bytes."""
    if not isinstance(operand, Read) or tensor.storage != "bf16":
        return False
    return async_copy_width(access_of(operand, tensor, sizes), along, "bf16") == COPIED
