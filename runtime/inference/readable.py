"""Results as people read them: classes by name with probabilities, numbers by column, in rows.

In: the results of a model, their meanings, and where the examples come from. Out: a `ResultTable`
of columns, each of which says what it holds of an example for JSON, for a table of text, and on a
terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import isfinite
from typing import Any, Protocol

import numpy as np

from ...dsl.diagnostics.diagnostic import fail
from ..data import Vocabulary
from ..data.recorded import Recorded
from .given_files import Given
from .meanings import NUMBERS, OBJECTS, PROBABILITY, SCORES, SIGMOID, SOFTMAX, TOKENS, Meaning
from .objects import Objects, in_pictures
from .values import number_text, one_line, plain_value, softmax

MOST_SHOWN = 4  # numbers of an example on a terminal
THEN = "then"  # the heading there of the classes after the likeliest
SHOWN_CLASSES = 3  # there, unless more are asked for
NEXT_TOKENS = 10  # the likeliest of a vocabulary, unless more are asked for


class Column(Protocol):
    """What a result says of each example."""

    def __len__(self) -> int: ...

    def plain(self, row: int) -> dict[str, Any]:
        """As JSON has it."""
        ...

    def head(self) -> list[str]:
        """The names of its columns in a file of text."""
        ...

    def lines(self, row: int) -> list[list[str]]:
        """The cells of each of its lines there: one line, or one for each of several things."""
        ...

    def titles(self) -> list[str]:
        """The names of its columns on a terminal."""
        ...

    def shown(self, row: int) -> list[str]: ...


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of an example, likeliest first; `chances` [n, classes] are probabilities, or
    scores. `prefix` tells several such columns apart; `top` is how many are written, all if
    None."""

    title: str
    names: tuple[str, ...]
    chances: np.ndarray
    order: np.ndarray
    word: str = "probability"
    prefix: str = ""
    top: int | None = None

    def __len__(self) -> int:
        return len(self.chances)

    @property
    def _many(self) -> str:
        return "scores" if self.word == "score" else "probabilities"

    def _ranked(self, row: int) -> list[tuple[str, np.floating]]:
        return [(self.names[k], self.chances[row, k]) for k in self.order[row][: self.top]]

    def plain(self, row: int) -> dict[str, Any]:
        ranked = self._ranked(row)
        best, chance = ranked[0]
        return {
            self.title: best,
            self.prefix + self.word: plain_value(chance),
            self.prefix + self._many: {name: plain_value(value) for name, value in ranked},
        }

    def head(self) -> list[str]:
        first = [self.title, self.prefix + self.word]
        if self.top is None:
            return first + [f"{self.prefix}{self.word}_{name}" for name in self.names]
        return first + [
            f"{name}_{place}" for place in range(2, self._written + 1) for name in first
        ]

    @property
    def _written(self) -> int:
        return len(self.names) if self.top is None else min(self.top, len(self.names))

    def lines(self, row: int) -> list[list[str]]:
        ranked = self._ranked(row)
        if self.top is None:
            best, chance = ranked[0]
            return [[best, number_text(chance), *map(number_text, self.chances[row])]]
        return [[text for name, value in ranked for text in (name, number_text(value))]]

    def titles(self) -> list[str]:
        others = [THEN] if self._shown_classes > 1 else []
        return [self.title, self.word, *others]

    @property
    def _shown_classes(self) -> int:
        return min(self.top or SHOWN_CLASSES, len(self.names))

    def shown(self, row: int) -> list[str]:
        ranked = self._ranked(row)[: self._shown_classes]
        texts = [(one_line(name), self._text(value)) for name, value in ranked]
        others = ", ".join(f"{name} {text}" for name, text in texts[1:])
        return [*texts[0], *([others] if self._shown_classes > 1 else [])]

    def _text(self, value: np.floating) -> str:
        if self.word == "score" or not isfinite(value):
            return f"{value:.4g}"
        return f"{100 * value:.1f} %"


