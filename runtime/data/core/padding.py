"""Sequences of different lengths in one array, padded with zeros."""

from __future__ import annotations

from collections.abc import Sequence

from ....compiler.ir.lazy_numpy import np


def max_length(sequences: Sequence[np.ndarray]) -> int:
    # Never 0: a tensor with an axis of length 0 has no meaning in a model.
    """The length of the longest sequence, 1 at least."""
    return max(1, max(map(len, sequences), default=1))


def pad(sequences: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, length, *rest] with zeros after each sequence, cut at `length`; lengths i32 [n]."""
    first = sequences[0]
    # Id 0 is `<pad>`, and 0 is the mean of normalized features: zeros are right for both.
    array = np.zeros((len(sequences), length, *first.shape[1:]), first.dtype)
    lengths = np.empty(len(sequences), np.int32)
    for row, sequence in enumerate(sequences):
        lengths[row] = min(len(sequence), length)
        array[row, : lengths[row]] = sequence[:length]
    return array, lengths
