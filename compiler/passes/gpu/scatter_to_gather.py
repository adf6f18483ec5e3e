"""Accumulations turned round: every element looks for what is added to it.

In: a kernel. Out: the same kernel, or for `target[at…] += body` one whose elements each sum over
the points that lead to them, in order:

    target[o…] = sum(points) body if at… == o… else 0

An index that stands alone at a place of the target is that place's own and is not searched for.
So nothing is added to the same memory by two threads, and the order of additions is fixed.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.build import call, literal, substitute
from ...ir.equation import Equation, Index, System, free_name
from ...ir.expr import Expr, Idx, index_names
from ..kernels.kernel import Kernel


def scatter_to_gather(kernel: Kernel, system: System) -> Kernel:
    """The kernel without an accumulation."""
    anchor = kernel.anchor
    if anchor.at is None:
        return kernel
    return replace(kernel, anchor=_turned(anchor, system))


def _turned(eq: Equation, system: System) -> Equation:
    assert eq.at is not None
    tensor = system.tensors[eq.target]
    names = (free_name(f"o{d}", eq.sizes) for d in range(len(tensor.shape)))
    outputs = tuple(map(Index, names, tensor.shape))
    own: dict[str, Expr] = {}
    conditions: list[Expr] = []
    sizes = eq.sizes
    for place, (expr, output) in enumerate(zip(eq.at, outputs, strict=True)):
        others = [e for d, e in enumerate(eq.at) if d != place]
        here = Idx(output.name)
        if isinstance(expr, Idx) and all(expr.name not in index_names(e) for e in others):
            own[expr.name] = here
            if sizes[expr.name] < output.size:
                conditions.append(call("lt", here, sizes[expr.name]))
        else:
            conditions.append(call("eq", expr, here))
    over = tuple(i for i in eq.over if i.name not in own)
    condition = conditions[0] if conditions else literal(True)
    for other in conditions[1:]:
        condition = call("and", condition, other)
    zero = literal(0, eq.body.dtype)
    body = call("select", substitute(condition, own), substitute(eq.body, own), zero)
    over = over or (Index(free_name("one", eq.sizes), 1),)
    return Equation(eq.target, outputs, body, "sum", over, None, eq.span)
