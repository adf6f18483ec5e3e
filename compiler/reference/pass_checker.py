"""Every pass checked while it works: the rules of a system, and what it computes.

In: a system before any pass, and values for it. Out: an observer for `pipeline.plan`, which raises
`InternalError` with the pass that broke a rule or changed a number, and with the system on both
sides of that pass. Values are compared in float64, where what a pass may reorder rounds to less
than any mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from ..ir.build import call
from ..ir.dtypes import is_float
from ..ir.equation import System
from ..ir.magnitude import magnitude
from ..ir.printer import system_text
from ..ir.verify import InternalError, verify
from ..passes.kernels.kernel import Plan
from .evaluator import evaluate

TOLERANCE = 1e-6  # of the numbers at work: sums in another order differ by 1e-12 of them or so
EVALUABLE = 2 * 10**8  # points of all equations together that the evaluator goes through gladly


class PassCheck:
    """What every pass must keep. Without `values` only the rules are checked."""

    def __init__(self, system: System, values: Mapping[str, np.ndarray] | None):
        self.before, self.values = system, values
        self.expected = {} if values is None else _with_sizes(system, values)

    def __call__(
        self, name: str, before: System | Plan, after: System | Plan, seconds: float
    ) -> None:
        """Called by the pipeline after the pass `name`."""
        system = after.system if isinstance(after, Plan) else after
        try:
            verify(system, name)
            if system is not self.before:
                self._compare(system, name)
        except InternalError as error:
            error.dump = (
                f"before {name}:\n{system_text(self.before)}\nafter {name}:\n{system_text(system)}"
            )
            raise
        self.before = system

    def _compare(self, system: System, name: str) -> None:
        if self.values is None:
            return
        arrays = evaluate(system, self.values, wide=True)
        for root, (expected, size) in self.expected.items():
            place = difference(arrays[root], expected, size)
            if place is not None:
                was, now = expected[place], arrays[root][place]
                where = f"{root}{list(place)}" if place else root
                rule = f"a pass keeps every value, and `{where}` was {was} and is {now}"
                error = InternalError(name, rule, root)
                equation = system.definition.get(root)
                error.span = None if equation is None else equation.span
                raise error


def _with_sizes(
    system: System, values: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, float]]:
    """Every root, and the largest of the numbers that its equation works with: what is left after
    cancelling says little of how well it is known."""
    tensors, equations = dict(system.tensors), list(system.equations)
    for root in dict.fromkeys(system.roots):
        eq = system.definition.get(root)
        if eq is None or not is_float(eq.body.dtype) or eq.reduce in ("argmax", "argmin"):
            continue
        body = magnitude(eq.body, lambda read, other: call("abs", read))
        reduce = "max" if eq.reduce == "min" else eq.reduce
        name = f"{root}%"
        equations.append(replace(eq, target=name, body=body, reduce=reduce))
        tensors[name] = replace(tensors[root], name=name)
    arrays = evaluate(system.replace(tensors=tensors, equations=tuple(equations)), values, True)
    return {
        root: (arrays[root], _largest(arrays.get(f"{root}%", arrays[root]), arrays[root]))
        for root in system.roots
    }


def _largest(*arrays: np.ndarray) -> float:
    finite = [np.abs(a[np.isfinite(a)]).max(initial=0) for a in arrays if a.dtype.kind == "f"]
    return float(max(finite, default=0.0))


def difference(found: np.ndarray, expected: np.ndarray, size: float) -> tuple[int, ...] | None:
    """The first index at which two arrays differ by more than rounding does to numbers of that
    size; None if there is none."""
    with np.errstate(all="ignore"):
        near = np.abs(found - expected) <= TOLERANCE * size
    same = near | (found == expected) | (np.isnan(found) & np.isnan(expected))
    wrong = np.argwhere(~same)
    return tuple(int(n) for n in wrong[0]) if len(wrong) else None


def points(system: System) -> int:
    """How many points the evaluator goes through."""
    return sum(prod(i.size for i in eq.domain) for eq in system.equations)
