"""The origin of a value that is not finite: a backward slice from one element through its operands.

In: a derived system, all its arrays as `evaluate` gives them, and an element that is infinite or
NaN. Out: the elements through which it came, the origin last. An infinity that the program writes,
as in a mask, is intended: then the origin is the operation that misused it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from ...dsl.records import record
from ..ir.dtypes import is_float
from ..ir.equation import Equation, System
from ..ir.expr import Apply, Const, Expr, Read
from ..ir.gradients import adjoints
from .evaluator import IndexGrid, one_value

Index = tuple[int, ...]


@record
class Bad:
    """An element that is not finite. `equation` computes it; None for inputs, params and states.
    `how` is, at the origin, the operation with its operands: `log(0.0)`; else it is empty.
    `written` is the equation that writes the infinity that it was computed from, if one does."""

    tensor: str
    index: Index
    value: float
    equation: Equation | None
    how: str = ""
    written: Equation | None = None

    def __str__(self) -> str:
        at = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return f"{self.tensor}{at}"


def first_bad(array: np.ndarray) -> Index | None:
    """The first index in row-major order whose value is infinite or not a number, if any is."""
    if array.dtype.kind != "f":
        return None
    # One sum is cheaper than a test of every element; it may overflow, so bad sums are looked into.
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum()):  # a bad element makes a bad sum
            return None
    bad = ~np.isfinite(array)
    if not bad.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(bad.argmax()), array.shape))


@np.errstate(all="ignore")
def trace_nonfinite(
    system: System, arrays: Mapping[str, np.ndarray], name: str, index: Index
) -> list[Bad]:
    """The elements that are not finite, from the given one back to the origin."""
    chain: list[Bad] = []
    seen = set()
    step: tuple[str, Index] | None = (name, index)
    definition = system.definition
    # From each bad element to the operand that made it so. Values come from earlier elements, so
    # this ends; `seen` keeps a wrong array from looping.
    while step is not None and step not in seen:
        seen.add(step)
        name, index = step
        value = float(arrays[name][index])
        eq = definition.get(name)
        if eq is None:
            chain.append(Bad(name, index, value, None, "an input of the step"))
            break
        step, how = _cause(eq, index, system, arrays)
        chain.append(Bad(name, index, value, eq, how))
    chain = _without_written(chain)
    return [*chain[:-1], _by_its_slope(chain[-1], system, arrays)]


_WRITTEN = "written so"


def _by_its_slope(origin: Bad, system: System, arrays: Mapping[str, np.ndarray]) -> Bad:
    """The origin of a gradient is the equation whose derivative is not finite there, if there is
    one: the gradient's own equation only adds up contributions."""
    gradients = {**system.contributions, **system.adjoints}
    name = gradients.get(origin.tensor)
    if name not in system.tensors or name not in arrays:
        return origin
    # The forward equations that read the tensor x, for the origin d_x.
    for eq in system.equations:
        if eq.target in gradients or name not in eq.sources or not is_float(eq.body.dtype):
            continue
        # With a seed of 1, the adjoint of a read is the slope of the equation itself.
        slopes = adjoints(eq, Const(1.0, eq.body.dtype), lambda n: system.tensors[n].shape)
        grid = IndexGrid(eq, system, dict(arrays), {})
        for read, slope in slopes.items():
            if read.tensor != name:
                continue
            bad = ~np.isfinite(grid.value(slope))
            # Of all points of the domain, those at which this element of x is read.
            for place, at in zip(read.index, origin.index, strict=True):
                bad = bad & (grid.value(place) == at)
            if bad.any():
                how = f"the slope of `{eq.target}` is not finite there"
                return replace(origin, equation=eq, how=how)
    return origin


