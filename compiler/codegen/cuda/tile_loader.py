"""What all matmul tiles share: operands pass through shared memory in a multistage pipeline.

In: a `Grid` whose `how` is a `MatmulTile`. Out: lines of its kernel. What differs between the
engines (the layout of shared memory, how it is multiplied, who holds which result) is in `simt.py`
and `mma.py`. While one step is multiplied, later ones are loaded: asynchronous copies go straight
to shared memory; what threads compute stays in registers, `staged`, until the multiplication is
done. One barrier per step is enough: a step is written where the step before has been read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ...ir.expr import Read
from ...passes.gpu.grid_ir import Grid, MatmulTile, Operand
from .expressions import Writer
from .split_k import place_layer, points


@dataclass(frozen=True)
class Side:
    """One operand in the kernel: its array in shared memory, the variable with the tile's first
    element along it, and the tile's length along it."""

    operand: Operand
    array: str
    base: str
    length: int


class MatmulWriter(ABC):
    """Writes the kernel's body. `word` is the type of shared memory, `elements_per_word` how many
    elements a word has."""

    word: str
    elements_per_word: int

    def __init__(self, w: Writer, grid: Grid, how: MatmulTile):
        self.w, self.grid, self.how = w, grid, how
        rights = [Side(o, f"right{n}", "n0", how.width) for n, o in enumerate(how.rights)]
        self.left, self.rights = Side(how.left, "left", "m0", how.height), rights
        self.sides = [self.left, *rights]

    @abstractmethod
    def start(self) -> None:
        """Declares the thread's position in the tile, and its accumulators."""

    @abstractmethod
    def element(self, side: Side, slot: str, k: str, x: str) -> str:
        """Where the word of an element is in shared memory: array, offset, size of the array."""

    @abstractmethod
    def multiply(self) -> None:
        """Multiplies the step in `slot`."""

    @abstractmethod
    def store(self) -> None:
        """Stores all results of the thread."""

    def write(self) -> None:
        w, how, grid = self.w, self.how, self.grid
        # [left stages | right stages | …], in bytes
        offset = 0
        for side in self.sides:
            count = how.stages * how.stage_words(side.length)
            w.line(f"SHARED({self.word}, {side.array}, {offset}, {count});")
            offset += count * how.word_bytes(grid.dtype)
        # tiles along each side, rounded up
        tall, wide = -(-how.left.size // how.height), -(-how.rights[0].size // how.width)
        # The number of a block is [batch, rows of tiles, columns of tiles], the columns fastest:
        # blocks that run at once share tiles of the left operand in the cache.
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
        """Computes the statements for one result, and stores them."""
        w, left, right = self.w, self.how.left, self.how.rights[0]
        # tiles at the edges reach beyond the matrix
        with w.block(f"if ({m} < {left.size} && {n} < {right.size})"):
            w.unflatten(m, left.indices)
            w.unflatten(n, right.indices)
            place_layer(w, self.grid)
            w.finish(self.grid.statements, [(s, self.grid.dtype) for s in sums])

    # --- the loop over the points --------------------------------------------------------------

    def _steps(self, first: str) -> None:
        """`load` starts copies; `fetch` computes into registers, `put` stores these."""
        w, how, last = self.w, self.how, self.last
        copied = [s for s in self.sides if s.operand.copy_width]
        computed = [s for s in self.sides if not s.operand.copy_width]
        # as lambdas in the text: each is called before the loop and in it
        for side in copied:
            self._loader(side)
        for side in computed:
            self._computer(side)
        # one slot is multiplied while the others are filled
        before = how.stages - 1
        # the prologue: fill all slots but one
        with w.block(f"for (i32 s = 0; s < {before}; ++s)"):
            ahead = w.let("i32", f"{first} + s * {how.depth}", "ahead")
            self._start_copies(copied, ahead, "s")
            if computed:
                with w.block(f"if ({ahead} < {last})"):
                    self._call("fetch", computed, ahead)
                    self._call("put", computed, "s")
        w.line("i32 slot = 0;")
        w.line("#pragma unroll 1")  # unrolled, a few steps take registers and gain nothing
        with w.block(f"for (i32 k0 = {first}; k0 < {last}; k0 += {how.depth})"):
            # Groups finish in order. At most stages - 2 newer ones may be under way, so this step's
            # copies have arrived.
            if copied:
                w.line(f"WAIT({how.stages - 2});")
            # for all threads: the copies have arrived, and the slot of the step before has been
            # read
            w.line("BARRIER();")
            w.line(f"const i32 ahead = k0 + {before * how.depth};")
            # which is therefore the slot to fill
            w.line(f"const i32 into = slot == 0 ? {before} : slot - 1;")
            self._start_copies(copied, "ahead", "into")
            if computed:
                # loads go out before the multiplication, so that memory answers meanwhile
                with w.block(f"if (ahead < {last})"):
                    self._call("fetch", computed, "ahead")
            self.multiply()
            # and their values are stored after it: `into` is not read in this step
            if computed:
                with w.block(f"if (ahead < {last})"):
                    self._call("put", computed, "into")
            w.line(f"slot = slot == {before} ? 0 : slot + 1;")

    def _start_copies(self, copied: list[Side], ahead: str, slot: str) -> None:
        """The copies of one step, which are one group, if there is such a step."""
        if copied:
            with self.w.block(f"if ({ahead} < {self.last})"):
                self._call("load", copied, f"{ahead}, {slot}")
            # also without a copy: `WAIT` counts groups, so each step must have one
            self.w.line("COMMIT();")

    def _call(self, what: str, sides: list[Side], arguments: str) -> None:
        for side in sides:
            self.w.line(f"{what}_{side.array}({arguments});")

    # --- one operand ---------------------------------------------------------------------------

    def _loader(self, side: Side) -> None:
        """A function of a step and its slot in the pipeline: starts the copies of one operand.
        What is outside the domain is zero."""
        w, n = self.w, side.operand.copy_width
        assert isinstance(side.operand.value, Read)
        access = self.grid.accesses[side.operand.value]
        with (
            w.block(f"const auto load_{side.array} = [&](const i32 k0, const i32 slot)", "};"),
            self._elements(side, n),
        ):
            # outside the domain nothing is read, and zeros are written: they add nothing to the sum
            inside = self._point(side, "k", "x")
            checks = w.condition(access.checks)
            ok = f"{inside} && {checks}" if checks else inside
            into = self.element(side, "slot", "k", "x")
            source = w.element(access.tensor, access.offset)
            own, along_points = side.operand, side.operand.along_points
            # every copy is full
            if (self.grid.points if along_points else own.size) % n == 0:
                w.line(f"COPY({n}, {into}, {source}, {ok});")
            else:  # the last one has fewer elements
                left = f"{self.last} - k0 - k" if along_points else f"{own.size} - {side.base} - x"
                valid = f"{ok} ? nn::min({n}, {left}) : 0"
                w.line(f"COPY_SOME({n}, {into}, {source}, {valid});")

    def _computer(self, side: Side) -> None:
        """Two functions: one of a step, that computes an operand's elements into registers, and one
        of a slot in the pipeline, that stores them there."""
        w, pack, staged = self.w, self.elements_per_word, f"staged_{side.array}"
        # registers of a thread for one step, rounded up
        each = -(-side.length * self.how.depth // self.grid.threads)
        w.line(f"{self.grid.dtype} {staged}[{each}];")
        with (
            w.block(f"const auto fetch_{side.array} = [&](const i32 k0)", "};"),
            self._elements(side, pack),
        ):
            # two adjacent elements are one word of bf16 pairs
            for n in range(pack):
                own = f"{staged}[u]" if pack == 1 else f"{staged}[u * {pack} + {n}]"
                along = f" + {n}" if n else ""
                k, x = (f"k{along}", "x") if side.operand.along_points else ("k", f"x{along}")
                # zero, if it is outside the domain
                w.line(f"{own} = 0;")
                with w.block():
                    inside = self._point(side, k, x)
                    with w.block(f"if ({inside})"):
                        w.line(f"{own} = {w.value(side.operand.value)};")
        with (
            w.block(f"const auto put_{side.array} = [&](const i32 slot)", "};"),
            self._elements(side, pack),
        ):
            # rounding to bf16 happens here, as late as possible
            value = f"{staged}[u]" if pack == 1 else f"PAIR({staged}[u * 2], {staged}[u * 2 + 1])"
            w.line(f"AT({self.element(side, 'slot', 'k', 'x')}) = {value};")

    @contextmanager
    def _elements(self, side: Side, n: int) -> Iterator[None]:
        """The loop over a thread's elements of one step, `n` at a time: declares the point `k`, the
        element `x` along the side, and the iteration `u`."""
        w, depth, threads = self.w, self.how.depth, self.grid.threads
        # copies or words of one step, divided among the threads of the block
        groups = side.length * depth // n
        w.line("#pragma unroll")
        with w.block(f"for (i32 u = 0; u < {-(-groups // threads)}; ++u)"):
            w.line(f"const i32 e = THREAD + u * {threads};")
            by = f" * {n}" if n > 1 else ""
            # adjacent threads take what is adjacent in memory
            row = (depth if side.operand.along_points else side.length) // n
            names = ("k", "x") if side.operand.along_points else ("x", "k")
            w.line(f"const i32 {names[0]} = e % {row}{by}, {names[1]} = e / {row};")
            # the last round may have fewer than one for each thread
            if groups % threads:
                with w.block(f"if (e < {groups})"):
                    yield
            else:
                yield

    def _point(self, side: Side, k: str, x: str) -> str:
        """Declares the indices of this element; returns the condition that it is in the domain."""
        w = self.w
        w.unflatten(w.let("i32", f"{side.base} + {x}", "m"), side.operand.indices)
        w.unflatten(w.let("i32", f"k0 + {k}", "p"), self.grid.over)
        return f"{side.base} + {x} < {side.operand.size} && k0 + {k} < {self.last}"
