"""Arrays of bf16 tensors for the host: NumPy has no bf16, so these are of the values' own type.

In: the tensors of a program's memory that are handed in and out. Out: an array for each, which is
rounded into that memory before a run and read from it afterwards. Tensors in f16 need nothing of
the kind: they are arrays of float16. Tests: tests/backends/test_halves.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...compiler.ir.dtypes import NUMPY
from ...compiler.ir.equation import System, Tensor
from ...compiler.ir.functions import halves, of_halves


class Bf16Arrays:
    """The arrays by name."""

    def __init__(self, system: System, memory: Mapping[str, np.ndarray]):
        """`memory` has 16 bits for each element of these tensors."""
        self.arrays: dict[str, np.ndarray] = {
            name: np.zeros(bits.shape, NUMPY[system.tensors[name].dtype])
            for name, bits in memory.items()
        }
        pairs = {name: (array, memory[name]) for name, array in self.arrays.items()}
        kinds = {name: system.tensors[name].kind for name in pairs}
        self._inputs = [pair for name, pair in pairs.items() if kinds[name] == "input"]
        self._values = [pair for name, pair in pairs.items() if kinds[name] in ("param", "state")]
        changed = {*system.outputs, *system.updates}
        self._computed = [pair for name, pair in pairs.items() if name in changed]

    def store(self, inputs_alone: bool = False) -> None:
        """Round what is given into the program's memory: inputs, params and states, or the inputs
        alone, if nobody has written to the others."""
        for array, bits in self._inputs if inputs_alone else (*self._inputs, *self._values):
            bits[...] = halves(array, "bf16")

    def load(self) -> None:
        """Read what a run has computed."""
        for array, bits in self._computed:
            array[...] = of_halves(bits, "bf16")


def is_converted(tensor: Tensor) -> bool:
    """Whether the tensor has such an array."""
    return tensor.storage == "bf16"


def memory_array(raw: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The bytes of a tensor as an array that shares them: of float16, and of 16 bits where memory
    holds bf16."""
    kind = np.uint16 if is_converted(tensor) else tensor.array_type
    elements: np.ndarray = raw.view(kind)
    # Strides count elements, NumPy's count bytes; padded rows are longer than the shape says.
    steps = [stride * elements.itemsize for stride in tensor.strides]
    return np.ndarray(tensor.shape, elements.dtype, elements, strides=steps)


def readable(memory: np.ndarray, tensor: Tensor) -> np.ndarray:
    """What `memory_array` gave, as numbers: a copy of those that are stored as bf16."""
    return of_halves(memory, "bf16") if is_converted(tensor) else memory
