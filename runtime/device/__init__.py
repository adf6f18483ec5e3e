"""Devices: what turns a system of equations into something that runs.

In: a device's name. Out: a function from `System` to `Program`. A new device is one file and one
line in `DEVICES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from ...compiler.ir import System
from .cpu import CpuProgram
from .reference import ReferenceProgram


class Program(Protocol):
    """A system that can be run again and again."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """Inputs, params, states and outputs by name; write into them before a run."""

    def run(self) -> None:
        """Computes outputs once from inputs, params and states, and updates the latter two."""


Device = Callable[[System], Program]


def _cuda() -> Device:
    """UserError E0720, at once, if there is no GPU to run on."""
    from .gpu.cuda import CudaProgram, ready  # what needs a GPU is imported for it alone

    ready()
    return CudaProgram


def _shim(system: System) -> Program:
    from .gpu.shim import ShimProgram  # the GPU's part of the compiler, and g++

    return ShimProgram(system)


# name → given a number of threads, the device
DEVICES: dict[str, Callable[[int], Device]] = {
    "cpu":       lambda threads: lambda system: CpuProgram(system, threads),
    "reference": lambda threads: ReferenceProgram,
    "cuda":      lambda threads: _cuda(),
    "cuda-shim": lambda threads: _shim,
}  # fmt: skip
