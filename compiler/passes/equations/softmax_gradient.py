"""Softmax gradient: rewrite the gradient of a softmax in terms of its output.

    y[i] = e[i] / s,  s = sum(i) e[i],  e[i] = exp(x[i]):

    d_s    = sum(i) -(d_y[i] * y[i] / s)     →     d_s    = sum(i) -(d_y[i] * y[i])
    d_x[i] = (d_y[i] / s + d_s) * e[i]             d_x[i] = (d_y[i] + d_s) * y[i]

The right-hand side is the gradient of textbooks, y * (dy - sum dy * y): it divides nothing and does
not read e, which need not be stored for it beside y. Applies to any product of e and a sum whose
terms are all divided by s, or are sums that nothing else reads and whose terms are all divided
by s. Exact but for rounding. Tests: tests/passes/test_softmax_gradient.py.
"""

from __future__ import annotations

from ...ir.build import rewrite, substitute
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, System, is_identity
from ...ir.expr import Apply, Expr, Read, index_names
from ...ir.terms import factors, product, terms, total


def softmax_gradient(system: System) -> System:
    """The system with (t / s) * e replaced by t * y, for every y = e / s."""
    edit = SystemEdit(system)
    for eq in system.equations:
        numerator = _numerator(eq)
        # Every reader of e but y itself may be a part of the gradient.
        for reader in system.readers[numerator.tensor] if numerator else ():
            if reader.target != eq.target:
                edit.replace(*_through_quotient(edit[reader.target], eq, edit))
    return edit.result()


def _numerator(eq: Equation) -> Read | None:
    """The e of an equation y = e / s, which reads e at its own indices."""
    body = eq.body
    if eq.reduce is not None or eq.at is not None or not isinstance(body, Apply):
        return None
    if body.fn != "div" or not all(isinstance(x, Read) for x in body.args):
        return None
    e, s = body.args
    return e if is_identity(e, eq) and s.other is None else None  # type: ignore


def _through_quotient(reader: Equation, quotient: Equation, edit: SystemEdit) -> list[Equation]:
    """The reader of e with (t / s) * e as t * y, and the sums in t without their division; nothing
    if not all of t is divided by s."""
    body, (e, s) = reader.body, quotient.body.children
    parts = factors(body)
    # One factor e, which stands nowhere else: replacing it changes nothing but the product.
    own = [f for f in parts if isinstance(f, Read) and f.tensor == e.tensor]  # type: ignore
    if len(own) != 1 or own[0].other is not None or _occurrences(body, own[0].tensor) != 1:
        return []
    places = dict(zip((i.name for i in quotient.indices), own[0].index, strict=True))
    y = Read(quotient.target, own[0].index, None, own[0].dtype)
    # 1/s at the place where the reader reads e.
    inverse = 1.0 / substitute(s, places)
    # Any additive factor can be t; it may not occur twice, as the rewrite goes by identity.
    for t in parts:
        if not isinstance(t, Apply) or t.fn not in ("add", "sub") or _occurrences(body, t) != 1:
            continue
        sums: dict[str, Equation] = {}
        undivided = [_without_factor(inverse, factors(term), edit, sums) for term in terms(t)]
        # A sum that the reader reads twice would be changed for the other place, too.
        if None not in undivided and all(_occurrences(body, name) == 1 for name in sums):
            changes = {t: total(undivided), own[0]: y}  # type: ignore[arg-type]
            return [*sums.values(), reader.with_body(rewrite(body, changes.get))]
    return []


def _occurrences(expr: Expr, what: Expr | str) -> int:
    """How often an expression, or a read of a tensor, occurs in the tree of another."""
    is_it = expr is what or (isinstance(expr, Read) and expr.tensor == what)
    return is_it + sum(_occurrences(child, what) for child in expr.children)


def _without_factor(
    factor: Expr, parts: list[Expr], edit: SystemEdit, sums: dict[str, Equation]
) -> Expr | None:
    """The product of `parts` without a factor. It may be a factor of the body of a sum that nothing
    else reads; that sum without it is added to `sums`. None if it is in neither."""
    # t = g/s: the factor itself.
    if factor in parts:
        parts.remove(factor)
        return product(parts)
    system = edit.system
    for part in parts:
        # t = sum(…)/s, the division inside of the sum.
        if not isinstance(part, Read) or part.other is not None or part.tensor in system.roots:
            continue
        if len(system.readers[part.tensor]) != 1 or part.tensor not in system.definition:
            continue
        eq = edit[part.tensor]
        if eq.reduce != "sum" or eq.at is not None:
            continue
        places = dict(zip((i.name for i in eq.indices), part.index, strict=True))
        over, inner = {i.name for i in eq.over}, factors(eq.body)
        for f in inner:
            # 1/s does not depend on the summed indices, so it can leave the sum; and at the place
            # of this read it must be the same s.
            if over.isdisjoint(index_names(f)) and substitute(f, places) is factor:
                inner.remove(f)
                sums[eq.target] = eq.with_body(product(inner))
                return product(parts)
    return None
