"""Kernels: equations grouped into the units that become one loop nest each, and their plan.

These are the records that the passes of this folder fill in and that lowering reads. A kernel says
*what is computed together and why*; tile sizes, vectors and the order of loops are decided by
lowering, and stand in the loop IR (`cpu/loop_ir.py`) or the grid IR (`gpu/grid_ir.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import cached_property
from math import prod

from ....dsl.records import record
from ...ir.equation import Equation, Index, System
from ...ir.expr import Expr


@record
class Window:
    """A kernel's block: `rows` values of the index `row`, from the value of `start`, a fixed index
    below `starts`. Products and maps of a block run along `column`."""

    row: str
    start: str
    starts: int
    rows: int
    column: str

    def extent(self, index: Index) -> int:
        """How many values of an index a block has."""
        return self.rows if index.name == self.row else index.size


@record(eq=False)  # compared by identity: it is a key of many dictionaries
class Kernel:
    """One equation, the anchor, and the elementwise equations that are fused into it.

    `epilogue` equations have the anchor's output indices (by position) and read its target, and
    each other's, at exactly those indices; they are computed on the tile in registers. Targets in
    `local` are read by no other kernel and never stored. An anchor without reduction is a map; one
    with `at` accumulates and has no epilogue. `fixed` names those of the anchor's indices that an
    enclosing `Scan` binds: inside the kernel they are scalars.

    `zero_where` are affine forms over the anchor's indices; where one of them is 0 or more, the
    term of a sum is 0, and that of a maximum -inf.

    `examples` names the output index that counts examples, where a run of fewer examples may leave
    the others out.

    What lies where one of `unread_where` is 0 or more, nothing reads: it need not be computed. With
    a `window` the kernel computes one block of rows.

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
    window: Window | None = None
    unread_where: tuple[Expr, ...] = ()
    examples: str = ""

    @property
    def equations(self) -> tuple[Equation, ...]:
        return (self.anchor, *self.epilogue)

    def updates(self, system: System) -> bool:
        """Whether it computes what becomes the value of a parameter or a state in the next step."""
        updated = system.updated
        return any(eq.target in updated for eq in self.equations)

    @property
    def indices(self) -> tuple[Index, ...]:
        """The output indices that the kernel itself runs over."""
        # Unrolled indices are constants in the code, fixed ones are given from outside: neither is
        # a loop.
        known = self.unrolled.union(self.fixed)
        own = tuple(i for i in self.anchor.indices if i.name not in known)
        if self.window is None:
            return own
        return tuple(Index(i.name, self.window.extent(i)) for i in own)

    @property
    def stored(self) -> tuple[str, ...]:
        """The tensors that the kernel writes."""
        return tuple(e.target for e in self.equations if e.target not in self.local)


@record
class Scan:
    """A recurrence: `kernels` run in order for every value of `index`, first to last or back.

    Each kernel has `index.name` in its `fixed`; items may themselves be scans over another index. A
    run takes so many `steps`, if these are a size that it is given: what follows is not read.
    """

    index: Index
    reverse: bool
    kernels: tuple[Kernel | Scan, ...]
    reason: str = ""
    steps: Expr | None = None

    @property
    def every(self) -> Iterator[Kernel]:
        """Its kernels, those of inner scans included, in order."""
        yield from _flat(self.kernels)

    @property
    def equations(self) -> tuple[Equation, ...]:
        return tuple(eq for kernel in self.every for eq in kernel.equations)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The indices that scans around it bind."""
        # Every kernel lists all scans around it, the outermost first; those before this index
        # enclose us.
        names = next(self.every).fixed
        return names[: names.index(self.index.name)]


@record(eq=False)
class Blocks:
    """Independent blocks, which threads share: `kernels` run in order for one block, all by one
    thread. There is a block for every value of the indices `fixed`, and of `row`, if there is one,
    for every `rows` values; the last one begins earlier, so that it is as long: what two blocks
    compute they compute alike. Without a `row` the one fixed index counts examples, by each
    kernel's own name. If a run has a number of rows that it is given, this is their `extent`.
    Tensors that are `held` are in a thread's own memory, at offsets from its beginning."""

    fixed: tuple[Index, ...]
    row: Index | None
    rows: int
    kernels: tuple[Kernel, ...]
    reason: str = ""
    extent: Expr | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    held_bytes: int = 0

    @property
    def every(self) -> Iterator[Kernel]:
        """Its kernels, in order."""
        yield from self.kernels

    @property
    def equations(self) -> tuple[Equation, ...]:
        return tuple(eq for kernel in self.kernels for eq in kernel.equations)

    @property
    def stored(self) -> tuple[str, ...]:
        """The tensors that others can read."""
        own = (name for kernel in self.kernels for name in kernel.stored)
        return tuple(name for name in own if name not in self.held)

    @property
    def steps(self) -> int:
        """How many blocks there are for one value of each fixed index."""
        return 1 if self.row is None else -(-self.row.size // self.rows)

    def count_of(self, steps: int) -> int:
        """How often something is done that is done for so many steps of the rows."""
        return prod(i.size for i in self.fixed) * steps


Item = Kernel | Scan | Blocks


@record
class Plan:
    """A system on its way to code: what runs in which order, and where every tensor lives.

    Passes fill it in. `items` are first the kernels that passes before fusion have made; `notes`
    say why an equation is in none of these. Fusion gives all kernels in order, `views`, tensors
    that are another one's memory under other indices, and `in_place`, the params and states whose
    next value may overwrite the old one. `offsets` are bytes into one arena of `arena_bytes`,
    multiples of 64, for every tensor but locals. An update whose next value shares the offset of
    its param or state happens in place; a kernel may read such a param only at the very element
    that it then overwrites. The first `prologue` items need not run where the params and states are
    those of the run before. Before a kernel of `barriers` all threads have finished the kernels
    before it; a kernel of `prefetch` brings tensors into the cache that later kernels read. The
    tensors `apart` are in a second memory, of params and states: their offsets go on behind
    `arena_bytes`, where that memory is taken to begin.
    """

    system: System
    items: tuple[Item, ...] = ()
    offsets: Mapping[str, int] = field(default_factory=dict)
    arena_bytes: int = 0
    views: Mapping[str, str] = field(default_factory=dict)
    in_place: frozenset[str] = frozenset()
    barriers: frozenset[str] = frozenset()
    prefetch: Mapping[Kernel, tuple[str, ...]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    prologue: int = 0
    apart: frozenset[str] = frozenset()

    @cached_property
    def held(self) -> frozenset[str]:
        """The tensors that are in the memory that each thread has for itself."""
        blocks = (item.held for item in self.items if isinstance(item, Blocks))
        return frozenset().union(*blocks)

    @property
    def held_bytes(self) -> int:
        """Of the memory that each thread has for itself."""
        return max((item.held_bytes for item in self.items if isinstance(item, Blocks)), default=0)

    @property
    def kernels(self) -> Iterator[Kernel]:
        """All kernels, those inside scans included, in order."""
        yield from _flat(self.items)


def _flat(items: tuple[Item, ...]) -> Iterator[Kernel]:
    for item in items:
        if isinstance(item, Kernel):
            yield item
        else:
            yield from _flat(item.kernels)
