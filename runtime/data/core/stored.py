"""Examples that are not an array in memory: they are read when a batch takes them.

In: rows, in any order. Out: their values, in the type in which they are stored, the same bits as an
array in memory has. A `Stored` has of an array what a split of the data needs: shape, type, length
and indexing along the first axis, which reads.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any, TypeAlias, TypeVar

from ....compiler.ir.lazy_numpy import np
from .mapped_file import MappedFile, below, check_mapped

PIECE = 16  # rows that are read through a mapping until its pages are given back
BLOCK = 1 << 22  # bytes that are read at a time where all are


class Stored(ABC):
    """Examples by row, along the first axis of `shape`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    ahead = True  # whether to read takes long enough to do it beside a step, in a thread

    @cached_property
    def bounds(self) -> tuple[Any, Any]:
        """No number of the examples is less than the first, or greater than the second."""
        return _bounds(self)

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """The examples `rows` (integers [n], in range), a new array [n, …]. May be called from
        several threads. UserError for what is found to be wrong with them."""

    def held(self, most: int) -> Examples:
        """The same examples: in memory if they have `most` bytes at most."""
        if self.nbytes > most:
            return self
        found, step = np.empty(self.shape, self.dtype), rows_of(self, BLOCK)
        for start in range(0, len(self), step):
            found[start : start + step] = self[start : start + step]
        return found

    def span(self, begin: int, end: int) -> np.ndarray:
        """The examples from `begin` to `end`, in range."""
        return self.read(np.arange(begin, end))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """The bytes of all of them, in memory."""
        return self.size * self.itemsize

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read the examples of a slice, of an array of rows or of booleans; or one of them."""
        if isinstance(key, slice):
            begin, end, step = key.indices(len(self))
            return self.span(begin, end) if step == 1 else self.read(np.arange(begin, end, step))
        rows = np.asarray(key)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = np.where(rows < 0, rows + len(self), rows)
        return self.read(rows) if rows.ndim else self.read(rows[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self[:]
        return found if dtype is None else found.astype(dtype)


Examples: TypeAlias = "np.ndarray | Stored"
Key = TypeVar("Key", bound=Hashable)


def gather(array: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Copy rows of an array of any layout; all `rows` are in range."""
    if array.flags.c_contiguous and array.flags.aligned:
        np.take(array, rows, axis=0, out=out, mode="clip")  # "raise" would go through a copy
    else:
        out[...] = array[rows]  # np.take would first copy the whole array, mapped or not


