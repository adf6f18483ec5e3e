"""Products and sums taken apart: factors, terms, and what it takes to compare them.

In: expressions. Out: their factors and terms, products of factors, names of indices that make one
expression another. Pure functions of expressions; what is done with them is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

from .affine import simplify_index
from .build import call, literal, rewrite, substitute
from .expr import Apply, Const, Expr, Idx, Read


def multiplicands(expr: Expr) -> list[Expr]:
    """The operands of a nested multiplication, left to right."""
    if isinstance(expr, Apply) and expr.fn == "mul":
        return multiplicands(expr.args[0]) + multiplicands(expr.args[1])
    return [expr]


def factors(expr: Expr) -> list[Expr]:
    """The factors of a product or quotient. A sign is a factor, and so is a condition under which
    the product is not 0: as 1 or 0, after what it holds for."""
    if isinstance(expr, Apply):
        match expr.fn:
            case "mul":
                return factors(expr.args[0]) + factors(expr.args[1])
            case "neg":
                return [literal(-1.0, expr.dtype), *factors(expr.args[0])]
            case "div" if expr.dtype == "f32" and not _is(expr.args[0], 1):
                return [*factors(expr.args[0]), call("div", literal(1.0), expr.args[1])]
            case "select" if expr.dtype == "f32":
                condition, yes, no = expr.args
                if _is(no, 0) and not _is(yes, 1):
                    return [*factors(yes), call("select", condition, literal(1.0), no)]
                if _is(yes, 0) and not _is(no, 1):
                    return [*factors(no), call("select", condition, yes, literal(1.0))]
    return [expr]


def product(parts: Sequence[Expr]) -> Expr:
    """The product of all, from left to right, conditions last: where they fail it is 0, even if a
    factor is infinite or no number. 1 if there is none."""
    total: Expr = literal(1.0)
    for part in sorted(parts, key=_is_condition):
        total = call("mul", total, part)
    return total


def terms(expr: Expr) -> Iterator[Expr]:
    """What is added up."""
    if isinstance(expr, Apply) and expr.fn in ("add", "sub"):
        first, second = expr.args
        yield from terms(first)
        for term in terms(second):
            yield term if expr.fn == "add" else call("neg", term)
    elif isinstance(expr, Apply) and expr.fn == "neg":
        for term in terms(expr.args[0]):
            yield call("neg", term)
    else:
        yield expr


def _is(expr: Expr, value: float) -> bool:
    return isinstance(expr, Const) and expr.value == value


def _is_condition(expr: Expr) -> bool:
    return (
        isinstance(expr, Apply)
        and expr.fn == "select"
        and all(isinstance(a, Const) for a in expr.args[1:])
    )


def plain(expr: Expr, sizes: Mapping[str, int]) -> Expr:
    """The expression with what is divided in its reads' indices resolved: (3*p + u) // 3 is p."""

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read):
            return None
        index = tuple(simplify_index(e, sizes) for e in node.index)
        return Read(node.tensor, index, node.other, node.dtype)

    return rewrite(expr, change)


# --- names of indices -----------------------------------------------------------------------------


def is_zero(expr: Expr) -> bool:
    return isinstance(expr, Const) and expr.value == 0


def is_rounded(expr: Expr) -> TypeGuard[Apply]:
    """Whether it is a number rounded to bf16."""
    return isinstance(expr, Apply) and expr.fn == "bf16"


def moved(expr: Expr, names: Mapping[str, str]) -> Expr:
    """The expression with other names of indices."""
    return substitute(expr, {old: Idx(new) for old, new in names.items()})


def unified(one: Expr, two: Expr, names: Mapping[str, str]) -> dict[str, str] | None:
    """The names of indices extended so that they make the first expression the second."""
    if isinstance(one, Idx) and isinstance(two, Idx):
        known = names.get(one.name)
        if known is None and two.name not in names.values():
            return {**names, one.name: two.name}
        return dict(names) if known == two.name else None
    if _kind(one) != _kind(two) or len(one.children) != len(two.children):
        return None
    found: dict[str, str] | None = dict(names)
    for a, b in zip(one.children, two.children, strict=True):
        found = None if found is None else unified(a, b, found)
    return found


def _kind(expr: Expr) -> tuple:
    """What a node is, without what stands below it."""
    match expr:
        case Const(value=value, dtype=dtype):
            return "const", repr(value), dtype
        case Read(tensor=tensor, other=other):
            return "read", tensor, other is None
        case Apply(fn=fn, dtype=dtype):
            return "apply", fn, dtype
    return ("index",)
