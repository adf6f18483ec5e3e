"""Persistent kernels: a recurrence becomes one launch whose blocks go through all of its steps.

    for t: launch a(t); launch b(t)   →   launch loop, in which every block does
                                          for t: a(t); barrier; b(t)

A launch for every kernel of every step costs microseconds, and the state and the weights leave the
caches in between. An index is a *row* if all reads of what the recurrence computes are made at the
same value of it, such as the batch: rows need nothing of each other. One block takes some rows and
synchronizes its threads between kernels; or, where a step is more than one block does well, several
blocks take them together and synchronize by a barrier of the group. Without such an index
everything is one row. Applies where the closed-form estimate below is less than that of separate
launches.

Source: Diamos et al. 2016, "Persistent RNNs: Stashing Recurrent Weights On-Chip".
Tests: tests/backends/test_cuda_recurrences.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isqrt, prod

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Idx, index_names, reads
from ...ir.work import cost
from ...targets import WARP, GpuTarget
from ..kernels.kernel import Kernel, Plan, Scan
from ..lowering.access import Access
from .grid_ir import Grid, ThreadPerElement, TreeReduction, accumulator_bytes
from .lower_kernel import lower_kernel, undivided
from .persistent_loop import PersistentLoop, StepKernel, StepLoop
from .shared_state import shared_state

Rows = Mapping[Kernel, tuple[Index, ...]]


@dataclass(frozen=True)
class _Traffic:
    """Bytes between a kernel and one tensor at a step: `per_row` if every row has its own,
    `per_element` if every element has. `constant` ones are the same at all steps and rows."""

    bytes: int
    per_row: bool
    per_element: bool
    constant: bool


@dataclass(frozen=True)
class _KernelCost:
    """What one kernel costs: it runs `runs` times, with `operations` for each row."""

    grid: Grid
    rows: tuple[Index, ...]
    barrier: bool
    runs: int
    operations: int
    traffic: tuple[_Traffic, ...]
    target: GpuTarget

    @property
    def threads(self) -> int:
        """Threads that have something to do, for one row."""
        # a reduction is divided among a warp's lanes at most, an output is one element
        points = min(self.grid.points, WARP) if self.grid.reduce else 1
        return max(1, self.grid.elements) * points

    @property
    def one_thread(self) -> bool:
        """Whether one thread computes an element: there is little to reduce."""
        return self.grid.reduce is None or self.grid.points < self.target.serial_points

    def rows_at_once(self, rows: int) -> int:
        """The rows, of so many, that a thread reduces for at once: a divisor. What is read most
        must not depend on the row."""
        grid, target = self.grid, self.target
        # what is read most, as a weight matrix, would be another for every row: nothing is shared
        if self.one_thread or _names(_largest_read(grid)) & {i.name for i in self.rows}:
            return 1
        # an accumulator in f64, or with a position, takes several registers
        words = max(1, accumulator_bytes(grid) // BYTES["f32"])
        accumulators = target.row_accumulators // (len(grid.bodies) * words)
        most = min(target.max_rows_at_once, max(1, accumulators))
        # a divisor, so that no group has a remainder of rows
        return max(n for n in range(1, most + 1) if rows % n == 0)

    def loads(self, rows: int) -> float:
        """Loads of an operation: a row's value serves all bodies, a weight all rows at once."""
        return 1.0 if self.one_thread else 1 / len(self.grid.bodies) + 1 / self.rows_at_once(rows)


def persistent_kernel(scan: Scan, plan: Plan, target: GpuTarget) -> PersistentLoop | None:
    """The recurrence as one launch, or None where separate launches are estimated to be faster."""
    # indices that stay the same through all steps: for each value the recurrence is one by itself
    rows = independent_rows(scan, plan)
    work = dict(_work(scan, rows, plan, scan.index.size, target))
    # all kernels have the same rows, if under other names
    first = next(iter(work.values()))
    count = prod(i.size for i in first.rows)
    # elements of a group are numbered in 32 bits
    if any(each.grid.elements * count > target.max_group_elements for each in work.values()):
        return None
    # the estimate first, then of equal ones the fewest blocks and then the fewest rows
    time, group_blocks, group_rows = min(
        (_loop_time(work.values(), count, *shape, target), *shape[::-1])
        # `_shapes` gives (rows, blocks)
        for shape in _shapes(count, target)
    )
    # what the alternative costs: a launch of each kernel at each step
    launches_time = _launches_time(work, count, plan, target)
    if time > launches_time:
        return None
    threads = _threads(work.values(), group_rows, group_blocks, target)
    loop = PersistentLoop(
        next(scan.every).name,
        # the loops over steps with everything decided: how each kernel is divided among threads
        _steps(scan, work, group_rows, group_blocks, threads),
        scan.fixed,
        count // group_rows,
        group_rows,
        group_blocks,
        threads,
    )
    loop = replace(loop, why=tuple(_why(loop, scan, first.rows, time, launches_time)))
    # decided last, as what fits into shared memory depends on how the work is divided
    return shared_state(loop, scan, rows, plan, target)


