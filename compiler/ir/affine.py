"""Index expressions as affine forms, and the range of values that an expression can take.

Bounds checks are decided here: an index that `inside` proves to lie in its dimension needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from ...dsl.records import record
from .build import call, literal, rewrite
from .dtypes import INTEGERS, fits, is_float
from .expr import Apply, Const, Expr, Idx, Read, index_names, is_size


@record
class Affine:
    """constant + sum of coefficient * atom. An atom is an `Idx`, or an expression that is not
    affine itself (`p // 2`, `p % 2`, a read of an integer tensor). No coefficient is zero."""

    coefficients: Mapping[Expr, int]
    constant: int

    @property
    def indices(self) -> frozenset[str]:
        """The names of the indices that the form depends on."""
        return frozenset().union(*map(index_names, self.coefficients))

    def __add__(self, other: Affine) -> Affine:
        total = dict(self.coefficients)
        for atom, c in other.coefficients.items():
            total[atom] = total.get(atom, 0) + c
        # Without zeros, `not coefficients` means that a form is constant.
        nonzero = {atom: c for atom, c in total.items() if c}
        return Affine(nonzero, self.constant + other.constant)

    def __sub__(self, other: Affine) -> Affine:
        return self + other.scaled(-1)

    def scaled(self, factor: int) -> Affine:
        if factor == 0:
            return Affine({}, 0)
        return Affine({a: c * factor for a, c in self.coefficients.items()}, self.constant * factor)

    def without(self, atom: Expr) -> Affine:
        return Affine({a: c for a, c in self.coefficients.items() if a is not atom}, self.constant)

    def expr(self) -> Expr:
        """The form as an expression, positive terms first: `p - u + 1`, `2*i + u`."""
        # `p - u` is shorter than `-u + p`; the sort is stable, so equal signs keep their order.
        terms = sorted(self.coefficients.items(), key=lambda term: term[1] < 0)
        total: Expr = literal(0)
        for atom, c in terms:
            size = atom if abs(c) == 1 else call("mul", atom, literal(abs(c)))
            total = call("add" if c > 0 else "sub", total, size)
        return call("add", total, literal(self.constant))


def affine(expr: Expr) -> Affine:
    """The affine form of an integer expression; what is not affine in it becomes an atom."""
    if isinstance(expr, Const):
        return Affine({}, int(expr.value))
    if isinstance(expr, Apply):
        match expr.fn:
            case "add":
                return affine(expr.args[0]) + affine(expr.args[1])
            case "sub":
                return affine(expr.args[0]) - affine(expr.args[1])
            case "neg":
                return affine(expr.args[0]).scaled(-1)
            case "mul":
                # Affine only if one of the two is constant.
                left, right = affine(expr.args[0]), affine(expr.args[1])
                if not left.coefficients:
                    return right.scaled(left.constant)
                if not right.coefficients:
                    return left.scaled(right.constant)
    # An index, or what is opaque to this analysis, is an atom: equal atoms are one object, so that
    # they cancel and add up by identity.
    return Affine({expr: 1}, 0)


def is_affine(expr: Expr) -> bool:
    """Whether the expression is affine in plain indices alone."""
    return all(isinstance(atom, Idx) for atom in affine(expr).coefficients)


def is_static(expr: Expr) -> bool:
    """Whether the value depends on indices alone and on no tensor."""
    if isinstance(expr, Read):
        # The value of a read is data, whatever its indices are.
        return False
    return all(is_static(child) for child in expr.children)


# a comparison of a and b holds where sign * (a - b) + offset is positive
_POSITIVE = {"gt": (1, 0), "ge": (1, 1), "lt": (-1, 0), "le": (-1, 1)}
_OPPOSITE = {"gt": "le", "ge": "lt", "lt": "ge", "le": "gt"}


def is_integer_order(expr: Expr) -> TypeGuard[Apply]:
    """Whether it is <, <=, > or >= of two i32."""
    return isinstance(expr, Apply) and expr.fn in _POSITIVE and expr.args[0].dtype == "i32"


def positive_form(comparison: Apply, truth: bool = True) -> Affine:
    """The form that is positive exactly where an `is_integer_order` has this truth."""
    # For i32, a >= b is a - b + 1 > 0 and not (a > b) is a <= b.
    sign, offset = _POSITIVE[comparison.fn if truth else _OPPOSITE[comparison.fn]]
    difference = affine(comparison.args[0]) - affine(comparison.args[1])
    return difference.scaled(sign) + Affine({}, offset)


Interval = tuple[int, int]


def bounds(expr: Expr, sizes: Mapping[str, int]) -> Interval:
    """The least and the greatest value of an integer expression when every index is in its range.

    Exact for affine forms; safe (never too narrow) for `//`, `%`, `min`, `max` and `if`. A read of
    a tensor can be anything that its type has.
    """
    if isinstance(expr, Idx):
        return 0, sizes[expr.name] - 1
    return span(affine(expr), sizes)


def span(form: Affine, sizes: Mapping[str, int]) -> Interval:
    """The bounds of a form."""
    # Interval arithmetic: each atom by itself, which is exact if they are independent indices. A
    # negative coefficient swaps the ends.
    low = high = form.constant
    for atom, c in form.coefficients.items():
        a, b = _atom_bounds(atom, sizes)
        low += min(c * a, c * b)
        high += max(c * a, c * b)
    return low, high


def _atom_bounds(atom: Expr, sizes: Mapping[str, int]) -> Interval:
    if isinstance(atom, Idx):
        return 0, sizes[atom.name] - 1
    if isinstance(atom, Apply):
        if atom.fn in ("floordiv", "mod") and isinstance(atom.args[1], Const):
            return _division_bounds(atom, sizes)
        if atom.fn in ("min", "max"):
            pick = min if atom.fn == "min" else max
            (a, b), (c, d) = (_wrapped(x, sizes) for x in atom.args)
            return pick(a, c), pick(b, d)
        if atom.fn == "select":
            (a, b), (c, d) = (_wrapped(x, sizes) for x in atom.args[1:])
            return min(a, c), max(b, d)
        if atom.fn in ("i32", "i64") and not is_float(atom.args[0].dtype):
            low, high = _wrapped(atom.args[0], sizes)
            if fits(low, atom.fn) and fits(high, atom.fn):
                return low, high
    if is_size(atom):
        return 1, INTEGERS["i32"][1]
    # u8 pixels and truth values have narrow ranges even where they are data. A float is no index.
    return INTEGERS.get(atom.dtype, INTEGERS["i64"])


def _wrapped(expr: Expr, sizes: Mapping[str, int]) -> Interval:
    """The bounds of an operand, which is computed in its type: anything where that may overflow."""
    low, high = bounds(expr, sizes)
    if fits(low, expr.dtype) and fits(high, expr.dtype):
        return low, high
    return INTEGERS[expr.dtype]


def _division_bounds(atom: Apply, sizes: Mapping[str, int]) -> Interval:
    by = int(atom.args[1].value)  # type: ignore[attr-defined]
    low, high = _wrapped(atom.args[0], sizes)
    if atom.fn == "floordiv":
        # Division by a constant is monotonic: the ends of the interval give the ends of the result.
        ends = (low // by, high // by) if by else (0, 0)
        return min(ends), max(ends)
    # Within one block of `by` values, % only subtracts a constant.
    if by > 0 and low // by == high // by:
        return low % by, high % by
    return (0, by - 1) if by > 0 else (by + 1, 0)


def inside(expr: Expr, size: int, sizes: Mapping[str, int]) -> bool:
    """Whether 0 <= expr < size is certain."""
    low, high = bounds(expr, sizes)
    return low >= 0 and high < size


def simplify_index(expr: Expr, sizes: Mapping[str, int]) -> Expr:
    """The same integer expression with divisions resolved where the ranges of the indices allow:
    (6*p + u) // 3 is 2*p + u // 3, and (6*p + u) % 6 is u if u < 6."""

    def change(node: Expr) -> Expr | None:
        # Only of integers: a real number is no multiple of 1 and a rest.
        if not (isinstance(node, Apply) and node.fn in ("floordiv", "mod")) or is_float(node.dtype):
            return None
        by = node.args[1]
        if not isinstance(by, Const) or by.value <= 0:
            return None
        # Split e = n*whole + rest with all coefficients of `rest` that n does not divide: (6*p + u
        # + 7) // 3 has whole = 2*p + 2 and rest = u + 1.
        n, form = int(by.value), affine(node.args[0])
        whole = Affine({a: c // n for a, c in form.coefficients.items() if c % n == 0}, 0)
        rest = form + whole.scaled(-n)
        whole, rest = (
            whole + Affine({}, rest.constant // n),
            Affine(rest.coefficients, rest.constant % n),
        )
        # If 0 <= rest < n, then rest is the remainder itself.
        low, high = span(rest, sizes)
        if low >= 0 and high < n:
            return whole.expr() if node.fn == "floordiv" else rest.expr()
        # Multiples of n do not change a residue.
        if node.fn == "mod":
            return None if not whole.coefficients else call("mod", rest.expr(), by)
        if not whole.coefficients and not whole.constant:
            return None
        return call("add", whole.expr(), call("floordiv", rest.expr(), by))

    return rewrite(expr, change)
