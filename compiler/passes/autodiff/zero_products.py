"""Products of adjoints and local derivatives in which 0 times infinity is 0.

    d_z * (0.5 / sqrt(x))   →   d_z * (if d_z == 0 and not is_finite(f) then 0 else f), f = 0.5 / …
    (if c then d_y else 0) * f   →   if c then d_y * f else 0

An adjoint of 0 says that nothing depends on the value: a branch was not taken, an element not read,
a mask is 0. Then it does not matter that the value's own derivative is infinite (a root of 0) or
that it overflows. The other way round, a factor of 0 passes nothing on, even of an infinite
adjoint: the root of a sum of squares that are all 0 has the derivative 0 by each.

What may be infinite is known from `ir/value_ranges.py`; where nothing can be, a product is a
product. Why an adjoint may be 0 decides which infinite derivatives it stops:

    MASKED      it was not selected, not read, or multiplied by data    every one
    SATURATED   tanh, exp, a quotient of an infinite value              all but that of a logarithm:
                                                                        exp(log(x)) is x
    CHANCE      a factor, or a sum, that is 0                           that of a root or a power,
                                                                        whose value is finite

An infinite value is infinite in the loss, too, unless it is hidden by a selection or saturates, so
that nothing more is needed. The zero of a value's own factor says nothing of its derivative:
sqrt(x)*sqrt(x) is x. Where the selection is in the same equation, the factor goes inside of it;
where it is not, the value 0 is its trace. A finite factor always stays, as it is the product's own
derivative. Tests: tests/gradients/test_unchosen_branches.py, tests/fuzzers/gradients.py.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from ...ir.build import call
from ...ir.dtypes import is_float
from ...ir.equation import Equation
from ...ir.expr import Apply, Expr, Read, index_names, walk
from ...ir.terms import is_zero
from ...ir.value_ranges import Range, Ranges


class Zero(IntEnum):
    """For what reason an adjoint may be 0; the greater one is a reason to stop more."""

    NEVER = 0
    OWN = 1  # the value whose adjoint it is is a factor
    CHANCE = 2
    SATURATED = 3
    MASKED = 4


# Finite functions of infinite arguments.
SATURATING = frozenset({"tanh", "sigmoid", "erf", "erfc", "exp", "expm1", "pow", "div", "mod"})
# What stops an infinite derivative of a function; of the others, whatever hides an infinite value.
STOPS = {"sqrt": Zero.CHANCE, "pow": Zero.CHANCE, "log": Zero.MASKED, "log1p": Zero.MASKED}


class ZeroProducts:
    """The products of one equation's adjoints. `real` are the ranges of values without overflow;
    `zero_of` and `is_infinite` say of the reads of adjoints why they may be 0, and whether they
    may be infinite."""

    def __init__(
        self,
        eq: Equation,
        ranges: Ranges,
        real: Ranges,
        zero_of: Callable[[Read], Zero],
        is_infinite: Callable[[Read], bool],
    ):
        self.ranges, self.real = ranges, real
        self._zero_of, self._is_infinite = zero_of, is_infinite
        self.zeros: dict[Expr, Zero] = {}
        self.infinite: dict[Expr, bool] = {}
        self.reached: set[Expr] = set()
        # In a sum, a factor that is loaded for many terms stays one: the product of matrices.
        needed = {i.name for i in eq.domain if i.size > 1} if eq.reduce else set()
        self.needed = frozenset(needed)

    def __call__(self, own: Expr, factor: Expr | float, node: Apply) -> Expr:
        """The adjoint `own` of the node times its local derivative `factor`."""
        if not isinstance(factor, Expr):
            return call("mul", own, factor)
        if self._saturates(node):
            self._note_saturated(factor)
        found = self.ranges.of(factor)
        stops = self._stops(own, factor, found, node.fn)
        if stops:
            void = call("and", call("eq", factor, 0), call("not", call("is_finite", own)))
            own = call("select", void, 0.0, own)
        softplus = None if found.finite or node.fn != "exp" else _of_softplus(own, node.args[0])
        if softplus is not None:
            return softplus
        result = call("mul", own, factor) if found.finite else self._selected(own, factor, node)
        if stops:
            # What is still infinite has reached what it is a derivative of; other factors of the
            # same equation may stop it yet.
            self.infinite[result] = True
            self.reached.add(result)
        elif not found.finite:
            # A factor that is a value of the model is infinite together with the loss.
            self.infinite[result] = not self.real.of(factor).finite and node.fn != "mul"
        return result

    def _stops(self, own: Expr, factor: Expr, found: Range, fn: str) -> bool:
        """Whether the factor may be 0 while the adjoint is infinite."""
        # A bracket of 1 and 0 selects, and needs no care.
        if fn in ("select", "max", "min") or found.without_zero:
            return False
        return self.needed <= index_names(factor) and self.may_be_infinite(own)

    def _selected(self, own: Expr, factor: Expr, node: Apply) -> Expr:
        """The product with an infinite factor: inside of what selects, and 0 where `own` is."""
        selection = _selection(own)
        if selection is not None:
            condition, chosen, holds = selection
            inner = self._selected(chosen, factor, node)
            return call("select", condition, *((inner, 0.0) if holds else (0.0, inner)))
        zero = self.zero(own)
        if zero == Zero.CHANCE and node in walk(own):
            zero = Zero.OWN
        if zero < STOPS.get(node.fn, Zero.SATURATED):
            return call("mul", own, factor)
        void = call("and", call("eq", own, 0), call("not", call("is_finite", factor)))
        return call("mul", own, call("select", void, 0.0, factor))

    def _saturates(self, node: Apply) -> bool:
        """Whether its value may be finite although one of its arguments is infinite."""
        if node.fn not in SATURATING:
            return False
        if node.fn not in ("exp", "expm1"):
            return any(self.ranges.of(a).infinite for a in node.args)
        (arg,) = node.args
        # A score that is infinite makes its row's softmax NaN, if it is not masked.
        less = isinstance(arg, Apply) and arg.fn == "sub" and self.ranges.is_at_most(*arg.args)
        return self.ranges.of(arg).below and not less

    def _note_saturated(self, factor: Expr) -> None:
        self.zeros[factor] = max(self.zero(factor), Zero.SATURATED)
        # Products with it are built of its parts: signs and selections move outwards.
        if isinstance(factor, Apply) and factor.fn in ("neg", "select"):
            for part in factor.args[-2:]:
                self._note_saturated(part)

    def zero(self, adjoint: Expr) -> Zero:
        """Why it may be 0."""
        for node in walk(adjoint):
            if node not in self.zeros:
                self.zeros[node] = self._zero(node)
        return self.zeros[adjoint]

    def _zero(self, node: Expr) -> Zero:
        if isinstance(node, Read):
            return Zero.MASKED if node.other is not None else self._zero_of(node)
        if not isinstance(node, Apply):
            return Zero.MASKED if is_zero(node) else Zero.NEVER
        if not is_float(node.dtype):
            return Zero.NEVER  # a condition, or an index
        if not any(is_float(a.dtype) for a in node.args):
            return Zero.MASKED  # a whole number or a truth value: a mask
        found = [self.zeros[a] for a in node.args if is_float(a.dtype)]
        if node.fn == "div" and self.ranges.of(node.args[1]).infinite:
            found.append(Zero.SATURATED)
        if node.fn in ("add", "sub"):
            # One term that is always there makes the sum 0 by chance alone.
            return max(Zero.CHANCE, min(found))
        if node.fn not in ("mul", "neg", "div", "select"):
            found.append(Zero.CHANCE)
        return max(found, default=Zero.CHANCE)

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


def _of_softplus(own: Expr, x: Expr) -> Expr | None:
    """own * exp(x), where own is a product with sigmoid(-x): log(1 + exp(x)) has the derivative
    sigmoid(x), in which nothing overflows."""
    slope = call("sigmoid", -x)
    found: dict[Expr, Expr] = {slope: call("sigmoid", x)}
    for node in walk(own):
        if not isinstance(node, Apply) or node.fn not in ("mul", "neg", "select"):
            continue
        place = next((n for n, arg in enumerate(node.args) if arg in found), None)
        if place is None or node is slope:
            continue
        others = [a for n, a in enumerate(node.args) if n != place and is_float(a.dtype)]
        # of a selection the other branch has to be 0
        if node.fn != "select" or all(map(is_zero, others)):
            args = [*node.args]
            args[place] = found[args[place]]
            found[node] = call(node.fn, *args)
    return found.get(own)


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
