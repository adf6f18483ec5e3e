"""The work of an expression and of an equation.

`flops` counts the operations of sums of products, the unit of a model's cost; `operations` is an
estimate for every equation, by which `nnc profile` divides a kernel's time. Both leave out the taps
of a window that fall outside its tensor.
"""

from __future__ import annotations

from math import prod

import numpy as np

from .affine import affine, is_affine
from .dtypes import is_float
from .equation import Equation, System
from .expr import Apply, Const, Expr, Read, walk
from .functions import TABLE
from .terms import multiplicands


def cost(expr: Expr) -> int:
    """Operations per element, in multiplications."""
    return sum(TABLE[n.fn].cost for n in walk(expr) if isinstance(n, Apply))


def flops(eq: Equation, system: System) -> int:
    """Floating-point operations of a sum of products of tensors: an addition and the products at
    each point. 0 for everything else, which a model's cost leaves out (the gradient of a maximum
    selects one of many, and multiplies nothing)."""
    if eq.reduce != "sum":
        return 0
    if isinstance(eq.body, Apply) and eq.body.fn == "bf16_dot":
        # Two products and two additions at each point, as each read holds a pair.
        return round(4 * _points(eq, system))
    parts = [part for part in multiplicands(eq.body) if _is_data(part)]
    if len(parts) < 2:
        return 0
    # One product fewer than factors, and the addition to the sum.
    return round(len(parts) * _points(eq, system))


def operations(eq: Equation, system: System) -> float:
    """All operations of an equation, in multiplications."""
    return max(1, cost(eq.body) + (eq.reduce is not None)) * _points(eq, system)


def _is_data(factor: Expr) -> bool:
    """Whether a factor holds numbers from tensors, and does not select between 1 and 0."""
    if isinstance(factor, Apply) and factor.fn == "select":
        return not any(isinstance(branch, Const) and branch.value == 0 for branch in factor.args)
    return any(isinstance(node, Read) and is_float(node.dtype) for node in walk(factor))


def _points(eq: Equation, system: System) -> float:
    """The points of the domain at which no factor falls outside its tensor and is 0."""
    share = 1.0
    # `(x[i + u] else 0)`: a padded window; another value outside would count.
    for read in multiplicands(eq.body) if eq.reduce == "sum" else ():
        if not isinstance(read, Read) or not isinstance(read.other, Const) or read.other.value:
            continue
        for place, size in zip(read.index, system.tensors[read.tensor].shape, strict=True):
            # As if dimensions were independent, which holds for windows: each has indices of its
            # own.
            share *= share_inside(place, size, eq.sizes)
    return prod(i.size for i in eq.domain) * share


def share_inside(place: Expr, size: int, sizes: dict[str, int]) -> float:
    """The share of the values of its indices for which a place lies inside; 1 if not affine."""
    form = affine(place)
    if not form.coefficients or not is_affine(place):
        return 1.0
    values = np.array(form.constant)
    # The place for all combinations of index values, one axis per index: few, as padded windows
    # have two or three indices per dimension.
    for index, factor in form.coefficients.items():
        values = np.add.outer(values, factor * np.arange(sizes[index.name]))  # type: ignore
    return float(np.mean((values >= 0) & (values < size)))
