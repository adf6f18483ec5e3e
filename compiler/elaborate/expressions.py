"""Expressions of the language as scalar expressions over tensors.

In: syntax and a `Scope`. Out: a `Static` or an `Array`; nested reductions become equations of
their own on the way. What layers and functions do with it is in `definitions.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace

from ...dsl import syntax as s
from ...dsl.diagnostics import Note, did_you_mean
from ...dsl.source import Span
from ..affine import bounds, inside
from ..ir import Expr, Idx, Index, Read, index_names, is_float, substitute
from ..printer import expr_text
from ..scalar import CASTS, TABLE, call, cast, literal
from .builder import MAX_ELEMENTS, Abort, Builder, Scope
from .values import (
    Array,
    Poison,
    Shape,
    Static,
    Use,
    Value,
    align,
    depends_on_data,
    is_static,
    lift,
    of_scalar,
)

POINTWISE = frozenset(
    {"exp", "log", "expm1", "log1p", "sqrt", "tanh", "sin", "cos", "erf", "abs", "sign", "floor",
     "ceil", "round", "is_finite", "stop"} | CASTS
)  # fmt: skip
_OPERATORS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod", "^": "pow",
    "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "and": "and", "or": "or",
}  # fmt: skip
_STATIC = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "^": operator.pow, "==": operator.eq,
    "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_NUMBERS = {"inf": math.inf, "nan": math.nan, "pi": math.pi}


def nodes(node: s.Node) -> Iterator[s.Node]:
    """The node and everything below it, in the order of the text."""
    yield node
    for field in fields(node):
        child = getattr(node, field.name)
        for item in child if isinstance(child, tuple) else (child,):
            if isinstance(item, s.Node):
                yield from nodes(item)


class Expressions(Builder):
    """`value(node, scope)` is the door; every kind of node has its method."""

    def value(self, node: s.Node, scope: Scope) -> Static | Array:
        results = self.values(node, scope)
        if len(results) != 1:
            raise self.error(
                "E0317", f"this gives {len(results)} results where one is needed", node.span,
                help="name them first: `a, b = …`",
            )  # fmt: skip
        if isinstance(results[0], Poison):
            raise Abort()
        return results[0]

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
        raise self.error("E0312", "this cannot stand here", node.span)

    def call(self, node: s.Call | s.Pipe, scope: Scope) -> tuple[Value, ...]:
        raise NotImplementedError  # definitions.py

    def find(self, name: s.Name) -> s.Definition | None:
        raise NotImplementedError  # definitions.py

    def lookup(self, name: str, scope: Scope) -> Value | None:
        """What a name stands for, tensors that are computed later in the body included."""
        return scope.names.get(name)

    # --- names and numbers --------------------------------------------------------------------

    def name(self, node: s.Name, scope: Scope) -> Static | Array:
        name = node.id + "'" * node.primed
        if name in scope.renamed:
            return of_scalar(Idx(scope.renamed[name]), name)
        if name in scope.indices and name not in scope.hidden:
            return of_scalar(Idx(name), name)
        found = self.lookup(name, scope)
        if isinstance(found, Poison):
            raise Abort()
        if found is not None:
            return found
        if name == "training":
            return self.training
        if name in _NUMBERS:
            return _NUMBERS[name]
        definition = self.find(node)
        if definition is not None:
            kind = definition.kind
            raise self.error(
                "E0312", f"`{name}` is a {kind}, not a value", node.span,
                help=f"apply it: `{name}(…)` or `x |> {name}`",
            )  # fmt: skip
        self.unknown(name, node, scope)
        raise Abort()

    def unknown(self, name: str, node: s.Name, scope: Scope) -> None:
        """A name without a value: one that is computed further down, or none at all."""
        if name in scope.awaited:
            span, own = scope.awaited[name], node.span
            inside = span.source is own.source and span.start <= own.start and own.end <= span.end
            self.error(
                "E0218", f"`{name}` is read before it is computed", own,
                label="its own value is not known yet" if inside else "not known yet",
                notes=() if inside else (Note(span, "computed here"),),
                help="a recurrence has indices and a start: `y[t] = … (y[t-1] else 0)`"
                if inside else "move its equation up",
            )  # fmt: skip
            return
        known = [*scope.names, *scope.indices, *self.definitions, *self.known()]
        self.error(
            "E0202", f"unknown name `{name}`", node.span, label="not defined anywhere",
            help=did_you_mean(name, known),
        )  # fmt: skip

    def known(self) -> Iterable[str]:
        """More names that the user may have meant."""
        return ()

    def static(self, node: s.Node, scope: Scope, what: str) -> Static:
        """A value known when compiling."""
        value = self.value(node, scope)
        if isinstance(value, Array):
            raise self.error(
                "E0308", f"{what} must be known when compiling", node.span,
                label="this depends on the values of tensors",
                help="sizes come from shapes, settings and `let`s of them",
            )  # fmt: skip
        return value

    def size(self, node: s.Node, scope: Scope, what: str) -> int:
        """A size: a whole number that is not negative."""
        value = self.static(node, scope, what)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            halves = any(isinstance(n, s.Binary) and n.op == "/" for n in nodes(node))
            raise self.error(
                "E0308", f"{what} must be a whole number", node.span, label=f"this is {value!r}",
                help="whole numbers are divided with `//`" if halves else "",
            )  # fmt: skip
        if value < 0:
            raise self.error("E0309", f"{what} would be {value}", node.span,
                             label="sizes are not negative")  # fmt: skip
        return value

    def array(self, node: s.Node, scope: Scope) -> Array:
        value = self.value(node, scope)
        if isinstance(value, str):
            raise self.no_number(value, node)
        return lift(value, self.float_type)

    def scalar(self, node: s.Node, scope: Scope) -> Expr:
        """The value at one point of the equation's domain."""
        array = self.array(node, scope)
        if array.rank:
            node, array = self.culprit(node, array, scope)
            name = f"`{node.span.text}`" if isinstance(node, s.Name) else "this"
            raise self.error(
                "E0302", f"{name} has {array.rank} dimension{'s' * (array.rank > 1)} here",
                node.span, label=f"its shape is {list(array.shape)}",
                help=f"index it: `{node.span.text}[{', '.join(array.axes)}]`"
                if isinstance(node, s.Name) else "give it a name in an equation of its own, then "
                "index that",
            )  # fmt: skip
        return array.scalar()

    def culprit(self, node: s.Node, array: Array, scope: Scope) -> tuple[s.Node, Array]:
        """The tensor without an index that gives arithmetic its dimensions."""
        parts = {
            s.Unary: ("operand",),
            s.Binary: ("left", "right"),
            s.If: ("condition", "yes", "no"),
        }
        for part in parts.get(type(node), ()):
            child = getattr(node, part)
            value = self.lookup(child.id, scope) if isinstance(child, s.Name) else None
            if isinstance(value, Array) and value.rank and child.id not in scope.indices:
                return child, value
            found = self.culprit(child, array, scope)
            if found[0] is not child:
                return found
        return node, array

    # --- operators ----------------------------------------------------------------------------

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
        return self.pointwise(_OPERATORS[node.op], arrays, node.span)

    def no_number(self, word: str, node: s.Node) -> Abort:
        return self.error("E0312", f'the word "{word}" cannot be computed with', node.span,
                          label=f'this is "{word}"')  # fmt: skip

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
            raise self.error("E0309", "division by zero", node.span,
                             label=f"{left} {node.op} {right}") from None  # fmt: skip
        except OverflowError:
            raise self.too_large(node, f"{left} {node.op} {right}") from None
        if isinstance(result, complex):
            raise self.error("E0309", f"`{left} {node.op} {right}` is not a real number", node.span)
        if isinstance(result, int) and not -(2**63) <= result < 2**63:
            raise self.too_large(node, f"{left} {node.op} {right}")
        return result

    def too_large(self, node: s.Node, text: str) -> Abort:
        return self.error("E0311", "a number that does not fit 64 bits", node.span,
                          label=f"this is {text}")  # fmt: skip

    def combine(self, fn: str, args: Sequence[Expr]) -> Expr:
        """A scalar function of expressions; what must be a float becomes the program's float."""
        floats = any(is_float(a.dtype) for a in args)
        if not floats and TABLE[fn].type is TABLE["div"].type:
            args = [cast(args[0], self.float_type), *args[1:]]
        if fn == "f32":
            fn = self.float_type
        return call(fn, *args)

    def pointwise(self, fn: str, arrays: Sequence[Array], span: Span) -> Array:
        """A scalar function of arrays, broadcast from the right."""
        shape = self.broadcast(arrays, span)
        memo: dict = {}

        def element(indices: Sequence[Expr], outer: Shape) -> Expr:
            key = (tuple(indices), outer)
            if key not in memo:
                memo[key] = self.combine(fn, [a.element(indices, outer) for a in arrays])
            return memo[key]

        widest = max(arrays, key=lambda a: (a.rank, math.prod(a.shape), bool(a.tensor)))
        return Array(shape, element, widest.axes, hint=fn)

    def broadcast(self, arrays: Sequence[Array], span: Span) -> Shape:
        rank = max(a.rank for a in arrays)
        shape = []
        for axis in range(rank):
            sizes: dict[int, Array] = {}
            for a in arrays:
                place = axis - (rank - a.rank)
                if place >= 0 and a.shape[place] != 1:
                    sizes.setdefault(a.shape[place], a)
            if len(sizes) > 1:
                (m, first), (n, second) = list(sizes.items())[:2]
                swapped = first.rank == second.rank == 2 and first.shape == second.shape[::-1]
                raise self.error(
                    "E0303", f"shapes {list(first.shape)} and {list(second.shape)} do not fit",
                    span, label=_meeting(first, m, second, n),
                    help="one is the transpose of the other: `transpose(x)` exchanges dimensions"
                    if swapped else
                    "shapes are lined up at their last dimensions; sizes must be equal or 1",
                )  # fmt: skip
            shape.append(next(iter(sizes), 1))
        return tuple(shape)

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
            raise self.error("E0303", "`@` multiplies matrices and vectors", node.span,
                             label="one side is a number")  # fmt: skip
        inner = b.shape[-2] if b.rank > 1 else b.shape[-1]
        if a.shape[-1] != inner:
            raise self.error(
                "E0303", f"shapes {list(a.shape)} and {list(b.shape)} do not fit `@`", node.span,
                label=f"{a.shape[-1]} columns meet {inner} rows",
                help=f"did you mean `{node.left.span.text} @ transpose({node.right.span.text})`?"
                if b.rank > 1 and a.shape[-1] == b.shape[-1] else "",
            )  # fmt: skip
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

        body = self.combine("mul", [
            read(a, [*i, k]), read(b, [k, *j] if b.rank > 1 else [k]),
        ])  # fmt: skip
        name = self.unique(f"{scope.prefix}{scope.target}_product")
        return self.add(name, indices, body, node.span, "sum", (Index(k, inner),))

    def distinct(self, names: Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
        """The names, changed where needed so that no two are equal."""
        result: list[str] = []
        for name in names:
            fresh, number = name, 1
            while fresh in result or fresh in taken:
                number += 1
                fresh = f"{name}{number}"
            result.append(fresh)
        return tuple(result)

    def named(self, value: Static | Array, node: s.Node, scope: Scope, hint: str = "") -> Array:
        """The value as a tensor with a name, computed by an equation if it has none yet."""
        if isinstance(value, str):
            raise self.no_number(value, node)
        array = lift(value, self.float_type)
        if array.tensor is not None:
            return array
        name = self.unique(scope.prefix + (hint or array.hint))
        return self.materialise(name, array, node.span, scope)

    def materialise(self, name: str, array: Array, span: Span, scope: Scope | None) -> Array:
        """An equation that computes the array."""
        if scope is not None and scope.indices and array.is_local:
            raise self.error(
                "E0313", "a whole tensor is needed here, not one element of it", span,
                label="this depends on an index of the equation",
                help="compute it in an equation of its own, without indices",
            )  # fmt: skip
        names = self.distinct(array.axes or self.fresh_axes(array.shape))
        names = names if len(names) == array.rank else self.fresh_axes(array.shape)
        indices = tuple(map(Index, names, array.shape))
        body = array.element([Idx(n) for n in names], array.shape)
        return self.add(name, indices, body, span)

    # --- reading tensors ----------------------------------------------------------------------

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

    def reachable(self, place: Expr, written: s.Node, scope: Scope) -> None:
        """Index arithmetic is done in 32 bits."""
        furthest = max(map(abs, bounds(place, scope.indices)))
        if furthest > MAX_ELEMENTS:
            raise self.error("E0311", f"index `{expr_text(place)}` goes too far", written.span,
                             label=f"up to {furthest:,}",
                             help=f"the limit is {MAX_ELEMENTS:,}")  # fmt: skip

    def written(self, node: s.Index, array: Array) -> list[s.Node]:
        """The syntax that stands for each dimension."""
        result: list[s.Node] = []
        for item in node.indices:
            dots = isinstance(item, s.Ellipsis_)
            result += [item] * (array.rank - len(node.indices) + 1 if dots else 1)
        return result

    def places(self, node: s.Index, array: Array, scope: Scope) -> tuple[Expr, ...]:
        """One integer expression per dimension."""
        explicit = sum(not isinstance(i, s.Ellipsis_) for i in node.indices)
        dots = len(node.indices) - explicit
        if explicit > array.rank or (not dots and explicit != array.rank):
            raise self.error(
                "E0302",
                f"`{node.tensor.id}` has {array.rank} dimension{'s' * (array.rank != 1)}, "
                f"{explicit} {'are' if explicit != 1 else 'is'} indexed",
                node.span, label=f"its shape is {list(array.shape)}",
                help=f"`...` stands for leading dimensions: `{node.tensor.id}[..., i]`"
                if explicit < array.rank else "",
            )  # fmt: skip
        result: list[Expr] = []
        for item in node.indices:
            if isinstance(item, s.Ellipsis_):
                names = self.ellipsis(node, scope, array.rank - explicit)
                result += [Idx(n) for n in names]
                continue
            expr = self.scalar(item, scope)
            if is_float(expr.dtype) or expr.dtype == "bool":
                raise self.error("E0310", "an index must be a whole number", item.span,
                                 label=f"this is {expr.dtype}")  # fmt: skip
            result.append(expr)
        return tuple(result)

    def ellipsis(self, node: s.Index, scope: Scope, count: int) -> tuple[str, ...]:
        names = scope.ellipsis
        if names is None or len(names) != count:
            found = "nothing" if names is None else f"{len(names)} dimensions"
            raise self.error(
                "E0302", f"`...` stands for {count} dimensions here, for {found} elsewhere",
                node.span, label="leading dimensions of this read",
            )  # fmt: skip
        return names

    def outside(self, place: Expr, size: int, node: s.Index, written: s.Node, scope: Scope) -> None:
        low, high = bounds(place, scope.indices)
        at = f"{low}" if low == high else f"{low} to {high}"
        ranges = ", ".join(
            f"{n} < {scope.indices[n]}" for n in scope.indices if n in index_names(place)
        )
        raise self.error(
            "E0306", f"index `{expr_text(place)}` falls outside `{node.tensor.id}`", written.span,
            label=f"runs over {at}{f' ({ranges})' if ranges else ''}; the size here is {size}"
            if low != high else f"the size here is {size}: places are 0 to {size - 1}",
            help=f"say what is read there: `({node.span.text} else 0)`" if low != high else "",
        )  # fmt: skip

    # --- reductions ---------------------------------------------------------------------------

    def reduction(self, node: s.Reduce, scope: Scope) -> Array:
        """A nested reduction: an equation of its own over the indices that it depends on."""
        op, over, body = self.reduced(node, scope)
        return self.reduced_array(node.op, op, over, body, node.span, scope)

    def reduced(self, node: s.Reduce, scope: Scope) -> tuple[str, tuple[Index, ...], Expr]:
        """What is reduced: the operation (mean is a sum), the indices and the body."""
        inner, over = self.introduce(node.axes, node.body, scope, node.span)
        body = self.scalar(node.body, inner)
        return self.reducible(node.op, body, over, node.span)

    def reducible(
        self, op: str, body: Expr, over: tuple[Index, ...], span: Span
    ) -> tuple[str, tuple[Index, ...], Expr]:
        if op == "mean":
            return "sum", over, body if is_float(body.dtype) else cast(body, self.float_type)
        empty = [i for i in over if i.size == 0]
        if empty and op not in ("sum", "prod"):
            raise self.error("E0309", f"`{op}` over nothing: `{empty[0].name}` has size 0", span)
        if op in ("sum", "prod") and body.dtype in ("bool", "u8"):
            body = cast(body, "i32")
        return op, over, body

    def reduced_array(
        self, written: str, op: str, over: tuple[Index, ...], body: Expr, span: Span, scope: Scope
    ) -> Array:
        """The reduction as an equation over the indices that its body depends on, and the read of
        that equation's result."""
        own = {i.name for i in over}
        free = index_names(body) - own
        indices = tuple(Index(n, size) for n, size in scope.indices.items() if n in free)
        name = self.unique(f"{scope.prefix}{scope.target}_{written}")
        array = self.add(name, indices, body, span, op, over)
        result: Expr = array.element([Idx(i.name) for i in indices], array.shape)
        if written == "mean":
            result = self.mean_of(result, over, span)
        return of_scalar(result, name)

    def mean_of(self, total: Expr, over: tuple[Index, ...], span: Span) -> Expr:
        count = math.prod(i.size for i in over)
        if not count:
            raise self.error("E0309", "the mean of nothing", span)
        return call("div", total, literal(float(count), total.dtype))

    def whole(self, op: str, array: Array, span: Span, scope: Scope) -> Array:
        """`sum(x)`: over all elements; `argmax(x)`: over the last dimension."""
        if not array.rank and span.source.library and op not in ("argmax", "argmin"):
            return array  # a loss of two numbers: the mean of one is itself
        if not array.rank:
            raise self.error(
                "E0314", f"`{op}` of a single number", span,
                help=f"to reduce over an index, put it in parentheses: `{op}(i) x[i]`",
            )  # fmt: skip
        kept = array.rank - 1 if op in ("argmax", "argmin") else 0
        names = array.axes if len(array.axes) == array.rank else self.fresh_axes(array.shape)
        names = self.distinct(names, tuple(scope.indices))
        body = array.element([Idx(n) for n in names], array.shape)
        indices = tuple(map(Index, names, array.shape))
        operation, over, body = self.reducible(op, body, indices[kept:], span)
        outer = scope.inner({i.name: i.size for i in indices[:kept]})
        result = self.reduced_array(op, operation, over, body, span, outer)
        if not kept:
            return result
        shape, value = array.shape[:kept], result.scalar()

        def element(places: Sequence[Expr], outer_shape: Shape) -> Expr:
            own = align(places, outer_shape, shape)
            return substitute(value, dict(zip(names, own, strict=False)))

        return Array(shape, element, names[:kept], hint=result.hint)

    # --- the ranges of indices ----------------------------------------------------------------

    def introduce(
        self, axes: tuple[s.Axis, ...], body: s.Node, scope: Scope, span: Span
    ) -> tuple[Scope, tuple[Index, ...]]:
        """The scope inside a reduction, and the indices reduced over with their sizes. An index
        whose name is taken (by the equation, or by the caller of this fn) gets another one."""
        sizes: dict[str, int] = {}
        renamed: dict[str, str] = {}
        dots: tuple[str, ...] | None = None
        for axis in axes:
            if axis.name == "...":
                dots, extents = self.ellipsis_range(body, scope, axis.span)
                sizes.update(zip(dots, extents, strict=True))
                continue
            if axis.name in sizes or axis.name in renamed:
                raise self.error("E0215", f"index `{axis.name}` stands twice in one list",
                                 axis.span)  # fmt: skip
            size = self.range_of(axis, body, scope)
            if size > MAX_ELEMENTS:
                raise self.error(
                    "E0311", f"`{axis.name}` would run over {size:,}", axis.span,
                    label="too far", help=f"the limit is {MAX_ELEMENTS:,}",
                )  # fmt: skip
            (own,) = self.distinct((axis.name,), (*scope.indices, *sizes))
            if own != axis.name:
                renamed[axis.name] = own
            sizes[own] = size
        return scope.inner(sizes, dots, renamed), tuple(Index(n, size) for n, size in sizes.items())

    def range_of(
        self, axis: s.Axis, body: s.Node, scope: Scope, declared: int | None = None
    ) -> int:
        """The size of an index: as it says itself, as declared, or from where it is used."""
        if axis.bound is not None:
            return self.size(axis.bound, scope, f"the range of `{axis.name}`")
        uses = self.uses(axis.name, body, scope)
        if declared is not None:
            uses = [Use(declared, axis.span, "the result"), *uses]
        if not uses:
            if self.reads_poison(body, scope):
                raise Abort()
            raise self.error(
                "E0305", f"the range of `{axis.name}` is not known", axis.span,
                label="it is not used as an index by itself",
                help=f"say it: `{axis.name} < 3`",
            )  # fmt: skip
        first = uses[0]
        for use in uses[1:]:
            if use.size != first.size:
                raise self.error(
                    "E0304", f"sizes of `{axis.name}` disagree", use.span,
                    label=f"here `{axis.name}` runs over {use.size} (`{use.tensor}`)",
                    notes=(Note(first.span,
                                f"here `{axis.name}` runs over {first.size} ({first.tensor})"
                                if first.tensor == "the result" else
                                f"here `{axis.name}` runs over {first.size} (`{first.tensor}`)"),),
                    help=f"`{use.tensor}` has shape {list(use.shape)}: are two of its indices "
                    "exchanged?" if first.size in use.shape else "",
                )  # fmt: skip
        return first.size

    def reads_poison(self, body: s.Node, scope: Scope) -> bool:
        """Whether it reads a tensor whose definition was wrong: nothing more is said then."""
        return any(
            isinstance(node, s.Index) and isinstance(scope.names.get(node.tensor.id), Poison)
            for node in nodes(body)
        )

    def uses(self, name: str, body: s.Node, scope: Scope) -> list[Use]:
        """Where the index stands alone as an index of a tensor whose shape is known."""
        found: list[Use] = []
        if isinstance(body, s.Reduce) and any(a.name == name for a in body.axes):
            return found
        if isinstance(body, s.Index):
            array = self.shape_of(body.tensor, scope)
            explicit = sum(not isinstance(i, s.Ellipsis_) for i in body.indices)
            if array is not None and explicit <= array.rank:
                written = self.written(body, array)
                for item, size in zip(written, array.shape, strict=False):
                    if isinstance(item, s.Name) and item.id == name and not item.primed:
                        found.append(Use(size, item.span, body.tensor.id, array.shape))
        for field in fields(body):
            child = getattr(body, field.name)
            for item in child if isinstance(child, tuple) else (child,):
                if isinstance(item, s.Node):
                    found += self.uses(name, item, scope)
        return found

    def ellipsis_range(
        self, body: s.Node, scope: Scope, span: Span
    ) -> tuple[tuple[str, ...], Shape]:
        """What `...` stands for in an equation: names and sizes, from the tensors it indexes."""
        found: list[tuple[Shape, tuple[str, ...], s.Index]] = []
        for node in nodes(body):
            if isinstance(node, s.Index) and any(isinstance(i, s.Ellipsis_) for i in node.indices):
                array = self.shape_of(node.tensor, scope)
                if array is not None:
                    count = array.rank - len(node.indices) + 1
                    if count >= 0:
                        found.append((array.shape[:count], array.axes[:count], node))
        if not found:
            if "..." in scope.names:
                outer: Shape = scope.names["..."]  # type: ignore[assignment]
                return self.fresh_dots(scope, body, ("b",) * len(outer)), outer
            raise self.error("E0305", "what `...` stands for is not known", span,
                             label="no tensor here is indexed with `...`")  # fmt: skip
        shape, axes, first = found[0]
        for other, _, node in found[1:]:
            if other != shape:
                raise self.error(
                    "E0304", "the dimensions of `...` disagree", node.span,
                    label=f"here they are {list(other)} (`{node.tensor.id}`)",
                    notes=(Note(first.span, f"here they are {list(shape)} (`{first.tensor.id}`)"),),
                )  # fmt: skip
        return self.fresh_dots(scope, body, axes), shape

    def fresh_dots(self, scope: Scope, body: s.Node, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Names for the indices behind `...` that nothing in the equation uses."""
        heads = {id(n.tensor) for n in nodes(body) if isinstance(n, s.Index)}
        taken = {n.id for n in nodes(body) if isinstance(n, s.Name) and id(n) not in heads}
        taken |= {a.name for n in nodes(body) if isinstance(n, s.Reduce) for a in n.axes}
        return self.distinct(axes, (*taken, *scope.indices))

    def shape_of(self, name: s.Name, scope: Scope) -> Array | None:
        found = self.lookup(name.id + "'" * name.primed, scope)
        return found if isinstance(found, Array) else None


def _is_huge_power(base: Static, power: Static) -> bool:
    """Whether base^power has far more than 64 bits; it is not worth the time to find out."""
    if not isinstance(base, int) or not isinstance(power, int) or power < 0:
        return False
    return abs(base) > 1 and power * (abs(base).bit_length() - 1) > 64


def _meeting(first: Array, m: int, second: Array, n: int) -> str:
    """`576 (x) meets 512 (w)`."""
    named = [f" (`{a.tensor.name}`)" if a.tensor else "" for a in (first, second)]
    return f"{m}{named[0]} meets {n}{named[1]}, counting from the right"
