"""Products of adjoints and local derivatives in which 0 times infinity is 0.

    d_z * (0.5 / sqrt(x))   →   d_z * (if d_z == 0 and not is_finite(f) then 0 else f), f = 0.5 / …
    (if c then d_y else 0) * f   →   if c then d_y * f else 0

An adjoint of 0 says that nothing depends on the value: a branch was not taken, an element not read,
a mask is 0. Then it does not matter that the value's own derivative is infinite (a root of 0) or
that it overflows. The other way round, a factor of 0 passes nothing on, even of an infinite
adjoint: the root of a sum of squares that are all 0 has the derivative 0 by each.

What may be infinite is known from `ir/value_ranges.py`; where nothing can be, a product is a
product. A 0 by chance, as that of 2*x at x = 0, counts only if it is a quotient by a number that
may overflow: of sqrt(x)^2 the derivative at 0 is not 0, of 1/(2 + exp(x)) it ends at 0. Where the
selection is in the same equation, the factor goes inside of it; where it is not, the value 0 is its
trace. A finite factor always stays, as it is the product's own derivative.
Tests: tests/gradients/test_unchosen_branches.py, tests/fuzzers/gradients.py.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.build import call
from ...ir.dtypes import is_float
from ...ir.equation import Equation
from ...ir.expr import Apply, Expr, Read, index_names, walk
from ...ir.terms import is_zero
from ...ir.value_ranges import Range, Ranges

OfRead = Callable[[Read], bool]


class ZeroProducts:
    """The products of one equation's adjoints. `real` are the ranges of values without overflow;
    `is_masked` and `is_infinite` say of the reads of adjoints whether they may be 0 because of a
    selection, and whether they may be infinite."""

    def __init__(
        self,
        eq: Equation,
        ranges: Ranges,
        real: Ranges,
        is_masked: OfRead,
        is_infinite: OfRead,
    ):
        self.ranges, self.real = ranges, real
        self._is_masked, self._is_infinite = is_masked, is_infinite
        self.masked: dict[Expr, bool] = {}
        self.infinite: dict[Expr, bool] = {}
        self.reached: set[Expr] = set()
        # In a sum, a factor that is loaded for many terms stays one: the product of matrices.
        needed = {i.name for i in eq.domain if i.size > 1} if eq.reduce else set()
        self.needed = frozenset(needed)

    def __call__(self, own: Expr, factor: Expr | float, fn: str) -> Expr:
        """The adjoint `own` times the local derivative of the function `fn`."""
        if not isinstance(factor, Expr):
            return call("mul", own, factor)
        found = self.ranges.of(factor)
        stops = self._stops(own, factor, found, fn)
        if stops:
            void = call("and", call("eq", factor, 0), call("not", call("is_finite", own)))
            own = call("select", void, 0.0, own)
        pole = not self.real.of(factor).finite
        result = (
            call("mul", own, factor) if found.finite else self._selected_last(own, factor, pole)
        )
        if stops:
            # What is still infinite has reached what it is a derivative of; other factors of the
            # same equation may stop it yet.
            self.infinite[result] = True
            self.reached.add(result)
        elif not found.finite:
            # A factor that is a value of the model is infinite together with the loss.
            self.infinite[result] = pole and fn != "mul"
        return result

    def _stops(self, own: Expr, factor: Expr, found: Range, fn: str) -> bool:
        """Whether the factor may be 0 while the adjoint is infinite."""
        # A bracket of 1 and 0 selects, and needs no care.
        if fn in ("select", "max", "min") or found.without_zero:
            return False
        return self.needed <= index_names(factor) and self.may_be_infinite(own)

    def _selected_last(self, own: Expr, factor: Expr, pole: bool) -> Expr:
        selection = _selection(own)
        if selection is not None:
            condition, chosen, holds = selection
            inner = self._selected_last(chosen, factor, pole)
            return call("select", condition, *((inner, 0.0) if holds else (0.0, inner)))
        if not self.may_vanish(own):
            return call("mul", own, factor)
        void = call("and", call("eq", own, 0), call("not", call("is_finite", factor)))
        return call("mul", own, call("select", void, 0.0, factor))

    def may_vanish(self, adjoint: Expr) -> bool:
        """Whether it may be 0 because something was not selected or not read, or by a factor that
        has no derivative itself."""
        for node in walk(adjoint):
            if node not in self.masked:
                self.masked[node] = self._vanishes(node)
        return self.masked[adjoint]

    def _vanishes(self, node: Expr) -> bool:
        if isinstance(node, Read):
            return node.other is not None or self._is_masked(node)
        if not isinstance(node, Apply):
            return is_zero(node)
        if is_float(node.dtype) and not any(is_float(a.dtype) for a in node.args):
            return True  # a whole number or a truth value: a mask
        if node.fn == "div" and self.ranges.of(node.args[1]).infinite:
            return True  # a divisor that overflows
        found = [self.masked[a] for a in node.args if is_float(a.dtype)]
        # One term that is always there makes the sum 0 by chance alone.
        return all(found) if node.fn in ("add", "sub") else any(found)

    def may_be_infinite(self, adjoint: Expr) -> bool:
        for node in walk(adjoint):
            if node not in self.infinite:
                self.infinite[node] = (
                    self._is_infinite(node)
                    if isinstance(node, Read)
                    else isinstance(node, Apply) and any(self.infinite[a] for a in node.args)
                )
        return self.infinite[adjoint]

    def spreads(self, adjoint: Expr) -> bool:
        """Whether the equations before this one must reckon with an infinite adjoint."""
        return self.may_be_infinite(adjoint) and self.reached.isdisjoint(walk(adjoint))


def _selection(expr: Expr) -> tuple[Expr, Expr, bool] | None:
    """A condition, and what the expression is where that is true (or false, as the last says), if
    it is 0 elsewhere."""
    if not isinstance(expr, Apply):
        return None
    if expr.fn == "select":
        condition, yes, no = expr.args
        if is_zero(no):
            return condition, yes, True
        return (condition, no, False) if is_zero(yes) else None
    if expr.fn not in ("mul", "neg", "div"):
        return None
    # of a quotient only the dividend
    for place, arg in enumerate(expr.args[:1] if expr.fn == "div" else expr.args):
        found = _selection(arg)
        if found is not None:
            condition, chosen, holds = found
            args = [*expr.args]
            args[place] = chosen
            return condition, call(expr.fn, *args), holds
    return None
