"""What the blocks of a recurrence keep in shared memory from step to step.

In: a `Sweep`, its `Scan` and rows. Out: the sweep that keeps something. Where a group is one block,
what it reads of its own earlier steps has a second place there: as many of the last steps as are
read again, of the group's rows alone; it is stored in memory as before, for those who come after
the recurrence, and read from there no more. Where blocks meet, which empties the caches of their
processors, every thread keeps the weights that it reads at every step. Whether blocks go through
all steps is decided in `persistent.py`.
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
from .grid_ir import Together
from .persistent_loop import Kept, Share, Steps, Sweep

MOST = 48 << 10  # bytes of shared memory for steps: what a block has without asking
ROW = "its row"  # the index that numbers the rows of a group


@dataclass(frozen=True)
class _Form:
    """How a tensor is kept: the place of its step among its dimensions, the places of those that
    are neither step nor row, their sizes, and the steps that are kept."""

    kept: Kept
    step: int
    rest: tuple[int, ...]
    shape: tuple[int, ...]
    steps: int
    rows: int

    def offset(self, index: tuple[Expr, ...], sizes: Mapping[str, int]) -> Affine:
        """The element with this index."""
        within = offset_of(tuple(index[d] for d in self.rest), row_major(self.shape), sizes)
        size = prod(self.shape)
        total = within + Affine({Idx(ROW): size} if self.rows > 1 else {}, 0)
        if self.steps == 1:
            return total
        # steps that are read lie less than `steps` before the first: the sum is not negative
        turn = call("mod", call("add", index[self.step], self.steps), self.steps)
        return total + affine(turn).scaled(self.rows * size)


def shared_state(
    sweep: Sweep,
    scan: Scan,
    rows: Mapping[Kernel, tuple[Index, ...]],
    plan: Plan,
    target: GpuTarget,
) -> Sweep:
    """The sweep with everything kept for which there is room."""
    if sweep.members > 1:
        return _with_weights(sweep, scan, target.shared)
    if any(isinstance(part, Steps) for part in sweep.steps.parts):
        return sweep  # of two indices that step no one number says how far away a step is
    return _with_steps(sweep, scan, rows, plan)


# --- weights --------------------------------------------------------------------------------------


def _with_weights(sweep: Sweep, scan: Scan, most: int) -> Sweep:
    """Each share's weights, as long as there is room for all of them."""
    stepping = {name for kernel in scan.every for name in kernel.fixed}
    room = most - sweep.joined_bytes

    def changed(steps: Steps) -> Steps:
        nonlocal room
        parts: list[Share | Steps] = []
        for part in steps.parts:
            if isinstance(part, Steps):
                parts.append(changed(part))
                continue
            items = part.grid.elements * (sweep.rows // part.held)
            turns = -(-items // (sweep.members * part.width))
            fresh = replace(part, weights=_weights(part, stepping), turns=turns)
            if fresh.weight_bytes <= room:
                room -= fresh.weight_bytes
                part = fresh
            parts.append(part)
        return replace(steps, parts=tuple(parts))

    return replace(sweep, steps=changed(sweep.steps))


def _weights(share: Share, stepping: set[str]) -> tuple[Read, ...]:
    """What a thread reads alike at all steps and for all rows that it reduces for."""
    grid = share.grid
    if not isinstance(grid.how, Together):
        return ()
    moving = stepping | {i.name for i in share.rows}
    found = dict.fromkeys(r for body in grid.bodies for r in reads(body) if r in grid.accesses)
    inner = {q for r in found for place in r.index for q in reads(place)}
    return tuple(
        r
        for r in found
        if r not in inner
        and not index_names(r) & moving
        and grid.accesses[r].dtype == grid.dtype != "bool"
    )


# --- steps ----------------------------------------------------------------------------------------


def _with_steps(
    sweep: Sweep, scan: Scan, rows: Mapping[Kernel, tuple[Index, ...]], plan: Plan
) -> Sweep:
    """The latest steps of all that is read again, tensor by tensor while there is room."""
    forms: dict[str, _Form] = {}
    room = MOST - sweep.shared_bytes
    for kernel in scan.every:
        for tensor in kernel.stored:
            form = _form(tensor, kernel, sweep, rows[kernel], plan)
            if form is not None and form.kept.bytes <= room:
                forms[tensor] = form
                room -= form.kept.bytes
    parts = tuple(
        _keeping(part, forms, sweep) for part in sweep.steps.parts if isinstance(part, Share)
    )
    return replace(
        sweep,
        steps=replace(sweep.steps, parts=parts),
        kept=tuple(form.kept for form in forms.values()),
    )


def _form(
    tensor: str, kernel: Kernel, sweep: Sweep, rows: tuple[Index, ...], plan: Plan
) -> _Form | None:
    """How the tensor is kept, if the recurrence reads it a fixed number of steps away."""
    index = sweep.steps.index
    indices = next(e.indices for e in kernel.equations if e.target == tensor)
    names = [i.name for i in indices]
    step = names.index(index.name)
    away = [
        affine(read.index[step]) + Affine({Idx(index.name): -1}, 0)
        for share in sweep.steps.shares
        for read in share.grid.reads
        if read.tensor == tensor
    ]
    outside = any(name in names for name in sweep.fixed)
    if not away or outside or any(form.coefficients for form in away):
        return None
    rest = tuple(d for d, i in enumerate(indices) if d != step and i not in rows)
    shape = tuple(indices[d].size for d in rest)
    steps = 1 + max(abs(form.constant) for form in away)
    dtype = plan.system.tensors[tensor].dtype
    kept = Kept(f"{tensor} here", tensor, dtype, steps * sweep.rows * prod(shape))
    return _Form(kept, step, rest, shape, steps, sweep.rows)


def _keeping(share: Share, forms: Mapping[str, _Form], sweep: Sweep) -> Share:
    """The share that reads what is kept, and keeps what it stores."""
    grid = share.grid
    sizes = {**grid.sizes, ROW: sweep.rows}
    accesses = {read: _access(read, access, forms, sizes) for read, access in grid.accesses.items()}
    statements = list(grid.statements)
    for statement in grid.statements:
        form = forms.get(statement.target)
        if form is not None and statement.offset is not None:
            own = statement.element
            twin = Read(form.kept.name, own.index, None, own.dtype)
            statements.append(Statement(twin, own, form.offset(own.index, sizes)))
    kept = replace(grid, accesses=accesses, statements=tuple(statements), sizes=sizes)
    return replace(share, grid=kept)


def _access(
    read: Read, access: Access, forms: Mapping[str, _Form], sizes: Mapping[str, int]
) -> Access:
    form = forms.get(read.tensor)
    if form is None:
        return access
    return replace(access, tensor=form.kept.name, offset=form.offset(read.index, sizes))
