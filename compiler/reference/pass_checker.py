"""An observer that checks every pass: the rules of the IR, and the values that are computed.

In: a system before all passes, and values for it. It raises `InternalError` with the name of the
pass that broke a rule or changed a value, and with the systems before and after it. Values are
compared in float64, in which reordering a sum changes them by less than any mistake does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod

import numpy as np

from ..ir.batch_axis import batch_axis
from ..ir.build import call
from ..ir.dtypes import is_float
from ..ir.equation import Clipping, Equation, Gradient, System
from ..ir.expr import Apply, Expr, walk
from ..ir.magnitude import magnitude
from ..ir.printer import system_text
from ..ir.verify import InternalError, verify
from ..passes.kernels.kernel import Plan
from .evaluator import evaluate
from .finite_differences import Differences

TOLERANCE = 1e-6  # of the magnitudes: sums in another order differ by 1e-12 of them or so
ROUNDING = 2**-7  # of the magnitudes: two operands are rounded to 8 significant bits
SLOPE_TOLERANCE = 1e-3  # of the slope: random values may stand near kinks
EVALUABLE = 2 * 10**8  # points of all equations together up to which values are compared


class PassCheck:
    """An observer of the passes over a system. Without `values` only the rules are checked.

    Equal values are demanded of every pass but three. Of differentiation, which gives placeholders
    a value, the gradients are compared with central differences, if `differences` is asked for; of
    clipping, with sums of the clipped gradients of one example after the other; of mixed precision,
    each equation that it changed is compared for the same operands.
    """

    def __init__(
        self, system: System, values: Mapping[str, np.ndarray] | None, differences: bool = False
    ):
        self.before, self.values, self.differences = system, values, differences
        self.expected = {} if values is None else _with_magnitudes(system, values)

    def __call__(
        self, name: str, before: System | Plan, after: System | Plan, seconds: float
    ) -> None:
        """Called by the pipeline after the pass `name`."""
        system = after.system if isinstance(after, Plan) else after
        try:
            verify(system, name)
            # A pass that returned the same system has changed no value.
            if self.values is not None and system is not self.before:
                self._compare(system, self.values, name)
        except InternalError as error:
            error.dump = (
                f"before {name}:\n{system_text(self.before)}\nafter {name}:\n{system_text(system)}"
            )
            raise
        self.before = system

    def _compare(self, system: System, values: Mapping[str, np.ndarray], name: str) -> None:
        rounded = system.precision != self.before.precision
        clipped = self.before.clipping if not system.clipping else None
        if clipped:
            self._compare_clipped(system, values, clipped, name)
        elif rounded:
            self._compare_rounded(system, values, name)
        else:
            # Only roots are compared: temps come and go in passes. In float64, see the module's
            # docstring.
            arrays = evaluate(without_placeholders(system), values, wide=True)
            for root, (expected, size) in self.expected.items():
                _require_near(system, root, arrays[root], expected, TOLERANCE * size, name)
        # Differentiation is the pass after which no placeholders are left.
        expanded = self.before.gradients if not system.gradients else ()
        if expanded and self.differences:
            self._compare_gradients(system, values, expanded, name)
        # From here on the new values count: of gradients that had none before, or of rounded
        # operands.
        if expanded or rounded or clipped:
            self.expected = _with_magnitudes(system, values)
        if clipped:
            # Of what cancels within the gradient of one example, its norm tells the magnitude.
            for g in clipped.gradients:
                if g in self.expected:
                    value, size = self.expected[g]
                    self.expected[g] = value, max(size, clipped.scale * clipped.limit)

    def _compare_clipped(
        self, system: System, values: Mapping[str, np.ndarray], clipping: Clipping, name: str
    ) -> None:
        """Gradients of which each example's share was clipped."""
        before = self.before.replace(clipping=None)
        needed = before.ancestors(clipping.gradients)
        of_data = [t.name for t in before.of_kind("input") if t.shape]
        # What a batch of one example over and over says of its share: no draws that differ by
        # place, and no part that is no share, as that of a penalty.
        axis = batch_axis(before, clipping.batch, clipping.gradients)
        equations = [eq for eq in before.equations if eq.target in needed]
        if any("random" in map(_name_of, walk(eq.body)) for eq in equations):
            return
        if any(axis.has_other_terms(eq) for eq in equations):
            return
        expected = {g: np.zeros(before.tensors[g].shape) for g in clipping.gradients}
        for example in range(min(clipping.batch, int(values[clipping.drawn]))):
            again = {n: np.broadcast_to(values[n][example], values[n].shape) for n in of_data}
            found = evaluate(before, {**values, **again}, wide=True)
            share = {g: found[g] / clipping.batch for g in expected}
            norm = np.sqrt(sum((s**2).sum() for s in share.values()))
            for g, own in share.items():
                expected[g] += clipping.scale * own * min(1.0, clipping.limit / max(norm, 1e-300))
        arrays = evaluate(system, values, wide=True)
        for g, total in expected.items():
            size = float(np.abs(total).max(initial=0.0)) + clipping.scale * clipping.limit
            _require_near(system, g, arrays[g], total, TOLERANCE * size, name)

    def _compare_rounded(self, system: System, values: Mapping[str, np.ndarray], name: str) -> None:
        """The equations that the pass changed, computed of the same operands as before."""
        changed = [eq for eq in system.equations if self.before.definition.get(eq.target) != eq]
        found = _with_magnitudes(_beside(self.before, changed), values)
        for eq in changed:
            expected, size = found[eq.target]
            rounded, _ = found[f"{eq.target}~"]
            _require_near(system, eq.target, rounded, expected, ROUNDING * size, name)

    def _compare_gradients(
        self,
        system: System,
        values: Mapping[str, np.ndarray],
        gradients: Iterable[Gradient],
        name: str,
    ) -> None:
        work: dict[str, Differences] = {}
        for g in gradients:
            # All gradients of one number share the evaluation of its forward pass.
            if g.of not in work:
                work[g.of] = Differences(system, g.of, values)
            # Differences of infinite losses say nothing.
            if not np.isfinite(work[g.of].arrays[g.of]):
                continue
            slope = work[g.of].check(g.wrt, g.target, 0, SLOPE_TOLERANCE)
            if not slope.right:
                rule = f"its slope is {slope.numeric}, and `{g.target}` says {slope.exact}"
                raise _error(system, name, rule, g.target)


