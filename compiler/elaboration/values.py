"""Values: what a name or an expression stands for during elaboration.

A `Static` is a compile-time constant: sizes, settings, `let`s. An `Array` is a tensor, or an
elementwise expression over tensors that no equation computes yet. `Poison` is the value of
a definition that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ...dsl.records import record
from ...dsl.syntax import ast as s
from ..ir.build import call, literal
from ..ir.equation import Tensor
from ..ir.expr import Expr, Idx, Read, walk


@record
class Numbers:
    """A list, `[3, 5]` or `[[1, 2], [3, 4]]`: a compile-time constant that settings can be, and a
    tensor where one is needed. Lists in a list are of one shape."""

    items: tuple[int | float | Numbers, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.items[0] if self.items else 0
        return (len(self.items), *(first.shape if isinstance(first, Numbers) else ()))

    @cached_property
    def flat(self) -> tuple[int | float, ...]:
        """All numbers in row-major order."""
        parts = (i.flat if isinstance(i, Numbers) else (i,) for i in self.items)
        return tuple(number for part in parts for number in part)

    def at(self, place: Sequence[int]) -> int | float | Numbers:
        """The number, or the list, at a place."""
        first, *rest = place
        found = self.items[first]
        return found.at(rest) if rest and isinstance(found, Numbers) else found


Static = bool | int | float | str | Numbers
Shape = tuple[int, ...]


@record
class Array:
    """`element(indices, shape)` is the scalar at these indices of an array of this shape, whose
    last dimensions are this array's (broadcasting from the right). `axes` are suggested names of
    its dimensions; `tensor` is set if the array is exactly that tensor; `hint` is the name for a
    tensor that is made of it. Arrays of equal `identity` have equal elements (value numbering)."""

    shape: Shape
    element: Callable[[Sequence[Expr], Shape], Expr]
    axes: tuple[str, ...]
    tensor: Tensor | None = None
    hint: str = "value"
    identity: Hashable = field(default_factory=object, compare=False)

    @property
    def rank(self) -> int:
        return len(self.shape)

    def scalar(self) -> Expr:
        """The value of an array without dimensions."""
        return self.element((), ())

    @property
    def is_local(self) -> bool:
        """Whether it depends on an index of the equation that is being elaborated."""
        # Placeholders for the array's own dimensions: any other index comes from the equation.
        probe = [Idx(f"#{n}") for n in range(self.rank)]
        return any(
            isinstance(node, Idx) and not node.name.startswith("#")
            for node in walk(self.element(probe, self.shape))
        )


@dataclass(eq=False)
class NamedLayer:
    """`enc = Dense(8)`: a layer with its settings. All its applications have the same parameters
    and states, `tensors`, which the first one makes, by their names in the layer; `stem` begins the
    names of that one's tensors. `values` are those of the names in the last one's body."""

    name: str
    definition: s.Definition
    settings: Mapping[str, Value]
    tensors: dict[str, Array] = field(default_factory=dict)
    stem: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)


class Poison:
    """The value of a name whose definition is wrong; uses of it report nothing more."""


Value = Static | Array | Poison


def is_static(value: object) -> bool:
    return isinstance(value, bool | int | float | str | Numbers)


def of_tensor(tensor: Tensor, axes: tuple[str, ...]) -> Array:
    """A tensor as an array."""

    def element(indices: Sequence[Expr], shape: Shape) -> Expr:
        return Read(tensor.name, align(indices, shape, tensor.shape), None, tensor.dtype)

    identity = tensor.name, tensor.shape, tensor.dtype, tensor.kind, axes
    return Array(tensor.shape, element, axes, tensor, tensor.name, identity)


def align(indices: Sequence[Expr], shape: Shape, own: Shape) -> tuple[Expr, ...]:
    """The last of the indices, with 0 where an extent of 1 is broadcast."""
    last = indices[len(indices) - len(own) :] if own else ()
    outer = shape[len(shape) - len(own) :] if own else ()
    return tuple(
        literal(0) if size == 1 and other != 1 else index
        for index, size, other in zip(last, own, outer, strict=True)
    )


def of_scalar(expr: Expr, hint: str = "value") -> Array:
    """A scalar expression as an array without dimensions."""
    return Array((), lambda indices, shape: expr, (), hint=hint, identity=expr)


def of_numbers(numbers: Numbers, float_type: str) -> Array:
    """A list as an array: a decision tree over the place, `if i < 2 then … else …`."""
    flat = numbers.flat
    kinds = {bool if isinstance(n, bool) else type(n) for n in flat}
    wide = any(not isinstance(n, float) and not -(2**31) <= n < 2**31 for n in flat)
    dtype = "bool" if kinds == {bool} else "i64" if wide else "i32"
    dtype = float_type if float in kinds else dtype

    def chosen(found: Numbers, places: Sequence[Expr], low: int, high: int) -> Expr:
        """The element at `places`, whose first is known to lie between two bounds."""
        if high - low == 1:
            item = found.items[low]
            if isinstance(item, Numbers):
                return chosen(item, places[1:], 0, len(item.items))
            return literal(item, dtype)
        middle = (low + high) // 2
        parts = chosen(found, places, low, middle), chosen(found, places, middle, high)
        return call("select", call("lt", places[0], literal(middle)), *parts)

    def element(indices: Sequence[Expr], outer: Shape) -> Expr:
        return chosen(numbers, align(indices, outer, numbers.shape), 0, len(numbers.items))

    names = ("i", "j", "k", "l", "m", "n", "p", "q")[: len(numbers.shape)]
    return Array(numbers.shape, element, names, None, "list", ("list", numbers, dtype))


def lift(value: Static | Array, float_type: str) -> Array:
    """A value as an array; real numbers get the program's float type, whole ones i32 or i64."""
    if isinstance(value, Array):
        return value
    assert not isinstance(value, str)
    if isinstance(value, Numbers):
        return of_numbers(value, float_type)
    # i32 where it fits: arithmetic with a wider operand promotes it
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        return of_scalar(literal(value, "i64"))
    return of_scalar(literal(value, float_type if isinstance(value, float) else None))
