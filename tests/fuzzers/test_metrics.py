"""A few programs of the fuzzer; `python tests/fuzzers/metrics.py --programs 5000` runs many."""

from __future__ import annotations

import pytest
from support import one_in

from . import metrics


@pytest.mark.parametrize("seed", one_in(4, range(16)))
def test_the_evaluator_measures_sets(seed, tmp_path) -> None:
    assert list(metrics.faults(metrics.program(seed), tmp_path, "reference")) == []


@pytest.mark.parametrize("seed", one_in(2, range(100, 102)))
def test_machine_code_measures_sets(seed, tmp_path) -> None:
    assert list(metrics.faults(metrics.program(seed), tmp_path, "cpu")) == []
