"""The programs made of aggregates: one that hands over the parts of a batch, and the last stage,
which computes the measures of a set from the parts of all its batches. See `aggregates.py`. Tests:
tests/runtime/test_set_measures.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...dsl.records import record
from .aggregate_terms import Term, factored, named_terms
from .aggregates import Aggregates
from .build import cast, literal
from .edit import SystemEdit
from .equation import Equation, System, Tensor, copy_equation, is_recurrent, reachable
from .expr import Const, Expr, Read

LAST_I32 = 2**31 - 1


@record
class HandedOver:
    """A program's system with the parts among its outputs: of each part in turn the output, and
    what to divide it by."""

    system: System
    outputs: tuple[str, ...]
    divisors: tuple[float, ...]


def hand_over(system: System, found: Aggregates, losses: int = 1) -> HandedOver:
    """The system of a program with the parts as outputs, after so many `losses`, its first ones."""
    edit = SystemEdit(system)
    outputs = {}
    terms: dict[str, tuple[Term, Equation]] = {}
    for name in found.stage:
        eq = system.definition[name]
        named, _ = named_terms(system, eq, found.given, found.is_fixed, found.sums)
        terms |= {n: (term, eq) for n, term in named.items()}
    for part in found.handed:
        tensor = system.tensors.get(part.name)
        if tensor is None:
            term, eq = terms[part.name]
            outputs[part.name] = edit.add(Equation(part.name, (), term.body, span=eq.span))
        elif tensor.kind == "temp":
            outputs[part.name] = part.name
        else:
            copy = copy_equation(tensor, part.name, f"{part.name}_seen")
            outputs[part.name] = edit.add(copy)
    each = dict.fromkeys((*system.outputs[:losses], *outputs.values()))
    made = edit.result().replace(outputs=tuple(each))
    divisors = [1.0] * len(outputs)
    for place, part in enumerate(found.handed):
        if part.scaled:
            own = terms[part.name][0].factor if part.name in terms else None
            divisors[place] = own or factored(system.definition[part.name].body)[0]
    return HandedOver(made, tuple(outputs.values()), tuple(divisors))


def last_stage(system: System, found: Aggregates) -> System:
    """The measures as the outputs of a system whose inputs are the parts of a set. `system` is the
    one for a batch of all its examples. Whole numbers are added up in i64."""
    tensors: dict[str, Tensor] = {}
    factors: dict[str, float] = {}
    for part in found.parts:
        tensor = system.tensors.get(part.name)
        if tensor is None:  # a term: it is declared where it occurs
            continue
        dtype = "i64" if part.kind in ("sum", "prod") and tensor.dtype == "i32" else tensor.dtype
        tensors[part.name] = Tensor(part.name, tensor.shape, dtype, "input", span=tensor.span)
        if part.scaled:
            factors[part.name] = factored(system.definition[part.name].body)[0]
    ends = {p.name for p in found.parts}
    needed = reachable(
        found.measures,
        lambda name: system.definition[name].sources if name in found.stage - ends else (),
    )
    equations = []
    for component in system.components:
        for eq in component:
            if eq.target in ends or eq.target not in found.stage & needed:
                continue
            terms, eq = named_terms(system, eq, found.given, found.is_fixed, found.sums)
            tensors |= {n: Tensor(n, (), t.body.dtype, "input") for n, t in terms.items()}
            factors |= {n: t.factor for n, t in terms.items() if t.factor is not None}
            own = system.tensors[eq.target]
            if is_recurrent(component):  # of a type that it was given, since it reads itself
                eq = _read_as_before(eq, tensors, factors)
            else:
                eq = _retyped(eq, tensors, factors)
                own = replace(own, dtype=eq.dtype)
            tensors[eq.target] = own
            equations.append(eq)
    return System(system.name, tensors, tuple(equations), found.measures).in_order()


def _read_as_before(
    eq: Equation, tensors: Mapping[str, Tensor], factors: Mapping[str, float]
) -> Equation:
    """The equation with its reads converted from the types that the tensors have now to those that
    they had, and with the factors of scaled sums. What is computed beside it keeps its type."""

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor not in tensors:
            return None
        read, factor = cast(_read_now(node, tensors), node.dtype), factors.get(node.tensor)
        return read if factor is None else factor * read

    return eq.rewrite(change)


def _read_now(node: Read, tensors: Mapping[str, Tensor]) -> Read:
    """The read in the type that its tensor has now."""
    dtype = tensors[node.tensor].dtype
    return Read(node.tensor, node.index, node.other and cast(node.other, dtype), dtype)


def _retyped(eq: Equation, tensors: Mapping[str, Tensor], factors: Mapping[str, float]) -> Equation:
    """The equation with its reads in the types that the tensors have now, and with the factors of
    scaled sums."""

    def change(node: Expr) -> Expr | None:
        # the number of all examples may be too large for the type that it is for a batch
        if isinstance(node, Const) and node.dtype == "i32" and abs(node.value) > LAST_I32:
            return literal(node.value, "i64")
        if not isinstance(node, Read):
            return None
        read, factor = _read_now(node, tensors), factors.get(node.tensor)
        return read if factor is None else factor * read

    eq = eq.rewrite(change)
    if eq.reduce in ("sum", "prod") and eq.body.dtype == "i32":
        eq = eq.with_body(cast(eq.body, "i64"))
    return eq
