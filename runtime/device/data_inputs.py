"""The inputs of a program that are filled from the data."""

from __future__ import annotations

from ...compiler.ir.equation import System, Tensor
from ...compiler.ir.expr import is_size_input

SCALARS = ("step", "seed", "microbatches_left")  # inputs that the executor sets


def fields_of(system: System) -> list[Tensor]:
    """The inputs that are fields of the data."""
    given = [t for t in system.of_kind("input") if t.name not in SCALARS]
    return [t for t in given if not is_size_input(t.name)]
