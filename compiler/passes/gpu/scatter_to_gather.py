"""Scatter to gather: every element of an accumulation sums what is added to it.

    target[at…] += body   →   target[o…] = sum(points) body if at… == o… else 0

No two threads add to the same memory, so there are no atomics and the order of additions is fixed:
every run gives the same bits. An index that is by itself at a position of the target (`o`) is not
searched for. Applies to every accumulation, such as the gradient of an embedding.
Tests: tests/backends/test_cuda.py.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.build import call, literal, substitute
from ...ir.equation import Equation, Index, System, free_name
from ...ir.expr import Expr, Idx, index_names
from ..kernels.kernel import Kernel


def scatter_to_gather(kernel: Kernel, system: System) -> Kernel:
    """The kernel, without an accumulation."""
    anchor = kernel.anchor
    if anchor.at is None:
        return kernel
    return replace(kernel, anchor=_gathered(anchor, system))


def _gathered(eq: Equation, system: System) -> Equation:
    assert eq.at is not None
    tensor = system.tensors[eq.target]
    # one index for each dimension of the target, all of it: elements that nothing is added to get 0
    names = (free_name(f"o{d}", eq.sizes) for d in range(len(tensor.shape)))
    outputs = tuple(map(Index, names, tensor.shape))
    substitutes: dict[str, Expr] = {}
    conditions: list[Expr] = []
    sizes = eq.sizes
    for place, (expr, output) in enumerate(zip(eq.at, outputs, strict=True)):
        # `target[j, idx[i]] += …`: j may stand for the output's index if it decides nothing else
        others = [e for d, e in enumerate(eq.at) if d != place]
        here = Idx(output.name)
        if isinstance(expr, Idx) and all(expr.name not in index_names(e) for e in others):
            # solved instead of searched for: the domain has one index less
            substitutes[expr.name] = here
            # the index does not reach the end of the target: nothing is added there
            if sizes[expr.name] < output.size:
                conditions.append(call("lt", here, sizes[expr.name]))
        else:
            # `table[token[b]] += …`: b is searched for, that is, all b are summed with a condition
            conditions.append(call("eq", expr, here))
    over = tuple(i for i in eq.over if i.name not in substitutes)
    condition = conditions[0] if conditions else literal(True)
    for other in conditions[1:]:
        condition = call("and", condition, other)
    zero = literal(0, eq.body.dtype)
    # in the condition, too: an index may be data that depends on a substituted one
    condition, value = (substitute(e, substitutes) for e in (condition, eq.body))
    body = call("select", condition, value, zero)
    # a sum needs something to sum over
    over = over or (Index(free_name("one", eq.sizes), 1),)
    return Equation(eq.target, outputs, body, "sum", over, None, eq.span)
