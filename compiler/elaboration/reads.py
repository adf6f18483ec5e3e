"""Reading tensors: `x[i, j + 1]`, with every index proven inside or guarded by an `else`.

In: syntax. Out: the scalar at the indices of the equation at hand.
"""

from __future__ import annotations

from dataclasses import replace

from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..ir.affine import bounds, inside
from ..ir.build import cast
from ..ir.dtypes import is_float
from ..ir.expr import Expr, Idx, Read, expr_text, index_names
from .builder import MAX_ELEMENTS, Scope
from .ranges import Ranges
from .values import Array, depends_on_data, of_scalar


class Reads(Ranges):
    """Adds reads to ranges."""

    def read(self, node: s.Index, other: s.Node | None, scope: Scope) -> Array:
        """`x[…]` at one point: the element, with its indices proven inside or guarded."""
        # an index of the same name does not hide a tensor
        head = replace(scope, indices={}, ellipsis=None)
        source = self.name(node.tensor, head)
        array = self.named(source, node.tensor, scope, node.tensor.id)
        tensor = array.tensor
        assert tensor is not None
        places = self.places(node, array, scope)
        for place, written in zip(places, self.written(node, array), strict=True):
            if not depends_on_data(place):
                self.reachable(place, written, scope)
        otherwise = None if other is None else cast(self.scalar(other, scope), tensor.dtype)
        if otherwise is None:
            for place, size, written in zip(
                places, tensor.shape, self.written(node, array), strict=True
            ):
                if not depends_on_data(place) and not inside(place, size, scope.indices):
                    self.outside(place, size, node, written, scope)
        elif all(
            not depends_on_data(p) and inside(p, n, scope.indices)
            for p, n in zip(places, tensor.shape, strict=True)
        ):
            otherwise = None  # never outside: the guard says nothing
        return of_scalar(Read(tensor.name, places, otherwise, tensor.dtype), tensor.name)

    def places(self, node: s.Index, array: Array, scope: Scope) -> tuple[Expr, ...]:
        """One integer expression per dimension."""
        explicit = sum(not isinstance(i, s.Ellipsis_) for i in node.indices)
        dots = len(node.indices) - explicit
        if explicit > array.rank or (not dots and explicit != array.rank):
            raise self.error(
                "E0302",
                f"`{node.tensor.id}` has {array.rank} dimension{'s' * (array.rank != 1)}, "
                f"{explicit} {'are' if explicit != 1 else 'is'} indexed",
                node.span,
                label=f"its shape is {list(array.shape)}",
                help=f"`...` stands for leading dimensions: `{node.tensor.id}[..., i]`"
                if explicit < array.rank
                else "",
            )
        result: list[Expr] = []
        for item in node.indices:
            if isinstance(item, s.Ellipsis_):
                names = self.ellipsis(node, scope, array.rank - explicit)
                result += [Idx(n) for n in names]
                continue
            expr = self.scalar(item, scope)
            if is_float(expr.dtype) or expr.dtype == "bool":
                raise self.error(
                    "E0310",
                    "an index must be a whole number",
                    item.span,
                    label=f"this is {expr.dtype}",
                    help=self.whole_advice(item),
                )
            result.append(expr)
        return tuple(result)

    def ellipsis(self, node: s.Index, scope: Scope, count: int) -> tuple[str, ...]:
        names = scope.ellipsis
        if names is None or len(names) != count:
            found = "nothing" if names is None else f"{len(names)} dimensions"
            raise self.error(
                "E0302",
                f"`...` stands for {count} dimensions here, for {found} elsewhere",
                node.span,
                label="leading dimensions of this read",
            )
        return names

    def reachable(self, place: Expr, written: s.Node, scope: Scope) -> None:
        """Index arithmetic is done in 32 bits."""
        furthest = max(map(abs, bounds(place, scope.indices)))
        if furthest > MAX_ELEMENTS:
            raise self.error(
                "E0311",
                f"index `{expr_text(place)}` goes too far",
                written.span,
                label=f"up to {furthest:,}",
                help=f"the limit is {MAX_ELEMENTS:,}",
            )

    def outside(self, place: Expr, size: int, node: s.Index, written: s.Node, scope: Scope) -> None:
        low, high = bounds(place, scope.indices)
        at = f"{low}" if low == high else f"{low} to {high}"
        ranges = ", ".join(
            f"{n} < {scope.indices[n]}" for n in scope.indices if n in index_names(place)
        )
        raise self.error(
            "E0306",
            f"index `{expr_text(place)}` falls outside `{node.tensor.id}`",
            written.span,
            label=f"runs over {at}{f' ({ranges})' if ranges else ''}; the size here is {size}"
            if low != high
            else f"the size here is {size}: places are 0 to {size - 1}",
            help=f"say what is read there: `({node.span.text} else 0)`"
            if low != high
            else f"places are not counted from the end: the last is {size - 1}"
            if high < 0
            else "",
        )

    @staticmethod
    def whole_advice(node: s.Node) -> str:
        """How an index of real numbers becomes one of whole numbers."""
        if any(isinstance(n, s.Binary) and n.op == "/" for n in walk(node)):
            return "whole numbers are divided with `//`"
        return f"declare it i32 where it comes from, or convert it: `i32({node.span.text})`"
