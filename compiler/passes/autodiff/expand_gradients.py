"""The passes that make a program of one with placeholders `d_x = grad(y, x)`, in their order."""

from __future__ import annotations

from ....dsl.syntax.source import Span
from ...ir.equation import System
from ..equations.gather_matmul import gather_matmul
from ..equations.narrow_sums import narrow_sums
from ..equations.simplify import simplify
from .differentiate import differentiate
from .mixed_precision import mixed_precision
from .rematerialize import rematerialize, useless_blocks

BEFORE = (simplify, gather_matmul, differentiate)
AFTER = (narrow_sums, rematerialize, simplify, mixed_precision)


def expand_gradients(system: System) -> System:
    """The system that the passes make of it."""
    for transform in (*BEFORE, *AFTER):
        system = transform(system)
    return system


def useless_remat(system: System) -> list[Span]:
    """The places of the `remat` blocks of a system with placeholders that would save nothing."""
    if not system.remat or not system.gradients:
        return []
    for transform in BEFORE:
        system = transform(system)
    return useless_blocks(system)
