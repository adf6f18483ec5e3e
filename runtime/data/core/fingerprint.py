"""What tells one set of data from another: a hash for every field of every split.

In: a dataset. Out: hashes by name, as a run notes them, so that going on with other data is noticed
even if there are as many of them. It takes half a second for a gigabyte, and no more than that:
of a larger array, blocks are hashed that lie evenly over it.
Tests: tests/runtime/test_changed_data.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from .dataset import Dataset
from .mapped_file import below, check_mapped
from .stored import Examples, Mapped

MOST = 1 << 30  # bytes of an array that are hashed
BLOCK = 1 << 20  # bytes hashed at a time


def fingerprint(dataset: Dataset) -> dict[str, str]:
    """`train x` → a hash of the array, its type, shape and scale, and what its numbers stand for.
    UserError E0603 if a file of it has been cut short."""
    return {
        f"{split_name} {name}": _hash(
            array,
            split.scale.get(name),
            dataset.class_names.get(name),
            repr(dataset.vocabularies.get(name)),
        )
        for split_name, split in dataset.splits.items()
        for name, array in split.arrays.items()
    }


def changed(before: Mapping[str, object], now: Mapping[str, str]) -> list[str]:
    """The entries of two fingerprints that differ, or that only one of them has."""
    return [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]


def _hash(array: Examples, *about: object) -> str:
    check_mapped(array)
    digest = hashlib.sha256(json.dumps([array.dtype.str, array.shape, *about]).encode())
    # The hash is that of the numbers, whether they are in memory or not.
    view = array.array if isinstance(array, Mapped) else array
    stored = [one for one in below(view) if isinstance(one, np.ndarray)]
    # Windows of a text are views that overlap: their tokens are hashed once, and how they lie.
    if stored and stored[-1].nbytes < array.nbytes:
        digest.update(json.dumps([stored[-1].shape, view.strides]).encode())  # type: ignore
        array = Mapped(stored[-1]) if view is not array else stored[-1]
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    rows = max(1, BLOCK // row_bytes)
    blocks = -(-len(array) // rows)
    step = max(1, -(-array.nbytes // MOST))
    for block in range(0, blocks, step):
        digest.update(np.ascontiguousarray(array[block * rows : (block + 1) * rows]).data)
    return digest.hexdigest()
