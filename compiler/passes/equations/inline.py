"""Inlining: compute a cheap value where it is read, instead of storing and loading it.

    h[i] = x[i] + 1;  y[i] = h[i] * z[i]   →   y[i] = (x[i] + 1) * z[i]

A pointwise equation with one reader, or one that costs next to nothing, is substituted into its
readers; it is not where that would compute a value more than once: into a sum over other indices,
into the index of a gather, or past a reduction in whose kernel it can be stored for free.
Tests: tests/passes/test_passes.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ...ir.build import rewrite, substitute
from ...ir.equation import Equation, System, Tensor, is_identity
from ...ir.expr import Apply, Expr, Read, reads
from ...ir.work import cost
from ...targets import EquationCosts, Target
from .views import of_later, views


def inline(system: System, target: Target) -> System:
    """The system with pointwise equations in their readers, where that saves more than it costs."""
    # Outputs must exist; recurrences go by steps; a view costs nothing and is no computation.
    fixed = {*system.roots, *system.recurrent, *views(system)}
    now = dict(system.definition)
    readers = {name: {eq.target for eq in found} for name, found in system.readers.items()}
    # In dependence order: an equation already holds what was inlined into it.
    for name in list(now):
        eq = now[name]
        if eq.reduce is not None or eq.at is not None or name in fixed:
            continue
        reading = [now[r] for r in readers.get(name, ())]
        if not _is_worthwhile(eq, reading, now, system.tensors, target.equations):
            continue
        del now[name]
        for reader in reading:
            now[reader.target] = _with_inlined(reader, eq)
        # Those that read the inlined value now read what it was computed from.
        for source in eq.sources:
            readers[source] = (readers[source] | readers[name]) - {name}
    tensors = {n: t for n, t in system.tensors.items() if n in now or t.kind != "temp"}
    return system.replace(equations=tuple(now.values()), tensors=tensors)


def _is_worthwhile(
    eq: Equation,
    readers: list[Equation],
    definition: Mapping[str, Equation],
    tensors: Mapping[str, Tensor],
    costs: EquationCosts,
) -> bool:
    # `after(x, …)` waits for the tensor to be stored; inlined, it would be computed late.
    if any(_delays(r, eq) for r in readers):
        return False
    found = [
        (r, read)
        for r in readers
        for read in r.reads
        if read.tensor == eq.target and not _is_after(r)
    ]
    # A guarded read has another value outside the tensor; the body would have its own there.
    if not found or any(read.other is not None for _, read in found):
        return False
    own, size = cost(eq.body), tensors[eq.target].size
    # Long bodies: registers run out, and compile time grows.
    if any(own + cost(r.body) > costs.inlined_body for r, _ in found):
        return False
    for reader, read in found:
        # The reader's domain is larger than the value's: each element would be computed repeatedly.
        repeated = prod(i.size for i in reader.domain) > max(size, 1)
        if _is_in_index(reader, read) or (repeated and own and size > 1):
            return False
        # Several readers, each of which would pay for it at every term of its reduction.
        if (reader.reduce or reader.at) and own > costs.recomputed and len(found) > 1:
            return False
    if len(found) == 1 or size == 1:
        return True
    # Several readers: only what is cheap to compute again and loads little.
    few = own <= costs.recomputed and len(reads(eq.body)) <= 2
    return few and not _fuses_to_reduction(eq, definition)


def _is_after(eq: Equation) -> bool:
    return isinstance(eq.body, Apply) and eq.body.fn == "after"


def _delays(reader: Equation, eq: Equation) -> bool:
    """Whether the reader is `after(x, …)` of the equation's target x, which is stored for it. What
    such a reader waits for is not computed from, and may be inlined into others."""
    return _is_after(reader) and eq.target in {r.tensor for r in reads(of_later(reader.body))}


def _fuses_to_reduction(eq: Equation, definition: Mapping[str, Equation]) -> bool:
    """Whether the value can be stored in place of a reduction's own result, which costs nothing."""
    # Exactly one computed source, a reduction, read element by element: an epilogue.
    made = [definition[s] for s in eq.sources if s in definition]
    if len(made) != 1 or made[0].reduce is None:
        return False
    own = [r for r in eq.reads if r.tensor == made[0].target]
    same = tuple(i.size for i in made[0].indices) == tuple(i.size for i in eq.indices)
    return same and all(is_identity(r, eq) for r in own)


def _is_in_index(reader: Equation, read: Read) -> bool:
    """Whether the read is part of an index: gathers stay as they are."""
    # A gather's index is computed once as integers; inlined, it would be for each column.
    places = [e for other in reader.reads for e in other.index] + list(reader.at or ())
    return any(read in reads(place) for place in places)


def _with_inlined(reader: Equation, eq: Equation) -> Equation:
    """The reader with the equation's body in place of its result."""
    names = [i.name for i in eq.indices]

    def change(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor == eq.target:
            return substitute(eq.body, dict(zip(names, node.index, strict=True)))
        return None

    return reader.with_body(rewrite(reader.body, change))
