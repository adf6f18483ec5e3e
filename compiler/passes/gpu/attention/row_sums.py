"""Row sums: sums over an attention matrix from the sums of its rows.

    d_temp = sum(t, s) p[t, s] * x[t, s]
→
    rows[t] = sum(s) p[t, s] * x[t, s];      d_temp = sum(t) rows[t]

    delta[t] = sum(s) p[t, s] * dp[t, s]     where dp[t, s] = sum(c) dy[t, c] * v[s, c]
→                                                  y[t, c]  = sum(s) p[t, s] * v[s, c]
    delta[t] = sum(c) dy[t, c] * y[t, c]

The first lets a full sum (the gradient of a temperature) come from a kernel that reduces rows, so
that the matrix need not be stored. The second needs no matrix at all, and is how the backward pass
of FlashAttention has the softmax's row sum. Applies to the matrices of `find_attention.py`. Sums
are added up in another order; nothing else changes.

Source: Dao et al. 2022 (arXiv:2205.14135), appendix B.4. Tests: tests/passes/test_attention.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ....ir.edit import SystemEdit
from ....ir.equation import Equation, Index, System
from ....ir.expr import Expr, Idx, Read, index_names
from ....ir.terms import factors, product, unify_indices, with_indices
from ....targets import CpuTarget
from .find_attention import Attention, MatrixReduction, find_attention, renaming, result_of


def row_sums_before_rounding(system: System) -> System:
    """The same where contractions are about to be rounded to bf16: an attention matrix whose sums
    are needed both whole and by rows must be summed one way before the two begin to differ."""
    return system if system.precision == "f32" else row_sums(system)


def row_sums(system: System) -> System:
    """The system with both rewrites."""
    return _through_results(_by_rows(system, 0), 0)


def row_sums_of_large(system: System, target: CpuTarget) -> System:
    """The same for matrices that are too large to be stored (`equations/row_blocks.py`). Of smaller
    ones the sums of the equations are as fast."""
    least = target.row_blocks.least_bytes
    if not any(t.kind == "temp" and t.bytes >= least for t in system.tensors.values()):
        return system
    return _through_results(_by_rows(system, least), least)


def _found(system: System, least_bytes: int) -> Iterator[Attention]:
    for attention in find_attention(system):
        sizes = (system.tensors[name].bytes for name in attention.matrices)
        if not attention.problem and max(sizes) >= least_bytes:
            yield attention


def _by_rows(system: System, least_bytes: int) -> System:
    """Full sums as sums of row sums."""
    edit = SystemEdit(system)
    for attention in _found(system, least_bytes):
        for eq, key in attention.full_sums:
            outer = tuple(i for i in eq.over if i.name != key)
            indices = (*eq.indices, *outer)
            inner = tuple(i for i in eq.over if i.name == key)
            rows = replace(eq, target=f"{eq.target}_rows", indices=indices, over=inner)
            read = Read(edit.add(rows), tuple(Idx(i.name) for i in indices), None, "f32")
            edit.replace(replace(eq, body=read, over=outer))
    return edit.result()


def _through_results(system: System, least_bytes: int) -> System:
    """Row sums that are products with a row's result as such products."""
    edit = SystemEdit(system)
    for attention in _found(system, least_bytes):
        for one in attention.reductions:
            for result in attention.reductions:
                found = _through_result(one, result)
                if found is not None:
                    edit.replace(found)
                    break
    return edit.result()


def _through_result(one: MatrixReduction, result: MatrixReduction) -> Equation | None:
    """A row sum as a product with `result`, if it is one: its factors are those of the result and
    some that are the same for all columns. One of its products may have to be expanded."""
    names = renaming(result, replace(one, extra=()))
    if one.equation.reduce != "sum" or one.features or not result.features or names is None:
        return None
    pieces = (*one.weight, *one.outer)
    forms = [(one.extra, pieces)]
    for each in one.products:
        if each.read in pieces:
            rest = [p for p in pieces if p is not each.read]
            operands = (*factors(each.row_operand), *factors(each.column_operand))
            forms.append(((*one.extra, *each.inner), (*operands, *rest)))
    for over, found in forms:
        match = _rest(found, result, names, one.column)
        if match is not None:
            rest, every = match
            read = result_of(result.equation, every)
            if {every[i.name] for i in result.features} == {i.name for i in over}:
                return replace(one.equation, body=product((read, *rest)), over=over)
    return None


def _rest(
    pieces: Sequence[Expr], result: MatrixReduction, names: Mapping[str, str], column: Index
) -> tuple[list[Expr], dict[str, str]] | None:
    """The pieces that are no factors of the result, if they are the same for all columns; and the
    names of the result's indices among the pieces."""
    for piece in pieces:
        every = unify_indices(result.factor[0], piece, names)
        if every is None:
            continue
        rest = list(pieces)
        for part in (*result.weight, *result.factor, *result.outer):
            renamed = with_indices(part, every)
            if renamed not in rest:
                break
            rest.remove(renamed)
        else:
            if not any(column.name in index_names(p) for p in rest):
                return rest, every
    return None
