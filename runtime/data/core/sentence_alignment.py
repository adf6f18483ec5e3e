"""Sentences of a text, and which of them translate which of another language.

In: a text and its translation. Out: pairs of a sentence or two each, in order, which together are
the whole texts. Gale & Church 1993, "A program for aligning sentences in bilingual corpora": the
alignment that is likeliest given the lengths in characters alone. Here no sentence is without a
translation, as both texts are whole paragraphs; and how much longer one language is than the other
is known of every paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import erfc, inf, log, sqrt

# An end of a sentence: marks, brackets and quotes that close, and a space; those of Chinese and
# Japanese are without one.
END = re.compile(r"[.!?…]+[)\]\"'”“’»]*\s+|[。！？]+[」』）]*\s*")
INITIAL = re.compile(r"(?:^|[\s(.])[^\W\d_]\.$")  # as in `J. Doe`, `e.g.` and `z. B.`
OPENING = "\"'„“‚‘«»([¿¡「『（"

# How many sentences a pair has on either side → how likely that is; their table 5, without those of
# none.
LIKELIHOOD = {(1, 1): 0.89, (1, 2): 0.0445, (2, 1): 0.0445, (2, 2): 0.011}
VARIANCE = 6.8  # of the length of a translation, in characters for each of the original
LEAST = 1e-12  # probability, so that it has a logarithm


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the spaces around them. A mark before a small letter or
    after a single one, as of an abbreviation, ends none."""
    found, start = [], 0
    for mark in END.finditer(text):
        following = text[mark.end() :].lstrip(OPENING)[:1]
        if following.islower() or INITIAL.search(text[: mark.end()].rstrip()):
            continue
        found.append(text[start : mark.end()].strip())
        start = mark.end()
    return [*found, *filter(None, [text[start:].strip()])]


def aligned(text: str, translation: str) -> list[tuple[str, str]]:
    """Pairs that translate each other; both texts as a whole if one has more than twice the
    sentences of the other."""
    first, second = sentences(text), sentences(translation)
    ratio = max(1, sum(map(len, second))) / max(1, sum(map(len, first)))
    # best[i, j]: the least cost of i sentences of the first and j of the second, and the last step
    best: dict[tuple[int, int], tuple[float, tuple[int, int]]] = {(0, 0): (0.0, (0, 0))}
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            for step, likelihood in LIKELIHOOD.items():
                before = i - step[0], j - step[1]
                if before not in best:
                    continue
                lengths = _length(first, before[0], i), _length(second, before[1], j)
                cost = best[before][0] - log(likelihood) + _cost(*lengths, ratio)
                if cost < best.get((i, j), (inf,))[0]:
                    best[i, j] = cost, step
    at = len(first), len(second)
    if at not in best or at == (0, 0):
        return [(text, translation)]
    pairs = []
    while at != (0, 0):
        step = best[at][1]
        begin = at[0] - step[0], at[1] - step[1]
        pairs.append((" ".join(first[begin[0] : at[0]]), " ".join(second[begin[1] : at[1]])))
        at = begin
    return pairs[::-1]


def _length(texts: Sequence[str], begin: int, end: int) -> int:
    return sum(map(len, texts[begin:end]))


def _cost(first: int, second: int, ratio: float) -> float:
    """-log of how likely two texts of these lengths, or of a larger difference, are a pair."""
    deviation = (second - first * ratio) / sqrt(max(1, first) * VARIANCE)
    return -log(max(LEAST, erfc(abs(deviation) / sqrt(2))))
