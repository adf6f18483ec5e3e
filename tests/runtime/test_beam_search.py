"""Beam search: with room for all texts the best of all, with room for one the greedy one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nnc.runtime.inference.beam_search import beam_search, log_softmax, penalized
from nnc.runtime.inference.generate import Sampling, Snapshot

START, END, LONGEST = 0, 1, 4


class Chain:
    """Writes tokens whose logits depend on the two before; it has the interface of a Generator."""

    def __init__(self, seed: int, tokens: int = 4):
        self.logits = np.random.default_rng(seed).normal(0, 2, (tokens, tokens, tokens))
        self.memory = [np.zeros(1, np.int64)]
        self.past: list[int] = []

    def feed(self, token: int) -> np.ndarray:
        found = self.logits[self.memory[0][0], token]
        self.memory[0][0] = token
        self.past.append(token)
        return found

    def snapshot(self) -> Snapshot:
        return Snapshot((self.memory[0].copy(),), tuple(self.past), len(self.past))

    def restore(self, state: Snapshot) -> None:
        self.memory[0][...] = state.memory[0]
        self.past[:] = state.past

    def score(self, text: tuple[int, ...]) -> float:
        before = total = 0.0
        token = START
        for following in (*text, END):
            total += log_softmax(self.logits[int(before), token])[following]
            before, token = token, following
        return penalized(total, len(text) + 1)


def every_text(tokens: int = 4):
    inner = [t for t in range(tokens) if t != END]
    return [text for n in range(LONGEST) for text in product(inner, repeat=n)]


@pytest.mark.parametrize("seed", range(8))
def test_with_room_for_all_texts_the_best_is_found(seed) -> None:
    chain = Chain(seed)
    best = max(every_text(), key=chain.score)
    assert tuple(beam_search(chain, START, LONGEST, 400, END)) == best


@pytest.mark.parametrize("seed", range(8))
def test_one_hypothesis_is_greedy_and_more_are_better(seed) -> None:
    chain, greedy, token = Chain(seed), [], START
    for _ in range(LONGEST):
        token = Sampling(0.0).draw(chain.feed(token), np.random.default_rng(0))
        if token == END:
            break
        greedy.append(token)
    found = beam_search(Chain(seed), START, LONGEST, 1, END)
    # One hypothesis goes on beside the end that is likeliest, in case that a longer text is better.
    assert found == greedy or chain.score(tuple(found)) > chain.score(tuple(greedy))


def test_a_text_without_an_end_is_as_long_as_allowed() -> None:
    chain = Chain(0)
    chain.logits[..., END] = -np.inf
    assert len(beam_search(chain, START, LONGEST, 3, END)) == LONGEST


def test_numbers_beyond_the_vocabulary_are_not_written() -> None:
    chain = Chain(1)
    chain.logits[..., 3] = 100
    assert 3 not in beam_search(chain, START, LONGEST, 3, END, known=3)