@dataclass(frozen=True, eq=False)
class Numbers:
    """The numbers of an example, [n, …], under the names of their columns if they have any."""

    name: str
    values: np.ndarray
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def _flat(self, row: int) -> np.ndarray:
        return np.asarray(self.values[row]).reshape(-1)

    def plain(self, row: int) -> dict[str, Any]:
        if self.columns:
            flat = zip(self.columns, self._flat(row), strict=True)
            return {name: plain_value(value) for name, value in flat}
        return {self.name: plain_value(self.values[row])}

    def head(self) -> list[str]:
        places = np.ndindex(self.values.shape[1:])
        return list(self.columns) or ["_".join([self.name, *map(str, p)]) for p in places]

    def lines(self, row: int) -> list[list[str]]:
        return [[number_text(value) for value in self._flat(row)]]

    def _fits(self) -> bool:
        return 0 < len(self.columns) <= MOST_SHOWN

    def titles(self) -> list[str]:
        return list(self.columns) if self._fits() else [self.name]

    def shown(self, row: int) -> list[str]:
        flat = self._flat(row)
        texts = [f"{value:.6g}" if flat.dtype.kind == "f" else str(value).lower() for value in flat]
        if self._fits():
            return texts
        if len(texts) <= MOST_SHOWN:
            return [" ".join(texts)]
        shape = f"{flat.dtype}{list(self.values.shape[1:])}"
        return [f"{shape} from {flat.min():.4g} to {flat.max():.4g}"]


@dataclass(frozen=True, eq=False)
class Texts:
    """A text for each example, of tokens that the model chose."""

    title: str
    values: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def plain(self, row: int) -> dict[str, Any]:
        return {self.title: self.values[row]}

    def head(self) -> list[str]:
        return [self.title]

    def lines(self, row: int) -> list[list[str]]:
        return [[self.values[row]]]

    def titles(self) -> list[str]:
        return [self.title]

    def shown(self, row: int) -> list[str]:
        return [one_line(self.values[row])]


@dataclass(frozen=True, eq=False)
class ResultTable:
    """The rows of a prediction. `names` and `texts` are empty where examples have none."""

    columns: tuple[Column, ...]
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def count(self, results: Mapping[str, np.ndarray], where: str) -> int:
        """The number of rows; UserError E0716 if the `results` differ in it. A number is that of
        one example."""
        counts = {len(column) for column in self.columns}
        if len(counts) > 1:
            raise fail(
                "E0716",
                f"{where} a line for each example, and the results differ in their number: "
                + listed(results),
                help="an .npz holds them: `--output results.npz`",
            )
        return next(iter(counts), 0)

    def plain(self, row: int) -> dict[str, Any]:
        """What JSON says of an example."""
        found: dict[str, Any] = {}
        for title, texts in (("input", self.names), ("text", self.texts)):
            found |= {title: texts[row]} if texts else {}
        for column in self.columns:
            found |= column.plain(row)
        return found

    def head(self) -> list[str]:
        """The names of the columns in a file of text."""
        first = ["input"] * bool(self.names) + ["text"] * bool(self.texts)
        return first + [name for column in self.columns for name in column.head()]

    def lines(self, row: int) -> list[list[str]]:
        """The lines of an example in a file of text: one, or one for each object in it."""
        first = [texts[row] for texts in (self.names, self.texts) if texts]
        every = product(*(column.lines(row) for column in self.columns))
        return [[*first, *(cell for cells in line for cell in cells)] for line in every]

    def titles(self) -> list[str]:
        """The names of the columns on a terminal."""
        first = "text" if self.texts else "input" if self.names else "#"
        return [first, *(title for column in self.columns for title in column.titles())]

    def shown(self, row: int) -> list[str]:
        first = (self.texts or self.names)[row] if self.texts or self.names else str(row)
        return [one_line(first), *(cell for column in self.columns for cell in column.shown(row))]


def table_of(
    results: Mapping[str, np.ndarray],
    meanings: Mapping[str, Meaning],
    recorded: Recorded | None,
    given: Given,
    top: int | None = None,
) -> ResultTable:
    """The rows of results. Without a meaning a result is numbers under its own name."""
    vocabularies = recorded.vocabularies if recorded else {}
    columns: list[Column] = []
    classes = {name for name, result in results.items() if _is_class(result, meanings.get(name))}
    for name, result in results.items():
        result, meaning = np.atleast_1d(result), meanings.get(name)
        if meaning is not None and meaning.kind == OBJECTS and not {*meaning.others} - {*results}:
            columns.append(_objects(result, results, meaning, recorded, given))
            continue
        vocabulary = vocabularies.get(meaning.field) if meaning else None
        if meaning is not None and name in classes:
            prefix = f"{_title(meaning, recorded)}_" if len(classes) > 1 else ""
            columns.append(_classes(result, meaning, recorded, prefix, top))
        elif meaning is not None and vocabulary is not None and _is_tokens(result, meaning):
            columns.append(_written(result, results, meaning, vocabulary, given.lengths, top))
        else:
            named = recorded.columns.get(meaning.field, ()) if recorded and meaning else ()
            numbers = meaning is not None and meaning.kind == NUMBERS
            fits = numbers and len(named) == int(np.prod(result.shape[1:]))
            columns.append(Numbers(name, result, tuple(named) if fits else ()))
    # What only says how much of another result counts says nothing more.
    told = {other for c in results if c in meanings for other in meanings[c].others}
    if any(isinstance(column, Objects) for column in columns):
        # nor do the grids of numbers in which objects were found
        pairs = zip(columns, results, strict=True)
        told |= {n for c, n in pairs if isinstance(c, Numbers) and c.values.ndim > 2}
    shown = [
        column
        for column, name in zip(columns, results, strict=True)
        if name not in told or len(results) == 1
    ]
    return ResultTable(tuple(shown), tuple(given.names), tuple(given.texts))


