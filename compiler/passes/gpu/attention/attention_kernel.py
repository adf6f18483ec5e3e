"""Attention kernels: what a fused kernel computes from a matrix of scores that is never stored.

    for each batch, row:                             a query, or a key in the gradients of keys
        product[row, column] = sum(inner) row_operand * column_operand
        top    = max(extra, column) score            with a softmax: weight = exp(score - shift)
        total  = sum(extra, column) weight * factor  a number, or a vector over `features`
        result = value(total)                        stored

These are the records that `flash_attention.py` makes and `tiling.py` lowers. In their expressions a
read stands for every value that is computed: `product.read`, `row_max.weight`, `total.total`.
"""

from __future__ import annotations

from .....dsl.records import record
from ....ir.equation import Index
from ....ir.expr import Expr, Read, walk
from ....ir.terms import is_rounded
from ...kernels.kernel import Kernel


@record
class MatrixProduct:
    """An element of an attention matrix: the sum over `inner` of an operand that does not depend on
    the column and one that does not depend on the row. `read` stands for it."""

    read: Read
    row_operand: Expr
    column_operand: Expr
    inner: tuple[Index, ...]


@record
class RowMax:
    """The maximum of a row's scores, and exp(score - shift), for which `weight` stands; `shift` is
    the maximum `result`, or the greater of that and a constant."""

    result: Read
    score: Expr
    shift: Expr
    weight: Read


@record
class RowTotal:
    """A row's sum of `weight`, or of `weight * factor` for each value of `features`. `result` is
    stored with `value`, in which `total` stands for the sum."""

    result: Read
    value: Expr
    total: Read
    weight: Expr
    factor: Expr | None = None
    features: tuple[Index, ...] = ()


@record(eq=False, kw_only=True)
class AttentionKernel(Kernel):
    """A kernel that reduces attention matrices along rows. Its `equations` are those of the
    matrices, which are `local`, and those whose results are stored.

    With a `row_max`, totals are linear in exponentials of scores over the maximum, so that all
    are computed in one pass over the columns (online softmax; Milakov and Gimelshein 2018)."""

    batch: tuple[Index, ...]
    row: Index
    extra: tuple[Index, ...]
    column: Index
    products: tuple[MatrixProduct, ...]
    row_max: RowMax | None
    totals: tuple[RowTotal, ...]

    @property
    def rounded_before_division(self) -> frozenset[str]:
        """Results whose weights are rounded to bf16 before they are divided by their sum, while
        the equations round the quotient: a weight differs by two roundings."""
        if self.row_max is None:
            return frozenset()
        return frozenset(
            t.result.tensor for t in self.totals if any(map(is_rounded, walk(t.weight)))
        )

    @property
    def indices(self) -> tuple[Index, ...]:
        return (*self.batch, self.row)

    @property
    def sizes(self) -> dict[str, int]:
        """Of all its indices."""
        inner = [i for p in self.products for i in p.inner]
        features = [i for t in self.totals for i in t.features]
        every = (*self.indices, *self.extra, self.column, *inner, *features)
        return {i.name: i.size for i in every}
