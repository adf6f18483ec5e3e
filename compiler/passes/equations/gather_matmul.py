"""Gather after matmul: the rows of a small table are multiplied before they are gathered.

    x[b, t, i] = E[token[b, t], i]                 EW[v, j]   = sum(i) E[v, i] * W[i, j]
    y[b, t, j] = sum(i) x[b, t, i] * W[i, j]   →   y[b, t, j] = EW[token[b, t], j]

One product per row of the table replaces one per token, and the gradients follow, as the pass runs
before differentiation. Applies where the table has fewer rows than there are tokens, nothing else
reads the gathered rows, and the sum runs over whole rows. Exact but for rounding.
Tests: tests/passes/test_operand_layout.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ...ir.build import call, substitute
from ...ir.equation import Equation, Index, System, Tensor, free_name
from ...ir.expr import Expr, Idx, Read, index_names, reads
from ...ir.terms import multiplicands
from .simplify import differentiated


def gather_matmul(system: System) -> System:
    """Products of gathered rows become gathers from products, where that saves work."""
    if system.clipping:  # the gradient of the table would pass through all examples' sum
        return system
    for eq in system.equations:
        found = _match(eq, system)
        if found is not None:
            # One at a time: names and readers change with each swap.
            return gather_matmul(_swapped(system, eq, *found))
    return system


def _match(eq: Equation, system: System) -> tuple[Read, Read] | None:
    """The factor that reads a gathered tensor, and the read of the table behind it."""
    # A product of exactly two reads, W in either position.
    parts = multiplicands(eq.body)
    if eq.reduce != "sum" or len(parts) != 2 or eq.at is not None:
        return None
    for part, other in (parts, parts[::-1]):
        if not isinstance(part, Read) or not isinstance(other, Read) or part.other is not None:
            continue
        source = system.definition.get(part.tensor)
        table = source.body if source is not None else None
        # The rows are a plain gather: no reduction, no arithmetic, no accumulation.
        if source is None or source.reduce or source.at or not isinstance(table, Read):
            continue
        if _is_gather(table, source) and _fits(eq, part, other, source, system):
            return part, table
    return None


def _is_gather(table: Read, source: Equation) -> bool:
    """E[token[…], i]: the first index reads a tensor, the others are plain and its own last."""
    if table.other is not None or len(table.index) < 2 or not reads(table.index[0]):
        return False
    rest = table.index[1:]
    names = [e.name for e in rest if isinstance(e, Idx)]
    own = [i.name for i in source.indices][-len(rest) :]
    # The columns are the last own indices, in order: rows are gathered whole, not transposed.
    return names == own and not index_names(table.index[0]) & set(names)


def _fits(eq: Equation, part: Read, other: Read, source: Equation, system: System) -> bool:
    """The rows are read whole and summed over; the table is small; nobody else needs the rows."""
    readers = [e for e in system.equations if source.target in e.sources]
    over = [i.name for i in eq.over]
    width = len(over)
    plain = [e.name for e in part.index if isinstance(e, Idx)]
    # x[b, t, i] with plain indices, the last ones summed over: whole rows enter the sum.
    if len(readers) != 1 or len(plain) != len(part.index) or plain[len(plain) - width :] != over:
        return False
    outer = plain[: len(plain) - width]
    fixed = differentiated(system).union(system.roots)
    # W must not depend on the token's position, or EW would differ for each; and neither an output
    # nor a gradient's `wrt` may vanish.
    if set(index_names(other)) & set(outer) or source.target in fixed:
        return False
    table = source.body
    assert isinstance(table, Read)
    # Tokens against rows of the table: the product is worth it if rows are fewer.
    gathered = prod(i.size for i in source.indices[: len(outer)])
    return (
        len(outer) == len(source.indices) - width
        and system.tensors[table.tensor].shape[0] < gathered
    )


def _swapped(system: System, eq: Equation, part: Read, table: Read) -> System:
    source = system.definition[part.tensor]
    rows = system.tensors[table.tensor].shape[0]
    other = next(f for f in multiplicands(eq.body) if f is not part)
    # b, t address tokens; the free indices are the columns of W.
    outer = [e.name for e in part.index if isinstance(e, Idx)][: len(part.index) - len(eq.over)]
    free = tuple(i for i in eq.indices if i.name not in outer)
    v = free_name("v", {i.name for i in eq.domain})
    name = free_name(f"{eq.target}_rows", system.tensors.keys())
    row = Read(table.tensor, (Idx(v), *(Idx(i.name) for i in eq.over)), None, table.dtype)
    product = Equation(
        name, (Index(v, rows), *free), call("mul", row, other), "sum", eq.over, None, eq.span
    )
    # The token's indices in the gather, by their names in the product.
    places: Mapping[str, Expr] = {
        i.name: Idx(o) for i, o in zip(source.indices, outer, strict=False)
    }
    token = substitute(table.index[0], places)
    dtype = system.tensors[eq.target].dtype
    picked = Read(name, (token, *(Idx(i.name) for i in free)), None, dtype)
    equations: list[Equation] = []
    for each in system.equations:
        # The product stands where the sum stood; both read only what comes before.
        if each is eq:
            equations += [product, Equation(eq.target, eq.indices, picked, None, (), None, eq.span)]
        elif each is not source:
            equations.append(each)
    tensors = {n: t for n, t in system.tensors.items() if n != source.target}
    shape = (rows, *(i.size for i in free))
    tensors[name] = Tensor(name, shape, dtype, "temp", "", eq.span)
    return system.replace(tensors=tensors, equations=tuple(equations))
