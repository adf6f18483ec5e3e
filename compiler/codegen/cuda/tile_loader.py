"""What all tiles are made of: operands go through a ring of steps in shared memory.

In: a `Grid` whose `how` is a `Tile`. Out: lines of its kernel; what differs between kinds of tiles
(the layout of shared memory, how it is multiplied, who holds which result) is in `tiles.py` and
`tensor_cores.py`. While a step is multiplied, later ones are on their way: asynchronous copies go
to shared memory by themselves; what threads compute stays in registers, `held`, until the
multiplication is done. One barrier per step is enough: a step is written where the one before has
been read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ...ir.expr import Read
from ...passes.gpu.grid_ir import Grid, Operand, Tile
from .expressions import Writer
from .split_k import place_layer, points


@dataclass(frozen=True)
class Side:
    """One operand as the kernel sees it: its array in shared memory, the variable that has the
    first element of the tile, and the tile's length along it."""

    operand: Operand
    array: str
    base: str
    length: int


class Ring(ABC):
    """The kernel's body. `word` is the type of shared memory, and of `pack` elements in it."""

    word: str
    pack: int

    def __init__(self, w: Writer, grid: Grid, how: Tile):
        self.w, self.grid, self.how = w, grid, how
        rights = [Side(o, f"right{n}", "n0", how.width) for n, o in enumerate(how.rights)]
        self.left, self.rights = Side(how.left, "left", "m0", how.height), rights
        self.sides = [self.left, *rights]

    @abstractmethod
    def start(self) -> None:
        """The thread's place in the tile, and its sums."""

    @abstractmethod
    def element(self, side: Side, slot: str, k: str, x: str) -> str:
        """Where the word of an element is in shared memory: the array, the place, its size."""

    @abstractmethod
    def multiply(self) -> None:
        """The products of the step `slot`."""

    @abstractmethod
    def store(self) -> None:
        """All results of the thread."""

    def write(self) -> None:
        w, how, grid = self.w, self.how, self.grid
        offset = 0
        for side in self.sides:
            count = how.stages * how.slot(side.length)
            w.line(f"SHARED({self.word}, {side.array}, {offset}, {count});")
            offset += count * how.word_bytes(grid.dtype)
        tall, wide = -(-how.left.size // how.height), -(-how.rights[0].size // how.width)
        w.line(
            f"const i32 m0 = BLOCK / {wide} % {tall} * {how.height}, "
            f"n0 = BLOCK % {wide} * {how.width};"
        )
        w.unflatten(w.let("i32", f"BLOCK / {tall * wide}", "batch"), how.batch)
        first, self.last = points(w, grid, "i32")
        self.start()
        self._steps(first)
        self.store()

    def result(self, m: str, n: str, sums: list[str]) -> None:
        """The statements on one result, and their stores."""
        w, left, right = self.w, self.how.left, self.how.rights[0]
        with w.block(f"if ({m} < {left.size} && {n} < {right.size})"):
            w.unflatten(m, left.own)
            w.unflatten(n, right.own)
            place_layer(w, self.grid)
            w.finish(self.grid.statements, [(s, self.grid.dtype) for s in sums])

    # --- the loop over the points --------------------------------------------------------------

    def _steps(self, first: str) -> None:
        """`load` asks for copies; `fetch` computes, `put` stores."""
        w, how, last = self.w, self.how, self.last
        copied = [s for s in self.sides if s.operand.copied]
        computed = [s for s in self.sides if not s.operand.copied]
        for side in copied:
            self._loader(side)
        for side in computed:
            self._computer(side)
        before = how.stages - 1
        with w.block(f"for (i32 s = 0; s < {before}; ++s)"):
            ahead = w.let("i32", f"{first} + s * {how.depth}", "ahead")
            self._ask(copied, ahead, "s")
            if computed:
                with w.block(f"if ({ahead} < {last})"):
                    self._call("fetch", computed, ahead)
                    self._call("put", computed, "s")
        w.line("i32 slot = 0;")
        w.line("#pragma unroll 1")  # unrolled, a few steps take registers and gain nothing
        with w.block(f"for (i32 k0 = {first}; k0 < {last}; k0 += {how.depth})"):
            if copied:
                w.line(f"WAIT({how.stages - 2});")
            w.line("BARRIER();")
            w.line(f"const i32 ahead = k0 + {before * how.depth};")
            w.line(f"const i32 into = slot == 0 ? {before} : slot - 1;")
            self._ask(copied, "ahead", "into")
            if computed:
                with w.block(f"if (ahead < {last})"):
                    self._call("fetch", computed, "ahead")
            self.multiply()
            if computed:
                with w.block(f"if (ahead < {last})"):
                    self._call("put", computed, "into")
            w.line(f"slot = slot == {before} ? 0 : slot + 1;")

    def _ask(self, copied: list[Side], ahead: str, slot: str) -> None:
        """Copies of one step, which are one group, if there is such a step."""
        if copied:
            with self.w.block(f"if ({ahead} < {self.last})"):
                self._call("load", copied, f"{ahead}, {slot}")
            self.w.line("COMMIT();")

    def _call(self, what: str, sides: list[Side], arguments: str) -> None:
        for side in sides:
            self.w.line(f"{what}_{side.array}({arguments});")

    # --- one operand ---------------------------------------------------------------------------

    def _loader(self, side: Side) -> None:
        """A function of a step and its place in the ring: asks for the copies of one operand. What
        is outside the domain is zero."""
        w, n = self.w, side.operand.copied
        assert isinstance(side.operand.part, Read)
        access = self.grid.accesses[side.operand.part]
        with (
            w.block(f"const auto load_{side.array} = [&](const i32 k0, const i32 slot)", "};"),
            self._elements(side, n),
        ):
            inside = self._point(side, "k", "x")
            checks = w.condition(access.checks)
            ok = f"{inside} && {checks}" if checks else inside
            into = self.element(side, "slot", "k", "x")
            source = w.element(access.tensor, access.offset)
            own, deep = side.operand, side.operand.deep
            if (self.grid.points if deep else own.size) % n == 0:
                w.line(f"COPY({n}, {into}, {source}, {ok});")
            else:  # the last one has fewer elements
                left = f"{self.last} - k0 - k" if deep else f"{own.size} - {side.base} - x"
                given = f"{ok} ? nn::min({n}, {left}) : 0"
                w.line(f"COPY_SOME({n}, {into}, {source}, {given});")

    def _computer(self, side: Side) -> None:
        """Two functions: of a step, that computes an operand's elements into registers, and of a
        place in the ring, that stores them there."""
        w, pack, held = self.w, self.pack, f"held_{side.array}"
        each = -(-side.length * self.how.depth // self.grid.threads)
        w.line(f"{self.grid.dtype} {held}[{each}];")
        with (
            w.block(f"const auto fetch_{side.array} = [&](const i32 k0)", "};"),
            self._elements(side, pack),
        ):
            for n in range(pack):
                own = f"{held}[u]" if pack == 1 else f"{held}[u * {pack} + {n}]"
                along = f" + {n}" if n else ""
                k, x = (f"k{along}", "x") if side.operand.deep else ("k", f"x{along}")
                w.line(f"{own} = 0;")
                with w.block():
                    inside = self._point(side, k, x)
                    with w.block(f"if ({inside})"):
                        w.line(f"{own} = {w.value(side.operand.part)};")
        with (
            w.block(f"const auto put_{side.array} = [&](const i32 slot)", "};"),
            self._elements(side, pack),
        ):
            value = f"{held}[u]" if pack == 1 else f"PAIR({held}[u * 2], {held}[u * 2 + 1])"
            w.line(f"AT({self.element(side, 'slot', 'k', 'x')}) = {value};")

    @contextmanager
    def _elements(self, side: Side, n: int) -> Iterator[None]:
        """Around what a thread does with its elements of one step, `n` at a time: the point `k`,
        the element `x` along the side, and the number `u` of the time."""
        w, depth, threads = self.w, self.how.depth, self.grid.threads
        groups = side.length * depth // n
        w.line("#pragma unroll")
        with w.block(f"for (i32 u = 0; u < {-(-groups // threads)}; ++u)"):
            w.line(f"const i32 e = THREAD + u * {threads};")
            by = f" * {n}" if n > 1 else ""
            row = (depth if side.operand.deep else side.length) // n
            names = ("k", "x") if side.operand.deep else ("x", "k")
            w.line(f"const i32 {names[0]} = e % {row}{by}, {names[1]} = e / {row};")
            if groups % threads:
                with w.block(f"if (e < {groups})"):
                    yield
            else:
                yield

    def _point(self, side: Side, k: str, x: str) -> str:
        """Gives the indices their values at this element; the condition that the domain has it."""
        w = self.w
        w.unflatten(w.let("i32", f"{side.base} + {x}", "m"), side.operand.own)
        w.unflatten(w.let("i32", f"k0 + {k}", "p"), self.grid.over)
        return f"{side.base} + {x} < {side.operand.size} && k0 + {k} < {self.last}"
