"""Recurrences as one launch: blocks that stay and go through all steps.

In: a `Scan`, its `Plan`, and which kernels wait. Out: the `Sweep` that computes it, or nothing
where a launch for every step takes less time by the estimate below.

An index is a row if every read of what the recurrence computes is made at the same value of it,
such as the batch: rows need nothing of each other. Blocks take groups of rows; where a step of a
group is more than one block does well, several blocks share it and wait for each other between
kernels. Without such an index everything is one row. How kernels are spelled inside is
`codegen/cuda/recurrence.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isqrt, prod

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Idx, index_names, reads
from ...ir.work import cost
from ...targets import GpuTarget
from ..kernels.kernel import Kernel, Plan, Scan
from ..lowering.access import Access
from .grid_ir import BLOCK, Each, Grid, Together
from .lower_kernel import ALONE, lower_kernel, undivided
from .persistent_loop import Share, Steps, Sweep
from .shared_state import shared_state

# what the estimate of a step is made of, in µs on an H100: by arithmetic, not measured
BARRIER = 0.05  # the threads of a block wait for each other
MEETING = 1.5  # blocks wait for each other
LATENCY = 0.6  # memory and arithmetic that follow one upon the other, in one kernel
LAUNCH = 2.5  # one more node of a graph, from end to end
RATE = 50_000  # operations per µs of a processor that load what they need, one by one
TILED = 100_000  # operations in a launch of its own, which divides work with no regard to rows
FETCH = 100_000  # bytes per µs from the cache of all processors to one of them
CACHE = 128 << 10  # bytes that stay in the cache of a processor from step to step

JOINED = 32 << 10  # bytes of shared memory in which sums are joined, at most
HELD = 8  # rows that a thread reduces at once
REGISTERS = 32  # accumulators of 4 bytes for them
WARP = 32
LARGEST = 2**30  # elements of a group that are numbered with 32 bits

Rows = Mapping[Kernel, tuple[Index, ...]]


@dataclass(frozen=True)
class _Traffic:
    """Bytes between a kernel and one tensor at a step, of every row where `rows`. Those that are
    `divided` differ from element to element; `steady` ones are the same at all steps and rows."""

    bytes: int
    rows: bool
    divided: bool
    steady: bool


@dataclass(frozen=True)
class _Load:
    """What one kernel costs: it runs `runs` times, with `operations` for each row."""

    grid: Grid
    rows: tuple[Index, ...]
    waits: bool
    runs: int
    operations: int
    traffic: tuple[_Traffic, ...]

    @property
    def threads(self) -> int:
        """That have something to do, for one row."""
        points = min(self.grid.points, WARP) if self.grid.reduce else 1
        return max(1, self.grid.elements) * points

    @property
    def alone(self) -> bool:
        """Whether a thread computes an element by itself: there is little to reduce."""
        return self.grid.reduce is None or self.grid.points < ALONE

    def held(self, rows: int) -> int:
        """Of so many rows, those that a thread reduces for at once: a divisor. What most is read of
        must not depend on the row."""
        grid = self.grid
        if self.alone or _names(_largest(grid)) & {i.name for i in self.rows}:
            return 1
        words = 4 if grid.reduce in ("argmax", "argmin") else BYTES[grid.dtype] // 4 or 1
        most = min(HELD, max(1, REGISTERS // (len(grid.bodies) * words)))
        return max(n for n in range(1, most + 1) if rows % n == 0)

    def loads(self, rows: int) -> float:
        """For each operation: a row's value serves all bodies, and a weight all rows held."""
        return 1.0 if self.alone else 1 / len(self.grid.bodies) + 1 / self.held(rows)


