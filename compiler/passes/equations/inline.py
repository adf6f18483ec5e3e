"""Inlining: a value that is cheaper to compute again than to store and load.

In: a system. Out: an equal one with fewer equations. A pointwise equation disappears into its
readers if there is one reader, or if it costs next to nothing; but never into a sum that would
compute each value more than once.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ...ir.build import rewrite, substitute
from ...ir.equation import Equation, System, Tensor, is_identity
from ...ir.expr import Apply, Expr, Read, reads
from ...ir.work import cost
from .views import of_later, views

CHEAP = 2  # operations that several readers may each do again
LARGEST = 60  # operations beyond which a body is not made longer


def inline(system: System) -> System:
    """Pointwise equations into their readers, where that saves more than it costs."""
    kept_in_place = views(system)
    recurrent = system.recurrent
    roots = set(system.roots)
    now = dict(system.definition)
    readers: dict[str, set[str]] = {}
    for eq in system.equations:
        for source in eq.sources:
            readers.setdefault(source, set()).add(eq.target)
    for name in [eq.target for eq in system.equations]:
        eq = now[name]
        candidate = eq.reduce is None and eq.at is None and name not in roots
        if not candidate or name in recurrent or name in kept_in_place:
            continue
        reading = [now[r] for r in readers.get(name, ())]
        if not _worthwhile(eq, reading, now, system.tensors):
            continue
        del now[name]
        for reader in reading:
            now[reader.target] = _with_inlined(reader, eq)
        for source in eq.sources:
            readers[source] = (readers[source] | readers[name]) - {name}
    tensors = {n: t for n, t in system.tensors.items() if n in now or t.kind != "temp"}
    return system.replace(equations=tuple(now.values()), tensors=tensors)


def _worthwhile(
    eq: Equation,
    readers: list[Equation],
    definition: Mapping[str, Equation],
    tensors: Mapping[str, Tensor],
) -> bool:
    if any(_is_kept_for(r, eq) for r in readers):
        return False
    found = [
        (r, read)
        for r in readers
        for read in r.reads
        if read.tensor == eq.target and not _only_waits(r, eq)
    ]
    if not found or any(read.other is not None for _, read in found):
        return False
    price, size = cost(eq.body), tensors[eq.target].size
    if any(price + cost(r.body) > LARGEST for r, _ in found):
        return False
    for reader, read in found:
        again = prod(i.size for i in reader.domain) > max(size, 1)
        if _in_index(reader, read) or (again and price and size > 1):
            return False
        if (reader.reduce or reader.at) and price > CHEAP and len(found) > 1:
            return False
    if len(found) == 1 or size == 1:
        return True
    return price <= CHEAP and len(reads(eq.body)) <= 2 and not _rides_on_reduction(eq, definition)


def _is_kept_for(reader: Equation, eq: Equation) -> bool:
    """Whether the reader is a view of the value for later: then the value is what is stored."""
    return _is_later(reader) and eq.target in {r.tensor for r in reads(of_later(reader.body))}


def _only_waits(reader: Equation, eq: Equation) -> bool:
    """Whether the reader computes nothing from the value, but begins after it."""
    return _is_later(reader) and not _is_kept_for(reader, eq)


def _is_later(eq: Equation) -> bool:
    return isinstance(eq.body, Apply) and eq.body.fn == "after"


def _rides_on_reduction(eq: Equation, definition: Mapping[str, Equation]) -> bool:
    """Whether the value can be stored in place of a reduction's own result, which costs nothing."""
    made = [definition[s] for s in eq.sources if s in definition]
    if len(made) != 1 or made[0].reduce is None:
        return False
    own = [r for r in eq.reads if r.tensor == made[0].target]
    same = tuple(i.size for i in made[0].indices) == tuple(i.size for i in eq.indices)
    return same and all(is_identity(r, eq) for r in own)


def _in_index(reader: Equation, read: Read) -> bool:
    """Whether the read is the index of another read: gathers stay as they are."""
    return any(read in reads(place) for other in reader.reads for place in other.index) or any(
        read in reads(place) for place in reader.at or ()
    )


def _with_inlined(reader: Equation, eq: Equation) -> Equation:
    """The reader with the equation's body in place of its result."""
    names = [i.name for i in eq.indices]

    def change(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor == eq.target:
            return substitute(eq.body, dict(zip(names, node.index, strict=True)))
        return None

    return reader.with_body(rewrite(reader.body, change))
