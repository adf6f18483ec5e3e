"""A plan's nests as an LLVM module, or as several that belong together.

In: a `Plan` and the nests of its kernels. Out: LLVM text with one function to call,
`void @step(ptr arena, i64 thread, i64 threads)`: one run of the whole system, updates included.
All threads call it; each does its share of every kernel, and they wait for each other where
`passes/phases.py` says so. Nothing here runs LLVM.

With a `Clock` every call of a kernel is timed, and `void @now(ptr)` stores what the clock shows.

Kernels that are equal up to names share the function of the first of them; where their tensors
stand at different places, these are arguments.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType

from ...passes.cpu.loop_ir import Nest
from ...passes.kernels.equal_kernels import SharedCode
from ...passes.kernels.kernel import Kernel, Plan, Scan
from . import loop_nest as nests
from .function_writer import FunctionWriter
from .thread_pool import pool

ATTRIBUTES = 'attributes #0 = { nounwind "no-trapping-math"="true" }'
CALLS = "nounwind noinline optnone"  # a long list of calls: nothing that LLVM could make better


@dataclass(frozen=True)
class Clock:
    """Where ticks are counted: from byte `start` of the arena, for each thread a 64-bit number for
    each of the plan's kernels."""

    start: int
    kernels: int

    def end(self, threads: int) -> int:
        return self.start + 8 * self.kernels * threads


