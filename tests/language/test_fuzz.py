"""A few mutants of the fuzzer; `python tests/language/fuzz.py 100000` runs many."""

from __future__ import annotations

from . import fuzz


def test_mutants_are_users_mistakes() -> None:
    texts = fuzz.seeds()
    for seed in range(300):
        assert not fuzz.mistreated(fuzz.mutant(seed, texts)), f"mutant {seed}"
