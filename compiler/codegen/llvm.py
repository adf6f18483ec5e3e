"""A plan's nests as one LLVM module.

In: a `Plan` and the nests of its kernels. Out: LLVM text with one function to call,
`void @step(ptr arena, i64 thread, i64 threads)`: one run of the whole system, updates included.
All threads call it; each does its share of every kernel. Nothing here runs LLVM.

Kernels that are equal up to names share the function of the first of them; where their tensors
stand at different places, these are arguments.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ..kernels import Kernel, Plan, Scan
from ..loops import Nest
from ..signature import Alike, alike
from . import nest as nests
from .emitter import Emitter
from .pool import pool

ATTRIBUTES = 'attributes #0 = { nounwind "no-trapping-math"="true" }'


def module(plan: Plan, nested: Mapping[Kernel, Nest]) -> str:
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
    _items(e, plan.items, calls)
    step = e.function(f"define void @step({nests.ARGUMENTS}) #0")
    threads = pool(platform.machine(), sys.platform)
    return "\n".join([*declarations, "", *functions, step, threads, ATTRIBUTES, ""])


@dataclass(frozen=True)
class _Call:
    """The function of a kernel, and where the tensors stand that it takes as arguments."""

    name: str
    offsets: tuple[int | None, ...]


def _items(e: Emitter, items: tuple[Kernel | Scan, ...], calls: Mapping[Kernel, _Call],
           at: Mapping[str, str] = {}) -> None:  # fmt: skip
    """Calls in order, with a barrier after each; a scan is a loop around its calls."""
    for item in items:
        if isinstance(item, Kernel):
            call = calls[item]
            more = [f"i64 {at[index]}" for index in item.fixed]
            for offset in call.offsets:
                place = e.op(f"getelementptr i8, ptr %arena, i64 {offset}", type="ptr")
                more.append(f"ptr {place}")
            e.effect(f"call void @{call.name}({', '.join([nests.ARGUMENTS, *more])})")
            e.effect("call void @barrier(ptr %arena, i64 %threads)")
            continue
        size = item.index.size
        with e.loop("0", str(size), 1) as opened:
            now = opened.index
            if item.reverse:
                now = e.op("sub i64 {0}, {1}", str(size - 1), now, type="i64")
            _items(e, item.kernels, calls, {**at, item.index.name: now})
