"""The reference evaluator as a device: slow, obvious, and what the others are compared with.

It compiles nothing. Tests: tests/runtime/test_api.py.
"""

from __future__ import annotations

import numpy as np

from ...compiler.ir.equation import System
from ...compiler.reference.evaluator import advance


class ReferenceProgram:
    """A system with its memory; `run` evaluates it once."""

    def __init__(self, system: System):
        from ...compiler.pipeline import checked  # only where it is needed

        self.system = checked(system)
        self.arrays: dict[str, np.ndarray] = {
            t.name: np.zeros(t.shape, t.array_type)
            for t in self.system.tensors.values()
            if t.kind != "temp" or t.name in self.system.outputs
        }
        self._given = tuple(t.name for t in self.system.tensors.values() if t.kind != "temp")

    @property
    def arena_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def run(self) -> None:
        """Computes everything from the current inputs, params and states."""
        computed, after = advance(self.system, {name: self.arrays[name] for name in self._given})
        for name in self.system.outputs:
            self.arrays[name][...] = computed[name]
        for name in self.system.updates:
            self.arrays[name][...] = after[name]
