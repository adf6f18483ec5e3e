"""Masked terms: sums skip the terms that a mask makes 0.

    z[t, a] = sum(s) (y[t, s] if s <= t else 0) * v[s, a]   →   the same, no term where s > t

Each sum gets the conditions under which its terms are 0 (`Kernel.zero_where`), so that its loops
need not run there (`cpu/loop_bounds.py`). Below a causal mask half of each product is left. So has
a maximum where all further terms are -inf. What all sums of a block of rows leave out is not
computed in the first place (`Kernel.unread_where`). Applies where a condition depends on indices
alone and changes with a single step of an index that is summed over.
Tests: tests/passes/test_skip_masked_terms.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...ir.affine import affine, bounds
from ...ir.equation import Equation, System
from ...ir.expr import Expr, Idx, index_names, is_size
from ...ir.sparsity_analysis import SystemSparsity
from .kernel import Blocks, Item, Kernel, Plan, Scan


def skip_masked_terms(plan: Plan) -> Plan:
    """The kernels with the conditions under which their sums' terms are 0."""
    system, known = plan.system, SystemSparsity(plan.system)
    return replace(plan, items=tuple(_item(item, system, known) for item in plan.items))


def _item(item: Item, system: System, known: SystemSparsity) -> Item:
    if isinstance(item, Blocks):
        return _blocks(item, system, known)
    if isinstance(item, Scan):
        inner = tuple(_item(k, system, known) for k in item.kernels)
        return replace(item, kernels=inner)  # type: ignore[arg-type]
    conditions = tuple(_conditions(item, known))
    return replace(item, zero_where=conditions) if conditions else item


def _blocks(item: Blocks, system: System, known: SystemSparsity) -> Blocks:
    """The blocks in which every reduction of held values leaves out the same columns, and nothing
    else computes them. What some leave out and others do not must be there."""
    held = {name for kernel in item.kernels for name in kernel.stored if system.tensors[name].held}
    conditions = {
        kernel: frozenset(_conditions(kernel, known))
        for kernel in item.kernels
        if kernel.anchor.reduce and held & set(kernel.anchor.sources)
    }
    common = frozenset.intersection(*conditions.values()) if conditions else frozenset()
    window = item.kernels[0].window
    assert window is not None
    names = {*(i.name for i in item.fixed), window.row, window.column}
    usable = tuple(
        form
        for form in sorted(common, key=str)
        if window.column in index_names(form) and index_names(form) <= names
    )
    return replace(
        item,
        kernels=tuple(
            replace(kernel, zero_where=usable)
            if kernel in conditions
            else replace(kernel, unread_where=usable)
            for kernel in item.kernels
        ),
    )


def _conditions(kernel: Kernel, known: SystemSparsity) -> Iterator[Expr]:
    """The conditions that can bound a loop."""
    eq = kernel.anchor
    if eq.reduce not in ("sum", "max") or eq.at is not None:
        return
    # In a sum a term of 0 can be left out, in a maximum one of -inf: it begins with that.
    body = known.of_body(eq)
    # Sorted by text: the order of a set would differ from run to run. An unrolled index is no loop,
    # and has no single value that a loop's bound could be computed from.
    for form in sorted(body.zero if eq.reduce == "sum" else body.minus_inf, key=str):
        if _bounds_loop(form, eq) and not kernel.unrolled & index_names(form):
            yield form


def _bounds_loop(form: Expr, eq: Equation) -> bool:
    """Whether the form depends on indices and sizes alone, is 0 or more somewhere, and changes by 1
    with a step of one of the indices that are summed over."""
    # With a step of 1, `form >= 0` can be solved for the index without a division: s - t >= 0 → s
    # >= t. A form that is never 0 or more masks nothing.
    factors = affine(form).coefficients
    of_indices = all(isinstance(atom, Idx) or is_size(atom) for atom in factors)
    steps = any(abs(factors.get(Idx(i.name), 0)) == 1 for i in eq.over)
    return of_indices and steps and bounds(form, eq.sizes)[1] >= 0
