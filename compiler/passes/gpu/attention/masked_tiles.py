"""Masked tiles: tiles of an attention matrix that a condition masks as a whole.

    score[t, s] = if s > t then -inf else …        →        skip tiles in which s - t > 0 everywhere

In: an `AttentionKernel` and its system. Out: affine forms of the row, the column and values that
are the same for a whole tile. Where one is positive, no result of the kernel changes: scores are
-inf and weights are 0, which `ir/sparsity_analysis.py` proves. Sums, parameters and inputs are
taken for finite, since here as everywhere in the compiler 0 times anything is 0; that a row's
maximum is finite is proven. Under a causal mask half of the tiles are skipped.

Source: Dao et al. 2022 (FlashAttention, section 3.1, block-sparse masks). Tests:
tests/passes/test_attention.py.
"""

from __future__ import annotations

from ....ir.affine import Affine, affine
from ....ir.equation import System
from ....ir.expr import Expr, Idx, Read, index_names
from ....ir.sparsity_analysis import DENSE, Sparsity, sparsity_of, sparsity_of_target
from .attention_kernel import AttentionKernel


def masked_tiles(kernel: AttentionKernel, system: System) -> tuple[Affine, ...]:
    """The forms, each once."""
    known: dict[str, Sparsity] = {}
    top, sizes = kernel.row_max, kernel.sizes

    def of_read(read: Read) -> Sparsity:
        if top is not None and read is top.weight:
            return Sparsity(score.minus_inf, maybe_zero=score.maybe_minus_inf)
        eq = system.definition.get(read.tensor)
        if eq is None or eq.reduce not in (None, "max") or read.tensor in system.recurrent:
            return DENSE
        if read.tensor not in known:
            known[read.tensor] = sparsity_of_target(eq, of_read)
        names = (i.name for i in eq.indices)
        return known[read.tensor].at(dict(zip(names, read.index, strict=True)))

    score = DENSE if top is None else sparsity_of(top.score, sizes, of_read)
    regions = [sparsity_of(total.weight, sizes, of_read).zero for total in kernel.totals]
    if top is not None:
        regions.append(score.minus_inf)
    common = frozenset.intersection(*regions)
    forms = (_tile_form(expr, kernel) for expr in sorted(common, key=str))
    return tuple(form for form in forms if form is not None)


def _tile_form(expr: Expr, kernel: AttentionKernel) -> Affine | None:
    """The form that is positive where `expr` is 0 or more, if it depends on the row or the column,
    and its other parts are the same for a whole tile."""
    form = affine(expr) + Affine({}, 1)
    axes = {kernel.row.name, kernel.column.name}
    rest = [a for a in form.coefficients if not (isinstance(a, Idx) and a.name in axes)]
    has_axis = len(rest) < len(form.coefficients)
    return None if not has_axis or any(index_names(a) & axes for a in rest) else form
