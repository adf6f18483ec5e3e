"""Writing texts in C: a function that begins one, and a function for each token.

In: how `nnc generate` takes a model apart (`inference/generate.py`). Out: two programs of a
library, which share an arena. Tests: tests/runtime/test_export_texts.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...compiler.codegen.llvm.library import Entry, program_module
from ...compiler.codegen.llvm.thread_pool import ARENA_BYTES
from ...compiler.ir.equation import System
from ...compiler.ir.integer_ranges import input_limits
from ...compiler.machines import Machine
from ...compiler.passes.equations.incremental_decoding import POSITION
from ...compiler.passes.kernels.memory import aligned
from ...dsl.diagnostics.diagnostic import UserError
from ..inference.generate import decoding_step, is_bounded, longest_window
from ..project import with_batch
from ..training.executor import Executor
from ..training.weight_formats import WeightFormat
from .layout import Layout
from .programs import PURPOSES, Program, arena_bytes, compiled, indices_of, places_of

NEXT = len(PURPOSES) + 1  # the number of the program for a token


@dataclass(frozen=True)
class Writing:
    """How a model writes texts: what is the same for all tokens, and the step for one; 0 for a
    `window` without an end."""

    token: str
    first: System
    step: System
    window: int


def writing_of(
    executor: Executor, weights: Mapping[str, np.ndarray], format: WeightFormat | None = None
) -> Writing | None:
    """How the model writes, as `nnc generate` has it; None if it does not."""
    setup = with_batch(executor.setup, 1)
    try:
        system = longest_window(setup)
        roles, first, step = decoding_step(system, weights, executor.device)
    except UserError:
        return None
    if format is not None:
        first, step = format.system(first), format.system(step)
    return Writing(roles.source.name, first, step, roles.window if is_bounded(step) else 0)


def writing_programs(
    writing: Writing, layout: Layout, prefix: str, machine: Machine
) -> list[Program]:
    """`generate_first`, which begins a text, and `generate_next`, which reads a token and gives the
    logits of the one after it. The arena of the first follows that of the other in memory."""
    first, step = writing.first, writing.step
    code = compiled(step, layout.weights, machine)
    offsets, base = code.plan.offsets, aligned(arena_bytes(code, machine))
    before = compiled(first, layout.weights, machine) if first.equations else None
    total = base + (arena_bytes(before, machine) if before else ARENA_BYTES)
    memory = [t for t in step.of_kind("state") if t.name not in layout.weights]
    position = offsets[POSITION] if POSITION in step.tensors else None
    token, *given = sorted(
        (t for t in step.of_kind("input") if t.name != POSITION and t.name not in first.outputs),
        key=lambda t: t.name != writing.token,
    )
    handed = []
    inputs: Mapping[str, int] = {}
    if before is not None:
        inputs = {t.name: before.plan.offsets[t.name] for t in first.of_kind("input")}
        passed = {**{n: before.plan.offsets[n] for n in first.outputs}, **inputs}
        handed = [
            (place, offsets[name], aligned(step.tensors[name].bytes))
            for name, place in passed.items()
            if name in step.tensors
        ]
    limits = input_limits(first)
    begins = Entry(
        f"{prefix}_generate_first", total, layout.weights_bytes, position=position,
        base=base, begins=True, handed=tuple(handed),
        cleared=tuple((offsets[t.name], aligned(t.bytes)) for t in memory),
        has_step=before is not None,
        indices=tuple(indices_of(first, inputs, limits)) if before else (),
    )  # fmt: skip
    goes_on = Entry(
        f"{prefix}_generate_next", total, layout.weights_bytes, position=position,
        window=writing.window,
        indices=tuple(indices_of(step, offsets, {n: m for n, m in input_limits(step).items()
                                               if n != POSITION})),
        number=NEXT if code.plan.prologue else 0,
    )  # fmt: skip
    texts = (
        program_module(
            before.alone(machine.threads > 1) if before else "", first, prefix, begins, machine
        ),
        program_module(code.alone(machine.threads > 1), code.plan.system, prefix, goes_on, machine),
    )
    alone = [t for t in given if t.name not in inputs]
    first_places = places_of([t for t in first.of_kind("input")], inputs, True, base)
    first_places += places_of(alone, offsets, True)
    logits = [step.tensors[n] for n in step.outputs]
    next_places = [*places_of([token], offsets, True), *places_of(logits, offsets, False)]
    return [
        Program("generate_first", begins.name, texts[0], total, tuple(first_places)),
        Program("generate_next", goes_on.name, texts[1], total, tuple(next_places)),
    ]
