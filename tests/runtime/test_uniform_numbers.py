"""Uniform numbers by machine code: the bits of Threefry in NumPy, whatever is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from small_programs import RICH

from nnc.compiler.ir.random import threefry_numpy
from nnc.runtime.device import DEVICES
from nnc.runtime.device.cpu import uniform_numbers
from nnc.runtime.device.cpu.uniform_numbers import BLOCK, UniformNumbers, random_for
from nnc.runtime.project import project_of_text, setup_of
from nnc.runtime.training.executor import Executor


@pytest.fixture(scope="module")
def by_code() -> UniformNumbers:
    return UniformNumbers()


def executor() -> Executor:
    setup = setup_of(project_of_text(RICH, "rich.nn", None, []), None)
    return Executor(setup, DEVICES["cpu"](1), seed=3)


def int32(*shape: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)


ASKED = {
    #              seed, step, stream, index
    "few":         (7, 0, 3, int32(5)),
    "a block":     (7, 0, 3, int32(BLOCK)),
    "blocks":      (7, 0, 3, int32(2, BLOCK // 2 + 1, 3)),
    "none":        (7, 0, 3, int32(0)),
    "scalar":      (7, 0, 3, np.int32(11)),
    "negative":    (-1, 2**31 - 1, -(2**31), int32(9, start=-4)),
    "one of each": (np.array([[7]]), 0, 3, int32(5)),
    "strided":     (7, 0, 3, int32(6, 5).T),
    "streams":     (7, 0, int32(2, 1), int32(5)),
    "wide":        (7, 0, 3, 2**32 + int32(5).astype(np.int64)),
}  # fmt: skip


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_the_bits_are_those_of_numpy(by_code, asked):
    operands = [np.asarray(part, getattr(part, "dtype", np.int32)) for part in asked]
    found, expected = by_code(*operands), threefry_numpy(*operands)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def test_what_was_drawn_stays_when_more_is_drawn(by_code):
    first = by_code(*ASKED["few"])
    kept = first.copy()
    by_code(8, 0, 3, int32(5))
    assert (first == kept).all()


def test_many_values_are_drawn_by_machine_code_with_the_same_bits(monkeypatch):
    drawn = executor()
    assert random_for(drawn._step[1]) is threefry_numpy
    expected = {name: array.tobytes() for name, array in drawn.values.items()}
    weights = drawn.first_weights(5)
    monkeypatch.setattr(uniform_numbers, "MANY", 0)
    calls = []
    draw = UniformNumbers.__call__
    monkeypatch.setattr(UniformNumbers, "__call__", lambda *given: calls.append(1) or draw(*given))
    same = executor()
    assert {name: array.tobytes() for name, array in same.values.items()} == expected
    assert calls
    # into the memory of a program, and from another seed
    trained = executor()
    trained.training(20)
    assert {name: array.tobytes() for name, array in trained.values.items()} == expected
    for name, array in same.first_weights(5).items():
        assert array.tobytes() == weights[name].tobytes()
