"""Sequences of different lengths, which lie one after the other, and the same padded with zeros."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ....compiler.ir.lazy_numpy import np
from .spool import Spool
from .stored import Examples, Stored, bounds

PIECE = 1 << 17  # places of values that are looked up at a time


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences, one after the other in `values` [all, …]; each ends where `ends` (int64 [n])
    says."""

    values: Examples
    ends: np.ndarray

    @staticmethod
    def of(sequences: Sequence[np.ndarray]) -> Sequences:
        """Sequences [length, …] of one type; at least one."""
        return Sequences(np.concatenate(sequences), np.cumsum([len(one) for one in sequences]))

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def begins(self) -> np.ndarray:
        """Where each begins, int64 [n]."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])[: len(self.ends)]

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [n]."""
        return self.ends - self.begins

    @property
    def longest(self) -> int:
        """The greatest length, 1 at least: no tensor of a model has an axis of length 0."""
        return max(1, int(self.lengths.max()))

    def __getitem__(self, number: int) -> np.ndarray:
        """The values of one of them."""
        return self.values[self.begins[number] : self.ends[number]]


class SequenceSpool(AbstractContextManager["SequenceSpool"]):
    """Sequences that come block by block, and are in a file once they are too many (`Spool`)."""

    def __init__(self, spool: Spool):
        self._spool = spool
        self._lengths: list[np.ndarray] = []

    def add(self, sequences: Sequence[np.ndarray]) -> None:
        """The next ones; UserError E0617 if they can be stored nowhere."""
        self._lengths.append(np.array([len(one) for one in sequences], np.int32))
        if sequences:
            self._spool.add(np.concatenate(sequences))

    def __exit__(self, *error: Any) -> None:
        self._spool.__exit__(*error)

    def sequences(self) -> Sequences:
        """All of them; at least one."""
        values = self._spool.values()
        assert values is not None
        return Sequences(values, np.cumsum(np.concatenate(self._lengths), dtype=np.int64))


class Padded(Stored):
    """The sequences at `rows`, [n, size, …], with zeros behind each, and cut at `size`. `before`
    and `after` are one value each that stands before or behind a sequence; `change` is what is done
    with values, which then have the shape `width`."""

    def __init__(
        self,
        sequences: Sequences,
        size: int,
        before: int | None = None,
        after: int | None = None,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
        width: tuple[int, ...] | None = None,
    ):
        values = sequences.values
        width = values.shape[1:] if width is None else width
        self._sequences, self._change = sequences, change
        self._before, self._after = before, after
        self.dtype, self.shape = values.dtype, (len(sequences), size, *width)
        self.ahead = isinstance(values, Stored)

    @property
    def lengths(self) -> np.ndarray:
        """How many values of each count, the marks among them: i32 [n]."""
        marks = (self._before is not None) + (self._after is not None)
        found: np.ndarray = np.minimum(self._sequences.lengths + marks, self.shape[1])
        return found.astype(np.int32)

    @cached_property
    def bounds(self) -> tuple[Any, Any]:
        ends = [*bounds(self._sequences.values), self._before or 0, self._after or 0]
        return min(ends), max(ends)

    def read(self, rows: np.ndarray) -> np.ndarray:
        found = np.zeros((len(rows), *self.shape[1:]), self.dtype)
        # A few rows at a time, as the places of their values take many times their memory.
        step = max(1, PIECE // self.shape[1])
        for start in range(0, len(rows), step):
            self._read(rows[start : start + step], found[start : start + step])
        return found

    def _read(self, rows: np.ndarray, found: np.ndarray) -> None:
        own, room = self._sequences, found[:, int(self._before is not None) :]
        lengths = np.minimum(own.lengths[rows], room.shape[1])
        places = np.arange(room.shape[1])
        counts = places < lengths[:, None]
        values = own.values[(own.begins[rows][:, None] + places)[counts]]
        values = self._change(values) if self._change else values
        room[counts] = values.reshape(-1, *self.shape[2:])
        if self._before is not None:
            found[:, 0] = self._before
        if self._after is not None:
            fits = lengths < room.shape[1]
            room[np.flatnonzero(fits), lengths[fits]] = self._after


class Packed(Stored):
    """Several of the sequences in one, [n, size]: those that `groups` numbers, with zeros behind
    the last. `before` or `after` is a value that stands before or behind each of them; with
    `between` it stands before all but the first."""

    def __init__(
        self,
        sequences: Sequences,
        groups: Sequence[Sequence[int]],
        size: int,
        before: int | None = None,
        after: int | None = None,
        between: bool = False,
    ):
        self._sequences, self._groups = sequences, groups
        self._before, self._after, self._between = before, after, between
        self.dtype, self.shape = sequences.values.dtype, (len(groups), size)
        self.ahead = isinstance(sequences.values, Stored)

    @property
    def lengths(self) -> np.ndarray:
        """How many values of each count, the marks among them: i32 [n]."""
        own = self._sequences.lengths + 1
        return np.array([own[[*group]].sum() - self._between for group in self._groups], np.int32)

    @cached_property
    def bounds(self) -> tuple[Any, Any]:
        ends = [*bounds(self._sequences.values), self._before or 0, self._after or 0]
        return min(ends), max(ends)

    def read(self, rows: np.ndarray) -> np.ndarray:
        found = np.zeros((len(rows), self.shape[1]), self.dtype)
        before = [] if self._before is None else [self._before]
        after = [] if self._after is None else [self._after]
        for place, row in zip(found, rows, strict=True):
            texts = [[*before, *self._sequences[k], *after] for k in self._groups[row]]
            values = [value for text in texts for value in text][self._between :]
            place[: len(values)] = values
        return found


def pack(sizes: np.ndarray, room: tuple[int, int]) -> list[list[int]]:
    """Which of the pairs of sequences, of lengths int64 [n, 2], share an example with this room:
    first-fit decreasing bin packing (Johnson 1973). There is a mark before or behind each sequence;
    before the first one of the first kind there is none."""
    wanted = sizes + 1
    free = np.empty_like(wanted)
    free[:] = room[0] + 1, room[1]
    groups: list[list[int]] = []
    for k in np.argsort(-wanted.sum(axis=1), kind="stable"):
        # The group behind all others is empty yet, and everything fits into it.
        at = int((free[: len(groups) + 1] >= wanted[k]).all(axis=1).argmax())
        if at == len(groups):
            groups.append([])
        groups[at].append(int(k))
        free[at] -= wanted[k]
    return groups


def pad(sequences: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, length, *rest] with zeros after each sequence, cut at `length`; lengths i32 [n]."""
    # Id 0 is `<pad>`, and 0 is the mean of normalized features: zeros are right for both.
    padded = Padded(Sequences.of(sequences), length)
    return padded[:], padded.lengths
