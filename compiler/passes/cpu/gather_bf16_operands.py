"""Gathered rows that a contraction rounds are collected first.

    y[b, o]          = sum(i) bf16(table[token[b], i]) * bf16(w[i, o])
    →
    table_rows[b, i] = table[token[b], i]
    y[b, o]          = sum(i) bf16(table_rows[b, i]) * bf16(w[i, o])

Of a table of 20,000 rows a batch of 512 reads few: rounding them costs less than rounding the whole
table (`round_bf16_operands.py`), and they can be packed in pairs (`pack_bf16_pairs.py`). Applies
where what is read has fewer elements than its tensor, and each is multiplied a few times.
Tests: tests/passes/test_round_bf16_operands.py.
"""

from __future__ import annotations

from math import prod

from ...ir.build import call, rewrite
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, System
from ...ir.expr import Expr, Idx, Read, index_names, reads
from ...ir.terms import is_rounded
from ...targets import CpuTarget


def gather_bf16_operands(system: System, target: CpuTarget) -> System:
    """The system with the gathered operands of rounded products as tensors of their own."""
    edit, least = SystemEdit(system), target.layout.rounded_reuse

    def collected(eq: Equation) -> Equation:
        points = prod(i.size for i in eq.domain)

        def change(node: Expr) -> Expr | None:
            read = node.args[0] if is_rounded(node) else None
            # In a recurrence the rows would have to be collected at every step.
            if not isinstance(read, Read) or {read.tensor, eq.target} & system.recurrent:
                return None
            if not any(reads(place) for place in read.index):
                return None
            own = tuple(i for i in eq.domain if i.name in index_names(read))
            size = prod(i.size for i in own)
            if size >= system.tensors[read.tensor].size or points < least * size:
                return None
            span = system.tensors[read.tensor].span
            rows = edit.add(Equation(f"{read.tensor}_rows", own, read, span=span))
            return call("bf16", Read(rows, tuple(Idx(i.name) for i in own), None, read.dtype))

        return eq.with_body(rewrite(eq.body, change))

    edit.replace(*(collected(eq) for eq in system.equations if eq.reduce == "sum"))
    return edit.result()
