"""Addressing: the index expressions of a read become one affine offset in elements.

    x[b, f // 64, f % 64]   →   x + 4096*b + f        (x: f32[B, 64, 64])

The offset has as few atoms as possible: quotients and remainders that cancel (`f // 64 * 64 +
f % 64`) disappear, so a flattened or coalesced index costs nothing. Bounds that cannot be proven
become checks. Tests: tests/passes/test_operand_layout.py, tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import prod

from ...ir.affine import Affine, affine, inside, span
from ...ir.build import REMEMBERED, call, literal
from ...ir.dtypes import is_float
from ...ir.equation import Tensor
from ...ir.expr import Apply, Const, Expr, Read, index_names
from .access import Access

Sizes = Mapping[str, int]
OwnSizes = tuple[tuple[str, int], ...]


def access_of(read: Read, tensor: Tensor, sizes: Sizes) -> Access:
    """Where the read finds its element."""
    return _access(read, tensor, _own_sizes(read, sizes))


# The loops of a kernel are joined pair by pair, and the same reads are looked at each time.
@lru_cache(REMEMBERED)
def _access(read: Read, tensor: Tensor, own_sizes: OwnSizes) -> Access:
    sizes = dict(own_sizes)
    # A dimension whose index provably stays inside needs no check; most do not.
    checks = tuple(
        (linearize(expr, sizes), size)
        for expr, size in zip(read.index, tensor.shape, strict=True)
        if not inside(expr, size, sizes)
    )
    other = read.other
    if other is None:
        # An unguarded read that cannot be proven inside (a gather) is NaN outside, or 0 where there
        # is no NaN; it never touches memory that is not the tensor's.
        other = literal(float("nan") if is_float(read.dtype) else 0, read.dtype)
    offset = offset_of(read.index, tensor.strides, sizes)
    other = other if checks else None
    kind = tensor.dtype if tensor.storage else ""
    return Access(tensor.name, tensor.storage_dtype, offset, checks, other, value_dtype=kind)


def offset_of(index: tuple[Expr, ...], strides: tuple[int, ...], sizes: Sizes) -> Affine:
    """The offset of an element, in elements."""
    total = Affine({}, 0)
    for expr, stride in zip(reversed(index), reversed(strides), strict=True):
        total = total + linearize(expr, sizes).scaled(stride)
    return total


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor, the last dimension fastest."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def linearize(expr: Expr, sizes: Sizes) -> Affine:
    """The affine form, with remainders expressed by quotients and quotients simplified:

    e % d                  = e - d * (e // d)
    (d*a + r) // d         = a + r // d
    r // d                 = 0            if 0 <= r < d
    (e // c) // d          = e // (c*d)
    """
    return _linearized(expr, _own_sizes(expr, sizes))


def _own_sizes(expr: Expr, sizes: Sizes) -> OwnSizes:
    """The sizes of the indices that the expression depends on."""
    return tuple((name, sizes[name]) for name in sorted(index_names(expr)))


# The kernels of a network have few different index expressions, and each is asked for many times.
@lru_cache(REMEMBERED)
def _linearized(expr: Expr, own_sizes: OwnSizes) -> Affine:
    form, sizes = affine(expr), dict(own_sizes)
    total = Affine({}, form.constant)
    # Each atom may be a quotient or a remainder, whose own form is added in its place.
    for atom, coefficient in form.coefficients.items():
        total = total + _atom(atom, sizes).scaled(coefficient)
    return total


def _atom(atom: Expr, sizes: Sizes) -> Affine:
    divisor = _divisor(atom)
    if not divisor:
        return Affine({atom: 1}, 0)
    assert isinstance(atom, Apply)
    inner = linearize(atom.args[0], sizes)
    # e % d = e - d * (e // d): remainders disappear, and equal quotients may cancel.
    quotient = _quotient(inner, divisor, sizes)
    return quotient if atom.fn == "floordiv" else inner + quotient.scaled(-divisor)


def _divisor(atom: Expr) -> int:
    """The positive constant that a quotient or remainder divides by; 0 for anything else."""
    if not isinstance(atom, Apply) or atom.fn not in ("floordiv", "mod"):
        return 0
    by = atom.args[1]
    return by.value if isinstance(by, Const) and by.value > 0 else 0  # type: ignore[return-value]


def _quotient(form: Affine, by: int, sizes: Sizes) -> Affine:
    # (8*a + b + 11) // 4   →   2*a + 2 + (b + 3) // 4: what the divisor divides leaves the
    # quotient.
    terms = form.coefficients.items()
    whole = Affine({a: c // by for a, c in terms if c % by == 0}, form.constant // by)
    rest = Affine({a: c for a, c in terms if c % by}, form.constant % by)
    low, high = span(rest, sizes)
    # The rest is less than the divisor: its quotient is 0.
    if low >= 0 and high < by:
        return whole
    if len(rest.coefficients) == 1 and rest.constant == 0:
        ((atom, coefficient),) = rest.coefficients.items()
        inner = _divisor(atom)
        # (e // c) // d = e // (c * d)
        if inner and coefficient == 1 and atom.fn == "floordiv":  # type: ignore[attr-defined]
            return whole + _quotient(linearize(atom.children[0], sizes), inner * by, sizes)
    return whole + Affine({call("floordiv", rest.expr(), literal(by)): 1}, 0)
