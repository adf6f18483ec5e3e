"""What a name or an expression stands for while a program is elaborated.

A `Static` is known when compiling (sizes, settings, lets). An `Array` is a tensor, or an
elementwise expression over tensors that has not been given a name yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...dsl.syntax.source import Span
from ..ir.build import literal
from ..ir.equation import Tensor
from ..ir.expr import Expr, Idx, Read, reads, walk

Static = bool | int | float | str
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Array:
    """`element(indices, shape)` is the scalar at the given indices of the given shape, whose last
    dimensions are this array's (it broadcasts from the right). `axes` are names that its
    dimensions are known by; `tensor` is set if the array simply is a named tensor."""

    shape: Shape
    element: Callable[[Sequence[Expr], Shape], Expr]
    axes: tuple[str, ...]
    tensor: Tensor | None = None
    hint: str = "value"

    @property
    def rank(self) -> int:
        return len(self.shape)

    def scalar(self) -> Expr:
        """The value of an array without dimensions."""
        return self.element((), ())

    @property
    def is_local(self) -> bool:
        """Whether it depends on an index of the equation that is being elaborated."""
        probe = [Idx(f"#{n}") for n in range(self.rank)]
        return any(
            isinstance(node, Idx) and not node.name.startswith("#")
            for node in walk(self.element(probe, self.shape))
        )


class Poison:
    """The value of something whose definition was wrong; using it says nothing more."""


Value = Static | Array | Poison


def is_static(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def of_tensor(tensor: Tensor, axes: tuple[str, ...]) -> Array:
    """The array that a named tensor is. A dimension of 1 broadcasts."""

    def element(indices: Sequence[Expr], shape: Shape) -> Expr:
        own = align(indices, shape, tensor.shape)
        return Read(tensor.name, own, None, tensor.dtype)

    return Array(tensor.shape, element, axes, tensor, tensor.name)


def align(indices: Sequence[Expr], shape: Shape, own: Shape) -> tuple[Expr, ...]:
    """The last of the indices, with 0 where an extent of 1 meets a larger one."""
    last = indices[len(indices) - len(own) :] if own else ()
    outer = shape[len(shape) - len(own) :] if own else ()
    return tuple(
        literal(0) if size == 1 and other != 1 else index
        for index, size, other in zip(last, own, outer, strict=True)
    )


def of_scalar(expr: Expr, hint: str = "value") -> Array:
    """An array without dimensions."""
    return Array((), lambda indices, shape: expr, (), hint=hint)


def lift(value: Static | Array, float_type: str) -> Array:
    """A value as an array; numbers get the program's float type or i32."""
    if isinstance(value, Array):
        return value
    assert not isinstance(value, str)
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        return of_scalar(literal(value, "i64"))
    return of_scalar(literal(value, float_type if isinstance(value, float) else None))


@dataclass(frozen=True)
class Use:
    """One place that fixes the size of an index: dimension `axis` of `tensor`."""

    size: int
    span: Span
    tensor: str
    shape: Shape = ()


def depends_on_data(expr: Expr) -> bool:
    return bool(reads(expr))
