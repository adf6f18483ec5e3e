"""Labels that are texts, numbered in their order: by value if all are whole numbers, else
alphabetically."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from unicodedata import normalize

from ....compiler.ir.lazy_numpy import np


class LabelNumbers:
    """The labels of examples that come one after the other: their texts are in memory once."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._numbers = array("i")

    def add(self, label: str) -> None:
        """The next one."""
        self._numbers.append(self._known.setdefault(label, len(self._known)))

    def finish(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """The labels as indices (i32 [n]) into their names, which are in order."""
        # One label where Unicode has several spellings of the same text.
        spelt = [normalize("NFC", label) for label in self._known]
        distinct = set(spelt)
        # `2` before `10` if all labels are whole numbers, and alphabetical order otherwise. The
        # name breaks the tie of `1` and `01`.
        whole = all(name.isascii() and name.lstrip("-").isdigit() for name in distinct)
        names = sorted(distinct, key=(lambda name: (int(name), name)) if whole else None)
        numbers = {name: number for number, name in enumerate(names)}
        places = np.array([numbers[label] for label in spelt], np.int32)
        return places[np.frombuffer(self._numbers, np.int32)], tuple(names)


def number_labels(labels: Iterable[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as indices (i32 [n]) into their names, which are in order."""
    found = LabelNumbers()
    for label in labels:
        found.add(label)
    return found.finish()
