"""Beam search: the likeliest text as a whole, where each likeliest token need not lead to it.

In: a model that writes, a beginning and the mark at which a text ends. Out: the tokens of the best
text found. Sutskever et al. 2014; texts of different lengths are compared by log probability /
((5 + length)/6)^0.6, with the length penalty of Wu et al. 2016, arXiv:1609.08144.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .generate import Generator, Snapshot

PENALTY = 0.6  # 0 compares sums of log probabilities, which favour short texts, 1 their means


class Hypothesis(NamedTuple):
    """A text that is not finished: its tokens, the last one not read yet, the sum of their log
    probabilities, and the model's state before that token."""

    tokens: tuple[int, ...]
    logarithm: float
    before: Snapshot


@dataclass(frozen=True)
class Finished:
    """A finished text without its end mark."""

    tokens: tuple[int, ...]
    score: float


def beam_search(
    generator: Generator, start: int, count: int, width: int, end: int, known: int | None = None
) -> list[int]:
    """The tokens after `start` up to `end`, at most `count`: the best of the texts that end when
    `width` hypotheses are kept at every step. `known` as for `Generator.tokens`.

    The search is over when as many texts are finished as hypotheses are kept, or when none that
    goes on can become better."""
    live = [Hypothesis((start,), 0.0, generator.snapshot())]
    finished: list[Finished] = []
    for length in range(1, count + 1):
        choices: list[tuple[float, int, int]] = []
        states = []
        for number, one in enumerate(live):
            generator.restore(one.before)
            chances = log_softmax(generator.feed(one.tokens[-1])[:known])
            states.append(generator.snapshot())
            # Of equal chances the token with the smaller number, on every machine.
            for token in np.argsort(-chances, kind="stable")[: width + 1]:
                choices.append((one.logarithm + float(chances[token]), number, int(token)))
        # Of equal texts the one whose beginning was better.
        choices.sort(key=lambda choice: -choice[0])
        following = []
        for logarithm, number, token in choices:
            tokens = (*live[number].tokens, token)
            if token == end:
                finished.append(Finished(tokens[1:-1], penalized(logarithm, length)))
            else:
                following.append(Hypothesis(tokens, logarithm, states[number]))
            if len(following) == width:
                break
        live = following
        best = max((text.score for text in finished), default=-np.inf)
        if len(finished) >= width or best >= penalized(live[0].logarithm, count):
            break
    if not finished:
        return list(live[0].tokens[1:])
    return list(max(finished, key=lambda text: text.score).tokens)


def penalized(logarithm: float, length: int) -> float:
    """The log probability of a text of that many tokens, as texts of others are compared."""
    return logarithm / ((5 + length) / 6) ** PENALTY


def log_softmax(logits: Sequence[float] | np.ndarray) -> np.ndarray:
    """In double precision: sums over a large vocabulary decide which text is the best."""
    wide = np.asarray(logits, np.float64)
    wide = wide - wide.max()
    return wide - np.log(np.exp(wide).sum())
