"""Index expressions turned into memory offsets: which element does a read touch?

In: a read, its tensor and the sizes of the indices. Out: an `Access`, the row-major offset as one
affine form with as few atoms as possible, and the bounds that are not proven. Quotients and
remainders that undo each other (`f // 64 * 64 + f % 64`) disappear here, so a flattened or merged
index costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ...ir.affine import Affine, affine, inside, span
from ...ir.build import call, literal
from ...ir.dtypes import is_float
from ...ir.equation import Equation, Tensor
from ...ir.expr import Apply, Const, Expr, Idx, Read
from ..cpu.loop_ir import Access

Sizes = Mapping[str, int]
ZERO = Affine({}, 0)


def access(read: Read, tensor: Tensor, sizes: Sizes) -> Access:
    """Where the read finds its element."""
    checks = tuple(
        (linear(expr, sizes), size)
        for expr, size in zip(read.index, tensor.shape, strict=True)
        if not inside(expr, size, sizes)
    )
    other = read.other
    if other is None:
        other = literal(float("nan") if is_float(read.dtype) else 0, read.dtype)
    offset = place(read.index, tensor.strides, sizes)
    return Access(tensor.name, tensor.memory, offset, checks, other if checks else None)


def store(equation: Equation, tensor: Tensor, sizes: Sizes, index: Mapping[str, Expr]) -> Affine:
    """Where the equation's element is stored; `index` gives indices their expressions."""
    names = [i.name for i in equation.indices]
    return place(tuple(index.get(n, Idx(n)) for n in names), tensor.strides, sizes)


def place(index: tuple[Expr, ...], strides: tuple[int, ...], sizes: Sizes) -> Affine:
    """The offset of an element."""
    total = ZERO
    for expr, stride in zip(reversed(index), reversed(strides), strict=True):
        total = total + linear(expr, sizes).scaled(stride)
    return total


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of elements that lie without gaps, the last index fastest."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def linear(expr: Expr, sizes: Sizes) -> Affine:
    """The affine form with remainders written as quotients and quotients taken as far as they go:

    e % d                  = e - d * (e // d)
    (d*a + r) // d         = a + r // d
    r // d                 = 0            if 0 <= r < d
    (e // c) // d          = e // (c*d)
    """
    form = affine(expr)
    total = Affine({}, form.constant)
    for atom, coefficient in form.coefficients.items():
        total = total + _atom(atom, sizes).scaled(coefficient)
    return total


def _atom(atom: Expr, sizes: Sizes) -> Affine:
    by = _divisor(atom)
    if not by:
        return Affine({atom: 1}, 0)
    assert isinstance(atom, Apply)
    inner = linear(atom.args[0], sizes)
    quotient = _quotient(inner, by, sizes)
    return quotient if atom.fn == "floordiv" else inner + quotient.scaled(-by)


def _divisor(atom: Expr) -> int:
    """The constant that the atom divides by, or 0 if it is no such division."""
    if not isinstance(atom, Apply) or atom.fn not in ("floordiv", "mod"):
        return 0
    by = atom.args[1]
    return by.value if isinstance(by, Const) and by.value > 0 else 0  # type: ignore[return-value]


def _quotient(form: Affine, by: int, sizes: Sizes) -> Affine:
    terms = form.coefficients.items()
    whole = Affine({a: c // by for a, c in terms if c % by == 0}, form.constant // by)
    rest = Affine({a: c for a, c in terms if c % by}, form.constant % by)
    low, high = span(rest, sizes)
    if low >= 0 and high < by:
        return whole
    if len(rest.coefficients) == 1 and rest.constant == 0:
        ((atom, coefficient),) = rest.coefficients.items()
        inner = _divisor(atom)
        if inner and coefficient == 1 and atom.fn == "floordiv":  # type: ignore[attr-defined]
            return whole + _quotient(linear(atom.children[0], sizes), inner * by, sizes)
    return whole + Affine({call("floordiv", rest.expr(), literal(by)): 1}, 0)
