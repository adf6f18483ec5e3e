"""The batch axis: which dimension of a tensor counts the examples of a batch.

    y[b, o] = sum(i) x[b, i] * w[i, o]     y has a value for each example, along its first dimension
    d_w[i, o] = sum(b) d_y[b, o] * x[b, i] d_w is a sum over the examples
    z[b, o] = y[b, o] - mean[o]            examples meet, if `mean` is such a sum

Examples are apart if no value of one of them depends on another. The gradient of a loss that is a
sum over examples is then a sum of their gradients, and each is had by taking the index of examples
out of that sum (`passes/autodiff/clip_examples.py`). An equation joins examples if it reads another
example than its own, or a sum over them for one of them; so do batch normalisation, a softmax over
the batch, a loss that is no sum. What only sums read is no matter: metrics, and the loss itself.

This is an analysis, not a pass. Tests: tests/gradients/test_examples_apart.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...dsl.records import record
from .equation import Equation, System
from .expr import Apply, Const, Expr, Idx, Read, walk
from .terms import terms


@record
class Joined:
    """An equation that joins examples, by the tensor `source`: a sum over examples, or one that is
    read at `other` examples than the equation's own. The equation has values for each example of
    its `own`, or is not linear in the sum."""

    eq: Equation
    source: str
    other: bool = False
    own: bool = True


@dataclass
class BatchAxis:
    """What equations of a system have to do with examples. `dimension` has that of each tensor with
    values for examples, `sums` are the temps that are sums over examples, and `index` the index
    that counts examples in each equation that has one, by its target. `joined` are the equations
    that join examples: where there are any, the rest is what holds without them."""

    dimension: dict[str, int] = field(default_factory=dict)
    sums: set[str] = field(default_factory=set)
    index: dict[str, str] = field(default_factory=dict)
    joined: list[Joined] = field(default_factory=list)

    def is_public(self, name: str) -> bool:
        """Whether a tensor depends on no example."""
        return name not in self.dimension and name not in self.sums

    def has_other_terms(self, eq: Equation) -> bool:
        """Whether a sum over examples has terms that depend on none, as that of a penalty."""
        passed_on = eq.target in self.sums and eq.target not in self.index
        return passed_on and not all(degree(term, self.sums) for term in terms(eq.body))


def batch_axis(system: System, batch: int, names: Iterable[str]) -> BatchAxis:
    """The batch axis of all that tensors of these names are computed from. Every input with
    dimensions has one entry for each of `batch` examples along its first."""
    found = BatchAxis({t.name: 0 for t in system.of_kind("input") if t.shape})
    needed = system.ancestors(names)
    # A recurrence reads results of equations that follow: the second round knows them.
    for _ in range(2):
        found.joined.clear()
        for eq in system.equations:
            if eq.target in needed:
                _classify(eq, found, batch)
    return found


def _classify(eq: Equation, found: BatchAxis, batch: int) -> None:
    """Note what an equation has to do with examples."""
    indices: dict[str, str] = {}  # by the tensors that are read for one example
    for read in eq.reads:
        if read.tensor not in found.dimension:
            continue
        place = read.index[found.dimension[read.tensor]]
        if isinstance(place, Idx) and eq.sizes[place.name] == batch:
            indices.setdefault(place.name, read.tensor)
        else:
            found.joined.append(Joined(eq, read.tensor, other=True))
    sums = [name for name in eq.sources if name in found.sums and name != eq.target]
    if not indices:
        if sums:
            found.sums.add(eq.target)
            found.joined += [
                Joined(eq, s, own=False) for s in sums if not _is_linear(eq, found.sums)
            ]
        return
    own, *others = indices
    found.joined += [Joined(eq, indices[name], other=True) for name in others]
    found.joined += [Joined(eq, name) for name in sums]
    found.index[eq.target] = own
    places = [n for n, e in enumerate(eq.place) if isinstance(e, Idx) and e.name == own]
    if places:
        found.dimension[eq.target] = places[0]
        found.sums.discard(eq.target)
    else:
        found.sums.add(eq.target)
        if eq.reduce != "sum":  # the greatest of the examples
            found.joined.append(Joined(eq, indices[own], own=False))


def _is_linear(eq: Equation, sums: Iterable[str]) -> bool:
    """Whether an equation is linear in these tensors: a sum over examples of its values for one of
    them is its value for the sum."""
    if eq.reduce not in (None, "sum"):
        return False
    return all(degree(term, sums) in (0, 1) for term in terms(eq.body))


def degree(expr: Expr, names: Iterable[str]) -> float:
    """The degree of an expression in the tensors of these names; infinite if it is no polynomial,
    or a sum of terms of different degrees."""
    if isinstance(expr, Read):
        inside = any(degree(e, names) for e in expr.children if not isinstance(e, Const))
        return float("inf") if inside else float(expr.tensor in names)
    if not isinstance(expr, Apply):
        return 0
    parts = [degree(a, names) for a in expr.args]
    if not any(parts):
        return 0
    match expr.fn:
        case "mul":
            return sum(parts)
        case "neg" | "f32" | "f64":
            return parts[0]
        case "div" if not parts[1]:
            return parts[0]
        case "add" | "sub" if parts[0] == parts[1]:
            return parts[0]
        # 0 is of any degree
        case "select" if not parts[0] or _is_zero_product(expr.args[0]):
            own = {p for p, a in zip(parts[1:], expr.args[1:], strict=True) if not _is_zero(a)}
            return own.pop() if len(own) == 1 else float("inf")
    return float("inf")


def _is_zero_product(expr: Expr) -> bool:
    """Whether it is the condition of `zero_products`: what it selects is a product, or 0 where one
    factor is 0 and the other infinite."""
    match expr:
        case Apply(fn="and", args=(Apply(fn="eq") as zero, Apply(fn="not") as infinite)):
            found = infinite.args[0]
            return _is_zero(zero.args[1]) and isinstance(found, Apply) and found.fn == "is_finite"
    return False


def _is_zero(expr: Expr) -> bool:
    return isinstance(expr, Const) and expr.value == 0


# --- losses ---------------------------------------------------------------------------------------


def weights_of_sums(system: System, of: str, axis: BatchAxis) -> Mapping[str, float] | None:
    """The constants by which a number multiplies the sums over examples that it is made of; None if
    it is not made of such in this way."""

    def weights(expr: Expr) -> dict[str, float]:
        found: dict[str, float] = {}
        for term in terms(expr):
            scale, factors = _split(term)
            reads = [f for f in factors if not _is_given(f, axis)]
            if not reads:
                continue
            if len(reads) > 1 or not isinstance(reads[0], Read) or reads[0].index:
                raise _Other
            name = reads[0].tensor
            eq = system.definition[name]
            if name in axis.index:
                # a constant in the sum counts, too: `sum(b) x[b] / B`
                if eq.reduce != "sum":
                    raise _Other
                inner = {name: _split(eq.body)[0]}
            else:
                inner = weights(eq.body)
            for key, value in inner.items():
                found[key] = found.get(key, 0.0) + scale * value
        return found

    try:
        return weights(system.definition[of].body)
    except _Other:
        return None


class _Other(Exception):
    """A number that is no weighted sum of sums over examples."""


def _is_given(expr: Expr, axis: BatchAxis) -> bool:
    return all(axis.is_public(n.tensor) for n in walk(expr) if isinstance(n, Read))


def _split(expr: Expr) -> tuple[float, list[Expr]]:
    """The constant factor of a product, and its other factors."""
    if isinstance(expr, Const):
        return float(expr.value), []
    if isinstance(expr, Apply):
        match expr.fn:
            case "mul":
                (a, left), (b, right) = map(_split, expr.args)
                return a * b, [*left, *right]
            case "neg":
                a, rest = _split(expr.args[0])
                return -a, rest
            case "div" if isinstance(expr.args[1], Const) and expr.args[1].value:
                a, rest = _split(expr.args[0])
                return a / expr.args[1].value, rest
    return 1.0, [expr]
