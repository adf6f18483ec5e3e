"""Values that are stored already: an expression that another equation computes is read from there.

In: a system. Out: an equal one. Derivatives speak of the function's own result (`1 - tanh(a)^2`,
`[max(a, 0) > 0]`), so this is what makes a backward pass read the `h` that the forward pass wrote.
And if 0.5 + 0.5*tanh(a) is stored, tanh(a) is twice that less 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.affine import inside
from ...ir.build import call, literal, rewrite, substitute
from ...ir.dtypes import is_float
from ...ir.equation import Equation, System
from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names, reads
from ...ir.functions import TABLE

LONG = 10  # operations that are worth undoing the few around them


@dataclass(frozen=True)
class _Value:
    """What `pattern` is at the equation's own indices, said through what the equation stores."""

    pattern: Expr
    equation: Equation
    said: Expr


def common_subexpressions(system: System) -> System:
    """Subexpressions equal to the body of an earlier pointwise equation become reads of it."""
    known: dict[tuple, list[_Value]] = {}
    result: dict[str, Equation] = {}
    for component in system.components:
        fresh = [_with_known(eq, known) for eq in component]
        for eq in fresh:
            result[eq.target] = eq
        for eq, new in zip(component, fresh, strict=True):
            if not _is_value(eq):
                continue
            own = tuple(Idx(i.name) for i in eq.indices)
            stored = Read(eq.target, own, None, system.tensors[eq.target].dtype)
            whole = _Value(eq.body, eq, stored), _Value(new.body, eq, stored)
            for value in (*whole, _inner(eq, stored)):
                if value is not None:
                    known.setdefault(_skeleton(value.pattern), []).append(value)
    return system.replace(equations=tuple(result[eq.target] for eq in system.equations))


def _inner(eq: Equation, stored: Read) -> _Value | None:
    """The long function inside y = a + b*f(x), which is (y - a)/b: tanh in a sigmoid. That loses
    nothing if |a| <= |b|, as y is then rounded no more coarsely than b*f(x)."""
    offset, factor, expr = 0.0, 1.0, eq.body
    while isinstance(expr, Apply) and expr.fn in ("add", "mul") and is_float(expr.dtype):
        constant, rest = expr.args if isinstance(expr.args[0], Const) else expr.args[::-1]
        if not isinstance(constant, Const) or expr.dtype != stored.dtype:
            return None
        if expr.fn == "add":
            offset += factor * constant.value
        else:
            factor *= constant.value
        expr = rest
    if expr is eq.body or not isinstance(expr, Apply) or TABLE[expr.fn].cost < LONG:
        return None
    if abs(offset) > abs(factor) or expr.dtype != stored.dtype:
        return None
    scaled = call("mul", stored, literal(1 / factor, expr.dtype))
    return _Value(expr, eq, call("add", scaled, literal(-offset / factor, expr.dtype)))


def _is_value(eq: Equation) -> bool:
    """Whether the equation stores an expression at every point of its own indices."""
    return (
        eq.reduce is None
        and eq.at is None
        and isinstance(eq.body, Apply)
        and index_names(eq.body) == {i.name for i in eq.indices}
        and eq.target not in eq.sources
        and eq.body.fn not in ("stop", "after", "neg", "select")
    )


def _skeleton(expr: Expr) -> tuple:
    """What two expressions must share to be equal up to their indices; cheap to compare."""
    tensors = sorted({read.tensor for read in reads(expr)})
    fn = expr.fn if isinstance(expr, Apply) else ""
    return (fn, expr.dtype, *tensors)


def _with_known(eq: Equation, known: dict[tuple, list[_Value]]) -> Equation:
    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Apply):
            return None
        for value in known.get(_skeleton(node), ()):
            other = value.equation
            places: dict[str, Expr] = {}
            if other.target == eq.target or not _match(value.pattern, node, places):
                continue
            if all(inside(places[i.name], i.size, eq.sizes) for i in other.indices):
                return substitute(value.said, places)
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
