"""A few mutants of the fuzzer; `python tests/language/fuzz.py 100000` runs many."""

from __future__ import annotations

from math import inf

from . import fuzz


def test_mutants_compile_or_are_reported() -> None:
    texts = fuzz.seeds()
    for seed in range(300):
        # no limit in time: a busy machine is no defect
        assert not fuzz.defect(fuzz.mutant(seed, texts), inf), f"mutant {seed}"
