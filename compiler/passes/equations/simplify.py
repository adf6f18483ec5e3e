"""Simplification across equations: copies, equal equations, unused equations.

    y[i, j] = x[j, i];  z[i] = y[i, 0]^2   →   z[i] = x[0, i]^2                copy propagation
    a[i] = exp(x[i]);   b[j] = exp(x[j])   →   a[i] = exp(x[i]), read for b    value numbering
    u[i] = x[i] + 1, which nothing reads   →                                   dead-code removal

Runs until nothing changes, first and after passes that leave such equations. Simplification inside
a body is done when the body is built (`ir/build.py`). Tests: tests/passes/test_passes.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...ir.build import Change, literal, substitute
from ...ir.equation import Equation, System, Tensor, is_identity, is_recurrent
from ...ir.expr import Apply, Const, Expr, Idx, Read


def simplify(system: System) -> System:
    """The system without copies, equal equations and equations that no output or update needs."""
    system = system.replace(equations=tuple(map(_without_empty_reduction, system.equations)))
    # Each rewrite may enable another: equal equations leave equal readers, and unused ones.
    while True:
        before = system.equations
        system = remove_unused(share_equal(forward_copies(rename_copied_temps(system))))
        if system.equations == before:
            return system


def differentiated(system: System) -> set[str]:
    """The tensors that gradient placeholders name. An equal tensor cannot replace one: its gradient
    is taken through the equations that read it."""
    return {name for g in system.gradients for name in (g.of, g.wrt)}


def _without_empty_reduction(eq: Equation) -> Equation:
    """A reduction over no index, such as `sum(...)` of a number, is its body."""
    if eq.over or eq.reduce is None or eq.at is not None:
        return eq
    return replace(eq, reduce=None, body=eq.body if eq.dtype == eq.body.dtype else literal(0))


def remove_stops(system: System) -> System:
    """`stop(x)` → x, once the gradients are computed."""

    def change(node: Expr) -> Expr | None:
        return node.args[0] if isinstance(node, Apply) and node.fn == "stop" else None

    return system.rewrite(change)


# --- copies ------------------------------------------------------------------------------------


def forward_copies(system: System) -> System:
    """y[i, j] = x[j, i] and y[i] = 0.5: the readers of y read x, or the number."""
    # Outputs and updates must exist under their names, even as copies.
    fixed = differentiated(system).union(system.roots)
    copies: dict[str, Equation] = {}

    def change(node: Expr) -> Expr | None:
        # A copy of a copy goes to the first source in one pass.
        while isinstance(node, Read) and node.tensor in copies:
            fresh = _forwarded(node, copies[node.tensor], system.tensors)
            if fresh is None:
                return node
            node = fresh
        return node

    for eq in system.equations:
        if eq.reduce is None and eq.at is None and eq.target not in fixed and _is_copied(eq.body):
            # A chain of copies is followed once: each is a copy of the first source.
            source = change(eq.body)
            copies[eq.target] = eq.with_body(source) if source and _is_copied(source) else eq
    return _rewrite_readers(system, copies, change)


def _rewrite_readers(system: System, read: Mapping[str, object], change: Change) -> System:
    """The system with the equations that read one of these tensors rewritten."""
    if not read:
        return system
    return system.replace(
        equations=tuple(
            eq if read.keys().isdisjoint(eq.sources) else eq.rewrite(change)
            for eq in system.equations
        )
    )


def _is_copied(body: Expr) -> bool:
    """Whether an equation with this body is a copy: of a number, or of elements of a tensor."""
    if isinstance(body, Read):
        return body.other is None and all(isinstance(e, Idx) for e in body.index)
    return isinstance(body, Const)


def _forwarded(read: Read, copy: Equation, tensors: Mapping[str, Tensor]) -> Expr | None:
    """A read of a copy as one of what is copied; None where a guard makes them differ."""
    body = copy.body
    if read.other is None:
        return substitute(body, dict(zip((i.name for i in copy.indices), read.index, strict=True)))
    # Outside, the copy reads as its `else`; the number replaces it only if both agree.
    if isinstance(body, Const):
        return body if read.other is body else None
    assert isinstance(body, Read)
    # the guard tests every index of y: all of them must index x, and have the same sizes there
    places = {i.name: (e, i.size) for i, e in zip(copy.indices, read.index, strict=True)}
    names = [e.name for e in body.index if isinstance(e, Idx)]
    sizes = tuple(places[n][1] for n in names)
    if sorted(names) != sorted(places) or sizes != tensors[body.tensor].shape:
        return None
    return Read(body.tensor, tuple(places[n][0] for n in names), read.other, read.dtype)


def rename_copied_temps(system: System) -> System:
    """An output that is a copy of a temp becomes the name of that temp."""
    roots, fixed = set(system.roots), differentiated(system)
    for eq in system.equations:
        body = eq.body
        # Only outputs and updates: other copies are forwarded to their readers.
        if eq.target not in roots or eq.reduce or eq.at or not isinstance(body, Read):
            continue
        source = system.tensors[body.tensor]
        same_shape = source.shape == tuple(i.size for i in eq.indices)
        # The source is computed once under the name of the output, if no other name is promised.
        temp = source.name in system.definition and source.name not in roots
        temp &= fixed.isdisjoint((eq.target, source.name))
        if temp and same_shape and is_identity(body, eq):
            # One at a time: two outputs may copy the same temp, and only one can give it its name.
            return rename_copied_temps(_renamed(system, source.name, eq))
    return system


def _renamed(system: System, old: str, copy: Equation) -> System:
    """The system with the temp `old` under the name of its copy, and without the copy."""
    names = {old: copy.target}
    kept = tuple(eq for eq in system.equations if eq is not copy)
    system = _rewrite_readers(system.replace(equations=kept), names, _renaming(names))
    equations = tuple(
        replace(eq, target=copy.target) if eq.target == old else eq for eq in system.equations
    )
    # All that refers to temps by name: tensors, `remat` blocks, the backward pass.
    tensors = {n: t for n, t in system.tensors.items() if n != old}
    remat = tuple(
        replace(block, targets=tuple(names.get(n, n) for n in block.targets))
        for block in system.remat
    )
    backward = frozenset(names.get(n, n) for n in system.backward)
    adjoints, contributions = (
        {names.get(n, n): names.get(of, of) for n, of in known.items()}
        for known in (system.adjoints, system.contributions)
    )
    return system.replace(
        equations=equations,
        tensors=tensors,
        remat=remat,
        backward=backward,
        adjoints=adjoints,
        contributions=contributions,
    )


def _renaming(names: Mapping[str, str]) -> Change:
    def change(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in names:
            return Read(names[node.tensor], node.index, node.other, node.dtype)
        return None

    return change


# --- equal and unused equations ------------------------------------------------------------------


def share_equal(system: System) -> System:
    """Of equations that differ only in their targets and the names of indices, the first stays."""
    roots, fixed = set(system.roots), differentiated(system)
    alone: dict[tuple, Equation] = {}  # the first that reads these tensors: compared with others
    first: dict[tuple, str] = {}
    same: dict[str, str] = {}
    kept = []
    # Reads are renamed first, so that a chain of equal equations is found in one go.
    for eq in system.equations:
        eq = eq if same.keys().isdisjoint(eq.sources) else eq.rewrite(_renaming(same))
        equal = eq.target
        if eq.target not in fixed:
            other = alone.setdefault((eq.reduce, *eq.sources), eq)
            if other is not eq:
                first.setdefault(other.canonical, other.target)
                equal = first.setdefault(eq.canonical, eq.target)
        # An output stays even if an earlier one is equal, and so does an equation that reads
        # itself, whose twin reads another tensor.
        if equal == eq.target or eq.target in roots or is_recurrent([eq]):
            kept.append(eq)
        else:
            same[eq.target] = equal
    return _rewrite_readers(system.replace(equations=tuple(kept)), same, _renaming(same))


def remove_unused(system: System) -> System:
    """The system without the equations, and placeholders, that no root depends on."""
    # The closure over what outputs and updates depend on; all else is dead.
    needed = system.ancestors(system.roots)
    equations = tuple(eq for eq in system.equations if eq.target in needed)
    gradients = tuple(g for g in system.gradients if g.target in needed)
    tensors = {n: t for n, t in system.tensors.items() if t.kind != "temp" or n in needed}
    return system.replace(equations=equations, tensors=tensors, gradients=gradients)
