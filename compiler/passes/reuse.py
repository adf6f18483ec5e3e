"""Values that are stored already: an expression that another equation computes is read from there.

In: a system. Out: an equal one. Derivatives speak of the function's own result (`1 - tanh(a)^2`,
`[max(a, 0) > 0]`), so this is what makes a backward pass read the `h` that the forward pass wrote.
"""

from __future__ import annotations

from ..affine import inside
from ..ir import (
    Apply,
    Const,
    Equation,
    Expr,
    Idx,
    Read,
    System,
    components,
    index_names,
    reads,
    rewrite,
)


def reuse(system: System) -> System:
    """Subexpressions equal to the body of an earlier pointwise equation become reads of it."""
    known: dict[tuple, list[Equation]] = {}
    result: dict[str, Equation] = {}
    for component in components(system.equations):
        fresh = [_with_known(eq, known) for eq in component]
        for eq in fresh:
            result[eq.target] = eq
        for eq, new in zip(component, fresh, strict=True):
            if not _is_value(eq):
                continue
            known.setdefault(_skeleton(eq.body), []).append(eq)
            known.setdefault(_skeleton(new.body), []).append(new)
    return system.replace(equations=tuple(result[eq.target] for eq in system.equations))


def _is_value(eq: Equation) -> bool:
    """Whether the equation stores an expression at every point of its own indices."""
    return (
        eq.reduce is None and eq.at is None and isinstance(eq.body, Apply)
        and index_names(eq.body) == {i.name for i in eq.indices} and eq.target not in eq.sources
        and eq.body.fn not in ("stop", "neg", "select")
    )  # fmt: skip


def _skeleton(expr: Expr) -> tuple:
    """What two expressions must share to be equal up to their indices; cheap to compare."""
    tensors = sorted({read.tensor for read in reads(expr)})
    fn = expr.fn if isinstance(expr, Apply) else ""
    return (fn, expr.dtype, *tensors)


def _with_known(eq: Equation, known: dict[tuple, list[Equation]]) -> Equation:
    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Apply):
            return None
        for other in known.get(_skeleton(node), ()):
            places: dict[str, Expr] = {}
            if other.target != eq.target and _match(other.body, node, places):
                fits = all(inside(places[i.name], i.size, eq.sizes) for i in other.indices)
                if fits:
                    place = tuple(places[i.name] for i in other.indices)
                    return Read(other.target, place, None, node.dtype)
        return None

    return eq.with_body(rewrite(eq.body, change))


def _match(pattern: Expr, expr: Expr, places: dict[str, Expr]) -> bool:
    """Whether the pattern, with its indices replaced by expressions, is the expression."""
    if isinstance(pattern, Idx):
        return places.setdefault(pattern.name, expr) is expr
    if isinstance(pattern, Const):
        return pattern is expr
    if type(pattern) is not type(expr) or len(pattern.children) != len(expr.children):
        return False
    if isinstance(pattern, Read) and (
        pattern.tensor != expr.tensor or (pattern.other is None) != (expr.other is None)  # type: ignore
    ):
        return False
    if isinstance(pattern, Apply) and (pattern.fn, pattern.dtype) != (expr.fn, expr.dtype):  # type: ignore
        return False
    return all(_match(a, b, places) for a, b in zip(pattern.children, expr.children, strict=True))
