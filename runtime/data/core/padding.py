"""Sequences of different lengths in one array.

In: sequences, and a length or none. Out: an array with 0 behind every sequence, and the lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def longest(sequences: Sequence[np.ndarray]) -> int:
    """The length of the longest sequence, 1 at least."""
    return max(1, max(map(len, sequences), default=1))


def padded(sequences: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, length, *rest] with zeros after each sequence, cut at `length`; lengths i32 [n]."""
    first = sequences[0]
    whole = np.zeros((len(sequences), length, *first.shape[1:]), first.dtype)
    lengths = np.empty(len(sequences), np.int32)
    for row, sequence in enumerate(sequences):
        lengths[row] = min(len(sequence), length)
        whole[row, : lengths[row]] = sequence[:length]
    return whole, lengths
