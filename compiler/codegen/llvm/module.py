"""A plan's nests as an LLVM module, or as several that belong together.

The text has one function to call, `void @step(ptr arena, i64 thread, i64 threads)`: one run of the
whole system, updates included. All threads call it; each runs its share of every kernel, with
barriers where the plan has them, and one after the prologue. Nothing here runs LLVM. With a `Clock`
every call of a kernel is timed, and `void @now(ptr)` stores the clock's reading.

Equal kernels share one function; where their tensors have different offsets, these are arguments.

A module that is `divided` has the shares of its kernels computed by its caller (parallel_for.py).
A module that is `alone` is part of a library that one thread calls: `void @step(ptr arena, ptr
values)` is internal, has no barriers, and finds params and states in a memory of their own.
Tests: tests/backends/test_cpu.py, tests/runtime/test_cache.py.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType

from ...ir.affine import Affine, affine
from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Read
from ...passes.cpu.loop_ir import Nest
from ...passes.kernels.equal_kernels import SharedCode
from ...passes.kernels.kernel import Blocks, Item, Kernel, Plan
from ...passes.kernels.memory import aligned
from . import loop_nest as nests
from . import parallel_for
from .debug_info import DebugInfo
from .function_writer import FunctionWriter
from .kernel_function import Apart, Call, KernelFunction, Place
from .open_loops import examples_of_run
from .thread_pool import ARENA_AGAIN, pool

ATTRIBUTES = 'attributes #0 = { nounwind "no-trapping-math"="true" }'
ALONE = "ptr %arena, ptr %values"  # the arguments of a step that one thread runs
_INTERNAL, _ATTRIBUTED = "define internal ", " #0 {"  # around the heads of what kernels call
CALLS = "nounwind noinline optnone"  # a long list of calls: nothing that LLVM could make better


@dataclass(frozen=True)
class Clock:
    """Where ticks are counted: from byte `start` of the arena, for each thread a 64-bit number for
    each of the plan's kernels."""

    start: int
    kernels: int

    @property
    def row(self) -> int:
        """The bytes of one thread's numbers."""
        return BYTES["i64"] * self.kernels

    def end(self, threads: int) -> int:
        return self.start + self.row * threads


def modules(
    plan: Plan,
    nest_of: Callable[[Kernel], Nest],
    equal: Mapping[Kernel, SharedCode],
    clock: Clock | None = None,
    size: int | None = None,
    debug: DebugInfo | None = None,
    alone: bool = False,
    divided: bool = False,
) -> Iterator[str]:
    """The text as modules of some `size` in characters, one after the other, so that each can be
    compiled while the next is written; the last has `step`. Without a size there is only that. A
    single module can have `debug` information, which is filled in."""
    assert alone or not plan.apart
    declarations: dict[str, None] = {}
    functions: dict[str, str] = {}  # by their heads
    finished: list[str] = []  # heads of functions that are in other modules
    calls: dict[Kernel, Call] = {}
    groups: dict[Kernel, dict[Kernel, SharedCode]] = {}
    # Each group of equal kernels has one function; the plan's order of first occurrence numbers
    # them.
    for kernel, shared in equal.items():
        groups.setdefault(shared.representative, {})[kernel] = shared
    for number, members in enumerate(groups.values()):
        function = KernelFunction(number, members, plan, nest_of)
        places = {} if debug is None else debug.function(function.name, tuple(members))
        # "hidden": other modules call it, but no other library does.
        linkage = "internal" if size is None else "hidden"
        head, text = function.text(declarations, linkage, places)
        functions[head] = _on_one_thread(text) if alone and not divided else text
        calls |= {kernel: function.call(kernel) for kernel in members}
        # The module is full. The next one starts with declarations of its own.
        if size is not None and sum(map(len, functions.values())) >= size:
            yield _text(_once(declarations, finished), functions.values())
            finished += functions
            declarations, functions = {}, {}
    elsewhere = dict.fromkeys(f"declare hidden {head}" for head in finished)
    declarations = elsewhere | (declarations if size is None else _once(declarations, finished))
    e = FunctionWriter(declarations)
    writer = _StepWriter(e, calls, plan, clock, alone, divided)
    writer.step()
    linkage, taken = ("internal", ALONE) if alone else ("", nests.ARGUMENTS)
    taken = parallel_for.DIVIDED if divided else taken
    step = e.function(f"define {linkage} void @step({taken}) {CALLS}".replace("  ", " "))
    now = [] if clock is None else [_now(declarations)]
    threads = "" if alone else pool(platform.machine(), sys.platform)
    divide = [parallel_for.DIVIDE] if divided else []
    parts = [*writer.parts.values(), *divide]
    whole = _text(declarations, [*functions.values(), *parts, *now, step, threads])
    yield whole if debug is None else f"{whole}\n{debug}"


