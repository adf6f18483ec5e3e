"""Rematerialization: the backward pass computes the tensors of a `remat` block again.

    a[i] = f(x[i])                   a[i] = f(x[i])
    y[i] = g(a[i])                   y[i] = g(a[i])
    …                            →   …
    d_a[i] = d_y[i] * g'(a[i])       x_again[i] = after(x[i], d_y[0])
                                     a_again[i] = f(x_again[i])
                                     d_a[i] = d_y[i] * g'(a_again[i])

Only what a block reads and what is read of it elsewhere stays in memory between the two passes, at
the price of computing the block twice. `after` delays the second time: `x_again` is x (a view,
which costs nothing), but not before the gradient has come to the block. By then the blocks behind
this one no longer need their memory.

Applies to every block of which the backward pass reads an inner tensor. Gradient checkpointing:
Chen et al. 2016, "Training deep nets with sublinear memory cost"; Griewank and Walther 2000.
Tests: tests/passes/test_rematerialize.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ....dsl.diagnostics.diagnostic import Report
from ....dsl.syntax.source import Span
from ...ir.build import call, literal, renamed
from ...ir.equation import Equation, Index, System, Tensor, components
from ...ir.expr import Const, Expr, Idx, Read


def rematerialize(system: System) -> System:
    """The system with what the backward pass reads inside of blocks computed again for it."""
    # No gradients, no backward pass: an evaluation or a prediction computes all once.
    if not system.backward:
        return system
    blocks: dict[int, set[str]] = {}
    for target, number in system.block.items():
        blocks.setdefault(number, set()).add(target)
    gradients = system.backward
    # One block at a time: each sees the copies that earlier ones have added.
    for block in blocks.values():
        system = _compute_again(system, block - gradients)
    system = _early_gradients(system, gradients) if blocks else system
    return system.replace(remat=())


def report_useless_blocks(system: System, report: Report) -> None:
    """Warn (W0304) of the `remat` blocks of a differentiated system that save nothing wherever they
    are applied: the backward pass reads nothing of them that would not be kept anyway."""
    # A layer applied several times gives several blocks with one span; warn only if none saves.
    saves: dict[Span, bool] = {}
    for block in system.remat:
        if block.span is not None:
            inner = _inner(system, set(block.targets) - system.backward)
            saves[block.span] = saves.get(block.span, False) or bool(_readers(system, inner))
    for span, saved in saves.items():
        if not saved:
            report.add(
                "W0304",
                "this `remat` saves nothing",
                span,
                label="no gradient needs what only this block knows",
                help="put more into it: its inputs and what is read after it are stored",
            )


def _compute_again(system: System, block: set[str]) -> System:
    """The system with what the backward pass reads of one block computed again for it."""
    inner = _inner(system, block)
    readers = _readers(system, inner)
    if not readers:
        return system
    backward = [eq for eq in system.equations if eq.target in system.backward]
    # Of the block, only what leads to a reader is computed again.
    wanted = _leading_to(system.definition, readers, inner)
    copied = [eq for eq in system.equations if eq.target in wanted]
    names = {eq.target: _fresh(system, eq.target) for eq in copied}
    # The copies wait through the temps and inputs that they read. Params and states are in memory
    # for the whole step anyway, and need no second name.
    given = [
        s
        for s in dict.fromkeys(s for eq in copied for s in eq.sources)
        if s not in names and system.tensors[s].kind in ("temp", "input")
    ]
    names |= {name: _fresh(system, name) for name in given}
    # A copy could run at once, beside its original, if it did not wait for a gradient; then its
    # memory would be held through the rest of the forward pass, and nothing would be saved.
    waits = _incoming_gradients(system, backward, readers)
    views = [_view(system.tensors[name], names[name], waits) for name in given]
    tensors = dict(system.tensors)
    for old, new in names.items():
        tensors[new] = replace(tensors[old], name=new, kind="temp", init="")
    again = [*views, *(_copy(eq, names) for eq in copied)]
    own = {eq.target: names[eq.target] for eq in copied}
    early: list[Equation] = []  # in the backward pass, but computed from the forward pass alone
    rest: list[Equation] = []
    for eq in system.equations:
        # A reader that needs no gradient, such as the argmax of a maximum, is ready as soon as
        # the copies that it reads; left in its place it would pull these forward.
        waiting = eq.target not in readers or not system.backward.isdisjoint(eq.sources)
        (rest if waiting else early).append(_reading(eq, own) if eq.target in readers else eq)
    # at the end: in order, each comes just before what first reads it
    return system.replace(
        tensors=tensors,
        equations=(*rest, *again, *early),
        backward=system.backward.union(names.values()),
    ).in_order()


def _early_gradients(system: System, gradients: frozenset[str]) -> System:
    """A gradient no larger than one that it reads comes as soon as it can: what a block adds to the
    gradient of parameters that all blocks read, so that its own can go."""
    # Work on components, because a recurrence is scheduled as a whole. Indices into `parts`.
    parts = system.components
    number = {eq.target: n for n, part in enumerate(parts) for eq in part}
    sources = [
        {number[s] for eq in part for s in eq.sources if s in number} - {n}
        for n, part in enumerate(parts)
    ]
    readers: list[list[int]] = [[] for _ in parts]
    for n, own in enumerate(sources):
        for source in own:
            readers[source].append(n)
    # Bytes; 0 for what is no gradient, which never moves.
    size = {name: system.tensors[name].bytes for name in gradients}
    placed: set[int] = set()
    order: list[Equation] = []
    # The given order, except that right after a component come those of its readers that are ready
    # and no larger than a gradient that they read (list scheduling, depth first).
    for start in range(len(parts)):
        stack = [start]
        while stack:
            n = stack.pop()
            if n in placed:
                continue
            placed.add(n)
            order += parts[n]
            for reader in readers[n]:
                eq = parts[reader][0]
                largest = max(size.get(s, 0) for s in eq.sources)
                # Ready: everything that it reads has been placed.
                if 0 < size.get(eq.target, 0) <= largest and sources[reader] <= placed:
                    stack.append(reader)
    return system.replace(equations=tuple(order))


def _inner(system: System, block: set[str]) -> set[str]:
    """The block without what else the forward pass reads of it and what is a result: that is
    kept."""
    # Other equations of the forward pass; what they read must be stored in any case.
    others = (
        eq for eq in system.equations if eq.target not in system.backward and eq.target not in block
    )
    return block.difference(system.roots, *(eq.sources for eq in others))


def _readers(system: System, inner: set[str]) -> set[str]:
    """The targets of the equations of the backward pass that read what is inside the block."""
    return {
        eq.target
        for eq in system.equations
        if eq.target in system.backward and not inner.isdisjoint(eq.sources)
    }


def _leading_to(definition: Mapping[str, Equation], readers: set[str], inner: set[str]) -> set[str]:
    """What is inside the block and leads to the readers."""
    found: set[str] = set()
    # Depth-first search backwards from the readers, without leaving the block.
    stack = [s for reader in readers for s in definition[reader].sources if s in inner]
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += (s for s in definition[name].sources if s in inner)
    return found


def _incoming_gradients(
    system: System, backward: list[Equation], readers: set[str]
) -> list[Tensor]:
    """The gradients that come to the block from outside: read where the backward pass goes through
    the block, and computed without any of the readers. A recurrence of the backward pass is taken
    as a whole."""
    # Recurrences as components: one equation of a backward loop that reads the block makes the
    # whole loop a reader, as its equations cannot run without each other.
    through = [
        eq
        for part in components(tuple(backward))
        if any(e.target in readers for e in part)
        for eq in part
    ]
    # A gradient that depends on a reader cannot be waited for: that would be a cycle.
    dependent = system.descendants(eq.target for eq in through)
    outside = {eq.target for eq in backward} - dependent
    found = dict.fromkeys(s for eq in through for s in eq.sources if s in outside)
    return [system.tensors[name] for name in found]


def _view(tensor: Tensor, name: str, waits: list[Tensor]) -> Equation:
    """`x_again[i] = after(x[i], d_y[0])`. A gradient may be a number: then nothing is waited for,
    and the equation still is no copy."""
    indices = tuple(Index(f"i{axis}", size) for axis, size in enumerate(tensor.shape))
    body: Expr = Read(tensor.name, tuple(Idx(i.name) for i in indices), None, tensor.dtype)
    # One element is enough: it exists only once the kernel that computes the gradient is done.
    first: list[Expr] = [Read(w.name, (literal(0),) * len(w.shape), None, w.dtype) for w in waits]
    for wait in first or [Const(0.0, "f32")]:
        body = call("after", body, wait)
    return Equation(name, indices, body, span=tensor.span)


def _copy(eq: Equation, names: Mapping[str, str]) -> Equation:
    return replace(_reading(eq, names), target=names[eq.target])


def _reading(eq: Equation, names: Mapping[str, str]) -> Equation:
    at = None if eq.at is None else tuple(renamed(e, names) for e in eq.at)
    return replace(eq, body=renamed(eq.body, names), at=at)


def _fresh(system: System, name: str) -> str:
    base = f"{name.removesuffix(chr(39))}_again"
    number = 1
    while (full := base if number == 1 else f"{base}_{number}") in system.tensors:
        number += 1
    return full
