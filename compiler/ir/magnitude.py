"""How large the numbers are that an equation works with: what rounding is measured by.

In: the body of an equation. Out: an expression that is no smaller than its value, and that counts
every intermediate result: the first-order running error analysis of Higham (2002, section 3.3).
If every operation is off by a factor of 1 + e, the result is off by about e times this.

    magnitude(f(x, …)) = |f| + |df/dx| * magnitude(x) + …      magnitude(x * y) = product of both
"""

from __future__ import annotations

from collections.abc import Callable

from .build import call
from .derivatives import DERIVATIVES
from .dtypes import is_float
from .expr import Apply, Const, Expr, Idx, Read, walk


def magnitude(body: Expr, of_read: Callable[[Read, Expr | None], Expr]) -> Expr:
    """The magnitude of a float expression. `of_read` gives that of a read, from the magnitude of
    what it reads outside."""
    found: dict[Expr, Expr] = {}
    for node in walk(body):
        # Indices and conditions are exact: no rounding, no magnitude.
        if not is_float(node.dtype) or isinstance(node, Idx):
            continue
        if isinstance(node, Const):
            found[node] = call("abs", node)
        elif isinstance(node, Read):
            found[node] = of_read(node, None if node.other is None else found[node.other])
        elif isinstance(node, Apply):
            found[node] = _applied(node, found)
    return found[body]


def _applied(node: Apply, found: dict[Expr, Expr]) -> Expr:
    args = [found.get(a) for a in node.args]
    match node.fn, args:
        case "mul", [Expr() as a, Expr() as b]:
            return call("mul", a, b)  # stays a product, which the evaluator sums factor by factor
        case "add" | "sub", [Expr() as a, Expr() as b]:
            return call("add", a, b)
        # Either may be selected once rounding is taken into account.
        case "max" | "min", [Expr() as a, Expr() as b]:
            return call("max", a, b)
        case "select", [_, Expr() as a, Expr() as b]:
            return call("select", node.args[0], a, b)
        case "neg" | "abs" | "f32" | "f64" | "f16" | "bf16" | "stop", [Expr() as a]:
            return a
        case "after", [Expr() as a, _]:
            return a
    # |f| for the rounding of f itself, and per argument |df/dx| times what the argument is off by.
    total = call("abs", node)
    rule = DERIVATIVES.get(node.fn)
    if rule is None:
        return total
    for arg, factor in zip(args, rule(node, *node.args), strict=False):
        if factor is not None and arg is not None:
            total = call("add", total, call("mul", call("abs", factor), arg))
    return total