def _objects(
    boxes: np.ndarray,
    results: Mapping[str, np.ndarray],
    meaning: Meaning,
    recorded: Recorded | None,
    given: Given,
) -> Objects:
    scores, classes = (results[name] for name in meaning.others)
    reader = recorded.reader if recorded else None
    size = getattr(reader, "height", 0), getattr(reader, "width", 0)
    names = recorded.class_names.get(meaning.field, ()) if recorded else ()
    boxes = in_pictures(boxes, given.sizes, size)
    return Objects(_title(meaning, recorded), names, boxes, scores, classes)


def _is_tokens(result: np.ndarray, meaning: Meaning) -> bool:
    """Whether it is tokens [n, T], or logits of tokens [n, T, k]."""
    if meaning.kind == TOKENS:
        return result.ndim == 2 and result.dtype.kind in "iu"
    return meaning.kind == SOFTMAX and result.ndim == 3


def _written(
    result: np.ndarray,
    results: Mapping[str, np.ndarray],
    meaning: Meaning,
    vocabulary: Vocabulary,
    lengths: np.ndarray | None,
    top: int | None,
) -> Column:
    """The text of tokens, up to as many as count; of texts of certain `lengths`, what comes
    next."""
    if meaning.kind == TOKENS:
        counts = results.get("".join(meaning.others), np.full(len(result), result.shape[1]))
        rows = [row[: int(count)] for row, count in zip(result, counts, strict=True)]
        return Texts(meaning.field, tuple(map(vocabulary.decode, rows)))
    if lengths is None or result.shape[2] != len(vocabulary):
        best = np.minimum(result.argmax(axis=2), len(vocabulary) - 1)
        return Texts(meaning.field, tuple(map(vocabulary.decode, best)))
    last = softmax(result[np.arange(len(result)), lengths - 1].astype(np.float64))
    order = np.argsort(-last, axis=1, kind="stable")
    shown = last.astype(np.float32)
    return Classes("next", vocabulary.names, shown, order, top=top or NEXT_TOKENS)


def listed(results: Mapping[str, np.ndarray]) -> str:
    """The names and the shapes of results."""
    return ", ".join(f"`{name}` {list(result.shape)}" for name, result in results.items())


def _is_class(result: np.ndarray, meaning: Meaning | None) -> bool:
    if meaning is None or result.dtype.kind != "f":
        return False
    rank = {SOFTMAX: 2, SCORES: 2, SIGMOID: 1, PROBABILITY: 1}.get(meaning.kind, 0)
    return result.ndim == rank


def _title(meaning: Meaning, recorded: Recorded | None) -> str:
    if not meaning.field:
        return "class"
    return recorded.title_of(meaning.field) if recorded else meaning.field


def _classes(
    result: np.ndarray, meaning: Meaning, recorded: Recorded | None, prefix: str, top: int | None
) -> Classes:
    chances, word = result.astype(np.float64), "probability"
    if meaning.kind == SOFTMAX:
        chances = softmax(chances)
    elif meaning.kind == SCORES:
        # Scores that are never negative and add up to 1 are taken for what they look like.
        sums = chances.sum(axis=1)
        is_distribution = bool((chances >= 0).all() and (abs(sums - 1) < 1e-3).all())
        word = "probability" if is_distribution else "score"
    else:
        yes = 1 / (1 + np.exp(-chances)) if meaning.kind == SIGMOID else chances
        chances = np.stack([1 - yes, yes], axis=1)
    count = chances.shape[1]
    numbers = tuple(map(str, range(count)))
    names = recorded.names_of(meaning.field, count) if recorded else numbers
    # Of equal chances the first class comes first, as `argmax` has it.
    order = np.argsort(-chances, axis=1, kind="stable")
    shown = chances.astype(np.float32)
    return Classes(_title(meaning, recorded), names, shown, order, word, prefix, top)