def _why(
    loop: PersistentLoop,
    scan: Scan,
    rows: tuple[Index, ...],
    time: float,
    launches_time: float,
) -> Iterator[str]:
    yield scan.reason
    names = " ".join(i.name for i in rows)
    blocks = f"{loop.group_blocks} blocks" if loop.group_blocks > 1 else "a block"
    if not rows:
        yield f"every step may read all of the one before: {blocks} for all of it"
    else:
        several = f"{loop.rows} rows" if loop.rows > 1 else "every row"
        yield f"rows ({names}) are independent: {blocks} for {several}"
    # both estimates, so that a reader can see how close the decision was
    yield f"estimated {time:,.0f} us, {launches_time:,.0f} us with a launch for every step"


# --- rows -----------------------------------------------------------------------------------------


def independent_rows(scan: Scan, plan: Plan) -> Rows:
    """For each kernel its indices whose values need nothing of each other, in the same order."""
    kernels = tuple(scan.every)
    # one index of the first kernel after the other is followed through all kernels
    found: list[dict[Kernel, Index]] = []
    # through a view the same memory is read under other indices, which cannot be followed
    if not _read_through_views(kernels, plan):
        for index in kernels[0].indices:
            row = _follow(index, kernels)
            # two indices of one kernel must not be followed to the same index of another
            if row and all(row[k] not in [f[k] for f in found] for k in kernels):
                found.append(row)
    return {k: tuple(row[k] for row in found) for k in kernels}


def _read_through_views(kernels: tuple[Kernel, ...], plan: Plan) -> bool:
    """Whether what is computed is read through a view, which has other indices."""
    stored = {t for k in kernels for t in k.stored}
    computed = {e.target for k in kernels for e in k.equations}
    written = [_span(t, plan) for t in stored]
    # a view is not computed by these kernels, and shares memory with something that is
    others = {s for k in kernels for e in k.equations for s in e.sources} - computed
    # what lies in the same bytes is the same memory under another name
    return any(a < d and c < b for a, b in written for c, d in (_span(t, plan) for t in others))


def _span(tensor: str, plan: Plan) -> tuple[int, int]:
    start = plan.offsets[tensor]
    return start, start + plan.system.tensors[tensor].bytes


def _follow(start: Index, kernels: tuple[Kernel, ...]) -> dict[Kernel, Index] | None:
    """The index of each kernel that corresponds to `start` of the first one, if every read of what
    they compute is made at the same value of it."""
    # kernel → its index; and tensor → the dimension in which it has that index
    found = {kernels[0]: start}
    axis: dict[str, int] = {}
    # reads go in circles, so it takes several rounds to reach all kernels
    for _ in kernels:  # each round finds one more, at least
        for kernel in kernels:
            if kernel not in found:
                index = _index_of_read(kernel, axis)
                if index is not None:
                    found[kernel] = index
            if kernel in found:
                axis |= {e.target: e.indices.index(found[kernel]) for e in kernel.equations}
    # a kernel that reads nothing of the others, or has another number of rows
    if len(found) < len(kernels) or any(i.size != start.size for i in found.values()):
        return None
    # the condition that makes rows independent: row r reads only row r of what is computed
    same_value = all(
        read.index[axis[read.tensor]] is Idx(found[kernel].name)
        for kernel in kernels
        for e in kernel.equations
        for read in e.reads
        if read.tensor in axis
    )
    return found if same_value else None


