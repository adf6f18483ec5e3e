"""Gradients compared with central differences, in float64.

In: a derived system with gradients `d_x`, its loss, values. Out: a `Slope` for each tensor that is
checked, and for a wrong one the equations whose derivative is wrong. The check is independent of
how gradients are derived: the reference evaluator computes the loss with one tensor perturbed.

    (f(x + h*d) - f(x - h*d)) / 2h  against  sum(x) gradient[x] * d[x]

first along a direction in which all elements change by about as much, then at single elements.
What is constant but for jumps is not perturbed: what is inside of `stop(…)`, `floor`, `//`, a
condition, an integer. Of a staircase of many small steps every difference is that of a slope.
Where the function has a kink (relu at 0, two equal maxima), every slope between the two one-sided
ones is a subgradient and counts as right. Where no two step sizes see the same function (a clamp so
steep that all of them cross it), shorter steps are tried, and if these do not agree either, nothing
is known and nothing is blamed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..ir.build import call, rewrite
from ..ir.dtypes import HALVES, is_float
from ..ir.equation import Equation, Index, System, Tensor, components, is_recurrent
from ..ir.expr import Apply, Expr, Idx, Read
from ..ir.gradients import add_gradients
from .evaluator import Arrays, evaluate

STEPS = (1e-5, 1e-6, 1e-4, 1e-7)  # in this order; small ones avoid kinks, large ones rounding
FINER = (1e-8, 1e-9, 1e-10, 1e-11)  # where no two of these see the same one-sided slopes
AGREEING = 0.1  # of the slopes of two step sizes
TOLERANCE = 1e-5  # of the slope: central differences in float64 are good to 1e-8 or so
CLOSE = 0.1  # of the tolerance: then no other step is tried
ROUNDING = 1e-14  # of the loss: error of its evaluation
# Constant but for jumps, as are comparisons, logic and integers.
STEPPED = frozenset({"stop", "floor", "ceil", "round", "sign", "floordiv"})

Derive = Callable[[System], System]


@dataclass(frozen=True)
class Slope:
    """A directional derivative by the gradient (`exact`) and by central differences (`numeric`), of
    the element at `index`, or along a direction if that is None. `error` is relative; `kinks`
    counts the points at which the one-sided slopes differ."""

    tensor: str
    index: tuple[int, ...] | None
    exact: float
    numeric: float
    error: float
    right: bool
    kinks: int = 0


class Differences:
    """The loss of a system as a function of any one of its tensors, at the given values."""

    def __init__(self, system: System, loss: str, values: Mapping[str, np.ndarray], seed: int = 0):
        system = _without_rounding(system)
        self.system, self.loss, self.seed = system, loss, seed
        self.arrays: Arrays = evaluate(system, values, wide=True)
        self.forward = _freeze_steps(_leading_to(system, loss))
        self.definition = {eq.target: eq for eq in self.forward}
        self.recurrent = {
            eq.target: part
            for part in components(self.forward)
            if is_recurrent(part)
            for eq in part
        }

    def readers(self, name: str) -> list[Equation]:
        """The equations of the loss that read a tensor."""
        return [eq for eq in self.forward if name in eq.sources]

    def check(self, name: str, gradient: str | None, samples: int, tolerance: float) -> Slope:
        """Check the gradient of `name`, along one direction and at `samples` elements; without a
        `gradient` it should be zero. The worst slope of a right gradient; of a wrong one the first
        element found to be wrong."""
        base = self.arrays[name]
        exact = np.zeros(base.shape) if gradient is None else self.arrays[gradient]
        # A gradient that is not finite is wrong without any measurement.
        if not np.isfinite(exact).all():
            place = _place(~np.isfinite(exact))
            return Slope(name, place, float(exact[place]), np.nan, np.inf, False)
        line = _Line(self._function(name), exact, float(self.arrays[self.loss]), tolerance)
        # Seeded, so that every run checks the same direction and elements.
        rng = np.random.default_rng([self.seed, len(name), base.size])
        # Signs at random, so that errors do not cancel; sizes in 0.5 … 1, so that no element is
        # missed.
        direction = rng.choice([-1.0, 1.0], base.shape) * rng.uniform(0.5, 1, base.shape)
        along = line.slope(direction)
        if not along.right:
            return replace(self._first(line, direction), tensor=name)
        found = [line.slope_at(place) for place in _samples(exact, samples, rng)]
        wrong = [s for s in found if not s.right]
        worst = max([along, *found], key=lambda s: s.error)
        kinks = sum(s.kinks for s in [along, *found])
        return replace(wrong[0] if wrong else worst, tensor=name, kinks=kinks)

    def _first(self, line: _Line, direction: np.ndarray) -> Slope:
        """An element with a wrong slope, by bisection of the elements that are perturbed."""
        low, high = 0, direction.size
        # Errors along a direction add up. So if the first half is right, the error is in the
        # second.
        while high - low > 1:
            middle = (low + high) // 2
            half = np.zeros(direction.size)
            half[low:middle] = direction.ravel()[low:middle]
            if line.slope(half.reshape(direction.shape)).right:
                low = middle
            else:
                high = middle
        return line.slope_at(tuple(int(n) for n in np.unravel_index(low, direction.shape)))

    def culprits(self, name: str, samples: int, tolerance: float, derive: Derive) -> list[Equation]:
        """The equations that read `name` and whose own derivative for it is wrong, each checked
        without the rest of the system. `derive` expands gradients."""
        return [
            eq for eq in self.readers(name) if not self._alone(eq, name, samples, tolerance, derive)
        ]

    def _alone(
        self, eq: Equation, name: str, samples: int, tolerance: float, derive: Derive
    ) -> bool:
        own = replace(eq, target=eq.target + "~")  # so that it reads its own past as a given
        tensor = replace(self.system.tensors[eq.target], name=own.target, kind="temp")
        cost, values = _cost(tensor, self.seed)
        # The equation alone, with a random weighted sum of its result as the loss and all that it
        # reads as inputs.
        system, values = _subsystem(
            self.system,
            (own, *cost.equations),
            self.arrays | values,
            {**cost.tensors, own.target: tensor},
            "cost",
        )
        system, names = add_gradients(system, "cost", [name])
        system = derive(system.replace(outputs=("cost", *names.values())))
        alone = Differences(system, "cost", values, self.seed)
        return alone.check(name, names.get(name), samples, tolerance).right

    # --- the loss as a function ----------------------------------------------------------------

    def _function(self, name: str) -> Callable[[np.ndarray], float]:
        """delta → the loss with delta added to `name`. Inside a recurrence it is added where the
        tensor is computed, step by step; any other tensor becomes an input."""
        # Only what depends on the tensor is evaluated again for each perturbation.
        after = self._following(name)
        tensors: dict[str, Tensor] = {}
        extra: Arrays = {}
        # Inside a recurrence, later steps of the tensor depend on earlier ones: h[t] = f(h[t-1])
        # becomes h~[t] = f(h[t-1]), h[t] = h~[t] + h+[t].
        if name in self.recurrent:
            moved, before = f"{name}+", f"{name}~"
            own = self.system.tensors[name]
            tensors = {
                moved: replace(own, name=moved, kind="input"),
                before: replace(own, name=before),
            }
            extra = {moved: np.zeros(own.shape)}
            after = [
                e
                for eq in after
                for e in (_moved(eq, before, moved) if eq.target == name else [eq])
            ]
        else:
            moved = name
        system, values = _subsystem(
            self.system, tuple(after), self.arrays | extra, tensors, self.loss
        )
        base = values.get(moved)

        def loss(delta: np.ndarray) -> float:
            if base is None:  # the loss does not depend on it
                return float(self.arrays[self.loss])
            given = {**values, moved: base + delta}
            return float(evaluate(system, given, wide=True)[self.loss])

        return loss

    def _following(self, name: str) -> list[Equation]:
        """The equations that depend on the tensor, in order."""
        changed, found = {name}, []
        for part in components(self.forward):
            # Not the tensor's own equation, unless it is recurrent: elsewhere the tensor is an
            # input now.
            mine = is_recurrent(part) and any(eq.target == name for eq in part)
            if not mine and any(eq.target == name for eq in part):
                continue
            if mine or any(changed & set(eq.sources) for eq in part):
                changed |= {eq.target for eq in part}
                found += part
        return found


@dataclass(frozen=True)
class _Line:
    """Slopes of one function in directions from one point."""

    function: Callable[[np.ndarray], float]
    exact: np.ndarray
    loss: float
    tolerance: float

    def slope_at(self, place: tuple[int, ...]) -> Slope:
        direction = np.zeros(self.exact.shape)
        direction[place] = 1.0
        return replace(self.slope(direction), index=place)

    def slope(self, direction: np.ndarray) -> Slope:
        """The derivative along a direction, by the step size that agrees best. At a kink, all
        between the one-sided slopes is right."""
        # `size` is the sum without cancellation, against which errors are measured.
        exact = float((self.exact * direction).sum())
        size = float(np.abs(self.exact * direction).sum())
        found: list[tuple[Slope, bool]] = []
        sides: dict[float, tuple[float, float]] = {}
        for step in STEPS:
            up, down = (self.function(sign * step * direction) for sign in (1, -1))
            slope = self._judged(exact, size, (up - down) / (2 * step), step)
            if slope.error <= CLOSE * self.tolerance:
                return slope
            # One-sided slopes differ at a kink; 100 times the slack is more than rounding or
            # curvature.
            left, right = (self.loss - down) / step, (up - self.loss) / step
            sides[step] = left, right
            slack = self.tolerance * max(size, abs(left), abs(right)) + self._rounding(step)
            between = min(left, right) - slack <= exact <= max(left, right) + slack
            found.append((slope, abs(right - left) > 100 * slack and between))
        # Too long a step crosses kinks, too short a one drowns in rounding: the best one counts.
        best, _ = min(found, key=lambda each: each[0].error)
        if not best.right and any(kink for _, kink in found):
            return replace(best, error=0.0, right=True, kinks=1)
        if best.right or self._is_resolved(sides):
            return best
        for step in FINER:
            up, down = (self.function(sign * step * direction) for sign in (1, -1))
            slope = self._judged(exact, size, (up - down) / (2 * step), step)
            if slope.right:
                return slope
        return replace(best, error=0.0, right=True, kinks=1)

    def _is_resolved(self, sides: Mapping[float, tuple[float, float]]) -> bool:
        """Whether two step sizes, one after the other, measure the same one-sided slopes. A step
        that crosses a steep piece measures its height, which does not grow with the step."""
        steps = sorted(sides)
        return any(
            all(
                abs(a - b) <= AGREEING * max(abs(a), abs(b)) + 2 * self._rounding(short)
                for a, b in zip(sides[short], sides[long], strict=True)
            )
            for short, long in pairwise(steps)
        )

    def _judged(self, exact: float, size: float, numeric: float, step: float) -> Slope:
        # a slope that is smaller than what rounding does to it cannot be measured better than that
        scale = max(size, abs(numeric), self._rounding(step) / self.tolerance)
        error = abs(exact - numeric) / scale
        right = bool(error <= self.tolerance)  # false for what is not a number
        return Slope("", None, exact, numeric, error, right)

    def _rounding(self, step: float) -> float:
        return ROUNDING * max(abs(self.loss), 1e-3) / step


def _samples(exact: np.ndarray, count: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Elements to check one by one: that of the largest gradient, and random ones."""
    if not count or not exact.shape or exact.size < 2:
        return []
    chosen = [int(np.abs(exact).argmax()), *rng.integers(0, exact.size, count - 1).tolist()]
    return [tuple(int(n) for n in np.unravel_index(k, exact.shape)) for k in dict.fromkeys(chosen)]


