"""Recomputation: what a `remat` block computes is computed again on the way back, and not kept.

In: a system with gradients, and the names of what it had before. Out: an equal one without marked
blocks. What a block is given and what it hands on is kept; the equations between are written down
a second time for the way back (Chen et al. 2016, "Training deep nets with sublinear memory cost"):

    a[i] = f(x[i])                   a[i] = f(x[i])
    y[i] = g(a[i])                   y[i] = g(a[i])
    …                                …
    d_a[i] = d_y[i] * g'(a[i])       x_again[i] = after(x[i], d_y[0])
                                     a_again[i] = f(x_again[i])
                                     d_a[i] = d_y[i] * g'(a_again[i])

`after` is what holds the second time back: `x_again` is x (a view, which costs nothing), but not
before the gradient has come to the block. By then the blocks after this one are done with theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ...ir.build import call, literal, renamed
from ...ir.equation import Equation, Index, System, Tensor, components
from ...ir.expr import Const, Expr, Idx, Read


def rematerialize(system: System, forward: Collection[str]) -> System:
    """`forward` are the targets of the equations that were there before the gradients."""
    known = set(forward)
    gradients = {eq.target for eq in system.equations} - known
    blocks: dict[int, set[str]] = {}
    for target, number in system.block.items():
        blocks.setdefault(number, set()).add(target)
    for block in blocks.values():
        system = _again(system, known, block & known)
    return _soon(system, gradients).replace(remat=()) if blocks else system


def _again(system: System, forward: set[str], block: set[str]) -> System:
    """The system with what the way back reads of one block computed again for it."""
    inner = _inner(system, forward, block)
    readers = _readers(system, forward, inner)
    if not readers:
        return system
    back = [eq for eq in system.equations if eq.target not in forward]
    wanted = _leading_to(system.definition, readers, inner)
    copied = [eq for eq in system.equations if eq.target in wanted]
    names = {eq.target: _fresh(system, eq.target) for eq in copied}
    held = [
        s
        for s in dict.fromkeys(s for eq in copied for s in eq.sources)
        if s not in names and system.tensors[s].kind in ("temp", "input")
    ]
    names |= {name: _fresh(system, name) for name in held}
    waits = _waits(system, back, readers)
    views = [_view(system.tensors[name], names[name], waits) for name in held]
    tensors = dict(system.tensors)
    for old, new in names.items():
        tensors[new] = replace(tensors[old], name=new, kind="temp", init="")
    again = [*views, *(_copy(eq, names) for eq in copied)]
    own = {eq.target: names[eq.target] for eq in copied}
    early: list[Equation] = []  # on the way back, but computed from the way forward alone
    rest: list[Equation] = []
    gradients = {eq.target for eq in back}
    for eq in system.equations:
        waiting = eq.target not in readers or not gradients.isdisjoint(eq.sources)
        (rest if waiting else early).append(_reading(eq, own) if eq.target in readers else eq)
    # at the end: in order, each comes just before what first reads it
    return system.replace(tensors=tensors, equations=(*rest, *again, *early)).in_order()


def _soon(system: System, gradients: set[str]) -> System:
    """A gradient no larger than one that it reads comes as soon as it can: what a block adds to the
    gradient of parameters that all blocks read, so that its own can go."""
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
    size = {name: system.tensors[name].bytes for name in gradients}
    placed: set[int] = set()
    order: list[Equation] = []
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
                if 0 < size.get(eq.target, 0) <= largest and sources[reader] <= placed:
                    stack.append(reader)
    return system.replace(equations=tuple(order))


def is_idle(system: System, forward: Collection[str], block: Collection[str]) -> bool:
    """Whether the way back reads nothing of the block that would not be kept anyway."""
    known = set(forward)
    return not _readers(system, known, _inner(system, known, set(block) & known))


def _inner(system: System, forward: set[str], block: set[str]) -> set[str]:
    """The block without what is needed of it on the way forward, or in the end: that is kept."""
    others = (eq for eq in system.equations if eq.target in forward and eq.target not in block)
    return block.difference(system.roots, *(eq.sources for eq in others))


def _readers(system: System, forward: set[str], inner: set[str]) -> set[str]:
    """The targets of the equations on the way back that read what is inside the block."""
    return {
        eq.target
        for eq in system.equations
        if eq.target not in forward and not inner.isdisjoint(eq.sources)
    }


def _leading_to(definition: Mapping[str, Equation], readers: set[str], inner: set[str]) -> set[str]:
    """What is inside the block and leads to the readers."""
    found: set[str] = set()
    stack = [s for reader in readers for s in definition[reader].sources if s in inner]
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += (s for s in definition[name].sources if s in inner)
    return found


def _waits(system: System, back: list[Equation], readers: set[str]) -> list[Tensor]:
    """The gradients that come to the block from outside: what is read, where the way back goes
    through the block, of that which is computed without any of the readers. A recurrence on the way
    back is taken as a whole."""
    through = [
        eq
        for part in components(tuple(back))
        if any(e.target in readers for e in part)
        for eq in part
    ]
    behind = _depending(back, {eq.target for eq in through})
    outside = {eq.target for eq in back} - behind
    found = dict.fromkeys(s for eq in through for s in eq.sources if s in outside)
    return [system.tensors[name] for name in found]


def _depending(equations: list[Equation], start: set[str]) -> set[str]:
    """The targets in `start`, and of all equations that depend on one of them."""
    reading: dict[str, list[str]] = {}
    for eq in equations:
        for source in eq.sources:
            reading.setdefault(source, []).append(eq.target)
    found, stack = set(start), list(start)
    while stack:
        fresh = [t for t in reading.get(stack.pop(), ()) if t not in found]
        found.update(fresh)
        stack += fresh
    return found


def _view(tensor: Tensor, name: str, waits: list[Tensor]) -> Equation:
    """`x_again[i] = after(x[i], d_y[0])`. A gradient may be a number: then nothing is waited for,
    and the equation still is no copy."""
    indices = tuple(Index(f"i{axis}", size) for axis, size in enumerate(tensor.shape))
    body: Expr = Read(tensor.name, tuple(Idx(i.name) for i in indices), None, tensor.dtype)
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
