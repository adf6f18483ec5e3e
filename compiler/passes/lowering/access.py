"""Memory accesses and statements, as loop nests (CPU) and grids of threads (GPU) both contain them.

An `Access` says where a read finds its element; a `Statement` computes one element of a tensor and
stores it. Their text is part of what `nnc compile --emit loops` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...ir.affine import Affine
from ...ir.expr import Const, Expr, Read, expr_text, reads


@dataclass(frozen=True)
class Access:
    """Where a read finds its element: `offset` elements from the start of the tensor. `dtype` is
    the elements' type in memory, `kind` that of their values.

    `checks` are the (expression, size) not proven to satisfy 0 <= expression < size; where one
    fails the value is `other`, and memory is not touched. `transposed` names an index of the tile
    that runs along memory while the vector runs across it: where the tile contains all copies of
    that index, square blocks are loaded along memory and transposed in registers.
    """

    tensor: str
    dtype: str
    offset: Affine
    checks: tuple[tuple[Affine, int], ...] = ()
    other: Expr | None = None
    transposed: str = ""
    value_dtype: str = ""

    @property
    def kind(self) -> str:
        return self.value_dtype or self.dtype

    @property
    def atoms(self) -> Iterator[Expr]:
        # The replacement `other` is no part of the address: it is computed like any expression.
        yield from self.offset.coefficients
        for form, _ in self.checks:
            yield from form.coefficients


@dataclass(frozen=True)
class Statement:
    """`element = value`, stored at `offset` of its tensor; not stored if that is None. `storage` is
    the type in memory if it is not that of the value.

    A read that is some statement's `element` is a value in registers.
    """

    element: Read
    value: Expr
    offset: Affine | None
    storage: str = ""

    @property
    def target(self) -> str:
        return self.element.tensor

    @property
    def dtype(self) -> str:
        return self.element.dtype


# --- text ----------------------------------------------------------------------------------------


def statement_text(statement: Statement, value: str) -> str:
    """`target[offset] = value`, or `name = value` for what stays in registers."""
    if statement.offset is None:
        return f"{register_text(statement.element)} = {value}"
    return f"{statement.target}[{form_text(statement.offset)}] = {value}"


def register_text(read: Read) -> str:
    """The name of a value in registers, with the constants of unrolled indices."""
    # z[b, 2, j] with the second index unrolled   →   z[2]; without one   →   z
    numbers = [str(e.value) for e in read.index if isinstance(e, Const)]
    return f"{read.tensor}[{', '.join(numbers)}]" if numbers else read.tensor


def form_text(form: Affine) -> str:
    """The affine form with the longest strides first."""
    # 4096*b + 64*i + j, not in the order in which terms were added up
    terms = sorted(form.coefficients.items(), key=lambda term: -abs(term[1]))
    return expr_text(Affine(dict(terms), form.constant).expr())


def access_text(access: Access) -> str:
    text = f"{access.tensor}[{form_text(access.offset)}]"
    checks = [f"0 <= {form_text(form)} < {size}" for form, size in access.checks]
    return f"({text} if {' and '.join(checks)})" if checks else text


def value_text(expr: Expr, accesses: Mapping[Read, Access]) -> str:
    """The expression with every read replaced by its place in memory."""
    text = expr_text(expr)
    for read in reads(expr):
        access = accesses.get(read)
        if access is None:
            shown = register_text(read)
        elif access.checks and access.other is not None:
            shown = f"{access_text(access)[:-1]} else {expr_text(access.other)})"
        else:
            shown = access_text(access)
        text = text.replace(expr_text(read), shown)
    return text
