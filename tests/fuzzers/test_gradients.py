"""A few programs of the fuzzer; `python tests/fuzzers/gradients.py --programs 5000` runs many."""

from __future__ import annotations

import pytest
from support import mostly_slow

from . import gradients


@pytest.mark.parametrize("first", mostly_slow(range(0, 72, 12), [0]))
def test_the_evaluator_has_the_right_gradient(first) -> None:
    for seed in range(first, first + 12):
        assert list(gradients.faults(gradients.Maker(seed).make()) or ()) == [], f"seed {seed}"


@pytest.mark.parametrize("seed", mostly_slow(range(1000, 1006), [1000, 1001]))
def test_every_pass_and_machine_code_keep_it(seed) -> None:
    assert list(gradients.faults(gradients.Maker(seed).make(), code=True) or ()) == []


@pytest.mark.parametrize("seed", [1010, 1012])
def test_so_does_the_simulator(seed) -> None:
    assert list(gradients.faults(gradients.Maker(seed).make(), gpu=True) or ()) == []


# Programs that the fuzzer found faults with: a zero by chance, a value that saturates, or an
# overflow, beside a pole; in the last three the interpreter was wrong about 0*x, 0/x and //.
@pytest.mark.parametrize("seed", [100678, 100858, 201328, 201927, 202911, 201538, 102349, 201937])
def test_what_was_wrong_once_is_right(seed) -> None:
    assert list(gradients.faults(gradients.Maker(seed).make(), code=True) or ()) == []