def _index_of_read(kernel: Kernel, axis: Mapping[str, int]) -> Index | None:
    """The kernel's index at which it reads a tensor whose row axis is known."""
    by_name = {i.name: i for i in kernel.indices}
    for equation in kernel.equations:
        for read in equation.reads:
            if read.tensor in axis:
                place = read.index[axis[read.tensor]]
                # a place such as b + 1 is no index: rows are mixed
                return by_name.get(place.name) if isinstance(place, Idx) else None
    return None


# --- the estimate ---------------------------------------------------------------------------------


def _work(
    scan: Scan, rows: Rows, plan: Plan, runs: int, target: GpuTarget
) -> Iterator[tuple[Kernel, _KernelCost]]:
    # loops inside multiply the runs; the inner kernels have the rows as well
    for item in scan.kernels:
        if isinstance(item, Scan):
            yield from _work(item, rows, plan, runs * item.index.size, target)
            continue
        # rows are fixed for a moment: the grid is the work of one row
        fixed = (*item.fixed, *(i.name for i in rows[item]))
        grid = undivided(replace(item, fixed=fixed), plan)
        # the first statements are the results of the sums, which `points` counts
        sums = len(grid.bodies) if grid.reduce else 0
        epilogue = sum(cost(s.value) for s in grid.statements[sums:])
        operations = grid.elements * (grid.points * sums + epilogue)
        traffic = tuple(_traffic(grid, rows[item], item.fixed, plan))
        barrier = item.name in plan.barriers
        yield item, _KernelCost(grid, rows[item], barrier, runs, operations, traffic, target)


def _traffic(
    grid: Grid, rows: tuple[Index, ...], fixed: tuple[str, ...], plan: Plan
) -> Iterator[_Traffic]:
    # which tensors are loaded again for every row or element decides what can be reused
    row_names, element_names = {i.name for i in rows}, {i.name for i in grid.outputs}
    # a store is never the same at two steps
    for name in grid.stored:
        dtype = plan.system.tensors[name].dtype
        yield _Traffic(grid.elements * BYTES[dtype], bool(rows), True, False)
    # reads of the same kind of one tensor count together: x[t, i] and x[t, i + 1] are one stream
    found: dict[tuple[str, tuple[bool, bool, bool]], int] = {}
    for access in map(grid.accesses.__getitem__, grid.reads):
        names = _names(access)
        kinds = (bool(names & row_names), bool(names & element_names))
        # constant if neither the step nor the row is in its index: a weight
        key = (access.tensor, (*kinds, not names & {*row_names, *fixed}))
        found[key] = found.get(key, 0) + _footprint(access, grid) * BYTES[access.dtype]
    for (name, flags), size in found.items():
        # never more than the whole tensor
        yield _Traffic(min(size, plan.system.tensors[name].bytes), *flags)


def _names(access: Access) -> set[str]:
    # indices that the offset depends on, also inside an index that is data
    return {name for atom in access.atoms for name in index_names(atom)}


def _footprint(access: Access, grid: Grid) -> int:
    """The elements that all points of one step and row read."""
    sizes = {i.name: i.size for i in (*grid.outputs, *grid.over)}
    # an index that is not in the list is fixed for this step
    return prod(sizes.get(name, 1) for name in _names(access))


