"""Expressions of the language as scalar expressions over tensors.

In: syntax and a `Scope`. Out: a `Static` or an `Array`. What layers and functions do with
them is in `calls.py`.
"""

from __future__ import annotations

import operator

from ...dsl.syntax import ast as s
from ..ir.equation import Index
from ..ir.expr import Expr, Idx
from .builder import Abort, Scope
from .reductions import Reductions
from .values import Array, Static, Value, is_static, lift

_OPERATORS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod", "^": "pow",
    "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "and": "and", "or": "or",
}  # fmt: skip
_STATIC = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "^": operator.pow, "==": operator.eq,
    "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Expressions(Reductions):
    """Every kind of expression has its method."""

    def values(self, node: s.Node, scope: Scope) -> tuple[Value, ...]:
        """The results of an expression; only a call of a layer or fn can have several."""
        match node:
            case s.Call() | s.Pipe():
                return self.call(node, scope)
            case s.Number(value=value) | s.Boolean(value=value) | s.String(value=value):
                return (value,)
            case s.Name():
                return (self.name(node, scope),)
            case s.Unary():
                return (self.unary(node, scope),)
            case s.Binary():
                return (self.binary(node, scope),)
            case s.If():
                return (self.choice(node, scope),)
            case s.Index():
                return (self.read(node, None, scope),)
            case s.Guarded():
                return (self.read(node.read, node.other, scope),)
            case s.Reduce():
                return (self.reduction(node, scope),)
        if isinstance(node, s.List):
            raise self.error(
                "E0312",
                "a list is not a value",
                node.span,
                label="one value is needed here",
                help="give one number, or a tensor by its equation: `w[i < 3] = …`",
            )
        raise self.error("E0312", "this cannot stand here", node.span)

    def call(self, node: s.Call | s.Pipe, scope: Scope) -> tuple[Value, ...]:
        raise NotImplementedError  # calls.py

    # --- operators -----------------------------------------------------------------------------

    def unary(self, node: s.Unary, scope: Scope) -> Static | Array:
        value = self.value(node.operand, scope)
        if isinstance(value, Array):
            return self.pointwise("neg" if node.op == "-" else "not", [value], node.span)
        if isinstance(value, str):
            raise self.no_number(value, node.operand)
        return -value if node.op == "-" else not value

    def binary(self, node: s.Binary, scope: Scope) -> Static | Array:
        left = self.value(node.left, scope)
        if node.op in ("and", "or") and not isinstance(left, Array):
            if bool(left) == (node.op == "or"):
                return bool(left)
            right = self.value(node.right, scope)
            return right if isinstance(right, Array) else bool(right)
        right = self.value(node.right, scope)
        if node.op == "@":
            return self.matrix_product(node, left, right, scope)
        if not isinstance(left, Array) and not isinstance(right, Array):
            return self.static_binary(node, left, right)
        for side, value in ((node.left, left), (node.right, right)):
            if isinstance(value, str):
                raise self.no_number(value, side)
        if node.op in ("/", "//", "%") and is_static(right) and not right:
            raise self.error("E0309", "division by zero", node.right.span, label="this is 0")
        arrays = [lift(v, self.float_type) for v in (left, right)]  # type: ignore[arg-type]
        if node.op == "^" and isinstance(right, int) and right < 0:
            arrays[1] = lift(float(right), self.float_type)  # 2^-1 is a half, not a whole number
        advice = self.product_advice(node, *arrays) if node.op == "*" else ""
        return self.pointwise(_OPERATORS[node.op], arrays, node.span, advice)

    def product_advice(self, node: s.Binary, left: Array, right: Array) -> str:
        """The matrix product that may be meant by `W * x`, if shapes fit that."""
        a, b = (
            f"{n.span.text}" if isinstance(n, s.Name) else f"({n.span.text})"
            for n in (node.left, node.right)
        )
        if left.tensor and left.tensor.kind == "param":
            left, right, a, b = right, left, b, a
        if right.rank != 2 or not (right.tensor and right.tensor.kind == "param") or not left.rank:
            return ""
        if left.shape[-1] == right.shape[0]:
            return f"for the matrix product write `{a} @ {b}`"
        if left.shape[-1] == right.shape[1]:
            return f"for the matrix product write `{a} @ transpose({b})`"
        return ""

    def static_binary(self, node: s.Binary, left: Static, right: Static) -> Static:
        """Arithmetic on what is known when compiling: as in Python, in 64 bits."""
        for side, value in ((node.left, left), (node.right, right)):
            if isinstance(value, str) and node.op not in ("==", "!="):
                raise self.no_number(value, side)
        if node.op == "^" and _is_huge_power(left, right):
            raise self.too_large(node, f"{left}^{right}")
        try:
            result = _STATIC[node.op](left, right)
        except ZeroDivisionError:
            raise self.error(
                "E0309", "division by zero", node.span, label=f"{left} {node.op} {right}"
            ) from None
        except OverflowError:
            raise self.too_large(node, f"{left} {node.op} {right}") from None
        if isinstance(result, complex):
            raise self.error("E0309", f"`{left} {node.op} {right}` is not a real number", node.span)
        if isinstance(result, int) and not -(2**63) <= result < 2**63:
            raise self.too_large(node, f"{left} {node.op} {right}")
        return result

    def too_large(self, node: s.Node, text: str) -> Abort:
        return self.error(
            "E0311", "a number that does not fit 64 bits", node.span, label=f"this is {text}"
        )

    def choice(self, node: s.If, scope: Scope) -> Static | Array:
        condition = self.value(node.condition, scope)
        if not isinstance(condition, Array):  # known when compiling: the other branch is not there
            return self.value(node.yes if condition else node.no, scope)
        arrays = [condition, self.array(node.yes, scope), self.array(node.no, scope)]
        return self.pointwise("select", arrays, node.span)

    def matrix_product(
        self, node: s.Binary, left: Static | Array, right: Static | Array, scope: Scope
    ) -> Array:
        """y[..., i, j] = sum(k) a[..., i, k] * b[..., k, j]; vectors drop their own dimension."""
        a, b = (self.named(v, side, scope) for v, side in ((left, node.left), (right, node.right)))
        if not a.rank or not b.rank:
            raise self.error(
                "E0303",
                "`@` multiplies matrices and vectors",
                node.span,
                label="one side is a number",
            )
        inner = b.shape[-2] if b.rank > 1 else b.shape[-1]
        if a.shape[-1] != inner:
            raise self.error(
                "E0303",
                f"shapes {list(a.shape)} and {list(b.shape)} do not fit `@`",
                node.span,
                label=f"{a.shape[-1]} columns meet {inner} rows",
                help=f"did you mean `{node.left.span.text} @ transpose({node.right.span.text})`?"
                if b.rank > 1 and a.shape[-1] == b.shape[-1]
                else "",
            )
        rows, columns = a.shape[-2:-1], b.shape[-1:] if b.rank > 1 else ()
        outer = self.broadcast(
            [Array(x.shape[:-2], x.element, x.axes[:-2]) for x in (a, b)], node.span
        )
        names = self.distinct(
            (*("b" for _ in outer), *("i" for _ in rows), *("j" for _ in columns))
        )
        indices = tuple(map(Index, names, (*outer, *rows, *columns)))
        k = self.distinct(("k",), names)[0]
        batch, i, j = names[: len(outer)], names[len(outer) :][: len(rows)], names[-1:]

        def read(x: Array, last: list[str]) -> Expr:
            own = batch[len(batch) - max(x.rank - 2, 0) :]
            return x.element([Idx(n) for n in (*own, *last)], x.shape)

        body = self.combine(
            "mul",
            [
                read(a, [*i, k]),
                read(b, [k, *j] if b.rank > 1 else [k]),
            ],
        )
        name = self.unique(f"{scope.prefix}{scope.target}_product")
        return self.add(name, indices, body, node.span, "sum", (Index(k, inner),))


def _is_huge_power(base: Static, power: Static) -> bool:
    """Whether base^power has far more than 64 bits; it is not worth the time to find out."""
    if not isinstance(base, int) or not isinstance(power, int) or power < 0:
        return False
    return abs(base) > 1 and power * (abs(base).bit_length() - 1) > 64
