"""The inputs of a program that are filled from the data."""

from __future__ import annotations

from ...compiler.elaboration.context import RESERVED_INPUTS
from ...compiler.ir.equation import System, Tensor
from ...compiler.ir.expr import is_size_input

SCALARS = RESERVED_INPUTS  # inputs that the executor sets


def fields_of(system: System) -> list[Tensor]:
    """The inputs that are fields of the data."""
    given = [t for t in system.of_kind("input") if t.name not in SCALARS]
    return [t for t in given if not is_size_input(t.name)]
