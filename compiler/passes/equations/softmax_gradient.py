"""Shares: the gradient through a share of a whole is said through the share.

In: a system. Out: an equal one. Of y[i] = e[i] / s, where s is the sum of all e, calculus makes

    d_s    = sum(i) -(d_y[i] * y[i] / s)         d_s    = sum(i) -(d_y[i] * y[i])
    d_x[i] = (d_y[i] / s + d_s) * e[i]           d_x[i] = (d_y[i] + d_s) * y[i]

where x is what e is the exponential of. What stands on the right is the gradient of a softmax as
textbooks have it: it divides nothing, and needs no e, which would be kept for it beside y.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from ...ir.build import call, literal, rewrite, substitute
from ...ir.equation import Equation, System, is_identity
from ...ir.expr import Apply, Expr, Read, index_names
from ...ir.terms import factors, product, terms


def softmax_gradient(system: System) -> System:
    """The system with every product of a part, and of what is divided by its whole, said through
    the share."""
    now = dict(system.definition)
    readers: dict[str, list[str]] = {}
    for eq in system.equations:
        for source in eq.sources:
            readers.setdefault(source, []).append(eq.target)
    private = {
        name for name, targets in readers.items() if len(targets) == 1 and name not in system.roots
    }
    for eq in system.equations:
        share = _Share.of(eq)
        if share is not None:
            for name in readers[share.part.tensor]:
                if name != eq.target:
                    now |= _said(now[name], share, now, private)
    if all(now[eq.target] is eq for eq in system.equations):
        return system
    return system.replace(equations=tuple(now.values())).in_order()


@dataclass(frozen=True)
class _Share:
    """A share's name, its part and its whole, as its equation has them."""

    name: str
    part: Read
    whole: Read
    names: tuple[str, ...]

    @staticmethod
    def of(eq: Equation) -> _Share | None:
        body = eq.body
        if eq.reduce is not None or eq.at is not None or not isinstance(body, Apply):
            return None
        if body.fn != "div" or not all(isinstance(x, Read) for x in body.args):
            return None
        part, whole = body.args
        if not is_identity(part, eq) or whole.other is not None:  # type: ignore
            return None
        return _Share(eq.target, part, whole, tuple(i.name for i in eq.indices))  # type: ignore

    def at(self, part: Read) -> tuple[Read, Expr]:
        """The share of that part, and 1 over its whole."""
        whole = substitute(self.whole, dict(zip(self.names, part.index, strict=True)))
        over = call("div", literal(1.0, whole.dtype), whole)
        return Read(self.name, part.index, None, part.dtype), over


def _said(
    reader: Equation, share: _Share, now: Mapping[str, Equation], private: set[str]
) -> dict[str, Equation]:
    """The reader of a part, and sums that nobody else reads, said through the share; nothing if
    not all that the part is multiplied by is divided by the whole."""
    body = reader.body
    found = factors(body)
    parts = [f for f in found if isinstance(f, Read) and f.tensor == share.part.tensor]
    if len(parts) != 1 or parts[0].other is not None or _times(body, parts[0].tensor) != 1:
        return {}
    (part,) = parts
    own, over = share.at(part)
    for total in found:
        is_sum = isinstance(total, Apply) and total.fn in ("add", "sub")
        if not is_sum or _times(body, total) != 1:
            continue
        sums: dict[str, Equation] = {}
        left = [_without(over, factors(term), now, private, sums) for term in terms(total)]
        if all(left) and all(_times(body, name) == 1 for name in sums):
            whole = reduce(lambda a, b: call("add", a, b), map(product, left))  # type: ignore
            said = rewrite(body, {total: whole, part: own}.get)
            return {**sums, reader.target: reader.with_body(said)}
    return {}


def _times(expr: Expr, what: Expr | str) -> int:
    """How often an expression, or a read of a tensor, stands in another that is written out."""
    found = (
        expr.tensor == what if isinstance(expr, Read) and isinstance(what, str) else expr == what
    )
    return found + sum(_times(child, what) for child in expr.children)


def _without(
    over: Expr,
    parts: list[Expr],
    now: Mapping[str, Equation],
    private: set[str],
    sums: dict[str, Equation],
) -> list[Expr]:
    """The factors without `over`, which may be a factor of every term of one that is a sum: that
    sum comes to `sums`. Empty if it is nowhere."""
    if over in parts:
        parts.remove(over)
        return parts or [literal(1.0, over.dtype)]
    for factor in parts:
        if not isinstance(factor, Read) or factor.tensor not in private & now.keys():
            continue
        eq = now[factor.tensor]
        if eq.reduce != "sum" or eq.at is not None or factor.other is not None:
            continue
        places = dict(zip((i.name for i in eq.indices), factor.index, strict=True))
        within = {i.name for i in eq.over}
        inner = factors(eq.body)
        for f in inner:
            if not index_names(f) & within and substitute(f, places) == over:
                inner.remove(f)
                sums[eq.target] = eq.with_body(product(inner))
                return parts
    return []
