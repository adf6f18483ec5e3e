"""Expressions: literals, operators, conditionals and the matrix product.

Operators on compile-time constants are folded in 64 bits, as Python does; on tensors they are
scalar functions, broadcast (`broadcasting.py`).
"""

from __future__ import annotations

import operator

from ...dsl.check.tables import MAX_NUMBERS
from ...dsl.diagnostics.diagnostic import Note
from ...dsl.syntax import ast as s
from ..ir.equation import Index
from ..ir.expr import Expr, Idx
from .applications import constant_text
from .broadcasting import apply_scalar, broadcast, distinct, pointwise
from .context import Abort, Context
from .dispatch import array, not_a_number, static, tensor, value
from .scopes import BodyScope
from .values import Array, Numbers, Static, is_static, lift

_OPERATORS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod", "^": "pow",
    "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "and": "and", "or": "or",
}  # fmt: skip
_STATIC = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "^": operator.pow, "==": operator.eq,
    "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def literal(ctx: Context, node: s.Number | s.Boolean | s.String, scope: BodyScope) -> Static:
    return node.value


def list_literal(ctx: Context, node: s.List, scope: BodyScope) -> Static:
    """`[3, 5]`, `[[1, 2], [3, 4]]`: numbers that are known when compiling."""
    found: list[int | float | Numbers] = []
    if not node.items:
        raise ctx.error("E0309", "a list without numbers", node.span, label="this is empty")
    for item in node.items:
        number = static(ctx, item, scope, "what a list holds", "a tensor is given by its equation")
        if not isinstance(number, int | float | Numbers):
            raise ctx.error(
                "E0312",
                "a list holds numbers",
                item.span,
                label=f"this is {constant_text(number)}",
            )
        if found and _shape(number) != _shape(found[0]):
            raise ctx.error(
                "E0303",
                "the lists in a list have one shape",
                item.span,
                label=f"this has the shape {list(_shape(number))}",
                notes=(Note(node.items[0].span, f"and this {list(_shape(found[0]))}"),),
            )
        found.append(number)
    result = Numbers(tuple(found))
    if len(result.flat) > MAX_NUMBERS:
        raise ctx.error(
            "E0311",
            f"a list of {len(result.flat):,} numbers",
            node.span,
            label=f"the limit is {MAX_NUMBERS:,}",
            help="large tables are data, or parameters",
        )
    return result


def _shape(item: Static) -> tuple[int, ...]:
    return item.shape if isinstance(item, Numbers) else ()


def unary(ctx: Context, node: s.Unary, scope: BodyScope) -> Static | Array:
    operand = value(ctx, node.operand, scope)
    if isinstance(operand, Array):
        return pointwise(ctx, "neg" if node.op == "-" else "not", [operand], node.span)
    if isinstance(operand, Numbers):
        fn = "neg" if node.op == "-" else "not"
        return pointwise(ctx, fn, [lift(operand, ctx.float_type)], node.span)
    if isinstance(operand, str):
        raise not_a_number(ctx, operand, node.operand)
    return -operand if node.op == "-" else not operand


def conditional(ctx: Context, node: s.If, scope: BodyScope) -> Static | Array:
    """`if … then … else …`; of a constant condition only one branch is elaborated."""
    condition = value(ctx, node.condition, scope)
    if isinstance(condition, Numbers):
        raise not_a_number(ctx, condition, node.condition)
    # `if rank(x) == 2 then … else "a message"`: the other branch need not even fit these shapes
    if not isinstance(condition, Array):
        return value(ctx, node.yes if condition else node.no, scope)
    inside = [_where(scope, condition, truth) for truth in (True, False)]
    branches = [array(ctx, node.yes, inside[0]), array(ctx, node.no, inside[1])]
    return pointwise(ctx, "select", [condition, *branches], node.span)


def _where(scope: BodyScope, condition: Array, truth: bool) -> BodyScope:
    """The scope of what counts only where a condition has this truth value."""
    return scope if condition.rank else scope.where(condition.scalar(), truth)


def binary(ctx: Context, node: s.Binary, scope: BodyScope) -> Static | Array:
    left = value(ctx, node.left, scope)
    # Short-circuit on constants: `n > 0 and m // n > 1` never divides by zero.
    if node.op in ("and", "or") and not isinstance(left, Array):
        if bool(left) == (node.op == "or"):
            return bool(left)
        right = value(ctx, node.right, scope)
        return right if isinstance(right, Array) else bool(right)
    # Of `t > 0 and x[t - 1] > 0` the right side counts only where the left one holds.
    if node.op in ("and", "or") and isinstance(left, Array):
        right = value(ctx, node.right, _where(scope, left, node.op == "and"))
    else:
        right = value(ctx, node.right, scope)
    # Before folding, as the product of two constants is a mistake of its own (E0303).
    if node.op == "@":
        a, b = tensor(ctx, left, node.left, scope), tensor(ctx, right, node.right, scope)
        return _matrix_product(ctx, node, a, b, scope)
    # `[1, 2] * n` is a tensor, `kernel == [3, 3]` compares settings. To a layer of the library, a
    # setting that is a list where it takes a number is a mistake.
    settings = node.span.source.library and is_static(left) and is_static(right)
    if node.op not in ("==", "!=") and not settings:
        left, right = (
            lift(v, ctx.float_type) if isinstance(v, Numbers) else v for v in (left, right)
        )
    if not isinstance(left, Array) and not isinstance(right, Array):
        return _fold(ctx, node, left, right)
    for side, operand in ((node.left, left), (node.right, right)):
        if isinstance(operand, str):
            raise not_a_number(ctx, operand, side)
    # Only a constant divisor is looked at; in data, a float divided by 0 is inf or NaN (IEEE 754).
    if node.op in ("/", "//", "%") and is_static(right) and not right:
        raise ctx.error("E0309", "division by zero", node.right.span, label="this is 0")
    if node.op == "^" and isinstance(right, int) and right < 0:
        right = float(right)  # 2^-1 is one half, not an integer
    arrays = [lift(operand, ctx.float_type) for operand in (left, right)]
    advice = _product_advice(node, *arrays) if node.op == "*" else ""
    return pointwise(ctx, _OPERATORS[node.op], arrays, node.span, advice)


