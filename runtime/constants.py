"""Plain values in a train block: numbers, texts and lists, and what is computed from them.

In: an expression and the `let`s of the block. Out: a Python value.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from ..dsl.diagnostics.diagnostic import fail
from ..dsl.syntax import ast as s

Value = int | float | bool | str | list

_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod,
}  # fmt: skip


def constant(node: s.Expr, lets: Mapping[str, s.Expr]) -> Value:
    """The value of an expression of literals and `let`s; UserError E0703 if it is not one."""
    match node:
        case s.Number(value=value) | s.Boolean(value=value) | s.String(value=value):
            return value
        case s.List(items=items):
            return [constant(item, lets) for item in items]
        case s.Name(id=name) if name in lets:
            # Without the name itself: `let a = a + 1` ends in an error, not in a loop.
            return constant(lets[name], {k: v for k, v in lets.items() if k != name})
        case s.Name(id="inf"):
            return math.inf
        case s.Unary(op="-", operand=operand):
            return -constant_number(operand, lets)
        case s.Binary(op=op, left=left, right=right) if op in _OPERATIONS or op == "^":
            return _computed(node, op, constant_number(left, lets), constant_number(right, lets))
    raise fail(
        "E0703",
        "this setting is not a plain value",
        node.span,
        label="expected a number, true, false, a text in quotes or a list",
    )


def constant_number(node: s.Expr, lets: Mapping[str, s.Expr]) -> int | float:
    """The same for a number."""
    value = constant(node, lets)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fail("E0703", "expected a number", node.span)
    return value


def _computed(node: s.Expr, op: str, left: int | float, right: int | float) -> int | float:
    try:
        if op != "^":
            return _OPERATIONS[op](left, right)
        # Whole numbers stay exact where the result is small (at most 31 · 64 bits); beyond that a
        # float, so that 9^9^9 is an overflow instead of taking all memory.
        small = isinstance(left, int) and isinstance(right, int) and 0 <= right <= 64
        return left**right if small and abs(left) < 2**31 else math.pow(left, right)
    except (ArithmeticError, ValueError) as error:
        raise fail("E0703", f"this cannot be computed: {error}", node.span) from error
