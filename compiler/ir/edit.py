"""Changes to a system, collected and then made at once.

A pass replaces equations, adds temps and renames reads through one `SystemEdit`; `result` puts the
equations into dependence order. The system that is edited stays as it is, so a pass can look at it
while it works.
"""

from __future__ import annotations

from dataclasses import replace

from .equation import Equation, System, Tensor, free_name


class SystemEdit:
    """An edit of `system`. `tensors` are those of the result, and may be changed directly."""

    def __init__(self, system: System):
        self.system = system
        self.tensors: dict[str, Tensor] = dict(system.tensors)
        # By target, in the given order: a dict keeps an entry's place when it is replaced.
        self._equations: dict[str, Equation] = dict(system.definition)
        self._added: dict[Equation, str] = {}

    def __getitem__(self, target: str) -> Equation:
        """The equation that computes a temp, as it is now."""
        return self._equations[target]

    def replace(self, *equations: Equation) -> None:
        """Each equation in place of the one that computes the same target."""
        for eq in equations:
            assert eq.target in self._equations, eq.target
            self._equations[eq.target] = eq

    def remove(self, *targets: str) -> None:
        """The temps and their equations are gone; nothing may read them any more."""
        for target in targets:
            del self._equations[target], self.tensors[target]

    def add(self, eq: Equation, shape: tuple[int, ...] | None = None, dtype: str = "") -> str:
        """The name of a new temp that the equation computes: its target, made longer if that is
        taken. An equal equation (but for the target) is added once. `shape` and `dtype` are needed
        only where the equation does not tell them."""
        # Two readers that need the same helper, such as a transposed copy, share it.
        key = replace(eq, target="")
        found = self._added.get(key)
        if found is None:
            found = self._added[key] = free_name(eq.target, self.tensors)
            shape = tuple(i.size for i in eq.indices) if shape is None else shape
            self.tensors[found] = Tensor(found, shape, dtype or eq.dtype, span=eq.span)
            self._equations[found] = replace(eq, target=found)
        return found

    def result(self) -> System:
        """The edited system in dependence order; the system itself if nothing was changed."""
        equations = tuple(self._equations.values())
        # The same object where nothing changed: the pass checker then has nothing to evaluate.
        if equations == self.system.equations and self.tensors == self.system.tensors:
            return self.system
        return self.system.replace(tensors=self.tensors, equations=equations).in_order()
