"""How a model does that says yes or no to several labels of an example.

In: for each example which labels it has, and the probability of each. Out: a `LabelSets`, whose
parts are computed when they are asked for, and the same for JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .classification import LEAST, Example, ratio

NONE = "none"  # in place of the names of no labels


@dataclass(frozen=True)
class LabelRow:
    """One label: precision TP/(TP + FP), recall TP/(TP + FN), F1 their harmonic mean, each 0 where
    it has no value; the area under the ROC curve, None where all examples have the label or none;
    and how many have it."""

    name: str
    precision: float
    recall: float
    f1: float
    auc: float | None
    support: int

    def figures(self) -> dict[str, float | None]:
        return {
            "precision": self.precision, "recall": self.recall, "f1": self.f1, "auc": self.auc,
            "support": self.support,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class LabelSets:
    """[n] numbers of the examples; [n, labels] whether they have each label, and the probability
    that they do. `names` are those of the labels, `field` what was predicted."""

    field: str
    names: Sequence[str]
    indices: np.ndarray
    labels: np.ndarray
    chances: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def predicted(self) -> np.ndarray:
        """[n, labels]: which labels are likelier than not."""
        return self.chances > 0.5

    @cached_property
    def right(self) -> np.ndarray:
        """[n]: whether all labels of an example are right."""
        return (self.labels == self.predicted).all(1)

    @cached_property
    def losses(self) -> np.ndarray:
        """[n]: the mean of -log p of what is true of each label."""
        of_truth = np.where(self.labels, self.chances, 1 - self.chances)
        return -np.log(np.maximum(of_truth, LEAST)).mean(1)

    @cached_property
    def table(self) -> list[LabelRow]:
        """A row for each label."""
        return [
            _row(name, self.labels[:, k], self.predicted[:, k], self.chances[:, k])
            for k, name in enumerate(self.names)
        ]

    @cached_property
    def means(self) -> list[LabelRow]:
        """All decisions about all labels as those about one (micro), and the mean over labels
        (macro; of the areas over the labels that have one)."""
        rows = self.table
        every = [a.reshape(-1) for a in (self.labels, self.predicted, self.chances)]
        areas = [row.auc for row in rows if row.auc is not None]
        precision, recall, f1 = np.mean([(r.precision, r.recall, r.f1) for r in rows], axis=0)
        macro = LabelRow(
            "macro mean", float(precision), float(recall), float(f1),
            float(np.mean(areas)) if areas else None, int(self.labels.sum()),
        )  # fmt: skip
        return [_row("micro mean", *every), macro]

    def worst(self, count: int) -> list[Example]:
        """The examples with the largest loss."""
        order = np.argsort(-self.losses, kind="stable")[:count]
        return [
            Example(
                int(self.indices[n]),
                ", ".join(self._named(self.labels[n])) or NONE,
                ", ".join(self._named(self.predicted[n])) or NONE,
                float(self.losses[n]),
                None,
            )
            for n in order
        ]

    def _named(self, chosen: np.ndarray) -> list[str]:
        return [name for name, one in zip(self.names, chosen, strict=True) if one]

    def plain(self, worst: int) -> dict[str, Any]:
        """As JSON has it."""
        order = np.argsort(-self.losses, kind="stable")[:worst]
        return {
            "kind": "labels",
            "field": self.field,
            "examples": len(self),
            "exact_match": float(self.right.mean()),
            "hamming_loss": float((self.labels != self.predicted).mean()),
            "labels": list(self.names),
            "per_label": [{"label": row.name, **row.figures()} for row in self.table],
            **{row.name.replace(" ", "_"): row.figures() for row in self.means},
            "worst": [
                {
                    "index": int(self.indices[n]),
                    "true": self._named(self.labels[n]),
                    "predicted": self._named(self.predicted[n]),
                    "loss": float(self.losses[n]),
                }
                for n in order
            ],
        }


def joined_sets(parts: Sequence[LabelSets]) -> LabelSets:
    """The examples of all parts, which are of the same labels."""
    indices, labels, chances = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("indices", "labels", "chances")
    )
    return LabelSets(parts[0].field, parts[0].names, indices, labels, chances)


def _row(name: str, labels: np.ndarray, predicted: np.ndarray, chances: np.ndarray) -> LabelRow:
    hits, guesses, support = (int(a.sum()) for a in (labels & predicted, predicted, labels))
    return LabelRow(
        name, ratio(hits, guesses), ratio(hits, support), ratio(2 * hits, guesses + support),
        area(labels, chances), support,
    )  # fmt: skip


def area(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """The area under the ROC curve: the share of pairs of an example with the label and one without
    in which the first has the higher score, ties as halves (Hanley and McNeil 1982); None without
    pairs."""
    positive = int(labels.sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return None
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # equal scores share the mean of their ranks
    found = ranks[places][labels].sum() - positive * (positive + 1) / 2
    return float(found / (positive * negative))
