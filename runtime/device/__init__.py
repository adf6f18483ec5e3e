"""Devices: what turns a system of equations into something that runs.

In: a device's name. Out: a function from `System` to `Program`. A new device is one file and one
line in `DEVICES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from ...compiler.ir.equation import System
from .cpu.program import CpuProgram
from .reference import ReferenceProgram

if TYPE_CHECKING:
    from ..data import Split


class Program(Protocol):
    """A system that can be run again and again."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """Inputs, params, states and outputs by name; write into them before a run. `CHECK`, if
        it is there, is not 0 after a run in which an integer operation had no result."""

    def run(self) -> None:
        """Computes outputs once from inputs, params and states, and updates the latter two."""


@runtime_checkable
class Batched(Program, Protocol):
    """A program that may hold examples itself and then takes several runs at a time. For `nnc
    bench`: kernels of a run, why so many runs are taken at a time or none, what compiling took."""

    launches: int
    rule: str
    not_held: str
    compile_seconds: float

    @property
    def arena_bytes(self) -> int: ...

    def hold(self, split: Split) -> int:
        """Let the runs to come be on these examples; how many `run_many` takes at most, and 0 if
        they cannot be held."""

    def run_many(self, rows: np.ndarray, numbers: Sequence[int]) -> Mapping[str, np.ndarray]:
        """A run for every batch of `rows` (of the examples that are held, int64 [runs, batch]), as
        the step of its number: the scalar outputs of each, by name. The bits are those of `run`;
        `arrays` of outputs are not written."""


@runtime_checkable
class Prepared(Program, Protocol):
    """A program that keeps what follows from params and states alone from one run to the next."""

    def run_again(self) -> None:
        """As `run`, where params and states are those of the run before, which has ended."""


@runtime_checkable
class Twinned(Program, Protocol):
    """A program that may have twins: the same code with a memory of its own, for another caller at
    the same time."""

    @property
    def simultaneous(self) -> int:
        """How many of them the device runs at once."""

    def twin(self) -> Program: ...


@runtime_checkable
class Shortened(Program, Protocol):
    """A program that computes fewer examples in less time, if its system has a batch."""

    def shorten(self, examples: int) -> None:
        """Let the runs to come be of so many examples, the first ones of the system's batch."""


Device = Callable[[System], Program]


def _cuda() -> Device:
    """UserError E0720, at once, if there is no GPU to run on."""
    from .cuda.program import CudaProgram, ready  # what needs a GPU is imported for it alone

    ready()
    return CudaProgram


# name → given a number of threads, the device
DEVICES: dict[str, Callable[[int], Device]] = {
    "cpu": lambda threads: lambda system: CpuProgram(system, threads),
    "reference": lambda threads: ReferenceProgram,
    "cuda": lambda threads: _cuda(),
}