def _name_of(node: Expr) -> str:
    return node.fn if isinstance(node, Apply) else ""


def without_placeholders(system: System) -> System:
    """The part of a system that has values before its gradients are expanded."""
    if not system.gradients:
        return system
    # Placeholders, and everything that is computed from them.
    unknown = system.descendants(system.placeholder)
    return system.replace(
        tensors={n: t for n, t in system.tensors.items() if n not in unknown},
        equations=tuple(eq for eq in system.equations if eq.target not in unknown),
        outputs=tuple(n for n in system.outputs if n not in unknown),
        updates={n: new for n, new in system.updates.items() if new not in unknown},
        gradients=(),
    )


def _beside(system: System, equations: Iterable[Equation]) -> System:
    """The system with other equations beside its own for some targets, all of these outputs."""
    tensors, more = dict(system.tensors), []
    for eq in equations:
        other = f"{eq.target}~"
        more.append(replace(eq, target=other))
        tensors[other] = replace(tensors[eq.target], name=other)
    outputs = tuple(name for eq in more for name in (eq.target, eq.target[:-1]))
    return system.replace(
        tensors=tensors, equations=(*system.equations, *more), outputs=outputs, updates={}
    )


def _error(system: System, name: str, rule: str, root: str) -> InternalError:
    error = InternalError(name, rule, root)
    equation = system.definition.get(root)
    error.span = None if equation is None else equation.span
    return error


def _require_near(
    system: System,
    root: str,
    found: np.ndarray,
    expected: np.ndarray,
    tolerance: float,
    name: str,
) -> None:
    place = difference(found, expected, tolerance)
    if place is not None:
        where = f"{root}{list(place)}" if place else root
        rule = (
            f"a pass keeps every value, and `{where}` was {expected[place]} and is {found[place]}"
        )
        raise _error(system, name, rule, root)


def _with_magnitudes(
    system: System, values: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, float]]:
    """Every root that has a value, and the largest of the magnitudes that its equation works with:
    what is left after cancellation says little of how well it is known."""
    system = without_placeholders(system)
    tensors, equations = dict(system.tensors), list(system.equations)
    for root in dict.fromkeys(system.roots):
        eq = system.definition.get(root)
        # Roots that are given, integers and positions must be equal: no rounding, no magnitude.
        if eq is None or not is_float(eq.body.dtype) or eq.reduce in ("argmax", "argmin"):
            continue
        body = magnitude(eq.body, lambda read, other: call("abs", read))
        # For a minimum, magnitudes bound the value from above, so the largest of them counts.
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
    # Infinite values are compared for equality by `difference`, and set no scale.
    finite = [np.abs(a[np.isfinite(a)]).max(initial=0) for a in arrays if a.dtype.kind == "f"]
    return float(max(finite, default=0.0))


def difference(found: np.ndarray, expected: np.ndarray, tolerance: float) -> tuple[int, ...] | None:
    """The first index at which two arrays differ by more than `tolerance`, if there is one."""
    with np.errstate(all="ignore"):
        near = np.abs(np.subtract(found, expected, dtype=np.float64)) <= tolerance
    # inf - inf is NaN, so equal infinities need a test of their own.
    same = near | (found == expected) | (np.isnan(found) & np.isnan(expected))
    wrong = np.argwhere(~same)
    return tuple(int(n) for n in wrong[0]) if len(wrong) else None


def points(system: System) -> int:
    """How many points the evaluator goes through."""
    return sum(prod(i.size for i in eq.domain) for eq in system.equations)
