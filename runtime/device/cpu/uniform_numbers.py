"""Uniform random numbers by machine code, for initial values: the bits of `compiler/ir/random.py`.

Twenty rounds of Threefry in NumPy take about 20 ns for a number, a tenth of that in the code that
dropout uses. It is compiled once for all programs and kept in the cache as theirs is. Threads over
the blocks in NumPy would not help: each of its operations on a block is as short as handing over
the interpreter. Tests: tests/runtime/test_uniform_numbers.py.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ....compiler.ir.build import call
from ....compiler.ir.equation import Equation, Index, System, Tensor
from ....compiler.ir.expr import Idx, Read
from ....compiler.ir.random import threefry_numpy
from ....compiler.reference.initial_values import Random
from .program import CpuProgram

BLOCK = 2**16  # numbers that are drawn at a time, as many as the evaluator asks for
MANY = 2**21  # elements from which on compiling for the first time, 45 ms, is gained back at once
KEYS = ("seed", "moment", "stream")  # `step` would be known to be positive


def random_for(drawn: System) -> Random:
    """How to draw the values of a system's outputs: by machine code where they are many."""
    count = sum(prod(drawn.tensors[name].shape) for name in drawn.outputs)
    return UniformNumbers() if count >= MANY else threefry_numpy


class UniformNumbers:
    """Threefry as a function of arrays, as `threefry_numpy`. One thread at a time may call it."""

    def __init__(self) -> None:
        self._program = CpuProgram(_system())

    def __call__(
        self, seed: np.ndarray, step: np.ndarray, stream: np.ndarray, index: np.ndarray
    ) -> np.ndarray:
        """Uniform f32 in [0, 1) of the operands' broadcast shape, for integers of 32 bits."""
        keys = [np.asarray(part) for part in (seed, step, stream)]
        places = np.asarray(index)
        if any(key.size != 1 for key in keys) or places.dtype != np.int32:
            return threefry_numpy(seed, step, stream, index)
        arrays = self._program.arrays
        for name, key in zip(KEYS, keys, strict=True):
            arrays[name][...] = key.reshape(())
        flat = places.reshape(-1)
        found = np.empty(flat.size, np.float32)
        for start in range(0, flat.size, BLOCK):
            part = flat[start : start + BLOCK]
            arrays["index"][: part.size] = part
            self._program.run()
            found[start : start + BLOCK] = arrays["uniform"][: part.size]
        return found.reshape(np.broadcast_shapes(*(key.shape for key in keys), places.shape))


def _system() -> System:
    """uniform[i] = random(seed, moment, stream, index[i])"""
    tensors = (
        *(Tensor(name, (), "i32", "input") for name in KEYS),
        Tensor("index", (BLOCK,), "i32", "input"),
        Tensor("uniform", (BLOCK,), "f32"),
    )
    keys = [Read(name, (), None, "i32") for name in KEYS]
    body = call("random", *keys, Read("index", (Idx("i"),), None, "i32"))
    equation = Equation("uniform", (Index("i", BLOCK),), body)
    return System("uniform", {t.name: t for t in tensors}, (equation,), ("uniform",))
