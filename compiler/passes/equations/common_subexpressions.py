"""Common-subexpression elimination: read what an earlier equation stores.

    h[i] = tanh(a[i]);   d[i] = g[i] * (1 - tanh(a[i])^2)   →   …;   d[i] = g[i] * (1 - h[i]^2)

A load costs less than most functions, and a derivative often needs its function's own value: this
pass makes the backward pass read what the forward pass stored. From a stored y = a + b*f(x) a long
f(x) is read as (y - a)/b, which loses nothing where |a| <= |b|, because y is then rounded no more
coarsely than b*f(x): 0.5 + 0.5*tanh(x) gives tanh(x) in a sigmoid. Applies to bodies of pointwise
equations, matched up to the names of indices; the indices that match must lie inside the stored
tensor. Value numbering: Cocke and Schwartz (1970). Tests: tests/passes/test_passes.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.affine import inside
from ...ir.build import literal, substitute
from ...ir.dtypes import is_float
from ...ir.equation import Equation, System
from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names, reads
from ...ir.functions import TABLE
from ...ir.terms import match
from ...targets import Target


@dataclass(frozen=True)
class _Available:
    """`expr`, over the indices of `equation`, is `value`, which reads the equation's target."""

    expr: Expr
    equation: Equation
    value: Expr


def common_subexpressions(system: System, target: Target) -> System:
    """Subexpressions equal to the body of an earlier pointwise equation become reads of it."""
    available: dict[tuple, list[_Available]] = {}
    read_together: dict[str, set[frozenset[str]]] = {}  # by what is available, by the first name
    result: dict[str, Equation] = {}
    # In dependence order: what is available was computed before. Equations of one recurrence do not
    # serve each other, as their elements exist step by step.
    for component in system.components:
        fresh = [
            _with_available(eq, available) if _may_match(eq, read_together) else eq
            for eq in component
        ]
        for old, new in zip(component, fresh, strict=True):
            result[new.target] = new
            if _is_available(old):
                stored = Read(old.target, old.place, None, old.dtype)
                # Under its old body as well as under its rewritten one, as later bodies may have
                # been rewritten in the same way, or not.
                bodies = dict.fromkeys((old.body, new.body))
                fresh_ones = [_Available(body, old, stored) for body in bodies]
                undone = _undone(old, stored, target.equations.long_function)
                for one in (*fresh_ones, undone) if undone else fresh_ones:
                    tensors = frozenset(read.tensor for read in reads(one.expr))
                    read_together.setdefault(min(tensors, default=""), set()).add(tensors)
                    coarse = _coarse_key(one.expr)
                    # An index outside reads matches anything, constants included.
                    outside = _outside_reads(one.expr)
                    free = any(isinstance(node, Idx) for node in outside)
                    key = coarse if free else (coarse, *_constants(outside))
                    # Without the coarse key nothing finer is looked for.
                    available.setdefault(coarse, [])
                    available.setdefault(key, []).append(one)
    return system.replace(equations=tuple(result[eq.target] for eq in system.equations))


def _undone(eq: Equation, stored: Read, long: int) -> _Available | None:
    """The function f(x) of a body a + b*f(x) from the stored value, if its cost is `long`."""
    offset, factor, expr = 0.0, 1.0, eq.body
    # Peel a + …, b * … from the outside in: body = offset + factor * expr.
    while isinstance(expr, Apply) and expr.fn in ("add", "mul") and is_float(expr.dtype):
        constant, rest = expr.args if isinstance(expr.args[0], Const) else expr.args[::-1]
        if not isinstance(constant, Const) or expr.dtype != stored.dtype:
            return None
        if expr.fn == "add":
            offset += factor * constant.value
        else:
            factor *= constant.value
        expr = rest
    if expr is eq.body or not isinstance(expr, Apply) or TABLE[expr.fn].cost < long:
        return None
    # The docstring's condition |a| <= |b|: else cancellation in y - a would lose digits.
    if abs(offset) > abs(factor) or expr.dtype != stored.dtype:
        return None
    value = stored * literal(1 / factor, expr.dtype) + literal(-offset / factor, expr.dtype)
    return _Available(expr, eq, value)


def _is_available(eq: Equation) -> bool:
    """Whether the equation stores an expression at every point of its own indices."""
    return (
        eq.reduce is None
        and eq.at is None
        and isinstance(eq.body, Apply)
        # Every index must occur, or a match would leave the place in the stored tensor unknown.
        and index_names(eq.body) == {i.name for i in eq.indices}
        and eq.target not in eq.sources
        # Cheaper to compute than to load, or meant to stand where they are.
        and eq.body.fn not in ("stop", "after", "neg", "select")
    )


def _coarse_key(expr: Expr) -> tuple:
    """Equal for expressions that match, and cheaper than matching."""
    fn = expr.fn if isinstance(expr, Apply) else ""
    return fn, expr.dtype, *sorted({read.tensor for read in reads(expr)})


def _constants(outside: set[Expr]) -> list[str]:
    """Equal for expressions that match and have no index outside their reads, given the nodes that
    stand there."""
    return sorted(repr(n.value) for n in outside if isinstance(n, Const))


def _outside_reads(expr: Expr) -> set[Expr]:
    """The nodes of an expression that stand in no index of a read."""
    found: set[Expr] = set()
    stack = [expr]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            if isinstance(node, Read):
                stack += [] if node.other is None else [node.other]
            else:
                stack += node.children
    return found


def _may_match(eq: Equation, read_together: Mapping[str, set[frozenset[str]]]) -> bool:
    """Whether the equation reads all that something available reads."""
    own = {*eq.sources}
    return any(names <= own for one in ("", *own) for names in read_together.get(one, ()))


def _with_available(eq: Equation, available: dict[tuple, list[_Available]]) -> Equation:
    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Apply):
            return None
        # By key first: full matching is attempted on few candidates.
        coarse = _coarse_key(node)
        if coarse not in available:
            return None
        fine = available.get((coarse, *_constants(_outside_reads(node))), [])
        for one in (*available[coarse], *fine):
            stored = one.equation
            places = match(one.expr, node) if stored.target != eq.target else None
            if places is None:
                continue
            # The stored tensor has only the elements of its own domain.
            if all(inside(places[i.name], i.size, eq.sizes) for i in stored.indices):
                return substitute(one.value, places)
        return None

    return eq.rewrite(change)
