"""Every pass checked while it works: the rules of a system, and what it computes.

In: a system before any pass, and values for it. Out: a callable for `pipeline.plan(check=…)`, which
raises `InternalError` with the pass that broke a rule or changed a number, and with the system on
both sides of that pass. Values are compared in float64, where what a pass may reorder rounds to
less than any mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from .evaluate import Arrays, evaluate, factors
from .ir import Equation, System, index_names
from .printer import system_text
from .verify import InternalError, verify

TOLERANCE = 1e-6  # of a tensor's largest number: sums in another order differ by 1e-12 or so
EVALUABLE = 2 * 10**8  # points of all equations together that the evaluator goes through gladly


class PassCheck:
    """What every pass must keep. Without `values` only the rules are checked."""

    def __init__(self, system: System, values: Mapping[str, np.ndarray] | None):
        self.before, self.values = system, values
        self.expected = None if values is None else self._roots(system, values)

    def __call__(self, system: System, name: str) -> None:
        """`system` is what the pass `name` made of the one before."""
        try:
            verify(system, name)
            self._compare(system, name)
        except InternalError as error:
            error.dump = f"before {name}:\n{system_text(self.before)}\nafter {name}:\n" \
                         f"{system_text(system)}"  # fmt: skip
            raise
        self.before = system

    def _compare(self, system: System, name: str) -> None:
        if self.expected is None or self.values is None:
            return
        for root, found in self._roots(system, self.values).items():
            place = difference(found, self.expected[root])
            if place is not None:
                was, now = self.expected[root][place], found[place]
                where = f"{root}{list(place)}" if place else root
                rule = f"a pass keeps every value, and `{where}` was {was} and is {now}"
                error = InternalError(name, rule, root)
                equation = system.definition.get(root)
                error.span = None if equation is None else equation.span
                raise error

    @staticmethod
    def _roots(system: System, values: Mapping[str, np.ndarray]) -> Arrays:
        arrays = evaluate(system, values, wide=True)
        return {name: arrays[name] for name in system.roots}


def difference(found: np.ndarray, expected: np.ndarray) -> tuple[int, ...] | None:
    """The first index at which two arrays differ by more than rounding; None if there is none."""
    with np.errstate(all="ignore"):
        largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
        near = np.abs(found - expected) <= TOLERANCE * largest
    same = near | (found == expected) | (np.isnan(found) & np.isnan(expected))
    wrong = np.argwhere(~same)
    return tuple(int(n) for n in wrong[0]) if len(wrong) else None


def points(system: System) -> int:
    """How many points the evaluator goes through."""
    return sum(prod(i.size for i in eq.domain) for eq in system.equations)


def widest(system: System) -> int:
    """The largest array that the evaluator makes, in elements."""
    return max((_widest(eq) for eq in system.equations), default=0)


def _widest(eq: Equation) -> int:
    parts = factors(eq.body) if eq.reduce == "sum" else [eq.body]
    sizes = eq.sizes
    return max(prod(sizes[n] for n in index_names(part)) for part in parts)
