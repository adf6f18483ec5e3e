"""How a classifier does: which classes it takes for which, and how far its probabilities are right.

In: the true class of each example, and scores or probabilities of all classes. Out: a
`Classification`, whose parts are computed when they are asked for, and the same for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

BINS = 15  # of calibration, as in the library's `calibration_error`
WHOLE_MATRIX = 100  # classes of which JSON has the whole confusion matrix
MOST_CONFUSIONS = 20
LEAST = 1e-45  # of a probability in f32: the loss of 0 is that of this


@dataclass(frozen=True)
class ClassRow:
    """One class: precision TP/(TP + FP), recall TP/(TP + FN), F1 their harmonic mean, each 0 where
    it has no value, and the number of examples."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Bin:
    """The examples whose class was predicted with a probability in (low, high]: how many, the mean
    probability, and how many of them were right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Example:
    """An example by its number in the data; `loss` and `probability` (of the predicted class) are
    None where a model has no probabilities."""

    index: int
    true: str
    predicted: str
    loss: float | None
    probability: float | None


@dataclass(frozen=True, eq=False)
class Classification:
    """[n] each: numbers of the examples, true and predicted classes; the probability of the
    predicted class and -log p of the true one, or None without probabilities. `names` are those of
    all classes, `field` what was predicted."""

    field: str
    names: Sequence[str]
    indices: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray | None = None
    losses: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def right(self) -> np.ndarray:
        return self.labels == self.predicted

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @cached_property
    def pairs(self) -> Mapping[tuple[int, int], int]:
        """How many examples of a class (true, predicted) there are, for those that there are."""
        both = self.labels.astype(np.int64) * len(self.names) + self.predicted
        found, counts = np.unique(both, return_counts=True)
        places = zip(*np.divmod(found, len(self.names)), strict=True)
        return {(int(a), int(b)): int(n) for (a, b), n in zip(places, counts, strict=True)}

    def matrix(self) -> np.ndarray:
        """[classes, classes]: rows are true classes, columns predicted ones."""
        found = np.zeros((len(self.names), len(self.names)), np.int64)
        for place, count in self.pairs.items():
            found[place] = count
        return found

    @cached_property
    def confusions(self) -> list[tuple[str, str, int]]:
        """Which class was taken for which other one, and how often, most frequent first."""
        wrong = [(pair, n) for pair, n in self.pairs.items() if pair[0] != pair[1]]
        wrong.sort(key=lambda one: -one[1])
        return [(self.names[a], self.names[b], n) for (a, b), n in wrong]

    @cached_property
    def table(self) -> list[ClassRow]:
        """A row for each class that occurs or was predicted."""
        count = len(self.names)
        support = np.bincount(self.labels, minlength=count)
        guesses = np.bincount(self.predicted, minlength=count)
        hits = np.bincount(self.labels[self.right], minlength=count)
        return [
            ClassRow(
                self.names[k],
                ratio(hits[k], guesses[k]),
                ratio(hits[k], support[k]),
                ratio(2 * hits[k], guesses[k] + support[k]),
                int(support[k]),
            )
            for k in range(count)
            if support[k] or guesses[k]
        ]

    @property
    def means(self) -> list[ClassRow]:
        """The mean over classes, and over classes by their numbers of examples."""
        rows, n = self.table, len(self)
        figures = np.array([(row.precision, row.recall, row.f1) for row in rows])
        weights = np.array([row.support for row in rows]) / n
        macro, weighted = figures.mean(0), weights @ figures
        return [
            ClassRow(name, float(figure[0]), float(figure[1]), float(figure[2]), n)
            for name, figure in (("macro mean", macro), ("weighted mean", weighted))
        ]

    # --- probabilities ----------------------------------------------------------------------------

    @cached_property
    def bins(self) -> list[Bin]:
        """The bins of `BINS` equal ones that have examples; none without probabilities."""
        if self.confidence is None:
            return []
        at = np.clip(np.ceil(self.confidence * BINS).astype(int) - 1, 0, BINS - 1)
        found = []
        for k in np.unique(at):
            own = at == k
            mean, right = float(self.confidence[own].mean()), float(self.right[own].mean())
            found.append(Bin(k / BINS, (k + 1) / BINS, int(own.sum()), mean, right))
        return found

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error: the mean of |accuracy - confidence| over bins, by their
        numbers of examples (Guo et al. 2017)."""
        if self.confidence is None:
            return None
        return sum(b.count * abs(b.accuracy - b.confidence) for b in self.bins) / len(self)

    def worst(self, count: int) -> list[Example]:
        """The examples with the largest loss; without probabilities, the first wrong ones."""
        if self.losses is None:
            order = np.flatnonzero(~self.right)[:count]
        else:
            order = np.argsort(-self.losses, kind="stable")[:count]
        return [self._example(int(n)) for n in order]

    def _example(self, n: int) -> Example:
        return Example(
            int(self.indices[n]),
            self.names[self.labels[n]],
            self.names[self.predicted[n]],
            None if self.losses is None else float(self.losses[n]),
            None if self.confidence is None else float(self.confidence[n]),
        )

    def plain(self, worst: int) -> dict[str, Any]:
        """As JSON has it: of many classes only the most frequent confusions."""
        found: dict[str, Any] = {
            "kind": "classification",
            "field": self.field,
            "examples": len(self),
            "accuracy": self.accuracy,
            "classes": list(self.names),
        }
        if len(self.names) <= WHOLE_MATRIX:
            found["confusion_matrix"] = self.matrix().tolist()
        found["confusions"] = [
            {"true": true, "predicted": predicted, "count": count}
            for true, predicted, count in self.confusions[:MOST_CONFUSIONS]
        ]
        found["per_class"] = [{"class": r.name, **_figures(r)} for r in self.table]
        for row in self.means:
            found[row.name.replace(" ", "_")] = _figures(row)
        if self.confidence is not None:
            found["calibration"] = {
                "expected_calibration_error": self.calibration_error,
                "bins": [vars(one) for one in self.bins],
            }
        found["worst"] = [vars(one) for one in self.worst(worst)]
        return found