def _shapes(count: int, target: GpuTarget) -> Iterator[tuple[int, int]]:
    """Rows of a group, and blocks of a group: one, or as many as are resident at once."""
    # divisors up to the root, and the divisors that they leave
    low = [n for n in range(1, isqrt(count) + 1) if count % n == 0]
    for rows in sorted({*low, *(count // n for n in low)}):
        yield rows, 1
        # all blocks must be resident at once, or a group barrier would never open
        blocks = 2
        while blocks * (count // rows) <= target.processors:
            yield rows, blocks
            blocks *= 2


def _loop_time(
    work: Collection[_KernelCost], count: int, rows: int, group_blocks: int, target: GpuTarget
) -> float:
    """Of all steps, in µs. A group barrier invalidates first-level caches; what each multiprocessor
    reads at every step may stay in shared memory."""
    costs, groups = target.recurrence, count // rows
    # each block of a group keeps its part of the weights
    constant = sum(t.bytes for each in work for t in each.traffic if t.constant) / group_blocks
    # one block keeps them in its first-level cache; a group barrier empties that, so there only
    # shared memory keeps anything
    room = costs.l1_bytes if group_blocks == 1 else target.shared - costs.reduction_bytes
    total = 0.0
    for each in work:
        # blocks that have anything to do, if a step is small
        busy = min(group_blocks, -(-rows * each.threads // target.block_threads))
        loaded = sum(
            t.bytes * (rows if t.per_row else 1) / (busy if t.per_element else 1)
            # what each row has of its own is loaded for every row; of what each element has of
            # its own a block loads its share
            for t in each.traffic
            # weights that stay near the processor cost nothing after the first step
            if not (t.constant and constant <= room)
        )
        # operations, times loads for each, over loads per µs
        computing = rows * each.operations * each.loads(rows) / busy / costs.scalar_operations
        barrier = costs.block_barrier if group_blocks == 1 else costs.group_barrier
        step = costs.latency + computing + loaded / costs.l2_bytes + each.barrier * barrier
        total += each.runs * step
    # more groups than processors run one after the other
    return total * -(-groups * group_blocks // target.processors)


def _launches_time(
    work: Mapping[Kernel, _KernelCost], count: int, plan: Plan, target: GpuTarget
) -> float:
    """Of all steps, in µs, with each kernel in launches of its own, by as many blocks as those
    have."""
    costs, total = target.recurrence, 0.0
    for kernel, each in work.items():
        # what the kernel would be outside of a loop, with tiles and split-K
        grids = lower_kernel(kernel, plan, target)
        blocks = max(g.blocks * (g.part.size if g.part else 1) for g in grids)
        loaded = sum(t.bytes * (count if t.per_row else 1) for t in each.traffic)
        # in one launch all rows share the loads of a tile, which is twice as fast an operation
        computing = count * each.operations / costs.tiled_operations + loaded / costs.l2_bytes
        launches = len(grids) * (costs.launch + costs.latency)
        total += each.runs * (launches + computing / min(target.processors, blocks))
    return total


# --- the loop -------------------------------------------------------------------------------------


def _threads(work: Collection[_KernelCost], rows: int, group_blocks: int, target: GpuTarget) -> int:
    """Threads of a block: a power of two, as many as have something to do."""
    # the largest step decides; in smaller ones some threads idle
    most = max(rows * each.threads for each in work)
    return min(target.block_threads, max(WARP, _power_of_two(-(-most // group_blocks))))


def _power_of_two(least: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << max(least - 1, 0).bit_length()


def _steps(
    scan: Scan, work: Mapping[Kernel, _KernelCost], rows: int, group_blocks: int, threads: int
) -> StepLoop:
    body = tuple(
        _steps(item, work, rows, group_blocks, threads)
        if isinstance(item, Scan)
        else _step_kernel(work[item], rows, group_blocks, threads)
        for item in scan.kernels
    )
    return StepLoop(scan.index, scan.reverse, body)


def _step_kernel(work: _KernelCost, rows: int, group_blocks: int, threads: int) -> StepKernel:
    """One thread per element where there is little to reduce; else several, adjacent ones along
    what is contiguous in the largest of what is read, which several rows may have in common."""
    grid = replace(work.grid, threads=threads, blocks=group_blocks)
    # short: a tree of lanes would cost more than it saves
    if work.one_thread:
        return StepKernel(replace(grid, how=ThreadPerElement()), work.rows, 1, work.barrier)
    offset, rows_at_once = _largest_read(grid).offset, work.rows_at_once(rows)
    # adjacent threads along the points, where memory is contiguous along them
    lanes, along = WARP, "reduction"
    # the last output index has stride 1: adjacent threads load adjacent elements
    if grid.outputs and offset.coefficients.get(Idx(grid.outputs[-1].name)) == 1:
        along = "outputs"
        elements = grid.elements * (rows // rows_at_once)
        # at least a sector's worth of elements side by side; more if there are more
        least = work.target.coalesced_elements
        width = min(threads, max(least, _power_of_two(-(-elements // group_blocks))))
        # what is left of the threads divides the points of one element
        lanes = threads // width
    how = TreeReduction(lanes, along)
    return StepKernel(replace(grid, how=how), work.rows, rows_at_once, work.barrier)


def _largest_read(grid: Grid) -> Access:
    """Of what is reduced, the read of the most elements."""
    # the read that decides how threads must lie: the weight matrix
    found = [grid.accesses[r] for b in grid.bodies for r in reads(b) if r in grid.accesses]
    return max(found, key=lambda access: _footprint(access, grid))
