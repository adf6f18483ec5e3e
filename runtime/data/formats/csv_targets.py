"""The target columns of a table: labels or numbers, by all the cells of a column.

In: the texts of their cells, numbered as they occur. Out: `y`, and the names of word labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from unicodedata import normalize

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from .csv_cells import EXACT, WrongCell, inexact, is_missing, is_number, not_a_number

MAX_LABEL = (1 << 31) - 1
MANY = 1 << 16
MAX_CLASSES = 256  # whole numbers below this are labels unless `labels = false`


@dataclass
class Target:
    """The cells of a target column read so far: their texts, numbered in the order in which they
    occur. Of more than `MANY` texts that are all numbers, which take more memory than all else,
    only the numbers are kept (`are_numbers`), unless it `keeps_texts`: `blocks` are f64 then.
    Of one that is `exact`, whole numbers are refused that f64 does not hold."""

    column: int
    exact: bool = False
    keeps_texts: bool = False
    are_numbers: bool = False
    blocks: list[np.ndarray] = field(default_factory=list)
    numbering: dict[str, int] = field(default_factory=dict)

    def add(self, texts: Iterator[str], count: int) -> None:
        """The next `count` cells. NeedsTexts if one is no number where all were."""
        if self.are_numbers:
            cells = list(texts)
            if not all(map(is_number, cells)):
                raise NeedsTexts
            numbers = np.fromiter(map(float, cells), np.float64, count)
            if self.exact and np.abs(numbers).max() >= EXACT:
                raise NeedsTexts
            self.blocks.append(numbers)
            return
        places = (self.numbering.setdefault(text, len(self.numbering)) for text in texts)
        self.blocks.append(np.fromiter(places, np.int32, count))
        if len(self.numbering) > MANY and not self.keeps_texts:
            self.keeps_texts = not all(map(is_number, self.numbering))
            if not self.keeps_texts:
                numbers = np.array([float(text) for text in self.numbering])
                if self.exact and np.abs(numbers).max() >= EXACT:
                    self.keeps_texts = True
                    return
                self.are_numbers, self.numbering = True, {}
                self.blocks = [numbers[block] for block in self.blocks]


class NeedsTexts(Exception):
    """What a target column is needs all its texts: it has to be read once more."""


@dataclass(frozen=True)
class Values:
    """`y` as the schema says, None without targets; the number of classes, and names of words."""

    y: np.ndarray | None
    classes: int | None
    class_names: tuple[str, ...]


def values_of(targets: Sequence[Target], labels: bool | None) -> Values:
    """What the target columns hold: labels if `labels`, or if they look like labels where it is
    None. WrongCell, or UserError E0615 for labels of several columns."""
    if not targets:
        return Values(None, None, ())
    if len(targets) > 1:
        if labels:
            raise fail("E0615", "`labels = true` needs a single target column")
        # Several targets form one vector of numbers per example: y is [rows, targets].
        return Values(np.stack([_numbers(each) for each in targets], axis=1), None, ())
    (target,) = targets
    if _is_words(target, labels):
        y, names = _words(target)
        return Values(y, len(names), names)
    y = _numbers(target)
    # All digits: then no sign, point or exponent, so these may be class labels.
    whole = all(text.isascii() and text.isdigit() for text in target.numbering)
    whole &= not target.are_numbers  # there are more of them than classes
    if labels or (labels is None and whole and y.max() < MAX_CLASSES):
        bad = np.flatnonzero((y < 0) | (y != np.floor(y)) | (y >= MAX_LABEL))
        if bad.size:
            message = f"{y[bad[0]]:.17g} is not a class label: a whole number from 0"
            raise WrongCell("E0606", int(bad[0]), target.column, message)
        return Values(y.astype(np.int32), int(y.max()) + 1, ())
    return Values(y, None, ())


def _is_words(target: Target, labels: bool | None) -> bool:
    """Whether a column is one of words: of all its cells, so that no order of rows matters."""
    # `NA` and the like are words among words; a column of nothing else is one of missing values.
    if target.are_numbers:
        return False
    any_words = any(not is_number(t) and not is_missing(t) for t in target.numbering)
    if labels is not None or not any_words:
        return bool(labels) and any_words
    cells = np.bincount(np.concatenate(target.blocks))
    in_words = sum(int(cells[n]) for t, n in target.numbering.items() if t and not is_number(t))
    in_numbers = sum(int(cells[n]) for t, n in target.numbering.items() if is_number(t))
    return in_words > in_numbers


def _words(target: Target) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels i32 [rows] and their names, in alphabetical order; E0616 for an empty cell."""
    cells = np.concatenate(target.blocks)
    if "" in target.numbering:
        row = int(np.argmax(cells == target.numbering[""]))
        raise not_a_number(row, target.column, "", True)
    # One label where Unicode has several spellings of the same text.
    spelt = {text: normalize("NFC", text) for text in target.numbering}
    # Numbered by first occurrence → numbered in alphabetical order, so that a label's number
    # does not depend on the order of the rows.
    names = tuple(sorted(set(spelt.values())))
    rank = {name: place for place, name in enumerate(names)}
    places = np.array([rank[spelt[text]] for text in target.numbering], np.int32)
    return places[cells], names


def _numbers(target: Target) -> np.ndarray:
    """The numbers (f64 [rows]) of a target; E0605 or E0616 for the first cell that is none."""
    if target.are_numbers:
        return np.concatenate(target.blocks)
    cells, texts = np.concatenate(target.blocks), list(target.numbering)
    wrong = [place for place, text in enumerate(texts) if not is_number(text)]
    if wrong:
        # A word before a missing value, wherever they stand: then it may be no column of numbers.
        # Texts are numbered by first occurrence, so the first that is wrong is in the first row.
        worst = next((place for place in wrong if not is_missing(texts[place])), wrong[0])
        row = int(np.argmax(cells == worst))
        raise not_a_number(row, target.column, texts[worst], True)
    values = [float(text) for text in texts]
    if target.exact:
        for place, (text, value) in enumerate(zip(texts, values, strict=True)):
            if abs(value) >= EXACT and text.lstrip("-").isdigit() and int(text) != value:
                raise inexact(int(np.argmax(cells == place)), target.column, int(text))
    return np.array(values)[cells]


def times_of(target: Target) -> np.ndarray:
    """The times (f64 [rows]) in a column: numbers, or dates as ISO 8601 writes them, in seconds.
    WrongCell E0605 or E0616 for the first cell that is neither."""
    if target.are_numbers:
        return np.concatenate(target.blocks)
    cells, texts = np.concatenate(target.blocks), list(target.numbering)
    if all(map(is_number, texts)):
        return np.array([float(text) for text in texts])[cells]
    found = np.empty(len(texts))
    for number, text in enumerate(texts):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            row = int(np.argmax(cells == number))
            if is_missing(text):
                raise not_a_number(row, target.column, text) from None
            message, hint = f"`{text[:60]}` is no time", "write 2024-01-31, or a number"
            raise WrongCell("E0605", row, target.column, message, hint) from None
        # Without a zone of their own all are taken for one.
        zone = moment.tzinfo or UTC
        found[number] = moment.replace(tzinfo=zone).timestamp()
    return found[cells]
