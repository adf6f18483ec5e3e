"""Columns of a table as numbers that a model reads: categories, missing values, normalisation.

In: the cells of the input columns as they were read, and the rows that train. Out: `Features`,
which a run keeps, and `x`. New tables go through the same `encode` with the numbers of training.

    number                        itself; normalized: (x - mean) / deviation, both of training
    category of k                 k numbers, of which that of the category is 1 (one-hot)
    ordered category of k         its place in the order, 0 to k - 1
    missing, where it is allowed  the mean of training, or the most frequent category there; with an
                                  indicator, a further number that is 1, and of categories another
                                  one

Which categories there are, and which columns have an indicator, follows from the whole table: every
row of it can then be read. Means, deviations and frequencies are those of the rows that train.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from unicodedata import normalize

import numpy as np

from ....dsl.diagnostics.diagnostic import did_you_mean
from ..core.label_numbers import number_labels
from ..core.stored import Computed, Examples, Stored, blocks
from .csv_cells import WrongCell, not_a_number

REFUSE, FILL, INDICATOR = "refuse", "fill", "indicator"
NUMBER, CATEGORY, ORDERED = "number", "category", "ordered"
MISSING_NAME = "missing"
COLUMNS_BYTES = 1 << 24  # of columns that are taken from a file at a time, at least
PASSES = 16  # through such a file, at most
BLOCK_BYTES = 1 << 22  # of rows that are read from it at a time


@dataclass(frozen=True, eq=False)
class RawColumns:
    """Input columns as they were read: f64 [rows, columns]. In a column of categories numbers stand
    for its `texts`; a missing cell is not a number. `places` are the columns in the table."""

    values: Examples
    texts: Mapping[int, tuple[str, ...]]
    places: tuple[int, ...]

    def columns(self) -> Iterator[np.ndarray]:
        """Each column, f64 [rows]. Of rows that are in a file as many columns at a time as have
        `COLUMNS_BYTES`, or more so that there are no more than `PASSES`."""
        count, width = self.values.shape
        if not isinstance(self.values, Stored):
            yield from self.values.T
            return
        step = max(1, COLUMNS_BYTES // (8 * count), -(-width // PASSES))
        for first in range(0, width, step):
            found = np.empty((min(step, width - first), count))
            start = 0
            for block in blocks(self.values, max(1, BLOCK_BYTES // (8 * width))):
                found[:, start : start + len(block)] = block[:, first : first + step].T
                start += len(block)
            yield from found


@dataclass(frozen=True)
class Features:
    """How columns become numbers; every entry has one item for each column. `names` of categories
    are empty for numbers; `mean` and `deviation` are those of numbers, 0 and 1 if they stay as they
    are; `filled` is what a missing cell becomes: a number, or the place of a category."""

    missing: str
    kinds: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    indicated: tuple[bool, ...]
    filled: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def check(self, count: int) -> None:
        """ValueError unless they are those of so many columns."""
        items = (self.kinds, self.names, self.indicated, self.filled, self.mean, self.deviation)
        if any(len(one) != count for one in items) or not all(self.deviation):
            raise ValueError(f"features of other than {count} columns")
        if not {*self.kinds} <= {NUMBER, CATEGORY, ORDERED}:
            raise ValueError("a kind of columns that there is not")
        if any((kind == NUMBER) == bool(n) for kind, n in zip(self.kinds, self.names, strict=True)):
            raise ValueError("categories of numbers, or none of words")

    @property
    def texts(self) -> frozenset[int]:
        """Which of the columns are words."""
        return frozenset(k for k, kind in enumerate(self.kinds) if kind != NUMBER)

    def titles(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The names of the numbers of an example: `age`, `age is missing`, `colour is red`."""
        found: list[str] = []
        for name, kind, categories, indicated in zip(
            columns, self.kinds, self.names, self.indicated, strict=True
        ):
            found += [f"{name} is {one}" for one in categories] if kind == CATEGORY else [name]
            found += [f"{name} is {MISSING_NAME}"] * indicated
        return tuple(found)

    def encode(self, raw: RawColumns) -> np.ndarray:
        """The numbers f64 [rows, numbers] of cells. WrongCell E0605 for a category that there is
        not, E0616 for a cell that may not be missing."""
        columns = enumerate(raw.columns())
        parts = [part for k, values in columns for part in self._encoded(raw, k, values)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def encoded(self, raw: RawColumns) -> Examples:
        """As `encode`; of rows that are in a file whenever they are read."""
        rows = raw.values
        if not isinstance(rows, Stored):
            return self.encode(raw)
        width = len(self.titles([""] * len(self.kinds)))

        def compute(chosen: np.ndarray, out: np.ndarray) -> None:
            if len(chosen):
                out[...] = self.encode(RawColumns(rows.read(chosen), raw.texts, raw.places))

        return Computed((len(rows), width), np.dtype(np.float64), compute)

    def _encoded(self, raw: RawColumns, k: int, values: np.ndarray) -> list[np.ndarray]:
        place = raw.places[k]
        if self.kinds[k] != NUMBER:
            values = _ranked(values, raw.texts[k], self.names[k], place)
        absent = np.isnan(values)
        if absent.any() and (self.missing == REFUSE or self._is_new(k)):
            raise self._refused(int(np.argmax(absent)), place)
        # With an indicator no category is made up: all of its numbers are 0.
        filled = np.where(absent, self.filled[k], values)
        marks = [absent[:, None].astype(np.float64)] * self.indicated[k]
        if self.kinds[k] != CATEGORY:
            return [((filled - self.mean[k]) / self.deviation[k])[:, None], *marks]
        hot = (filled[:, None] == np.arange(len(self.names[k]))).astype(np.float64)
        if self.indicated[k]:
            hot[absent] = 0
        return [hot, *marks]

    def _is_new(self, k: int) -> bool:
        return self.missing == INDICATOR and not self.indicated[k]

    def _refused(self, row: int, place: int) -> WrongCell:
        if self.missing == REFUSE:
            return not_a_number(row, place, "")
        return WrongCell(
            "E0616",
            row,
            place,
            "is empty, and no cell of this column was in the table that trained",
            "there is no indicator for it: fill the cell",
        )


def _ranked(
    values: np.ndarray, texts: Sequence[str], names: Sequence[str], place: int
) -> np.ndarray:
    """Categories by their places in `names`; WrongCell E0605 for one that is none of them."""
    known = {name: rank for rank, name in enumerate(names)}
    for number, text in enumerate(texts):
        if text not in known:
            row = int(np.argmax(values == number))
            shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
            message = f"`{text}` is none of the categories {shown}"
            raise WrongCell("E0605", row, place, message, did_you_mean(text, names))
    ranks = np.array([*(known[text] for text in texts), np.nan])
    # the last one, not a number, is that of missing cells
    return ranks[np.where(np.isnan(values), len(texts), values).astype(np.int64)]


@dataclass(frozen=True)
class Choice:
    """What a program says of the input columns: `categories` by column (empty names: those that
    occur), `ordered` ones, what is done with `missing` cells, and whether numbers are
    normalized."""

    categories: tuple[int, ...] = ()
    ordered: Mapping[int, tuple[str, ...]] | None = None
    missing: str = REFUSE
    normalize: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the numbers of the table are the numbers of the model."""
        return not (self.categories or self.ordered or self.normalize or self.missing != REFUSE)


def fit(raw: RawColumns, choice: Choice, training: np.ndarray) -> Features:
    """The features of the columns, by the rows that train. WrongCell E0616 for a column without a
    value there."""
    kinds, names, indicated, filled, means, deviations = [], [], [], [], [], []
    ordered = choice.ordered or {}
    for k, (place, values) in enumerate(zip(raw.places, raw.columns(), strict=True)):
        known = tuple(raw.texts.get(k, ()))
        kind = ORDERED if place in ordered else CATEGORY if place in choice.categories else NUMBER
        absent = np.isnan(values)
        if kind == CATEGORY:
            known = number_labels(known)[1] if known else ()
        known = ordered.get(place, known)
        present = values[training][~absent[training]]
        if absent.any() and not present.size:
            raise WrongCell("E0616", int(np.argmax(absent)), place, "there is no value to train on")
        if kind != NUMBER:
            ranks = _ranked(values, raw.texts[k], known, place)[training]
            counts = np.bincount(ranks[~np.isnan(ranks)].astype(np.int64), minlength=len(known))
        deviation = float(present.std()) if kind == NUMBER and choice.normalize else 1.0
        mean = float(present.mean()) if kind == NUMBER else 0.0
        kinds.append(kind)
        names.append(known if kind != NUMBER else ())
        indicated.append(bool(absent.any()) and choice.missing == INDICATOR)
        filled.append(mean if kind == NUMBER else float(counts.argmax()))
        means.append(mean if choice.normalize and kind == NUMBER else 0.0)
        # A number that never varies becomes 0.
        deviations.append(deviation or 1.0)
    return Features(
        choice.missing, tuple(kinds), tuple(names), tuple(indicated), tuple(filled), tuple(means),
        tuple(deviations),
    )  # fmt: skip


def category(cell: str) -> str:
    """A cell as a category: one where Unicode has several spellings."""
    return normalize("NFC", cell.strip())
