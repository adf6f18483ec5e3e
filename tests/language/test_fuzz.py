"""A few mutants of the fuzzer; `python tests/language/fuzz.py 100000` runs many."""

from __future__ import annotations

from . import fuzz


def test_mutants_compile_or_are_reported() -> None:
    texts = fuzz.seeds()
    for seed in range(300):
        assert not fuzz.defect(fuzz.mutant(seed, texts)), f"mutant {seed}"
