"""A plan's nests as one LLVM module.

In: a `Plan` and the nests of its kernels. Out: LLVM text with one function to call,
`void @step(ptr arena, i64 thread, i64 threads)`: one run of the whole system, updates included.
All threads call it; each does its share of every kernel. Nothing here runs LLVM.

With a `Clock` every call of a kernel is timed, and `void @now(ptr)` stores what the clock shows.

Kernels that are equal up to names share the function of the first of them; where their tensors
stand at different places, these are arguments.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from ..kernels import Kernel, Plan, Scan
from ..loops import Nest
from ..signature import Alike, alike
from . import nest as nests
from .emitter import Emitter
from .pool import pool

ATTRIBUTES = 'attributes #0 = { nounwind "no-trapping-math"="true" }'


@dataclass(frozen=True)
class Clock:
    """Where ticks are counted: from byte `start` of the arena, for each thread a 64-bit number for
    each of the plan's kernels."""

    start: int
    kernels: int

    def end(self, threads: int) -> int:
        return self.start + 8 * self.kernels * threads


def module(plan: Plan, nested: Mapping[Kernel, Nest], clock: Clock | None = None) -> str:
    """The module's text. `nested` has the nests at least of the kernels that are models."""
    declarations: dict[str, None] = {}
    functions: list[str] = []
    calls: dict[Kernel, _Call] = {}
    groups: dict[Kernel, list[tuple[Kernel, Alike]]] = {}
    for kernel, shared in alike(plan).items():
        groups.setdefault(shared.model, []).append((kernel, shared))
    for number, (model, members) in enumerate(groups.items()):
        name = f'"k{number}.{model.name}"'
        tensors = dict(members)[model].tensors
        places = {k: tuple(plan.offsets.get(t) for t in shared.tensors) for k, shared in members}
        varied = [n for n, column in enumerate(zip(*places.values(), strict=True))
                  if len(set(column)) > 1]  # fmt: skip
        own_places = zip(tensors, places[model], strict=True)
        bases: dict[str, int | str] = {t: p for t, p in own_places if p is not None}
        bases |= {tensors[n]: f"%base{n}" for n in varied}  # an argument instead of a place
        functions.append(nests.function(nested[model], bases, declarations, name))
        for kernel, own in places.items():
            calls[kernel] = _Call(name, tuple(own[n] for n in varied))
    e = Emitter(declarations)
    _items(e, plan.items, calls, count() if clock else None, clock)
    step = e.function(f"define void @step({nests.ARGUMENTS}) #0")
    if clock is not None:
        functions.append(_now(declarations))
    threads = pool(platform.machine(), sys.platform)
    return "\n".join([*declarations, "", *functions, step, threads, ATTRIBUTES, ""])


@dataclass(frozen=True)
class _Call:
    """The function of a kernel, and where the tensors stand that it takes as arguments."""

    name: str
    offsets: tuple[int | None, ...]


def _items(e: Emitter, items: tuple[Kernel | Scan, ...], calls: Mapping[Kernel, _Call],
           numbers: Iterator[int] | None, clock: Clock | None, at: Mapping[str, str] = {},
) -> None:  # fmt: skip
    """Calls in order, with a barrier after each; a scan is a loop around its calls."""
    for item in items:
        if isinstance(item, Kernel):
            begin = _ticks(e) if clock else ""
            call = calls[item]
            more = [f"i64 {at[index]}" for index in item.fixed]
            for offset in call.offsets:
                place = e.op(f"getelementptr i8, ptr %arena, i64 {offset}", type="ptr")
                more.append(f"ptr {place}")
            e.effect(f"call void @{call.name}({', '.join([nests.ARGUMENTS, *more])})")
            e.effect("call void @barrier(ptr %arena, i64 %threads)")
            if clock is not None and numbers is not None:
                _count_ticks(e, begin, next(numbers), clock)
            continue
        size = item.index.size
        with e.loop("0", str(size), 1) as opened:
            now = opened.index
            if item.reverse:
                now = e.op("sub i64 {0}, {1}", str(size - 1), now, type="i64")
            _items(e, item.kernels, calls, numbers, clock, {**at, item.index.name: now})


# --- the clock ------------------------------------------------------------------------------------

# the time-stamp counter of x86; elsewhere programs may not read the counter of cycles
TICKS = "readcyclecounter" if platform.machine() in ("x86_64", "AMD64") else "readsteadycounter"


def _ticks(e: Emitter) -> str:
    e.declare(f"declare i64 @llvm.{TICKS}()")
    return e.fresh(f"call i64 @llvm.{TICKS}()", type="i64")


def _count_ticks(e: Emitter, begin: str, number: int, clock: Clock) -> None:
    """Add what has passed since `begin` to this thread's number of the kernel."""
    spent = e.fresh("sub i64 {0}, {1}", _ticks(e), begin, type="i64")
    row = e.op(f"mul i64 %thread, {8 * clock.kernels}", type="i64")
    offset = e.op(f"add i64 {{0}}, {clock.start + 8 * number}", row, type="i64")
    cell = e.op("getelementptr i8, ptr %arena, i64 {0}", offset, type="ptr")
    before = e.fresh("load i64, ptr {0}, align 8", cell, type="i64")
    e.effect("store i64 {0}, ptr {1}, align 8", e.fresh("add i64 {0}, {1}", before, spent,
                                                        type="i64"), cell)  # fmt: skip


def _now(declarations: dict[str, None]) -> str:
    e = Emitter(declarations)
    e.effect("store i64 {0}, ptr %cell, align 8", _ticks(e))
    return e.function("define void @now(ptr %cell) #0")
