"""The element type of a recurrence, from the text of its equation.

    p[t] = argmax(j) h[t, j]                     i32
    n[t] = (n[t - 1] else 0) + count[t]          that of `count`

A tensor that is read before its equation is reached needs a type then. It follows from what the
equation is made of, reads of itself left out, by the same rules as that of an elaborated
expression. Numbers in the text adapt to what they meet; a recurrence of nothing else is one of
floats. Tests: tests/equations/test_recurrence_types.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...dsl.check.names import seen_from
from ...dsl.syntax import ast as s
from ..ir.dtypes import is_float
from ..ir.expr import Idx
from ..ir.functions import CASTS, promote
from .context import Context
from .scopes import BodyScope, spelled
from .values import Array, Numbers, of_numbers

WHOLE = "whole"  # a whole number in the text, which adapts
Type = str | None  # a dtype, WHOLE, or None: nothing is known of a tensor that reads itself
_TRUTH = ("==", "!=", "<", "<=", ">", ">=", "and", "or")
_KEPT = ("abs", "sign", "stop", "max", "min")  # of whole numbers these give whole numbers


def recurrence_type(ctx: Context, node: s.Equation, scope: BodyScope) -> str:
    """The type of the equation's target, which is read before the equation is elaborated."""
    declared = scope.declared.get(spelled(node.targets[0]))
    if declared is not None and declared.dtype is not None:
        return ctx.float_for(declared.dtype)
    found = _Inference(ctx, scope).of_equation(node, frozenset())
    return ctx.float_type if found is None or found == WHOLE else found


class _Inference:
    def __init__(self, ctx: Context, scope: BodyScope):
        self.ctx, self.scope = ctx, scope

    def of_equation(self, node: s.Equation, pending: frozenset[str]) -> Type:
        return self.of(node.value, {}, pending | {spelled(node.targets[0])})

    def of(self, node: s.Node, names: Mapping[str, Type], pending: frozenset[str]) -> Type:
        """The type of an expression. `names` are the arguments of a fn that it stands in; `pending`
        the equations that are being looked into."""
        match node:
            case s.Number(value=value):
                return self.ctx.float_type if isinstance(value, float) else WHOLE
            case s.Boolean():
                return "bool"
            case s.Name():
                return names[node.id] if node.id in names else self.of_name(node, pending)
            case s.Index(tensor=tensor):
                return names[tensor.id] if tensor.id in names else self.of_name(tensor, pending)
            case s.Guarded(read=read, other=other):
                return _joined(self.of(read, names, pending), self.of(other, names, pending))
            case s.Unary(op="not"):
                return "bool"
            case s.Unary(operand=operand):
                return _number(self.of(operand, names, pending))
            case s.Binary(op=op) if op in _TRUTH:
                return "bool"
            case s.Binary(op=op, left=left, right=right) if op not in ("/", "@"):
                return _number(
                    _joined(self.of(left, names, pending), self.of(right, names, pending))
                )
            case s.If(yes=yes, no=no):
                return _joined(self.of(yes, names, pending), self.of(no, names, pending))
            case s.Reduce(op="argmax" | "argmin"):
                return "i32"
            case s.Reduce(op="max" | "min", body=body):
                return self.of(body, names, pending)
            case s.Reduce(op="sum" | "prod", body=body):
                return _number(self.of(body, names, pending))
            case s.Call(function=s.Name() as function, arguments=arguments):
                values = [self.of(a.value, names, pending) for a in arguments]
                return self.of_call(function, arguments, values, pending)
            case s.Pipe(value=value, stage=s.Name() as function):
                return self.of_call(function, (), [self.of(value, names, pending)], pending)
        return self.ctx.float_type

    def of_name(self, node: s.Name, pending: frozenset[str]) -> Type:
        name = spelled(node)
        if name in pending:
            return None
        found = self.scope.names.get(name)
        if isinstance(found, Numbers):
            found = of_numbers(found, self.ctx.float_type)
        if isinstance(found, Array):
            places = [Idx(f"#{n}") for n in range(found.rank)]
            return found.element(places, found.shape).dtype
        if isinstance(found, bool):
            return "bool"
        if found is None and name in self.scope.later:
            return self.of_equation(self.scope.later[name], pending)
        # A name without a value is an index of the equation.
        whole = found is None and name not in ("pi", "inf", "nan")
        return "i32" if whole else WHOLE if isinstance(found, int) else self.ctx.float_type

    def of_call(
        self,
        function: s.Name,
        arguments: tuple[s.Argument, ...],
        values: list[Type],
        pending: frozenset[str],
    ) -> Type:
        definition = seen_from(self.ctx.definitions, function.span.source).get(function.id)
        if definition is not None:
            positional = all(a.name is None for a in arguments)
            inputs = [p.name for p in definition.inputs]
            if definition.value is None or not positional or len(inputs) != len(values):
                return self.ctx.float_type
            if function.id in pending:  # a fn that calls itself ends by constants
                return None
            return self.of(
                definition.value, dict(zip(inputs, values, strict=True)), pending | {function.id}
            )
        if function.id in CASTS:
            return function.id
        if function.id == "is_finite":
            return "bool"
        if function.id in _KEPT and values:
            found = values[0]
            for other in values[1:]:
                found = _joined(found, other)
            return found
        return self.ctx.float_type


def _joined(a: Type, b: Type) -> Type:
    """The type of a value that is one or the other."""
    if a is None or b is None or a == b:
        return b if a is None else a
    if WHOLE in (a, b):
        other = b if a == WHOLE else a
        return other if is_float(other) else promote(other)
    return promote(a, b)


def _number(found: Type) -> Type:
    """The type of an arithmetic result: of truth values it is a count."""
    return found if found is None or found == WHOLE else promote(found)
