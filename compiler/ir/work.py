"""How much work an equation is: what speeds are counted in, and what time is shared out by.

In: equations and the shapes of what they read. Out: `flops`, the operations of sums of products,
and `operations`, rough numbers for everything. Both leave out what is known not to be computed: the
taps of a window beyond a border.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ..passes.equations.inline import cost
from ..reference.evaluator import factors
from .affine import affine, is_affine
from .dtypes import is_float
from .equation import Equation, System
from .expr import Apply, Const, Expr, Read, walk


def flops(eq: Equation, system: System) -> int:
    """Floating-point operations of a sum of products of tensors: for each point an addition and as
    many multiplications as it takes; 0 for everything else, which is not what a model's cost is
    counted in (a maximum's gradient picks one of many, and multiplies nothing)."""
    if eq.reduce != "sum":
        return 0
    if isinstance(eq.body, Apply) and eq.body.fn == "bf16_dot":
        return round(4 * _points(eq, system))
    parts = [part for part in factors(eq.body) if _is_data(part)]
    if len(parts) < 2:
        return 0
    return round(len(parts) * _points(eq, system))


def operations(eq: Equation, system: System) -> float:
    """All operations of an equation, those of long functions counted as several."""
    return max(1, cost(eq.body) + (eq.reduce is not None)) * _points(eq, system)


def _is_data(factor: Expr) -> bool:
    """Whether a factor is numbers from tensors, and not a choice of one or zero by indices."""
    if isinstance(factor, Apply) and factor.fn == "select":
        return not any(isinstance(branch, Const) and branch.value == 0 for branch in factor.args)
    return any(isinstance(node, Read) and is_float(node.dtype) for node in walk(factor))


def _points(eq: Equation, system: System) -> float:
    """The points of the domain at which no factor is the 0 of a border."""
    share = 1.0
    for read in factors(eq.body) if eq.reduce == "sum" else ():
        if not isinstance(read, Read) or not isinstance(read.other, Const) or read.other.value:
            continue
        for place, size in zip(read.index, system.tensors[read.tensor].shape, strict=True):
            share *= share_inside(place, size, eq.sizes)
    return prod(i.size for i in eq.domain) * share


def share_inside(place: Expr, size: int, sizes: dict[str, int]) -> float:
    """For how many of the values of its indices a place lies inside; all, if it is not affine."""
    form = affine(place)
    if not form.coefficients or not is_affine(place):
        return 1.0
    values = np.array(form.constant)
    for index, factor in form.coefficients.items():
        values = np.add.outer(values, factor * np.arange(sizes[index.name]))  # type: ignore
    return float(np.mean((values >= 0) & (values < size)))