def _place(wrong: np.ndarray) -> tuple[int, ...]:
    return tuple(int(n) for n in np.argwhere(wrong)[0])


# --- systems --------------------------------------------------------------------------------------

FROZEN = "@"  # after the name of a copy that is not perturbed


def _leading_to(system: System, loss: str) -> list[Equation]:
    """The equations that the loss depends on, in order."""
    needed = system.ancestors([loss])
    return [eq for part in system.components for eq in part if eq.target in needed]


def _freeze_steps(equations: list[Equation]) -> tuple[Equation, ...]:
    """The equations in which all that has no derivative, such as `stop(x)`, `floor(x)` and `x > 0`,
    is computed of copies that are not perturbed."""

    def renamed(node: Expr) -> Expr | None:
        if isinstance(node, Read) and not node.tensor.endswith(FROZEN):
            return Read(node.tensor + FROZEN, node.index, node.other, node.dtype)
        return None

    def change(node: Expr) -> Expr | None:
        if isinstance(node, Apply) and (node.fn in STEPPED or not is_float(node.dtype)):
            return call(node.fn, *(rewrite(arg, renamed) for arg in node.args))
        return renamed(node) if isinstance(node, Read) and not is_float(node.dtype) else None

    return tuple(eq.with_body(rewrite(eq.body, change)) for eq in equations)