def persistent_kernel(scan: Scan, plan: Plan, target: GpuTarget) -> Sweep | None:
    """The recurrence as one launch, or None."""
    rows = independent(scan, plan)
    loads = dict(_loads(scan, rows, plan, scan.index.size))
    first = next(iter(loads.values()))
    count = prod(i.size for i in first.rows)
    if any(load.grid.elements * count > LARGEST for load in loads.values()):
        return None
    best = min(
        (_time(loads.values(), count, *shape, target), *shape[::-1])
        for shape in _shapes(count, target)
    )
    time, members, each = best
    apart = _launches_time(loads, count, plan, target)
    if time > apart:
        return None
    threads = _threads(loads.values(), each, members)
    steps = _steps(scan, loads, each, members, threads)
    whole = Sweep(next(scan.every).name, steps, scan.fixed, count // each, each, members, threads)
    whole = replace(whole, why=tuple(_why(whole, scan, first.rows, time, apart)))
    return shared_state(whole, scan, rows, plan, target)


def _why(
    sweep: Sweep, scan: Scan, rows: tuple[Index, ...], time: float, apart: float
) -> Iterator[str]:
    yield scan.reason
    names = " ".join(i.name for i in rows)
    members = f"{sweep.members} blocks" if sweep.members > 1 else "a block"
    if not rows:
        yield f"every step may read all of the one before: {members} for all of it"
    else:
        several = f"{sweep.rows} rows" if sweep.rows > 1 else "every row"
        yield f"no row ({names}) reads another: {members} for {several}"
    yield f"{time:,.0f} us by estimate, {apart:,.0f} us with a launch for every step"


# --- rows -----------------------------------------------------------------------------------------


def independent(scan: Scan, plan: Plan) -> Rows:
    """For each kernel its indices whose values need nothing of each other, in the same order."""
    kernels = tuple(scan.every)
    found: list[dict[Kernel, Index]] = []
    if not _seen_by_other_names(kernels, plan):
        for index in kernels[0].indices:
            own = _followed(index, kernels)
            if own and all(own[k] not in [f[k] for f in found] for k in kernels):
                found.append(own)
    return {k: tuple(own[k] for own in found) for k in kernels}


def _seen_by_other_names(kernels: tuple[Kernel, ...], plan: Plan) -> bool:
    """Whether what is computed is read through a view, whose indices are others."""
    stored = {t for k in kernels for t in k.stored}
    own = {e.target for k in kernels for e in k.equations}
    places = [_span(t, plan) for t in stored]
    others = {s for k in kernels for e in k.equations for s in e.sources} - own
    return any(a < d and c < b for a, b in places for c, d in (_span(t, plan) for t in others))


def _span(tensor: str, plan: Plan) -> tuple[int, int]:
    start = plan.offsets[tensor]
    return start, start + plan.system.tensors[tensor].bytes


def _followed(start: Index, kernels: tuple[Kernel, ...]) -> dict[Kernel, Index] | None:
    """The index of each kernel that goes with `start` of the first, if no read leaves its value."""
    own = {kernels[0]: start}
    axis: dict[str, int] = {}
    for _ in kernels:  # each round finds one more, at least
        for kernel in kernels:
            if kernel not in own:
                index = _read_at(kernel, axis)
                if index is not None:
                    own[kernel] = index
            if kernel in own:
                axis |= {e.target: e.indices.index(own[kernel]) for e in kernel.equations}
    if len(own) < len(kernels):
        return None
    same = all(i.size == start.size for i in own.values())
    stay = all(
        read.index[axis[read.tensor]] is Idx(own[kernel].name)
        for kernel in kernels
        for e in kernel.equations
        for read in e.reads
        if read.tensor in axis
    )
    return own if same and stay else None


def _read_at(kernel: Kernel, axis: Mapping[str, int]) -> Index | None:
    """The kernel's index at which it reads a tensor whose row is at a known place."""
    by_name = {i.name: i for i in kernel.indices}
    for equation in kernel.equations:
        for read in equation.reads:
            if read.tensor in axis:
                place = read.index[axis[read.tensor]]
                return by_name.get(place.name) if isinstance(place, Idx) else None
    return None


# --- the estimate ---------------------------------------------------------------------------------


def _loads(scan: Scan, rows: Rows, plan: Plan, runs: int) -> Iterator[tuple[Kernel, _Load]]:
    for item in scan.kernels:
        if isinstance(item, Scan):
            yield from _loads(item, rows, plan, runs * item.index.size)
            continue
        own = rows[item]
        bound = (*item.fixed, *(i.name for i in own))
        grid = undivided(replace(item, fixed=bound), plan)
        sums = len(grid.bodies) if grid.reduce else 0
        riding = sum(cost(s.value) for s in grid.statements[sums:])
        operations = grid.elements * (grid.points * sums + riding)
        traffic = tuple(_traffic(grid, own, item.fixed, plan))
        yield item, _Load(grid, own, item.name in plan.barriers, runs, operations, traffic)


def _traffic(
    grid: Grid, rows: tuple[Index, ...], fixed: tuple[str, ...], plan: Plan
) -> Iterator[_Traffic]:
    names, elements = {i.name for i in rows}, {i.name for i in grid.outputs}
    for name in grid.stored:
        kind = plan.system.tensors[name].dtype
        yield _Traffic(grid.elements * BYTES[kind], bool(rows), True, False)
    found: dict[tuple[str, tuple[bool, bool, bool]], int] = {}
    for access in map(grid.accesses.__getitem__, grid.reads):
        own = _names(access)
        kinds = (bool(own & names), bool(own & elements), not own & {*names, *fixed})
        key = (access.tensor, kinds)
        found[key] = found.get(key, 0) + _footprint(access, grid) * BYTES[access.dtype]
    for (name, kinds), size in found.items():
        yield _Traffic(min(size, plan.system.tensors[name].bytes), *kinds)


def _names(access: Access) -> set[str]:
    return {name for atom in access.atoms for name in index_names(atom)}


def _footprint(access: Access, grid: Grid) -> int:
    """The elements that all points of one step and row read."""
    sizes = {i.name: i.size for i in (*grid.outputs, *grid.over)}
    return prod(sizes.get(name, 1) for name in _names(access))


def _shapes(count: int, target: GpuTarget) -> Iterator[tuple[int, int]]:
    """Rows of a group, and blocks of a group: one, or as many as run at once."""
    low = [n for n in range(1, isqrt(count) + 1) if count % n == 0]
    for rows in sorted({*low, *(count // n for n in low)}):
        yield rows, 1
        members = 2
        while members * (count // rows) <= target.processors:
            yield rows, members
            members *= 2


def _time(
    loads: Collection[_Load], count: int, rows: int, members: int, target: GpuTarget
) -> float:
    """Of all steps, in µs. A meeting empties the caches of the processors; what each of them reads
    at every step may be kept in shared memory."""
    steady = sum(t.bytes for load in loads for t in load.traffic if t.steady) / members
    cached = steady <= (CACHE if members == 1 else target.shared - JOINED)
    total = 0.0
    for load in loads:
        busy = min(members, -(-rows * load.threads // BLOCK))
        fetched = sum(
            t.bytes * (rows if t.rows else 1) / (busy if t.divided else 1)
            for t in load.traffic
            if not (t.steady and cached)
        )
        work = rows * load.operations * load.loads(rows) / busy / RATE
        wait = load.waits * (BARRIER if members == 1 else MEETING)
        total += load.runs * (LATENCY + work + fetched / FETCH + wait)
    return total * -(-(count // rows) * members // target.processors)


def _launches_time(
    loads: Mapping[Kernel, _Load], count: int, plan: Plan, target: GpuTarget
) -> float:
    """Of all steps, in µs, each kernel in launches of its own, by as many blocks as those have."""
    total = 0.0
    for kernel, load in loads.items():
        grids = lower_kernel(kernel, plan, target)
        busy = min(target.processors, max(g.blocks * (g.part.size if g.part else 1) for g in grids))
        fetched = sum(t.bytes * (count if t.rows else 1) for t in load.traffic)
        work = count * load.operations / TILED + fetched / FETCH
        total += load.runs * (len(grids) * (LAUNCH + LATENCY) + work / busy)
    return total


# --- the sweep ------------------------------------------------------------------------------------


def _threads(loads: Collection[_Load], rows: int, members: int) -> int:
    """Of a block: a power of two, as many as have something to do."""
    most = max(rows * load.threads for load in loads)
    return min(BLOCK, max(WARP, _power(-(-most // members))))


def _power(least: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << max(least - 1, 0).bit_length()


def _steps(
    scan: Scan, loads: Mapping[Kernel, _Load], rows: int, members: int, threads: int
) -> Steps:
    parts = tuple(
        _steps(item, loads, rows, members, threads)
        if isinstance(item, Scan)
        else _share(loads[item], rows, members, threads)
        for item in scan.kernels
    )
    return Steps(scan.index, scan.reverse, parts)


def _share(load: _Load, rows: int, members: int, threads: int) -> Share:
    """One thread per element where there is little to reduce; else several, neighbours along what
    lies together in the largest of what is read, which several rows may have in common."""
    grid = replace(load.grid, threads=threads, blocks=members)
    if load.alone:
        return Share(replace(grid, how=Each()), load.rows, 1, load.waits)
    access, held = _largest(grid), load.held(rows)
    last = [Idx(group[-1].name) if group else None for group in (grid.outputs, grid.over)]
    along = "outputs" if last[0] and access.offset.coefficients.get(last[0]) == 1 else "over"
    lanes = WARP
    if along == "outputs":
        items = grid.elements * (rows // held)
        width = min(threads, max(8, _power(-(-items // members))))
        lanes = threads // width
    how = Together(lanes, along)
    return Share(replace(grid, how=how), load.rows, held, load.waits)


def _largest(grid: Grid) -> Access:
    """Of what is reduced, the read of the most elements."""
    found = [grid.accesses[r] for b in grid.bodies for r in reads(b) if r in grid.accesses]
    return max(found, key=lambda access: _footprint(access, grid))
