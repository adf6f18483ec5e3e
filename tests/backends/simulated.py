"""The check of the backend suite through the CUDA source and its stand-in for a GPU."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from gpu_simulator import SimulatedProgram

from nnc.compiler.ir.equation import System
from nnc.compiler.passes.kernels.barriers import place_barriers
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import GpuTarget

from . import test_cpu as suite
from .systems import values
from .unfused import schedule

SMALL = GpuTarget(processors=64, threads=64)  # as few threads as make layers and tiles of tests


def check(
    system: System, plan: Plan | None = None, target=None, seed: int = 0, given: dict | None = None
) -> SimulatedProgram:
    """Runs the system and compares every output. Where the suite has a narrow CPU for its second
    target, this has a small GPU."""
    inputs = {**values(system, seed), **(given or {})}
    prepared = place_barriers(plan) if plan else schedule(system)
    program = SimulatedProgram(prepared, target=SMALL if target else None)
    for name, value in inputs.items():
        program.arrays[name][...] = value
    program.run()
    expected = evaluate(system, inputs)
    for name in system.outputs:
        suite.same(program.arrays[name], expected[name], system.tensors[name].dtype, program.loops)
    return program


@contextmanager
def on_the_simulator():
    """The CPU's suite with this check in place of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "check", check)
        yield
