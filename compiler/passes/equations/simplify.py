"""Simplification of a whole system: names for nothing, the same thing twice, and what nobody reads.

In: a system. Out: an equal one with the same outputs and updates. Algebra inside a body is done
when bodies are built (`scalar.call`); this pass only looks across equations.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import replace

from ...ir.build import literal, rewrite, substitute
from ...ir.equation import Equation, System, Tensor, is_recurrent
from ...ir.expr import Apply, Const, Expr, Idx, Read


def simplify(system: System) -> System:
    """Constants and copies are read where they come from, equal equations are computed once, and
    equations that no output or update needs are gone."""
    system = reduce_something(system)
    while True:
        before = system.equations
        system = remove_unused(share_equal(forward_copies(adopt_names(system))))
        if system.equations == before:
            return system


def differentiated(system: System) -> set[str]:
    """The tensors that placeholders name. Another tensor of the same value does not do for one: the
    gradient goes through the equations that read this one."""
    return {name for g in system.gradients for name in (g.of, g.wrt)}


def reduce_something(system: System) -> System:
    """A reduction over no index at all, as `sum(...)` of a number is, is what it reduces."""
    return system.replace(
        equations=tuple(
            eq
            if eq.over or eq.reduce is None or eq.at is not None
            else replace(
                eq, reduce=None, body=literal(0) if eq.reduce in ("argmax", "argmin") else eq.body
            )
            for eq in system.equations
        )
    )


def without_stops(system: System) -> System:
    """`stop(x)` is x once the gradients are computed."""

    def change(node: Expr) -> Expr | None:
        return node.args[0] if isinstance(node, Apply) and node.fn == "stop" else None

    return system.replace(
        equations=tuple(e.with_body(rewrite(e.body, change)) for e in system.equations)
    )


# --- copies ------------------------------------------------------------------------------------


def _plain(read: Read) -> bool:
    return read.other is None and all(isinstance(e, Idx) for e in read.index)


def forward_copies(system: System) -> System:
    """y[i, j] = x[j, i] and y[i] = 0.5: who reads y reads x, or the number."""
    kept = differentiated(system).union(system.roots)
    copies: dict[str, Equation] = {}
    for eq in system.equations:
        plain = eq.reduce is None and eq.at is None and eq.target not in kept
        copied = isinstance(eq.body, Const) or (isinstance(eq.body, Read) and _plain(eq.body))
        if plain and copied and eq.body.dtype == system.tensors[eq.target].dtype:
            copies[eq.target] = eq
    if not copies:
        return system

    def change(node: Expr) -> Expr | None:
        while isinstance(node, Read) and node.tensor in copies:
            fresh = _through(node, copies[node.tensor], system.tensors)
            if fresh is None:
                return node
            node = fresh
        return node

    return system.replace(equations=tuple(_mapped(eq, change, copies) for eq in system.equations))


def _through(read: Read, copy: Equation, tensors: Mapping[str, Tensor]) -> Expr | None:
    """What a read of a copy is, if it can be said without the copy."""
    body = copy.body
    if read.other is None:
        places = dict(zip((i.name for i in copy.indices), read.index, strict=True))
        return substitute(body, places)
    if isinstance(body, Const):
        return body if read.other is body else None
    assert isinstance(body, Read)
    # a guard looks at every index of y: all of them must still be there, with the same sizes
    order = {i.name: (e, i.size) for i, e in zip(copy.indices, read.index, strict=True)}
    names = [e.name for e in body.index if isinstance(e, Idx)]
    same = sorted(names) == sorted(order) and all(
        order[n][1] == size for n, size in zip(names, tensors[body.tensor].shape, strict=True)
    )
    if not same:
        return None
    return Read(body.tensor, tuple(order[n][0] for n in names), read.other, read.dtype)


def adopt_names(system: System) -> System:
    """An output that is a copy of a temp takes the temp's place: the temp gets its name."""
    roots = set(system.roots)
    fixed = differentiated(system)
    for eq in system.equations:
        body = eq.body
        if eq.target not in roots or eq.reduce or eq.at or not isinstance(body, Read):
            continue
        source = system.tensors[body.tensor]
        own = tuple(Idx(i.name) for i in eq.indices)
        free = source.name in system.definition and source.name not in roots
        free &= fixed.isdisjoint((eq.target, source.name))
        fits = free and source.dtype == body.dtype
        if fits and body.other is None and body.index == own and source.shape == eq_shape(eq):
            return adopt_names(_renamed(system, source.name, eq))
    return system


