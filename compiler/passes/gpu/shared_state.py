"""Shared-memory-resident state and weights of a persistent loop.

    one block per group:        s: load h[t-1] from memory   →   load it from shared memory
    several blocks per group:   s: load U from the L2 cache  →   load it from shared memory

With one block per group, what the loop computes and reads again a fixed number of steps later has a
copy in shared memory: a circular buffer of as many steps as are read back, for the group's rows
alone. It is still stored to memory, for what follows the recurrence, but no longer read from there.
With several blocks per group, the group barrier invalidates their first-level caches at every step,
so each thread keeps the weights that it reads at every step, as long as they fit. Source: Diamos et
al. 2016, "Persistent RNNs". Tests: tests/backends/test_cuda_recurrences.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from ...ir.affine import Affine, affine
from ...ir.build import call
from ...ir.equation import Index
from ...ir.expr import Expr, Idx, Read, index_names, reads
from ...targets import GpuTarget
from ..kernels.kernel import Kernel, Plan, Scan
from ..lowering.access import Access, Statement
from ..lowering.addressing import offset_of, row_major
from .grid_ir import TreeReduction
from .persistent_loop import PersistentLoop, SharedTensor, StepKernel, StepLoop

ROW = "its row"  # the index that numbers the rows of a group


@dataclass(frozen=True)
class _CircularBuffer:
    """How a shared tensor is addressed: `step_axis` is the dimension of the step, `axes` are those
    that are neither step nor row, `shape` their sizes; there are `steps` steps of `rows` rows."""

    tensor: SharedTensor
    step_axis: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    steps: int
    rows: int

    def offset(self, index: tuple[Expr, ...], sizes: Mapping[str, int]) -> Affine:
        """The element with this index of the tensor."""
        size = prod(self.shape)
        # a row's elements lie together: [steps, rows, shape]
        within = offset_of(tuple(index[d] for d in self.axes), row_major(self.shape), sizes)
        within = within + Affine({Idx(ROW): size} if self.rows > 1 else {}, 0)
        # only the current step is read: one slot, and no division
        if self.steps == 1:
            return within
        # steps that are read lie less than `steps` before the first: the sum is not negative
        slot = call("mod", call("add", index[self.step_axis], self.steps), self.steps)
        return within + affine(slot).scaled(self.rows * size)


def shared_state(
    loop: PersistentLoop,
    scan: Scan,
    rows: Mapping[Kernel, tuple[Index, ...]],
    plan: Plan,
    target: GpuTarget,
) -> PersistentLoop:
    """The loop with everything in shared memory that fits."""
    # State of a group is written by several blocks, whose shared memory is their own: only weights,
    # which nobody writes, can be kept there.
    if loop.group_blocks > 1:
        return _with_weights(loop, scan, target)
    if any(isinstance(item, StepLoop) for item in loop.steps.body):
        return loop  # with two step indices no one number says how far back a read is
    return _with_state(loop, scan, rows, plan, target)


# --- weights --------------------------------------------------------------------------------------


def _with_weights(loop: PersistentLoop, scan: Scan, target: GpuTarget) -> PersistentLoop:
    """Each kernel's weights, as long as there is room for all of them."""
    step_indices = {name for kernel in scan.every for name in kernel.fixed}
    # joining results takes its share at the start of shared memory
    room = target.shared - loop.reduction_bytes

    def changed(steps: StepLoop) -> StepLoop:
        nonlocal room
        body: list[StepKernel | StepLoop] = []
        # in the order of the plan: as long as there is room, not the best choice of all
        for item in steps.body:
            if isinstance(item, StepLoop):
                body.append(changed(item))
                continue
            # elements of the step over all rows; `count` of them fall to one thread
            elements = item.grid.elements * (loop.rows // item.rows_at_once)
            count = -(-elements // (loop.group_blocks * item.elements_at_once))
            with_weights = replace(
                item, weights=_weights(item, step_indices), elements_per_thread=count
            )
            # what does not fit is loaded at every step, as before
            if with_weights.weight_bytes <= room:
                room -= with_weights.weight_bytes
                item = with_weights
            body.append(item)
        return replace(steps, body=tuple(body))

    return replace(loop, steps=changed(loop.steps))


def _weights(kernel: StepKernel, step_indices: set[str]) -> tuple[Read, ...]:
    """What a thread reads alike at all steps and for all rows that it reduces for."""
    grid = kernel.grid
    # one thread per element: its reductions are short
    if not isinstance(grid.how, TreeReduction):
        return ()
    # what depends on the step, or on a row, is no weight
    varying = step_indices | {i.name for i in kernel.rows}
    found = dict.fromkeys(r for body in grid.bodies for r in reads(body) if r in grid.accesses)
    # the index of a gather: it is read for its address, not as an operand
    inner = {q for r in found for place in r.index for q in reads(place)}
    return tuple(
        r
        for r in found
        if r not in inner
        and not index_names(r) & varying
        # one array holds all weights of a kernel, so types must agree
        and grid.accesses[r].dtype == grid.dtype != "bool"
    )


# --- state ----------------------------------------------------------------------------------------


def _with_state(
    loop: PersistentLoop,
    scan: Scan,
    rows: Mapping[Kernel, tuple[Index, ...]],
    plan: Plan,
    target: GpuTarget,
) -> PersistentLoop:
    """The latest steps of all that is read again, tensor by tensor while there is room."""
    buffers: dict[str, _CircularBuffer] = {}
    # more than 48 KB would have to be asked for, and leave the first-level cache less
    room = target.shared_without_opt_in - loop.shared_bytes
    for kernel in scan.every:
        for tensor in kernel.stored:
            buffer = _buffer(tensor, kernel, loop, rows[kernel], plan)
            # tensors in the order in which they are stored; what does not fit stays in memory
            if buffer is not None and buffer.tensor.bytes <= room:
                buffers[tensor] = buffer
                room -= buffer.tensor.bytes
    body = tuple(
        _through_buffers(item, buffers, loop)
        for item in loop.steps.body
        if isinstance(item, StepKernel)
    )
    shared_tensors = tuple(buffer.tensor for buffer in buffers.values())
    return replace(loop, steps=replace(loop.steps, body=body), shared_tensors=shared_tensors)


def _buffer(
    tensor: str, kernel: Kernel, loop: PersistentLoop, rows: tuple[Index, ...], plan: Plan
) -> _CircularBuffer | None:
    """The tensor's buffer, if the recurrence reads it a fixed number of steps away."""
    index = loop.steps.index
    indices = next(e.indices for e in kernel.equations if e.target == tensor)
    names = [i.name for i in indices]
    axis = names.index(index.name)
    # t - 1 less t is -1: the number of steps between what is stored and what is read
    distances = [
        affine(read.index[axis]) + Affine({Idx(index.name): -1}, 0)
        for item in loop.steps.kernels
        for read in item.grid.reads
        if read.tensor == tensor
    ]
    # indexed by a loop outside as well, or read at x[idx[t]]: the distance is not fixed
    fixed_outside = any(name in names for name in loop.fixed)
    if not distances or fixed_outside or any(form.coefficients for form in distances):
        return None
    # neither step nor row: those are numbered by slot and by the group's own row
    axes = tuple(d for d, i in enumerate(indices) if d != axis and i not in rows)
    shape = tuple(indices[d].size for d in axes)
    # reading three steps back takes four slots: the current one is written meanwhile
    steps = 1 + max(abs(form.constant) for form in distances)
    dtype = plan.system.tensors[tensor].dtype
    shared = SharedTensor(f"{tensor} here", tensor, dtype, steps * loop.rows * prod(shape))
    return _CircularBuffer(shared, axis, axes, shape, steps, loop.rows)


def _through_buffers(
    kernel: StepKernel, buffers: Mapping[str, _CircularBuffer], loop: PersistentLoop
) -> StepKernel:
    """The kernel that reads the buffers, and stores into them, too."""
    grid = kernel.grid
    sizes = {**grid.sizes, ROW: loop.rows}
    accesses = {
        read: _access(read, access, buffers, sizes) for read, access in grid.accesses.items()
    }
    statements = list(grid.statements)
    for statement in grid.statements:
        buffer = buffers.get(statement.target)
        # stored twice: in memory for what follows the loop, and here for the next steps
        if buffer is not None and statement.offset is not None:
            element = statement.element
            copy = Read(buffer.tensor.name, element.index, None, element.dtype)
            statements.append(Statement(copy, element, buffer.offset(element.index, sizes)))
    changed = replace(grid, accesses=accesses, statements=tuple(statements), sizes=sizes)
    return replace(kernel, grid=changed)


def _access(
    read: Read, access: Access, buffers: Mapping[str, _CircularBuffer], sizes: Mapping[str, int]
) -> Access:
    buffer = buffers.get(read.tensor)
    if buffer is None:
        return access
    offset = buffer.offset(read.index, sizes)
    name, dtype = buffer.tensor.name, buffer.tensor.dtype
    return replace(access, tensor=name, dtype=dtype, offset=offset)