def modules(
    plan: Plan,
    nest_of: Callable[[Kernel], Nest],
    like: Mapping[Kernel, SharedCode],
    clock: Clock | None = None,
    size: int | None = None,
) -> Iterator[str]:
    """The text as modules of some `size` in characters, one after the other, so that each can be
    compiled while the next is written; the last has `step`. Without a size there is only that."""
    declarations: dict[str, None] = {}
    functions: dict[str, str] = {}  # by their heads
    finished: list[str] = []  # heads of functions that are in other modules
    calls: dict[Kernel, _Call] = {}
    groups: dict[Kernel, list[tuple[Kernel, SharedCode]]] = {}
    asked = plan.prefetch
    for kernel, shared in like.items():
        groups.setdefault(shared.representative, []).append((kernel, shared))
    for number, (model, members) in enumerate(groups.items()):
        name = f'"k{number}.{model.name}"'
        tensors = dict(members)[model].tensors
        places = {k: tuple(plan.offsets.get(t) for t in shared.tensors) for k, shared in members}
        varied = [
            n for n, column in enumerate(zip(*places.values(), strict=True)) if len(set(column)) > 1
        ]
        own_places = zip(tensors, places[model], strict=True)
        bases: dict[str, int | str] = {t: p for t, p in own_places if p is not None}
        bases |= {tensors[n]: f"%base{n}" for n in varied}  # an argument instead of a place
        nest, linkage = nest_of(model), "internal" if size is None else "hidden"
        turns = nest.trip_count
        streams = max(len(asked.get(k, ())) for k in places) if turns else 0
        head, text = nests.function(nest, bases, declarations, name, linkage, streams)
        functions[head] = text
        shares = any(loop.kind == "parallel" for loop in nest.loops)
        for kernel, own in places.items():
            far = [
                (plan.offsets[tensor], -(-plan.system.tensors[tensor].bytes // turns))
                for tensor in asked.get(kernel, ())[:streams]
            ]
            far += [(0, 0)] * (streams - len(far))
            calls[kernel] = _Call(name, tuple(own[n] for n in varied), shares, tuple(far))
        if size is not None and sum(map(len, functions.values())) >= size:
            yield _text(declarations, functions.values())
            finished += functions
            declarations, functions = {}, {}
    declarations |= dict.fromkeys(f"declare hidden {head}" for head in finished)
    e = FunctionWriter(declarations)
    _Step(e, calls, plan.barriers, clock).items(plan.items)
    step = e.function(f"define void @step({nests.ARGUMENTS}) {CALLS}")
    others = [] if clock is None else [_now(declarations)]
    threads = pool(platform.machine(), sys.platform)
    yield _text(declarations, [*functions.values(), *others, step, threads])


def _text(declarations: Iterable[str], functions: Iterable[str]) -> str:
    return "\n".join([*declarations, "", *functions, ATTRIBUTES, ""])


@dataclass(frozen=True)
class _Call:
    """The function of a kernel, where the tensors stand that it takes as arguments, whether all
    threads have a share in it or the one that is given the number 0 does everything, and where the
    tensors stand that it asks for meanwhile, with the bytes of a step."""

    name: str
    offsets: tuple[int | None, ...]
    shares: bool
    asked: tuple[tuple[int, int], ...]


class _Step:
    """Writes the calls of one step."""

    def __init__(
        self,
        e: FunctionWriter,
        calls: Mapping[Kernel, _Call],
        waiting: frozenset[str],
        clock: Clock | None,
    ):
        self.e, self.calls, self.waiting, self.clock = e, calls, waiting, clock
        self.alone = 0  # kernels since the last wait that one thread does
        self.numbers = count()

    def items(
        self, items: tuple[Kernel | Scan, ...], at: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Calls in order, with barriers; a scan is a loop around its calls."""
        e = self.e
        for item in items:
            if isinstance(item, Kernel):
                self.kernel(item, at)
                continue
            size = item.index.size
            with e.loop("0", str(size), 1) as opened:
                now = opened.index
                if item.reverse:
                    now = e.op("sub i64 {0}, {1}", str(size - 1), now, type="i64")
                self.items(item.kernels, {**at, item.index.name: now})

    def kernel(self, kernel: Kernel, at: Mapping[str, str]) -> None:
        """One call. With a clock all wait after it, so that no time of its own is another's."""
        if self.clock is not None:
            begin = _ticks(self.e)
            self.call(kernel, at)
            self.wait()
            _count_ticks(self.e, begin, next(self.numbers), self.clock)
            return
        if kernel.name in self.waiting:
            self.wait()
        self.call(kernel, at)

    def wait(self) -> None:
        self.e.effect("call void @barrier(ptr %arena, i64 %threads)")
        self.alone = 0

    def call(self, kernel: Kernel, at: Mapping[str, str]) -> None:
        e, call = self.e, self.calls[kernel]
        thread = "%thread"
        if not call.shares:
            thread, self.alone = self.turn(self.alone), self.alone + 1
        more = [f"i64 {at[index]}" for index in kernel.fixed]
        more += [f"i64 {offset}" for offset in call.offsets]
        for offset, step in call.asked:  # what kernels to come read
            more += [f"i64 {offset}", f"i64 {step}"]
        own = f"ptr %arena, i64 {thread}, i64 %threads"
        e.effect(f"call void @{call.name}({', '.join([own, *more])})")

    def turn(self, number: int) -> str:
        """The threads' numbers moved on by some, so that each does some of what one does alone."""
        if not number:
            return "%thread"
        moved = self.e.op(f"add i64 %thread, {number}", type="i64")
        return self.e.op("urem i64 {0}, %threads", moved, type="i64")


# --- the clock ------------------------------------------------------------------------------------

# the time-stamp counter of x86; elsewhere programs may not read the counter of cycles
TICKS = "readcyclecounter" if platform.machine() in ("x86_64", "AMD64") else "readsteadycounter"


def _ticks(e: FunctionWriter) -> str:
    e.declare(f"declare i64 @llvm.{TICKS}()")
    return e.pinned(f"call i64 @llvm.{TICKS}()", type="i64")


def _count_ticks(e: FunctionWriter, begin: str, number: int, clock: Clock) -> None:
    """Add what has passed since `begin` to this thread's number of the kernel."""
    spent = e.pinned("sub i64 {0}, {1}", _ticks(e), begin, type="i64")
    row = e.op(f"mul i64 %thread, {8 * clock.kernels}", type="i64")
    offset = e.op(f"add i64 {{0}}, {clock.start + 8 * number}", row, type="i64")
    cell = e.op("getelementptr i8, ptr %arena, i64 {0}", offset, type="ptr")
    before = e.pinned("load i64, ptr {0}, align 8", cell, type="i64")
    e.effect(
        "store i64 {0}, ptr {1}, align 8",
        e.pinned("add i64 {0}, {1}", before, spent, type="i64"),
        cell,
    )


def _now(declarations: dict[str, None]) -> str:
    e = FunctionWriter(declarations)
    e.effect("store i64 {0}, ptr %cell, align 8", _ticks(e))
    return e.function("define void @now(ptr %cell) #0")
