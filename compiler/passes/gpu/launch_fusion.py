"""Launch fusion: consecutive functions that are independent of each other share one launch.

    launch f<<<8>>>(a); launch g<<<4>>>(b)   →   launch fg<<<12>>>(a, b):
                                                 block < 8 ? f(block, a) : g(block - 8, b)

A launch costs microseconds even when its blocks finish at once, and small maps, such as the
optimizer's update of every parameter, or the two directions of a bidirectional recurrence, leave
most multiprocessors idle. Applies to maps and to persistent loops (not a mixture) with equally many
threads in a block, outside of loops over launches, if none writes what another one touches. Blocks
that wait for each other must all be resident, so these are not more than multiprocessors. Cf.
horizontal fusion (Li et al. 2020, "Automatic Horizontal Fusion for GPU Kernels").
Tests: tests/backends/test_cuda.py, tests/backends/test_cuda_recurrences.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.dtypes import BYTES
from ...targets import COUNTER_STRIDE, GpuTarget
from ..kernels.kernel import Kernel
from .grid_ir import Grid
from .launch_ir import Function, Launch

Span = tuple[int, int, bool]  # first and last byte in the arena, and whether it is written


@dataclass(frozen=True)
class LaunchCall:
    """A function with its arguments, not yet part of a launch."""

    function: Function
    offsets: tuple[int, ...]
    spans: tuple[Span, ...]
    fixed: tuple[str, ...]
    kernels: tuple[Kernel, ...]


def may_join(call: LaunchCall, others: Sequence[LaunchCall], target: GpuTarget) -> bool:
    """Whether the call may be part of one launch with the others, which may be already."""
    members = (*others, call)
    # blocks that wait for blocks that have no processor yet would wait for ever
    waiting = sum(c.function.body.blocks for c in members if c.function.groups)
    return (
        sum(len(c.offsets) for c in members) <= target.max_arguments
        and waiting <= target.processors
        and all(_compatible(call, other) and _independent(call, other) for other in others)
    )


def _compatible(call: LaunchCall, other: LaunchCall) -> bool:
    one, two = call.function.body, other.function.body
    # a kernel has one size of block, so members must agree on it
    same = type(one) is type(two) and one.threads == two.threads
    # an index bound by a loop outside would need an argument of its own in each member
    return same and call.function.fusible and not call.fixed and not other.fixed


def _independent(call: LaunchCall, other: LaunchCall) -> bool:
    # reading the same memory is no conflict; two intervals intersect if each begins before the
    # other ends
    return not any(
        a < d and c < b and (written or also_written)
        for a, b, written in call.spans
        for c, d, also_written in other.spans
    )


def fused_launch(calls: Sequence[LaunchCall], kernel: str, counters: int) -> Launch:
    """One launch of the fused kernel of that name. The counters of groups of blocks lie from
    `counters` on in the arena."""
    offsets: list[int] = []
    groups = 0
    for call in calls:
        offsets += call.offsets
        # a counter for each group, far enough apart to lie in lines of their own
        if call.function.groups:
            offsets.append(counters + groups * COUNTER_STRIDE * BYTES["i32"])
            groups += call.function.groups
    bodies = [call.function.body for call in calls]
    return Launch(
        kernel,
        sum(body.blocks for body in bodies),
        # the second dimension is for split-K, which is never fused
        1,
        bodies[0].threads,
        # members run in different blocks, each of which gets what the largest one needs
        max(body.shared_bytes for body in bodies),
        tuple(offsets),
        calls[0].fixed,
        tuple(k for call in calls for k in call.kernels),
    )


def single_launch(call: LaunchCall) -> Launch:
    """The launch of a function that is a kernel by itself."""
    grid = call.function.body
    assert isinstance(grid, Grid)
    # one layer of blocks for each part of a split reduction
    layers = grid.part.size if grid.part else 1
    return Launch(
        call.function.name,
        grid.blocks,
        layers,
        grid.threads,
        grid.shared_bytes,
        call.offsets,
        call.fixed,
        call.kernels,
    )