class Mapped(Stored):
    """An array that is mapped from a file larger than memory. Its rows are read from the file and
    not by the mapping, whose pages would stay in memory, and as many around each as the system
    likes; but for a layout of columns, and on systems that cannot."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        file = MappedFile.of(array)
        assert file is not None
        self._file = file
        self._width = prod(array.shape[1:]) * array.itemsize  # bytes of a row
        self._begin, self._step = file.begin(array), array.strides[0]
        self._whole = _whole(array)
        plain = array[:1].flags.c_contiguous and self._step > 0 and self._width
        self._state = file.state() if plain and hasattr(os, "preadv") else None

    @cached_property
    def bounds(self) -> tuple[Any, Any]:
        # Windows that overlap are read once, and not as often as they do.
        return _bounds(self if self._whole is self.array else Mapped(self._whole))

    def read(self, rows: np.ndarray) -> np.ndarray:
        self._file.check()
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if self._state is None:
            for start in range(0, len(rows), PIECE):
                piece = rows[start : start + PIECE]
                gather(self.array, piece, found[start : start + PIECE])
                self._file.release()
        elif len(rows):
            self._read(rows, found.reshape(-1).view(np.uint8).data)
        return found

    def span(self, begin: int, end: int) -> np.ndarray:
        if self._state is None or self._step != self._width or begin >= end:
            return super().span(begin, end)
        self._file.check()
        found = np.empty((end - begin, *self.shape[1:]), self.dtype)
        with self._file.opened(self._state) as handle:
            place = self._begin + begin * self._step
            self._file.read(handle, found.reshape(-1).view(np.uint8).data, place)
        return found

    def _read(self, rows: np.ndarray, out: memoryview) -> None:
        # Rows that follow each other, in the file and in the batch, are read at once.
        ends = np.flatnonzero(np.diff(rows) != 1) + 1 if self._step == self._width else None
        firsts = range(len(rows)) if ends is None else [0, *ends.tolist()]
        with self._file.opened(self._state) as handle:
            for first, end in pairwise([*firsts, len(rows)]):
                place = self._begin + int(rows[first]) * self._step
                self._file.read(handle, out[first * self._width : end * self._width], place)


class Joined(Stored):
    """Several arrays of one type, one after the other: the files of one set."""

    def __init__(self, parts: Sequence[Examples]):
        first = parts[0]
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.dtype, self.shape = first.dtype, (int(self._ends[-1]), *first.shape[1:])
        self.ahead = any(isinstance(part, Stored) and part.ahead for part in parts)
        self._files = [MappedFile.of(part) for part in parts]

    def read(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")
        ends = np.searchsorted(rows[order], self._ends)
        for place, (begin, end) in enumerate(pairwise([0, *ends])):
            if begin == end:
                continue
            part, file, chosen = self._parts[place], self._files[place], order[begin:end]
            if file is not None:
                file.check()
            found[chosen] = part[rows[chosen] - (self._ends[place] - len(part))]
        return found


class Computed(Stored):
    """Examples that are decoded or computed whenever they are read: `compute(rows, out)` writes
    them."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        compute: Callable[[np.ndarray, np.ndarray], None],
    ):
        self.shape, self.dtype, self._compute = shape, dtype, compute

    def read(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        self._compute(rows, found)
        return found


def joined(parts: Sequence[Examples]) -> Examples:
    """Examples one after the other."""
    return parts[0] if len(parts) == 1 else Joined(parts)


class Selected(Stored):
    """Some rows of examples, in an order."""

    def __init__(self, examples: Stored, rows: np.ndarray):
        self._examples, self._rows = examples, rows
        self.dtype, self.shape = examples.dtype, (len(rows), *examples.shape[1:])
        self.ahead = examples.ahead

    @cached_property
    def bounds(self) -> tuple[Any, Any]:
        return self._examples.bounds

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self._examples.read(self._rows[rows])


def selected(examples: Examples, rows: np.ndarray) -> Examples:
    """Some rows; of an array a copy, so that the whole can be freed."""
    return Selected(examples, rows) if isinstance(examples, Stored) else examples[rows]


def bounded(arrays: Mapping[Key, Examples], most: int) -> dict[Key, Examples]:
    """The same arrays. Of those that are mapped from files, the largest are examples of which
    little stays in memory, so that the others have `most` bytes at most."""
    found: dict[Key, Examples] = dict(arrays)
    for name, array in sorted(arrays.items(), key=lambda item: item[1].nbytes):
        most -= array.nbytes
        if most < 0 and isinstance(array, np.ndarray) and MappedFile.of(array) is not None:
            found[name] = Mapped(array)
    return found


def fitting(arrays: Mapping[Key, Examples], most: int) -> dict[Key, Examples]:
    """The same arrays, those that are `Stored` in memory if all have `most` bytes at most."""
    if sum(array.nbytes for array in arrays.values()) > most:
        return dict(arrays)
    return {n: a.held(most) if isinstance(a, Stored) else a for n, a in arrays.items()}


def in_memory(arrays: Mapping[Key, Examples]) -> dict[Key, np.ndarray]:
    """The same arrays in memory."""
    return {name: np.asarray(array) for name, array in arrays.items()}


def rows_of(examples: Examples, most: int) -> int:
    """How many examples have so many bytes; one at least."""
    return max(1, most * len(examples) // max(1, examples.nbytes))


def bounds(examples: Examples) -> tuple[Any, Any]:
    """As of a `Stored`."""
    if isinstance(examples, Stored):
        return examples.bounds
    check_mapped(examples)
    return _bounds(_whole(examples))


def _bounds(examples: Examples) -> tuple[Any, Any]:
    ends = [(b.min(), b.max()) for b in blocks(examples, rows_of(examples, BLOCK)) if b.size]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0, 0)


def _whole(array: np.ndarray) -> np.ndarray:
    """The numbers that windows which overlap are views of; of others the array itself."""
    *_, last = [one for one in below(array) if isinstance(one, np.ndarray)]
    overlap = last.nbytes < array.nbytes and last.dtype == array.dtype
    return np.asarray(last) if overlap else array


def blocks(examples: Examples, rows: int) -> Iterator[np.ndarray]:
    """All examples in order, so many at a time, in memory."""
    for start in range(0, len(examples), rows):
        check_mapped(examples)
        yield examples[start : start + rows]
