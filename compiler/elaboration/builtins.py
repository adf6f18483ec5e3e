"""Functions that are not written in the language: `exp`, `max`, `sum` of a whole tensor, `random`.

In: a name and its arguments. Out: their value. `dsl/check/names.py` lists them for the checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...dsl.diagnostics.diagnostic import did_you_mean
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.build import call, cast, literal
from ..ir.expr import Expr, Idx
from ..ir.functions import CASTS
from .builder import Scope
from .expressions import Expressions
from .values import Array, Shape, Static, is_static, lift

POINTWISE = frozenset(
    {
        "exp",
        "log",
        "expm1",
        "log1p",
        "sqrt",
        "tanh",
        "sin",
        "cos",
        "erf",
        "abs",
        "sign",
        "floor",
        "ceil",
        "round",
        "is_finite",
        "stop",
        "bf16",
    }
    | CASTS
)
KEPT = ("stop", "f64", "i64", "u8")  # of a number: has a type that a plain number has not
# of a tensor's shape, known when compiling
FACTS: dict[str, Callable[[Shape], int]] = {"rank": len, "count": math.prod}


class Builtins(Expressions):
    """Adds builtin functions to expressions."""

    def builtin(
        self,
        name: s.Name,
        arguments: tuple[s.Argument, ...],
        piped: list[Static | Array],
        span: Span,
        scope: Scope,
    ) -> Static | Array:
        fn = name.id
        for argument in arguments:
            if argument.name is not None:
                raise self.error(
                    "E0204", f"`{fn}` has no argument called `{argument.name}`", argument.span
                )
        values = [*piped, *(self.value(a.value, scope) for a in arguments)]
        for value, argument in zip(values[len(piped) :], arguments, strict=True):
            if isinstance(value, str):
                raise self.error("E0312", "a word cannot be computed with", argument.span)
        arrays = [lift(v, self.float_type) for v in values]
        if fn in POINTWISE and len(arrays) == 1:
            result = self.pointwise(fn, arrays, span)
            if all(map(is_static, values)) and fn not in KEPT:
                return self.folded(result)
            return result
        if fn == "after" and len(arrays) == 2:
            return self.pointwise(fn, arrays, span)
        if fn in ("max", "min") and len(arrays) > 1:
            result = arrays[0]
            for other in arrays[1:]:
                result = self.pointwise(fn, [result, other], span)
            return self.folded(result) if all(map(is_static, values)) else result
        if fn in s.REDUCTIONS and len(arrays) == 1:
            return self.whole(fn, arrays[0], span, scope)
        if fn in FACTS and len(arrays) == 1:
            return FACTS[fn](arrays[0].shape)
        if fn == "random" and len(arrays) in (0, 4):
            if arrays:
                return self.as_float(self.pointwise("random", arrays, span), span)
            return self.random(scope, span)
        known = [*POINTWISE, *s.REDUCTIONS, *FACTS, "random", "after", *self.definitions]
        if fn in known:
            raise self.error("E0204", f"`{fn}` does not take {len(arrays)} arguments", span)
        raise self.error(
            "E0203",
            f"unknown layer or function `{fn}`",
            name.span,
            label="not defined here or in the library",
            help=did_you_mean(fn, known),
        )

    def folded(self, array: Array) -> Static | Array:
        expr = array.scalar()
        return expr.value if hasattr(expr, "value") else array

    def random(self, scope: Scope, span: Span) -> Array:
        """A fresh uniform draw for every element of whatever it is used in; the same for the same
        seed, step, place in the file and index, at any time and on any backend."""
        stream = literal(self.streams)
        self.streams += 1
        seed, step = self.scalar_input("seed").scalar(), self.scalar_input("step").scalar()
        own = dict(scope.indices)

        def element(indices, shape: Shape):
            flat: Expr = literal(0)
            places = [
                *((Idx(n), size) for n, size in own.items()),
                *zip(indices, shape, strict=True),
            ]
            for index, size in places:
                flat = call("add", call("mul", flat, literal(size)), index)
            return cast(call("random", seed, step, stream, flat), self.float_type)

        return Array((), element, (), hint="random")