def of_scores(
    field: str, names: Sequence[str], indices: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> Classification:
    """From scores [n, classes] of which the largest is that of the predicted class."""
    return Classification(field, names, indices, labels, scores.argmax(-1))


def of_logits(
    field: str, names: Sequence[str], indices: np.ndarray, labels: np.ndarray, logits: np.ndarray
) -> Classification:
    """From logits [n, classes], unnormalised logarithms of probabilities."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    rows = np.arange(len(labels))
    predicted = logits.argmax(-1)
    return Classification(
        field, names, indices, labels, predicted, np.exp(logs[rows, predicted]), -logs[rows, labels]
    )


def of_probabilities(
    field: str, names: Sequence[str], indices: np.ndarray, labels: np.ndarray, chances: np.ndarray
) -> Classification:
    """From the probability [n] of class 1 of two."""
    chances = chances.astype(np.float64)
    both = np.stack([1 - chances, chances], -1)
    rows = np.arange(len(labels))
    predicted = (chances > 0.5).astype(np.int64)
    losses = -np.log(np.maximum(both[rows, labels], LEAST))
    return Classification(field, names, indices, labels, predicted, both[rows, predicted], losses)


def joined(parts: Sequence[Classification]) -> Classification:
    """The examples of all parts, which are of the same classes."""
    first = parts[0]
    confidence = [part.confidence for part in parts if part.confidence is not None]
    losses = [part.losses for part in parts if part.losses is not None]
    return Classification(
        first.field,
        first.names,
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.predicted for part in parts]),
        np.concatenate(confidence) if confidence else None,
        np.concatenate(losses) if losses else None,
    )


def ratio(part: int, whole: int) -> float:
    """The quotient; 0 where it has no value."""
    return float(part / whole) if whole else 0.0


def _figures(row: ClassRow) -> dict[str, float]:
    return {
        "precision": row.precision, "recall": row.recall, "f1": row.f1, "support": row.support,
    }  # fmt: skip