def eq_shape(eq: Equation) -> tuple[int, ...]:
    return tuple(i.size for i in eq.indices)


def _renamed(system: System, old: str, copy: Equation) -> System:
    new = copy.target

    def change(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor == old:
            return Read(new, node.index, node.other, node.dtype)
        return None

    equations = []
    for eq in system.equations:
        if eq is copy:
            continue
        eq = _mapped(eq, change, (old,))
        equations.append(_retarget(eq, new) if eq.target == old else eq)
    tensors = {n: t for n, t in system.tensors.items() if n != old}
    remat = tuple(
        replace(block, targets=tuple(new if n == old else n for n in block.targets))
        for block in system.remat
    )
    backward = frozenset(new if n == old else n for n in system.backward)
    return system.replace(
        equations=tuple(equations), tensors=tensors, remat=remat, backward=backward
    )


def _retarget(eq: Equation, target: str) -> Equation:
    return Equation(target, eq.indices, eq.body, eq.reduce, eq.over, eq.at, eq.span)


def _mapped(eq: Equation, change: Callable[[Expr], Expr | None], read: Container[str]) -> Equation:
    """The equation with reads of the tensors in `read` changed."""
    if not any(name in read for name in eq.sources):
        return eq
    body = rewrite(eq.body, change)
    at = None if eq.at is None else tuple(rewrite(e, change) for e in eq.at)
    if body is eq.body and at == eq.at:
        return eq
    return Equation(eq.target, eq.indices, body, eq.reduce, eq.over, at, eq.span)


# --- the same twice ----------------------------------------------------------------------------


def share_equal(system: System) -> System:
    """Two equations that differ only in their names are one."""
    fixed = differentiated(system)
    distinct = fixed.union(system.roots)
    alike: dict[tuple, list[Equation]] = {}  # those kept, by what can be compared at once
    same: dict[str, str] = {}

    def change(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in same:
            return Read(same[node.tensor], node.index, node.other, node.dtype)
        return None

    kept = []
    for eq in system.equations:
        eq = _mapped(eq, change, same)
        others = alike.setdefault(_outline(eq), [])
        first = None
        if others and eq.target not in distinct and not is_recurrent([eq]):
            own = _shape_of_equation(eq)
            first = next((o for o in others if _shape_of_equation(o) == own), None)
        if first is not None:
            same[eq.target] = first.target
        else:
            others += [] if eq.target in fixed else [eq]
            kept.append(eq)
    if not same:
        return system
    return system.replace(equations=tuple(_mapped(eq, change, same) for eq in kept))


def _outline(eq: Equation) -> tuple:
    """What equal equations share, whatever their indices are called."""
    fn = eq.body.fn if isinstance(eq.body, Apply) else None
    sizes = tuple(i.size for i in eq.indices), tuple(i.size for i in eq.over)
    return (*sizes, eq.reduce, fn, eq.body.dtype, *eq.sources)


def _shape_of_equation(eq: Equation) -> tuple:
    """The equation with numbers for the names of its indices; the outline is left out."""
    numbered = {i.name: Idx(f"#{n}") for n, i in enumerate(eq.domain)}
    at = None if eq.at is None else tuple(substitute(e, numbered) for e in eq.at)
    return substitute(eq.body, numbered), at


# --- what nobody reads -------------------------------------------------------------------------


def remove_unused(system: System) -> System:
    """The system without the equations, and placeholders, that no root depends on."""
    needed = system.ancestors(system.roots)
    equations = tuple(eq for eq in system.equations if eq.target in needed)
    gradients = tuple(g for g in system.gradients if g.target in needed)
    tensors = {n: t for n, t in system.tensors.items() if t.kind != "temp" or n in needed}
    return system.replace(equations=equations, tensors=tensors, gradients=gradients)
