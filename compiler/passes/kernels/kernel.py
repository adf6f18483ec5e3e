"""Kernels: equations grouped into the units that become one loop nest each, and their plan.

These are the records that the passes of this folder fill in and that lowering reads. A kernel says
*what is computed together and why*; tile sizes, vectors and the order of loops are decided by
lowering, and stand in the loop IR (`cpu/loop_ir.py`) or the grid IR (`gpu/grid_ir.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...ir.equation import Equation, Index, System
from ...ir.expr import Expr


@dataclass(frozen=True, eq=False)  # compared by identity: it is a key of many dictionaries
class Kernel:
    """One equation, the anchor, and the elementwise equations that are fused into it.

    `epilogue` equations have the anchor's output indices (by position) and read its target, and
    each other's, at exactly those indices; they are computed on the tile in registers. Targets in
    `local` are read by no other kernel and never stored. An anchor without reduction is a map; one
    with `at` accumulates and has no epilogue. `fixed` names those of the anchor's indices that an
    enclosing `Scan` binds: inside the kernel they are scalars.

    `zero_where` are affine forms over the anchor's indices; where one of them is 0 or more, the
    term of a sum is 0.

    `unrolled` names small indices of which all values are computed at one point of the iteration
    space, such as the gates of a recurrent cell. An equation may have one that others lack: the
    others then read it at constants, or it reads the others at every one of its values.
    """

    name: str
    anchor: Equation
    epilogue: tuple[Equation, ...] = ()
    local: frozenset[str] = frozenset()
    fixed: tuple[str, ...] = ()
    reason: str = ""
    unrolled: frozenset[str] = frozenset()
    zero_where: tuple[Expr, ...] = ()

    @property
    def equations(self) -> tuple[Equation, ...]:
        return (self.anchor, *self.epilogue)

    @property
    def indices(self) -> tuple[Index, ...]:
        """The output indices that the kernel itself runs over."""
        # Unrolled indices are constants in the code, fixed ones are given from outside: neither is
        # a loop.
        known = self.unrolled.union(self.fixed)
        return tuple(i for i in self.anchor.indices if i.name not in known)

    @property
    def stored(self) -> tuple[str, ...]:
        """The tensors that the kernel writes."""
        return tuple(e.target for e in self.equations if e.target not in self.local)


@dataclass(frozen=True)
class Scan:
    """A recurrence: `kernels` run in order for every value of `index`, first to last or back.

    Each kernel has `index.name` in its `fixed`; items may themselves be scans over another index.
    """

    index: Index
    reverse: bool
    kernels: tuple[Kernel | Scan, ...]
    reason: str = ""

    @property
    def every(self) -> Iterator[Kernel]:
        """Its kernels, those of inner scans included, in order."""
        yield from _flat(self.kernels)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The indices that scans around it bind."""
        # Every kernel lists all scans around it, the outermost first; those before this index
        # enclose us.
        names = next(self.every).fixed
        return names[: names.index(self.index.name)]


@dataclass(frozen=True)
class Plan:
    """A system on its way to code: what runs in which order, and where every tensor lives.

    Passes fill it in. `items` are first the kernels that passes before fusion have made; `notes`
    say why an equation is in none of these. Fusion gives all kernels in order, `views`, tensors
    that are another one's memory under other indices, and `in_place`, the params and states whose
    next value may overwrite the old one. `offsets` are bytes into one arena of `arena_bytes`,
    multiples of 64, for every tensor but locals. An update whose next value shares the offset of
    its param or state happens in place; a kernel may read such a param only at the very element
    that it then overwrites. Before a kernel of `barriers` all threads have finished the kernels
    before it; a kernel of `prefetch` brings tensors into the cache that later kernels read.
    """

    system: System
    items: tuple[Kernel | Scan, ...] = ()
    offsets: Mapping[str, int] = field(default_factory=dict)
    arena_bytes: int = 0
    views: Mapping[str, str] = field(default_factory=dict)
    in_place: frozenset[str] = frozenset()
    barriers: frozenset[str] = frozenset()
    prefetch: Mapping[Kernel, tuple[str, ...]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def kernels(self) -> Iterator[Kernel]:
        """All kernels, those inside scans included, in order."""
        yield from _flat(self.items)


def _flat(items: tuple[Kernel | Scan, ...]) -> Iterator[Kernel]:
    for item in items:
        if isinstance(item, Kernel):
            yield item
        else:
            yield from _flat(item.kernels)