def _once(declarations: Iterable[str], finished: list[str]) -> dict[str, None]:
    """The declarations of one of several modules. What kernels call is defined by the first module
    that calls it, which adds it to what is `finished`, and declared by the others."""
    found: dict[str, None] = {}
    for line in declarations:
        if line.startswith(_INTERNAL):
            head, opened, body = line.removeprefix(_INTERNAL).partition(_ATTRIBUTED)
            if head in finished:
                line = f"declare hidden {head}"
            else:
                finished.append(head)
                line = f"define hidden {head}{opened}{body}"
        found[line] = None
    return found


def _on_one_thread(text: str) -> str:
    """A function whose share of the work is all of it: nothing is divided among threads."""
    head, brace, body = text.partition("{")
    return head + brace + re.sub(r"%threads?\b", lambda m: str(len(m[0]) - len("%thread")), body)


def _text(declarations: Iterable[str], functions: Iterable[str]) -> str:
    return "\n".join([*declarations, "", *functions, ATTRIBUTES, ""])


class _StepWriter:
    """Writes the calls of one step."""

    def __init__(
        self,
        e: FunctionWriter,
        calls: Mapping[Kernel, Call],
        plan: Plan,
        clock: Clock | None,
        alone: bool,
        divided: bool = False,
    ):
        self.e, self.calls, self.plan, self.clock = e, calls, plan, clock
        self.alone, self.divided = alone, divided
        self.parts: dict[str, str] = {}  # functions for shares of a kernel, by their names
        self.thread, self.threads = ("0", "1") if alone else ("%thread", "%threads")
        self.barriers = plan.barriers
        self.single = 0  # kernels since the last barrier that one thread runs
        self.numbers = count()

    def step(self) -> None:
        """All calls; those of the prologue only where the host has not set the cell `again`, which
        is the same for all threads."""
        plan, e = self.plan, self.e
        if self.divided:  # where the function begins, so that it is part of its own frame
            most = max((self.arity(kernel) for kernel in self.calls), default=0)
            e.op(self.frame(most), type="ptr")
        if plan.prologue:
            cell = e.pinned(f"getelementptr i8, ptr %arena, i64 {ARENA_AGAIN}", type="ptr")
            again = e.pinned("load i32, ptr {0}, align 4", cell, type="i32")
            with e.when(e.pinned("icmp eq i32 {0}, 0", again, type="i1")):
                self.items(plan.items[: plan.prologue])
                self.barrier()
        self.items(plan.items[plan.prologue :])

    def items(self, items: tuple[Item, ...], at: Mapping[str, str] = MappingProxyType({})) -> None:
        """Calls in order, with barriers; a scan is a loop around its calls."""
        e = self.e
        for item in items:
            if isinstance(item, Kernel):
                self.kernel(item, at)
                continue
            if isinstance(item, Blocks):
                self.blocks(item)
                continue
            count, last = str(item.index.size), str(item.index.size - 1)
            if item.steps is not None:
                count = self.value(affine(item.steps))
                last = e.op("sub i64 {0}, 1", count, type="i64")
            # Loops of the writer count upwards; a backward scan counts its steps from the end.
            with e.loop("0", count, 1, maybe_empty=item.steps is not None) as opened:
                now = opened.index
                if item.reverse:
                    now = e.op("sub i64 {0}, {1}", last, now, type="i64")
                self.items(item.kernels, {**at, item.index.name: now})

    def value(self, form: Affine) -> str:
        """A form of sizes."""
        e, total = self.e, str(form.constant)
        for atom, factor in form.coefficients.items():
            assert isinstance(atom, Read)
            cell = f"getelementptr i8, ptr %arena, i64 {self.plan.offsets[atom.tensor]}"
            size = e.op("load i32, ptr {0}", e.op(cell, type="ptr"), type="i32")
            wide = e.op("sext i32 {0} to i64", size, type="i64")
            term = e.op(f"mul i64 {{0}}, {factor}", wide, type="i64")
            total = e.op("add i64 {0}, {1}", total, term, type="i64")
        return total

    def blocks(self, blocks: Blocks) -> None:
        """A loop over this thread's blocks, every so many as there are threads: under a mask later
        ones are longer. Nobody waits inside."""
        e, first = self.e, blocks.kernels[0]
        if self.divided:
            self.divide_blocks(blocks)
            return
        if first.name in self.barriers or self.clock is not None:
            self.barrier()
        mine = e.op(f"mul i64 {self.thread}, {self.plan.held_bytes}", type="i64")
        mine = e.op(f"add i64 {{0}}, {aligned(self.plan.arena_bytes)}", mine, type="i64")
        held = {
            name: e.op(f"add i64 {{0}}, {offset}", mine, type="i64")
            for name, offset in blocks.held.items()
        }
        # If the last two blocks overlap, one thread does both, in this order: even if they add up
        # in another order, what is left does not depend on which thread was faster.
        steps = 1 if blocks.row is None else blocks.row.size // blocks.rows
        own = self.row_steps(blocks, steps)
        # The outermost one may count examples: later blocks are of other examples.
        by_examples = blocks.fixed and blocks.fixed[0].name == first.examples
        each = blocks.count_of(1) // (blocks.fixed[0].size if by_examples else 1)
        count = str(each * steps)
        if blocks.extent is not None:
            count = e.op(f"mul i64 {{0}}, {each}", own, type="i64")
        if by_examples:
            count = e.op("mul i64 {0}, {1}", examples_of_run(e), count, type="i64")
        some = e.op(f"icmp slt i64 {self.thread}, {{0}}", count, type="i1")
        numbers = {kernel: next(self.numbers) for kernel in blocks.kernels}
        with e.when(some), self.strided(count) as number:
            at, rest = {}, number
            step = e.pinned("urem i64 {0}, {1}", rest, own, type="i64")
            rest = e.pinned("udiv i64 {0}, {1}", rest, own, type="i64")
            for index in reversed(blocks.fixed):
                at[index.name] = e.pinned(f"urem i64 {{0}}, {index.size}", rest, type="i64")
                rest = e.pinned(f"udiv i64 {{0}}, {index.size}", rest, type="i64")
            if blocks.row is None:
                for kernel in blocks.kernels:
                    self.in_block(kernel, {kernel.examples: number}, held, numbers[kernel])
            else:
                self.row_blocks(blocks, blocks.row, step, at, held, numbers)
        if self.clock is not None:
            self.barrier()

    def row_blocks(
        self,
        blocks: Blocks,
        row: Index,
        step: str,
        at: Mapping[str, str],
        held: Mapping[str, str],
        numbers: Mapping[Kernel, int],
    ) -> None:
        """The blocks of one step over rows: one, or the last two."""
        e, size, rows = self.e, row.size, blocks.rows
        steps = size // rows
        begin = e.pinned(f"mul i64 {{0}}, {rows}", step, type="i64")
        end = e.pinned(f"add i64 {{0}}, {rows}", begin, type="i64")
        if size % rows:
            last = e.pinned(f"icmp eq i64 {{0}}, {steps - 1}", step, type="i1")
            end = e.pinned(f"select i1 {{0}}, i64 {size}, i64 {{1}}", last, end, type="i64")
        with e.loop(begin, end, rows) as opened:
            e.declare("declare i64 @llvm.smin.i64(i64, i64)")
            start = e.pinned(
                f"call i64 @llvm.smin.i64(i64 {{0}}, i64 {size - rows})",
                opened.index,
                type="i64",
            )
            for kernel in blocks.kernels:
                assert kernel.window is not None
                places = {**at, kernel.window.start: start}
                self.in_block(kernel, places, held, numbers[kernel])
            opened.close()

    def in_block(
        self, kernel: Kernel, at: Mapping[str, str], held: Mapping[str, str], number: int
    ) -> None:
        """The call of a kernel of a block, all of which one thread runs."""
        ticks = "" if self.clock is None else _ticks(self.e)
        self.call(kernel, at, "0", "1", held)
        if self.clock is not None:
            _count_ticks(self.e, ticks, number, self.clock)

    def row_steps(self, blocks: Blocks, steps: int) -> str:
        """How many of so many steps over rows a run takes."""
        e = self.e
        if blocks.extent is None:
            return str(steps)
        e.declare("declare i64 @llvm.smin.i64(i64, i64)")
        rows = self.value(affine(blocks.extent) + Affine({}, blocks.rows - 1))
        own = e.op(f"udiv i64 {{0}}, {blocks.rows}", rows, type="i64")
        return e.op(f"call i64 @llvm.smin.i64(i64 {{0}}, i64 {steps})", own, type="i64")

    @contextmanager
    def strided(self, count: str) -> Iterator[str]:
        """A loop over this thread's numbers below `count`: its own, and every so many from there as
        there are threads."""
        e = self.e
        rounds = e.op("sub i64 {0}, 1", count, type="i64")
        rounds = e.op("sub i64 {0}, {1}", rounds, self.thread, type="i64")
        rounds = e.op("udiv i64 {0}, {1}", rounds, self.threads, type="i64")
        rounds = e.op("add i64 {0}, 1", rounds, type="i64")
        with e.loop("0", rounds, 1) as opened:
            before = e.pinned("mul i64 {0}, {1}", opened.index, self.threads, type="i64")
            yield e.pinned("add i64 {0}, {1}", before, self.thread, type="i64")
            opened.close()

    def kernel(self, kernel: Kernel, at: Mapping[str, str]) -> None:
        """One call. With a clock there is a barrier after it, so that its time is its own."""
        if self.clock is not None:
            # Begun before the call and ended after the barrier: each thread's time includes its
            # waiting.
            begin = _ticks(self.e)
            self.whole(kernel, at)
            self.barrier()
            _count_ticks(self.e, begin, next(self.numbers), self.clock)
            return
        if kernel.name in self.barriers:
            self.barrier()
        self.whole(kernel, at)

    def barrier(self) -> None:
        if not self.alone:
            self.e.effect("call void @barrier(ptr %arena, i64 %threads)")
        self.single = 0

    def whole(self, kernel: Kernel, at: Mapping[str, str]) -> None:
        """The call of a kernel that all threads have a share in, or one of them."""
        thread = self.thread
        if self.divided and self.calls[kernel].parallel:
            call = self.calls[kernel]
            given, name = self.arguments(kernel, at, {}), f'"part.{call.name.strip(chr(34))}"'
            self.parts[name] = parallel_for.part(name, call.name, len(given))
            self.divide(name, given)
            return
        # Several such kernels between two barriers run at once, each by another thread.
        if not self.calls[kernel].parallel:
            thread, self.single = self.rotated(self.single), self.single + 1
        self.call(kernel, at, thread, self.threads)

    def call(
        self,
        kernel: Kernel,
        at: Mapping[str, str],
        thread: str,
        threads: str,
        held: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        given = "".join(f", i64 {one}" for one in self.arguments(kernel, at, held))
        text = f"ptr %arena, i64 {thread}, i64 {threads}{given}"
        self.e.effect(f"call void @{self.calls[kernel].name}({text})")

    def arguments(
        self, kernel: Kernel, at: Mapping[str, str], held: Mapping[str, str]
    ) -> list[str]:
        """What the kernel's function takes besides the arena and the thread: numbers of 64 bits."""
        call = self.calls[kernel]
        found = [at[index] for index in kernel.fixed]
        found += [self.place(one, held) for one in call.offsets]
        for place, by in call.streams:
            found += [self.place(place, held), str(by)]
        return found

    def arity(self, kernel: Kernel) -> int:
        """How many numbers the kernel's function takes."""
        call = self.calls[kernel]
        return len(kernel.fixed) + len(call.offsets) + 2 * len(call.streams)

    def frame(self, arguments: int) -> str:
        return f"alloca [{parallel_for.FIRST + arguments} x i64], align 8"

    def divide(self, part: str, given: Sequence[str]) -> None:
        """The shares of a kernel, which the caller's threads may compute."""
        e = self.e
        parts = e.op("sext i32 %count to i64", type="i64")
        places = parallel_for.frame_places(parts, given)
        most = max((self.arity(kernel) for kernel in self.calls), default=0)
        frame = e.op(self.frame(most), type="ptr")
        for place, operand in places:
            address = e.op(f"getelementptr i64, ptr {{0}}, i64 {place}", frame, type="ptr")
            e.effect(f"store {operand}, ptr {{0}}, align 4", address)
        e.effect(f"call void @divide(ptr %team, i64 {parts}, ptr @{part}, ptr {{0}})", frame)

    def divide_blocks(self, blocks: Blocks) -> None:
        """The same for blocks: a function of their own, in which every thread has its numbers."""
        name = f'"part.blocks{len(self.parts)}"'
        inner = _StepWriter(FunctionWriter(self.e.declarations), self.calls, self.plan, None, True)
        for line in parallel_for.opened():
            inner.e.effect(line)
        inner.thread, inner.threads = "%thread", "%threads"
        inner.blocks(blocks)
        self.parts[name] = inner.e.function(parallel_for.head(name))
        self.divide(name, ())

    def place(self, place: Place, held: Mapping[str, str]) -> str:
        """The offset from the beginning of the arena."""
        if isinstance(place, str):
            return held[place]
        if not isinstance(place, Apart):
            return str(place)
        # The two memories are anywhere: how far the second is from the first.
        ends = [self.e.op(f"ptrtoint ptr {m} to i64", type="i64") for m in ("%values", "%arena")]
        shift = self.e.op("sub i64 {0}, {1}", *ends, type="i64")
        return self.e.op(f"add i64 {{0}}, {place.offset}", shift, type="i64")

    def rotated(self, number: int) -> str:
        """The thread's number, rotated by some, so that kernels of a single thread are spread."""
        if not number or self.alone:
            return self.thread
        moved = self.e.op(f"add i64 %thread, {number}", type="i64")
        return self.e.op("urem i64 {0}, %threads", moved, type="i64")


# --- the clock ------------------------------------------------------------------------------------

# the time-stamp counter of x86; elsewhere programs may not read the counter of cycles
TICKS = "readcyclecounter" if platform.machine() in ("x86_64", "AMD64") else "readsteadycounter"


def _ticks(e: FunctionWriter) -> str:
    e.declare(f"declare i64 @llvm.{TICKS}()")
    return e.pinned(f"call i64 @llvm.{TICKS}()", type="i64")


def _count_ticks(e: FunctionWriter, begin: str, number: int, clock: Clock) -> None:
    """Adds the ticks since `begin` to this thread's count of the kernel."""
    spent = e.pinned("sub i64 {0}, {1}", _ticks(e), begin, type="i64")
    row = e.op(f"mul i64 %thread, {clock.row}", type="i64")
    start = clock.start + BYTES["i64"] * number
    offset = e.op(f"add i64 {{0}}, {start}", row, type="i64")
    cell = e.op("getelementptr i8, ptr %arena, i64 {0}", offset, type="ptr")
    before = e.pinned("load i64, ptr {0}, align 8", cell, type="i64")
    total = e.pinned("add i64 {0}, {1}", before, spent, type="i64")
    e.effect("store i64 {0}, ptr {1}, align 8", total, cell)


def _now(declarations: dict[str, None]) -> str:
    e = FunctionWriter(declarations)
    e.effect("store i64 {0}, ptr %cell, align 8", _ticks(e))
    return e.function("define void @now(ptr %cell) #0")
