"""A few runs of the fuzzer that kills and damages; `python tests/fuzzers/kills.py` does many."""

from __future__ import annotations

import pytest

from . import kills


@pytest.mark.slow
def test_runs_that_are_killed_and_damaged_end_with_the_same_bits(tmp_path):
    found, told = kills.fuzz(6, 1000, tmp_path)
    assert not found
    assert told["hits"] >= 3
