"""Implications: what conditions on indices say of other index expressions.

    t > 0 and s <= t   →   t - 1 >= 0,  t - s >= 0

Each condition is a list of affine forms that are not negative where it holds. Another form is not
negative if it is a sum of these, with positive factors, and of one whose bounds are known to be
(Farkas' lemma, applied to few terms: conditions in a program are short). Tests:
tests/equations/test_guards.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

from .affine import Affine, affine, inside, is_integer_order, positive_form, span
from .expr import Apply, Expr

Condition = tuple[Expr, bool]  # an expression and its truth value
TERMS = 3  # conditions that are added up for one conclusion
ONE = Affine({}, 1)


def facts(condition: Expr, truth: bool, sizes: Mapping[str, int]) -> tuple[Affine, ...]:
    """Forms that are not negative where an expression has this truth value. `sizes` are those of
    the indices."""
    if not isinstance(condition, Apply):
        return ()
    if condition.fn == "not":
        return facts(condition.args[0], not truth, sizes)
    # of `a and b` both hold, of `not (a or b)` neither
    if condition.fn == ("and" if truth else "or"):
        return tuple(f for arg in condition.args for f in facts(arg, truth, sizes))
    if is_integer_order(condition):
        return (_tightened(positive_form(condition, truth) - ONE),)
    if condition.fn not in ("eq", "ne") or condition.args[0].dtype != "i32":
        return ()
    difference = affine(condition.args[0]) - affine(condition.args[1])
    if (condition.fn == "eq") == truth:
        return difference, difference.scaled(-1)
    # `t != 0` at an end of the range of t: what is not equal is beyond
    low, high = span(difference, sizes)
    above = (difference - ONE,) if low == 0 else ()
    return (*above, difference.scaled(-1) - ONE) if high == 0 else above


def _tightened(form: Affine) -> Affine:
    """A form of whole numbers that is at least 0 where 2*t - 5 is: t - 3."""
    divisor = gcd(*form.coefficients.values())
    if divisor < 2:
        return form
    return Affine({a: c // divisor for a, c in form.coefficients.items()}, form.constant // divisor)


def follows(
    form: Affine, known: Sequence[Affine], sizes: Mapping[str, int], terms: int = TERMS
) -> bool:
    """Whether the form is at least 0 wherever all that are `known` are."""
    if span(form, sizes)[0] >= 0:
        return True
    if not terms:
        return False
    for place, fact in enumerate(known):
        rest = (*known[:place], *known[place + 1 :])
        # One atom is eliminated: c*form = f*fact + remainder with positive c and f.
        for atom, c in fact.coefficients.items():
            factor = form.coefficients.get(atom, 0)
            if factor * c > 0:
                remainder = form.scaled(abs(c)) - fact.scaled(abs(factor))
                if follows(remainder, rest, sizes, terms - 1):
                    return True
    return False


def inside_where(
    expr: Expr, size: int, sizes: Mapping[str, int], conditions: Sequence[Condition]
) -> bool:
    """Whether 0 <= expr < size is certain where the conditions hold."""
    if inside(expr, size, sizes):
        return True
    known = [f for condition, truth in conditions for f in facts(condition, truth, sizes)]
    form = affine(expr)
    last = Affine({}, size - 1) - form
    return follows(form, known, sizes) and follows(last, known, sizes)