def _without_rounding(system: System) -> System:
    """The system with f32 or f64 in place of f16 and bf16: what is rounded moves in steps, and its
    differences say nothing of the derivative, which is that of the unrounded value."""

    def exact(node: Expr) -> Expr | None:
        return node.args[0] if isinstance(node, Apply) and node.fn in HALVES else None

    tensors = {name: replace(t, storage="") for name, t in system.tensors.items()}
    equations = tuple(eq.rewrite(exact) for eq in system.equations)
    return system.replace(tensors=tensors, equations=equations)


def _subsystem(
    system: System,
    equations: tuple[Equation, ...],
    arrays: Mapping[str, np.ndarray],
    more: Mapping[str, Tensor],
    output: str,
) -> tuple[System, Arrays]:
    """Some equations as a system of their own whose inputs are all else that they read, and the
    values of those."""
    targets = {eq.target for eq in equations}
    tensors: dict[str, Tensor] = {}
    values: Arrays = {}
    for name in dict.fromkeys([*(s for eq in equations for s in eq.sources), *targets, output]):
        # A frozen copy has the values of its tensor.
        plain = name if name in arrays else name.removesuffix(FROZEN)
        found = more.get(name) or system.tensors[plain]
        kind = "temp" if name in targets else "input"
        tensors[name] = replace(found, name=name, kind=kind)
        if kind == "input":
            values[name] = arrays[plain]
    return System("part", tensors, equations, (output,)), values


def _moved(eq: Equation, before: str, moved: str) -> list[Equation]:
    """y = f + moved, as two equations."""
    shape = [i.size for i in eq.indices]
    indices = tuple(Index(f"m{n}", size) for n, size in enumerate(shape))
    place = tuple(Idx(i.name) for i in indices)
    both = [Read(name, place, None, eq.body.dtype) for name in (before, moved)]
    return [replace(eq, target=before), Equation(eq.target, indices, call("add", *both))]


def _cost(tensor: Tensor, seed: int) -> tuple[System, Arrays]:
    """A weighted sum of a tensor's elements, with random weights."""
    weight = replace(tensor, name="weight~", kind="input")
    values = {"weight~": np.random.default_rng([seed, 1]).normal(size=tensor.shape)}
    indices = tuple(Index(f"w{n}", size) for n, size in enumerate(tensor.shape))
    place = tuple(Idx(i.name) for i in indices)
    body = call("mul", *(Read(t.name, place, None, t.dtype) for t in (weight, tensor)))
    equation = Equation("cost", (), body, "sum" if indices else None, indices)
    tensors = {"weight~": weight, "cost": Tensor("cost", (), tensor.dtype)}
    return System("cost", tensors, (equation,), ("cost",)), values
