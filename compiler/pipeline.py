"""The list of passes, top to bottom. No logic.

In: a system of equations. Out: a plan that a backend lowers and runs. `nnc compile --emit STAGE`
prints what stands after a stage; with `verified`, the rules are checked after every pass, and
`check` may look at what each of them makes (`check_passes.py` does).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from .ir.equation import System
from .ir.verify import verify
from .passes.cpu.pack_bf16_pairs import pack_bf16_pairs, round_bf16_operands
from .passes.cpu.pad_rows import pad_rows
from .passes.cpu.time_major import time_major
from .passes.cpu.transpose_operands import transpose_operands
from .passes.equations.common_subexpressions import common_subexpressions
from .passes.equations.inline import inline
from .passes.equations.precompute_derivatives import precompute_derivatives
from .passes.equations.reciprocal import reciprocal
from .passes.equations.shrink_extents import shrink_extents
from .passes.equations.simplify import simplify, without_stops
from .passes.equations.softmax_gradient import softmax_gradient
from .passes.equations.sparse_pooling_gradient import sparse_pooling_gradient
from .passes.equations.split_reductions import split_reductions
from .passes.gpu.attention.stream_attention import stream_attention
from .passes.gpu.bf16_storage import bf16_storage
from .passes.kernels.fuse import fuse
from .passes.kernels.kernel import Plan
from .passes.kernels.memory import plan_memory
from .passes.kernels.skip_masked_terms import skip_masked_terms

PASSES = (
    ("remove-stops", without_stops),
    ("simplify", simplify),
    ("common-subexpressions", common_subexpressions),
    ("inline", inline),
    ("time-major", time_major),
    ("simplify-again", simplify),
    ("softmax-gradient", softmax_gradient),
    ("sparse-pooling-gradient", sparse_pooling_gradient),
    ("shrink-extents", shrink_extents),
    ("precompute-derivatives", precompute_derivatives),
    ("reciprocal", reciprocal),
    ("pack-bf16-pairs", pack_bf16_pairs),
    ("round-bf16-operands", round_bf16_operands),
    ("split-reductions", split_reductions),
    ("transpose-operands", transpose_operands),
    ("pad-rows", pad_rows),
)


Check = Callable[[System, str], object]  # a system and the pass that made it


def optimise(
    system: System,
    verified: bool = False,
    check: Check | None = None,
    without: Collection[str] = (),
) -> System:
    """The equations as they will be computed, `without` the passes of these names."""
    check = check or (verify if verified else None)
    for name, transform in PASSES:
        if name in without:
            continue
        system = transform(system)
        if check is not None:
            check(system, name)
    return system


def plan(
    system: System,
    verified: bool = False,
    check: Check | None = None,
    shared: bool = True,
    without: Collection[str] = (),
    streams: bool = False,
) -> Plan:
    """Equations to kernels with their places in memory. Without `shared` no two tensors share a
    place, so that all that was stored can be looked at after a run. With `streams`, for a GPU, the
    weights of attention are not stored but computed where they are read, and what tensor cores read
    again and again lies in memory as they take it."""
    system = optimise(system, verified, check, without)
    vectors = "transpose-operands" not in without  # which is done for them
    if not streams:
        fused = skip_masked_terms(system, fuse(system, vectors=vectors))
        return plan_memory(system, fused, shared, at_once=not vectors)
    found = stream_attention(system)
    made = bf16_storage(found.system, found.kernels)
    check = check or (verify if verified else None)
    if check is not None:
        check(found.system, "attention")
        check(made.system, "rounded")
    fused = fuse(made.system, found.kernels, {**found.notes, **made.notes}, vectors)
    return plan_memory(made.system, fused, shared, at_once=not vectors)
