"""Sums over squares that need no square, or only rows of it.

In: a system. Out: an equal one in which sums over queries and keys are sums of rows' sums, and a
row's sum is a product with a row's result where it is one: the gradient of a softmax's sum, and of
a temperature. Sums are in another order than before, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ....ir.equation import Equation, Index, System, Tensor, free_name
from ....ir.expr import Expr, Idx, Read, index_names
from ....ir.terms import factors, product, unify_indices, with_indices
from .find_attention import Use, families, result_of, same_square


def row_sums(system: System) -> System:
    """The system with sums of row sums, and with row sums that are products of results."""
    return _through_results(_by_rows(system))


def _by_rows(system: System) -> System:
    """Sums over queries and keys (the gradient of a temperature) as sums of rows' sums."""
    tensors = dict(system.tensors)
    better: dict[str, tuple[Equation, ...]] = {}
    for family in families(system):
        for eq, key in [] if family.problem else family.whole:
            over = tuple(i for i in eq.over if i.name != key)
            indices = (*eq.indices, *over)
            name = free_name(f"{eq.target}_rows", tensors)
            tensors[name] = Tensor(name, tuple(i.size for i in indices), "f32", span=eq.span)
            rows = replace(
                eq, target=name, indices=indices, over=tuple(i for i in eq.over if i.name == key)
            )
            read = Read(name, tuple(Idx(i.name) for i in indices), None, "f32")
            better[eq.target] = rows, replace(eq, body=read, over=over)
    equations = [e for eq in system.equations for e in better.get(eq.target, (eq,))]
    return system.replace(tensors=tensors, equations=tuple(equations))


def _through_results(system: System) -> System:
    """With y[t] = sum(s) w[t, s] * v[s], sum(s) w[t, s] * (x[t] · v[s]) is x[t] · y[t]: where a
    row's sum is of that form, it is computed so."""
    better: dict[str, Equation] = {}
    for family in families(system):
        if family.problem:
            continue
        for use in family.uses:
            for result in family.uses:
                found = _through(use, result)
                if found is not None:
                    better[use.equation.target] = found
                    break
    return system.replace(equations=tuple(better.get(e.target, e) for e in system.equations))


def _through(use: Use, result: Use) -> Equation | None:
    """The sum `use` as a product with `result`, if it is one: its factors are those of the result
    and some that stay the same along the row. One of its products may have to be written out."""
    names = same_square(result, replace(use, extra=()))
    if use.equation.reduce != "sum" or use.wide or not result.wide or names is None:
        return None
    pieces = (*use.weight, *use.outer)
    written = [(use.extra, pieces)]
    for product_ in use.products:
        if product_.read in pieces:
            rest = [p for p in pieces if p is not product_.read]
            both = (*factors(product_.mine), *factors(product_.theirs))
            written.append(((*use.extra, *product_.deep), (*both, *rest)))
    for over, found in written:
        better = _rest(found, result, names, use.other)
        if better is not None:
            body, every = better
            read = result_of(result.equation, every)
            if {every[i.name] for i in result.wide} == {i.name for i in over}:
                return replace(use.equation, body=product((read, *body)), over=over)
    return None


def _rest(
    pieces: Sequence[Expr], result: Use, names: Mapping[str, str], other: Index
) -> tuple[list[Expr], dict[str, str]] | None:
    """The pieces that are no factors of the result, if they are the same for all of `other`; and
    the names of the result's indices among the pieces."""
    for piece in pieces:
        every = unify_indices(result.factor[0], piece, names)
        if every is None:
            continue
        rest = list(pieces)
        for part in (*result.weight, *result.factor, *result.outer):
            own = with_indices(part, every)
            if own not in rest:
                break
            rest.remove(own)
        else:
            if not any(other.name in index_names(p) for p in rest):
                return rest, every
    return None
