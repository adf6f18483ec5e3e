"""Parameters and states: their shapes, types and first values.

In: `param` and `state` statements. Out: tensors, with how they start written out.
"""

from __future__ import annotations

from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.build import literal
from ..ir.dtypes import is_float
from ..ir.expr import number_text
from .builder import Scope, fits
from .calls import Calls
from .values import Array, Shape


class Declarations(Calls):
    """Adds parameters and states to calls."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.inits: dict[str, tuple[s.Expr, Scope]] = {}  # of each parameter, and where it stands

    def param(self, node: s.Param, scope: Scope) -> None:
        for name in node.names:
            shape = self.shape(node.type, scope, f"`{name.id}`")
            dtype = self.float_for(node.type.dtype)
            init = self.init_text(node.value, node.drawn, dtype, scope)
            full = self.unique(scope.prefix + name.id)
            scope.names[name.id] = self.declare(
                full, shape, dtype, "param", name.span, self.shape_axes(node.type), init
            )
            self.inits[full] = (node.value, scope)

    def state(self, node: s.State, scope: Scope) -> None:
        shape: Shape
        if node.type is not None and node.type.shape is not None:
            shape = self.shape(node.type, scope, f"`{node.name.id}`")
        else:
            like = scope.names.get("p")
            shape = like.shape if isinstance(like, Array) else ()
        dtype = self.float_for(node.type.dtype if node.type else None)
        init = self.init_text(node.value, False, dtype, scope)
        name = self.unique(scope.prefix + node.name.id)
        scope.names[node.name.id] = self.declare(name, shape, dtype, "state", node.span, (), init)

    def init_text(self, value: s.Expr, drawn: bool, dtype: str, scope: Scope) -> str:
        """How a parameter starts, with the numbers filled in: `~ normal(0.0, 0.02)`, `= 0.0`."""
        if not drawn:
            if isinstance(value, s.List):
                raise self.error(
                    "E0312",
                    "a parameter starts from one number",
                    value.span,
                    label="this is a list",
                    help="numbers that are given are a "
                    "tensor of their own: `w[i < 3] = if i == 0 then 1 else 2`",
                )
            text = value.span.text
            start = self.static(
                value,
                scope,
                "the first value",
                f"what is drawn or computed follows a `~`: `~ {text}`",
            )
            if isinstance(start, str):
                raise self.error(
                    "E0312",
                    "a parameter starts from a number",
                    value.span,
                    label="this is a word",
                    help="an initialiser follows a `~`: `~ normal(0, 0.02)`",
                )
            return f"= {number_text(self.first_value(start, dtype, value.span), dtype)}"
        if isinstance(value, s.Name):
            return f"~ {value.id}"
        if isinstance(value, s.Call) and isinstance(value.function, s.Name):
            parts = []
            for argument in value.arguments:
                given = self.static(argument.value, scope, "an initialiser's argument")
                text = repr(given).lower() if isinstance(given, bool) else repr(given)
                parts.append(f"{argument.name} = {text}" if argument.name else text)
            return f"~ {value.function.id}({', '.join(parts)})"
        raise self.error(
            "E0312",
            "after `~` stands an initialiser",
            value.span,
            help="like `~ glorot_uniform` or `~ normal(0, 0.02)`",
        )

    def first_value(self, start: bool | int | float, dtype: str, span: Span) -> float:
        """A number that its type can hold."""
        if not is_float(dtype) and isinstance(start, float) and not start.is_integer():
            raise self.error(
                "E0307",
                f"{start!r} is not a value of the type {dtype}",
                span,
                label="a real number",
            )
        if not fits(start, dtype):
            raise self.error("E0311", f"{start} does not fit {dtype}", span, label="too large")
        return literal(start, dtype).value
