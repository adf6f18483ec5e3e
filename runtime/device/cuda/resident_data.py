"""Examples that the GPU holds, in the types of a model's inputs.

In: a split of the data and a system. Out: a `Column` for every input that comes from the data, one
copy on the GPU for all programs that read it; or `NotResident` with the reason. Which rows make up
a batch is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ....compiler.ir.dtypes import BYTES, NUMPY
from ....compiler.ir.equation import System, Tensor
from ....compiler.ir.functions import halves
from ....dsl.diagnostics.diagnostic import UserError
from ...data import Split
from ...data.core.stored import Examples, Stored
from ...memory import size_text
from ..data_inputs import fields_of

SHARE = 4  # at most one part in so many of the free memory is taken
PIECE = 1 << 22  # elements that are converted at a time
TO_DEVICE = 1  # cudaMemcpyKind


class NotResident(Exception):
    """The examples stay where they are; the message says why."""


@dataclass(frozen=True)
class Column:
    """A field's `count` elements on the GPU. An example has `width` of them and begins `step`
    elements after the one before it: less than `width` where windows of a text overlap."""

    name: str
    dtype: str
    memory: Any
    count: int
    step: int
    width: int

    @property
    def address(self) -> int:
        return self.memory.ptr


_columns: WeakKeyDictionary[Split, dict[tuple[str, str], Column]] = WeakKeyDictionary()


def columns(cupy: Any, split: Split, system: System) -> list[Column]:
    """The inputs' columns, copied to the GPU unless they are there. NotResident if they cannot
    be."""
    fields = fields_of(system)
    # the batch is the first dimension of every field, or rows mean nothing
    if len({t.shape[:1] or None for t in fields}) != 1 or not fields[0].shape:
        raise NotResident("the inputs have no first size in common")
    # columns are shared by programs: training and evaluation read the same ones
    kept = _columns.setdefault(split, {})
    missing = [t for t in fields if (t.name, t.storage_dtype) not in kept]
    # as the data lie in memory; types are converted piece by piece below
    flats = {t.name: flat(_in_memory(split.arrays[t.name])) for t in missing}
    needed = sum(flats[t.name][0].size * BYTES[t.storage_dtype] for t in missing)
    # asked before anything is allocated: nothing is half copied
    free, _ = cupy.cuda.runtime.memGetInfo()
    if needed * SHARE > free:
        raise NotResident(
            f"the examples take {size_text(needed)}, more than a quarter of the "
            f"{size_text(free)} that are free"
        )
    for tensor in missing:
        kept[tensor.name, tensor.storage_dtype] = _copied(cupy, split, tensor, *flats[tensor.name])
    return [kept[t.name, t.storage_dtype] for t in fields]


def _in_memory(array: Examples) -> np.ndarray:
    if isinstance(array, Stored):
        raise NotResident("the examples are not in memory")
    return array


def flat(array: np.ndarray) -> tuple[np.ndarray, int]:
    """The elements as they lie in memory, and how many lie from an example to the next. Examples
    that overlap are not unfolded; those with gaps between them or within are copied."""
    width, item = prod(array.shape[1:]), array.itemsize
    # windows of a text: [windows, width] with a step of 1 lies in one row of characters
    step, rest = divmod(array.strides[0], item)
    # each example contiguous, and the next one begins inside it or right after it
    if array[:1].flags.c_contiguous and 0 < step <= width and not rest:
        # from the first element to the end of the last example
        count = (len(array) - 1) * step + width
        return np.lib.stride_tricks.as_strided(array, (count,), (item,), writeable=False), step
    # otherwise unfolded, once, on the CPU
    return np.ascontiguousarray(array).reshape(-1), width


def _copied(cupy: Any, split: Split, tensor: Tensor, elements: np.ndarray, step: int) -> Column:
    dtype, storage = np.dtype(NUMPY[tensor.dtype]), tensor.storage
    memory = cupy.cuda.Memory(max(elements.size * BYTES[tensor.storage_dtype], 1))
    # scaling belongs to the split: bytes of an image become reals from 0 to 1
    stored = Split({tensor.name: elements}, split.scale)
    # in pieces: in the new type the whole may be several times as large as the data
    for start in range(0, elements.size, PIECE):
        piece = np.empty(min(PIECE, elements.size - start), dtype)
        try:
            stored.take(tensor.name, np.arange(start, start + len(piece)), piece)
        except UserError as error:  # a number that does not fit, and that a batch may never read
            raise NotResident(error.diagnostics[0].message) from None
        piece = halves(piece, storage) if storage else piece
        cupy.cuda.runtime.memcpy(
            memory.ptr + start * piece.itemsize, piece.ctypes.data, piece.nbytes, TO_DEVICE
        )
    return Column(
        tensor.name, tensor.storage_dtype, memory, elements.size, step, prod(tensor.shape[1:])
    )
