"""A few programs of the fuzzer; `tests/fuzzers/second_gradients.py --programs 500` runs many."""

from __future__ import annotations

import pytest

from . import gradients, second_gradients


@pytest.mark.parametrize("seed", range(4))
def test_gradients_of_gradients_agree(seed) -> None:
    program = gradients.Maker(seed).make()
    assert list(second_gradients.faults(program) or ()) == []