def _without_written(chain: list[Bad]) -> list[Bad]:
    """If the program writes the infinity, the origin is where it became NaN or was first used."""
    if chain[-1].how != _WRITTEN or len(chain) == 1:
        return chain
    # The chain runs from the result back to the origin: the last NaN is the first that arose.
    last = max(
        (n for n, bad in enumerate(chain[:-1]) if np.isnan(bad.value)), default=len(chain) - 2
    )
    cause = chain[last + 1]
    how = f"made of {cause} = {cause.value:g}"
    return [*chain[:last], replace(chain[last], how=how, written=chain[-1].equation)]


def _cause(
    eq: Equation, index: Index, system: System, arrays: Mapping[str, np.ndarray]
) -> tuple[tuple[str, Index] | None, str]:
    """The operand that is not finite, or else the operation that makes this element so."""
    # A bad operand explains the element; without one, finite values overflowed.
    for point in _points(eq, index, system, arrays):
        found = _in_expression(eq.body, point)
        if found is not None:
            return found
    if eq.reduce is None and eq.at is None:
        return None, ""
    return None, f"{eq.reduce or 'sum'} of {_count(eq):,} finite values"


def _count(eq: Equation) -> int:
    return int(np.prod([i.size for i in (eq.over if eq.at is None else eq.domain)]))


class _Point:
    """The values of expressions at one point of an equation's domain."""

    def __init__(self, grid: IndexGrid, place: Index):
        self.grid, self.place = grid, place

    def value(self, expr: Expr):
        return self.grid.full(expr)[self.place]


def _points(
    eq: Equation, index: Index, system: System, arrays: Mapping[str, np.ndarray]
) -> Iterator[_Point]:
    """The points that the element is computed from and where the body is not finite, in order."""
    # All of an element's terms: its own indices fixed, the summed ones free. The terms of a scatter
    # are those whose place is the element.
    fixed = (
        {} if eq.at is not None else {i.name: at for i, at in zip(eq.indices, index, strict=True)}
    )
    grid = IndexGrid(eq, system, dict(arrays), one_value(fixed))
    bad = ~np.isfinite(grid.full(eq.body))
    for at, coordinate in zip(eq.at or (), index, strict=eq.at is not None):
        bad &= grid.full(at) == coordinate
    # One bad term is enough for an explanation; the first, so that reports are the same every time.
    for place in np.argwhere(bad)[:1]:
        yield _Point(grid, tuple(int(p) for p in place))


def _in_expression(expr: Expr, point: _Point) -> tuple[tuple[str, Index] | None, str] | None:
    """The read through which an expression is not finite, or the function that makes it so."""
    if isinstance(expr, Const):
        return None, _WRITTEN
    if isinstance(expr, Read):
        return _in_read(expr, point)
    if not isinstance(expr, Apply):
        return None
    children = expr.args
    # The branch that was not taken has no part in the value.
    if expr.fn == "select":
        children = (expr.args[1] if point.value(expr.args[0]) else expr.args[2],)
    values = [float(point.value(c)) for c in children]
    bad = [n for n, v in enumerate(values) if not np.isfinite(v)]
    # NaN before infinity, and what was computed before what is written: the likelier causes first.
    bad.sort(key=lambda n: (not np.isnan(values[n]), isinstance(children[n], Const)))
    for n in bad:
        found = _in_expression(children[n], point)
        if found is not None and found[1] != _WRITTEN:
            return found
    # These pass a written infinity through unchanged; it is not misused yet.
    if bad and len(children) == 1 and expr.fn in ("select", "neg", "f16", "bf16", "stop"):
        return None, _WRITTEN
    return None, f"{expr.fn}({', '.join(f'{v:g}' for v in values)})"


def _in_read(read: Read, point: _Point) -> tuple[tuple[str, Index] | None, str] | None:
    array = point.grid.arrays[read.tensor]
    index = tuple(int(point.value(i)) for i in read.index)
    if all(0 <= i < size for i, size in zip(index, array.shape, strict=True)):
        return (read.tensor, index), ""
    if read.other is not None:
        return _in_expression(read.other, point)
    return None, f"{read.tensor}[{', '.join(map(str, index))}] is outside {list(array.shape)}"
