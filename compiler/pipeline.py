"""The list of passes, top to bottom. No logic.

In: a system of equations. Out: a plan that a backend lowers and runs. `nnc compile --emit STAGE`
prints what stands after a stage; with `verified`, the rules are checked after every pass, and
`check` may look at what each of them makes (`check_passes.py` does).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from .ir import System
from .kernels import Plan
from .passes.ahead import ahead
from .passes.apart import apart
from .passes.attention import attention
from .passes.demand import demand
from .passes.fuse import fuse
from .passes.inline import inline, without_stops
from .passes.layout import time_first, turn_weights
from .passes.masked import masked
from .passes.memory import memory
from .passes.pairs import pairs, round_once
from .passes.pick import pick
from .passes.reciprocal import reciprocal
from .passes.reuse import reuse
from .passes.rounded import rounded
from .passes.shares import shares
from .passes.simplify import simplify
from .passes.split import split
from .verify import verify

PASSES = (
    ("stops", without_stops),  #   stop(x) is x
    ("simplify", simplify),  #     copies, equal equations, unused ones
    ("reuse", reuse),  #           values that are stored already are read
    ("inline", inline),  #         cheap values are computed where they are read
    ("time first", time_first),  # a step of a recurrence lies together
    ("tidy", simplify),  #         what the passes above left over
    ("shares", shares),  #         gradients of a softmax are said through it
    ("pick", pick),  #             of windows that are zero but at one place, that place is read
    ("demand", demand),  #         what nobody reads is not computed
    ("ahead", ahead),  #           what a way back needs of exp or erf is computed beside them
    ("reciprocal", reciprocal),  # what does not change is divided by once
    ("pairs", pairs),  #           bf16 numbers two at a time
    ("round once", round_once),  # or each rounded where it is computed
    ("split", split),  #           long sums of few results in parts
    ("turn weights", turn_weights),  # what products read lies in their vectors
    ("apart", apart),  #           rows that sums run down do not meet in the cache
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
    vectors = "turn weights" not in without  # which is done for them
    if not streams:
        fused = masked(system, fuse(system, vectors=vectors))
        return memory(system, fused, shared, at_once=not vectors)
    found = attention(system)
    made = rounded(found.system, found.kernels)
    check = check or (verify if verified else None)
    if check is not None:
        check(found.system, "attention")
        check(made.system, "rounded")
    fused = fuse(made.system, found.kernels, {**found.notes, **made.notes}, vectors)
    return memory(made.system, fused, shared, at_once=not vectors)
