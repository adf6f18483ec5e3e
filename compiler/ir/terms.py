"""Factors and terms of expressions, and matching of expressions.

All functions are pure; passes decide what to do with the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import TypeGuard

from ...dsl.records import record
from .affine import simplify_index
from .build import call, literal, rewrite, substitute
from .dtypes import is_float
from .expr import Apply, Const, Expr, Idx, Read


def is_constant(expr: Expr, value: float) -> bool:
    return isinstance(expr, Const) and expr.value == value


def is_zero(expr: Expr) -> bool:
    return is_constant(expr, 0)


def is_rounded(expr: Expr) -> TypeGuard[Apply]:
    """Whether it is a number rounded to bf16."""
    return isinstance(expr, Apply) and expr.fn == "bf16"


def unrounded(expr: Expr) -> Expr:
    """What is rounded to bf16; an expression that is not rounded, itself."""
    return expr.args[0] if is_rounded(expr) else expr


# --- products and sums -------------------------------------------------------------------------


def multiplicands(expr: Expr) -> list[Expr]:
    """The operands of a nested multiplication, left to right."""
    if isinstance(expr, Apply) and expr.fn == "mul":
        return multiplicands(expr.args[0]) + multiplicands(expr.args[1])
    return [expr]


def factors(expr: Expr) -> list[Expr]:
    """The factors of a product or quotient, whose product is the expression again. The factor of a
    sign is -1, that of a condition without which the product is 0 a select between 1 and 0; it
    follows the factors that it selects."""
    if isinstance(expr, Apply):
        match expr.fn:
            case "mul":
                return factors(expr.args[0]) + factors(expr.args[1])
            case "neg":
                return [literal(-1.0, expr.dtype), *factors(expr.args[0])]
            # x / y as x * (1/y), so that a common divisor is a common factor; 1/y itself stays
            # whole.
            case "div" if expr.dtype == "f32" and not is_constant(expr.args[0], 1):
                return [*factors(expr.args[0]), 1.0 / expr.args[1]]
            # [condition] * yes, the Iverson bracket; only if one branch is 0.
            case "select" if expr.dtype == "f32":
                condition, yes, no = expr.args
                if is_zero(no) and not is_constant(yes, 1):
                    return [*factors(yes), call("select", condition, literal(1.0), no)]
                if is_zero(yes) and not is_constant(no, 1):
                    return [*factors(no), call("select", condition, yes, literal(1.0))]
    return [expr]


def product(parts: Sequence[Expr]) -> Expr:
    """The product of all, from left to right, conditions last: where they fail it is 0, even if a
    factor is infinite or NaN. 1 if there is none."""
    total: Expr = literal(1.0)
    # The bracket [c] times b, built last, becomes `select(c, b, 0)`: no 0 * inf.
    for part in sorted(parts, key=_is_condition):
        total = total * part
    return total


def _is_condition(expr: Expr) -> bool:
    return (
        isinstance(expr, Apply)
        and expr.fn == "select"
        and all(isinstance(a, Const) for a in expr.args[1:])
    )


def terms(expr: Expr) -> Iterator[Expr]:
    """The terms of a sum or difference, in order."""
    if isinstance(expr, Apply) and expr.fn in ("add", "sub"):
        first, second = expr.args
        yield from terms(first)
        # a - (b - c) has the terms a, -b and c.
        for term in terms(second):
            yield term if expr.fn == "add" else -term
    elif isinstance(expr, Apply) and expr.fn == "neg":
        for term in terms(expr.args[0]):
            yield -term
    else:
        yield expr


def total(parts: Sequence[Expr]) -> Expr:
    """The sum of all, from left to right."""
    return reduce(add, parts)


# --- matching ----------------------------------------------------------------------------------


def variable(name: str) -> Read:
    """A variable of a pattern, which matches any expression."""
    return Read(f"?{name}", (), None, "f32")


def match(
    pattern: Expr, expr: Expr, bound: Mapping[str, Expr] | None = None
) -> dict[str, Expr] | None:
    """The expressions for the variables and indices of `pattern`, by name, that make it `expr`;
    None if there are none. `bound` holds those known before."""
    found = dict(bound or {})
    return found if _match(pattern, expr, found) else None


def _match(pattern: Expr, expr: Expr, bound: dict[str, Expr]) -> bool:
    if isinstance(pattern, Idx):
        # Interned: a variable that occurs twice must have matched the same object.
        return bound.setdefault(pattern.name, expr) is expr
    if isinstance(pattern, Read) and pattern.tensor.startswith("?"):
        return bound.setdefault(pattern.tensor[1:], expr) is expr
    if _kind(pattern) != _kind(expr) or len(pattern.children) != len(expr.children):
        return False
    return all(_match(a, b, bound) for a, b in zip(pattern.children, expr.children, strict=True))


def _kind(expr: Expr) -> tuple:
    """What two nodes must share to match, whatever their children are."""
    match expr:
        case Const(value=value, dtype=dtype):
            # By text, as 0.0 == -0.0 and NaN != NaN. Patterns are written in f32 and match f64,
            # too.
            return "const", repr(value), is_float(dtype)
        case Read(tensor=tensor, other=other):
            return "read", tensor, other is None
        case Apply(fn=fn, dtype=dtype):
            return "apply", fn, is_float(dtype)
    return ("index",)


@record
class Rule:
    """`before` → `after`, where `when` holds of what the variables stand for."""

    before: Expr
    after: Expr
    when: Callable[..., bool]

    def __call__(self, expr: Expr) -> Expr | None:
        """What the expression becomes, None if the rule does not apply."""
        bound = match(self.before, expr)
        if bound is None or not self.when(**bound):
            return None
        # Variables are themselves interned reads, so they serve as keys.
        values = {variable(name): value for name, value in bound.items()}
        return rewrite(self.after, lambda node: values.get(node))  # type: ignore[call-overload]


def unify_indices(one: Expr, two: Expr, names: Mapping[str, str]) -> dict[str, str] | None:
    """`names` extended so that renaming indices by it, no two to the same, makes `one` `two`."""
    bound = match(one, two, {old: Idx(new) for old, new in names.items()})
    if bound is None or not all(isinstance(e, Idx) for e in bound.values()):
        return None
    # Injective, or two different indices would become one.
    found = {name: e.name for name, e in bound.items()}  # type: ignore[attr-defined]
    return found if len(set(found.values())) == len(found) else None


# --- indices -----------------------------------------------------------------------------------


def with_indices(expr: Expr, names: Mapping[str, str]) -> Expr:
    """The expression with indices of other names."""
    return substitute(expr, {old: Idx(new) for old, new in names.items()})


def simplify_read_indices(expr: Expr, sizes: Mapping[str, int]) -> Expr:
    """The expression with divisions in the indices of its reads resolved: (3*p + u) // 3 is p."""

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read):
            return None
        index = tuple(simplify_index(e, sizes) for e in node.index)
        return Read(node.tensor, index, node.other, node.dtype)

    return rewrite(expr, change)
