"""Which examples train and which test, where the data itself does not say.

In: a number of examples or their labels, a fraction and a seed. Out: two sorted arrays of rows, the
same on every machine and with every version of NumPy. This file copies no examples.
"""

from __future__ import annotations

from ....compiler.ir.lazy_numpy import np


def split_size(count: int, share: float) -> int:
    """How many of `count` examples test: the fraction, rounded, at least one on either side."""
    if share == 0 or count < 2:
        return 0
    return min(max(1, round(count * share)), count - 1)


def training_size(count: int, share: float) -> int:
    """How many of `count` examples train."""
    return count - split_size(count, share)


def split_rows(
    count: int, share: float, seed: int, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows (int64) that train and the rows that test, both ascending.

    With `labels` ([count], integers) the split is stratified: every class contributes the same
    fraction, to within one example.
    """
    size = split_size(count, share)
    # RandomState and not default_rng: NumPy promises never to change its stream.
    order = np.random.RandomState(seed).permutation(count)
    if labels is not None:
        # Sorted by class, at random within each: stability keeps the order of the permutation.
        order = order[np.argsort(labels[order], kind="stable")]
    chosen = np.zeros(count, dtype=bool)
    if size:
        every = (np.arange(size) + 0.5) * (count / size)  # evenly spaced, so through all classes
        chosen[order[every.astype(np.int64)]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