def _fold(ctx: Context, node: s.Binary, left: Static, right: Static) -> Static:
    """Constant folding. E0309 or E0311 where there is no result."""
    for side, operand in ((node.left, left), (node.right, right)):
        if isinstance(operand, str | Numbers) and node.op not in ("==", "!="):
            raise not_a_number(ctx, operand, side)
    # before Python computes it: 10^10^10 would take hours
    if node.op == "^" and _is_huge_power(left, right):
        raise _too_large(ctx, node, f"{left}^{right}")
    text = f"{left} {node.op} {right}"
    try:
        result = _STATIC[node.op](left, right)
    except ZeroDivisionError:
        raise ctx.error("E0309", "division by zero", node.span, label=text) from None
    except OverflowError:
        raise _too_large(ctx, node, text) from None
    # Python's (-1) ** 0.5 is complex
    if isinstance(result, complex):
        raise ctx.error("E0309", f"`{text}` is not a real number", node.span)
    # Python's integers have no limit, i64 has.
    if isinstance(result, int) and not -(2**63) <= result < 2**63:
        raise _too_large(ctx, node, text)
    return result


def _is_huge_power(base: Static, power: Static) -> bool:
    """Whether base^power has far more than 64 bits, so that computing it would take long."""
    if not isinstance(base, int) or not isinstance(power, int) or power < 0:
        return False
    # base^power has at least power * (bits - 1) bits, since |base| is at least 2^(bits - 1)
    return abs(base) > 1 and power * (abs(base).bit_length() - 1) > 64


def _too_large(ctx: Context, node: s.Node, text: str) -> Abort:
    return ctx.error(
        "E0311", "a number that does not fit 64 bits", node.span, label=f"this is {text}"
    )


# --- matrix product -----------------------------------------------------------------------------


def _matrix_product(ctx: Context, node: s.Binary, a: Array, b: Array, scope: BodyScope) -> Array:
    """y[..., i, j] = sum(k) a[..., i, k] * b[..., k, j]; vectors drop their own dimension."""
    if not a.rank or not b.rank:
        raise ctx.error(
            "E0303",
            "`@` multiplies matrices and vectors",
            node.span,
            label="one side is a number",
        )
    inner = b.shape[-2] if b.rank > 1 else b.shape[-1]
    if a.shape[-1] != inner:
        raise ctx.error(
            "E0303",
            f"shapes {list(a.shape)} and {list(b.shape)} do not fit `@`",
            node.span,
            label=f"{a.shape[-1]} columns meet {inner} rows",
            help=f"did you mean `{node.left.span.text} @ transpose({node.right.span.text})`?"
            if b.rank > 1 and a.shape[-1] == b.shape[-1]
            else "",
        )
    # a vector on the left has no rows, one on the right no columns: () each
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.rank > 1 else ()
    # The dimensions before the last two broadcast: [8, 1, n, k] @ [5, k, m] → [8, 5, n, m].
    batches = [Array(x.shape[:-2], x.element, x.axes[:-2]) for x in (a, b)]
    outer = broadcast(ctx, batches, node.span)
    names = distinct(("b",) * len(outer) + ("i",) * len(rows) + ("j",) * len(columns))
    (k,) = distinct(("k",), names)
    # With a vector on the right `j` is some other name; it is not read then.
    batch, i, j = names[: len(outer)], names[len(outer) :][: len(rows)], names[-1:]

    def read(x: Array, last: tuple[str, ...]) -> Expr:
        # `element` aligns indices from the right, so those of missing leading dimensions are left
        # off.
        own = batch[len(batch) - max(x.rank - 2, 0) :]
        return x.element([Idx(n) for n in (*own, *last)], x.shape)

    factors = [read(a, (*i, k)), read(b, (k, *j) if b.rank > 1 else (k,))]
    body = apply_scalar(ctx, "mul", factors)
    name = ctx.unique(f"{scope.prefix}{scope.target}_product")
    indices = tuple(map(Index, names, (*outer, *rows, *columns)))
    return ctx.add(name, indices, body, node.span, "sum", (Index(k, inner),))


def _product_advice(node: s.Binary, left: Array, right: Array) -> str:
    """The matrix product that `W * x` may mean, if the shapes fit that."""
    a, b = (
        f"{n.span.text}" if isinstance(n, s.Name) else f"({n.span.text})"
        for n in (node.left, node.right)
    )
    # `W * x` and `x * W` alike: the matrix is the parameter
    if left.tensor and left.tensor.kind == "param":
        left, right, a, b = right, left, b, a
    if right.rank != 2 or not (right.tensor and right.tensor.kind == "param") or not left.rank:
        return ""
    if left.shape[-1] == right.shape[0]:
        return f"for the matrix product write `{a} @ {b}`"
    if left.shape[-1] == right.shape[1]:
        return f"for the matrix product write `{a} @ transpose({b})`"
    return ""
