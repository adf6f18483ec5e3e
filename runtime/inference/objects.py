"""Objects that a model finds in images, as people read them: each with its class, score and box.

In: results that stand for objects (`meanings.py`), a table of them for each image, and the sizes of
the pictures. Out: a column of objects, in pixels of the pictures themselves, the surest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .values import number_text, one_line, plain_value

SIDES = ("left", "top", "right", "bottom")
MOST_SHOWN = 4  # objects of an image on a terminal


@dataclass(frozen=True, eq=False)
class Objects:
    """Tables of objects: `boxes` [n, m, 4], `scores` and `classes` [n, m]. A score of 0 or less is
    no object. `title` is the field of the classes."""

    title: str
    names: tuple[str, ...]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def _found(self, row: int) -> list[tuple[str, np.floating, np.ndarray]]:
        order = np.argsort(-self.scores[row], kind="stable")
        return [
            (self._name(int(self.classes[row, k])), self.scores[row, k], self.boxes[row, k])
            for k in order
            if self.scores[row, k] > 0
        ]

    def _name(self, number: int) -> str:
        return self.names[number] if 0 <= number < len(self.names) else str(number)

    def plain(self, row: int) -> dict[str, Any]:
        found = [
            {self.title: name, "score": plain_value(score), "box": plain_value(box)}
            for name, score, box in self._found(row)
        ]
        return {"objects": found}

    def head(self) -> list[str]:
        return [self.title, "score", *SIDES]

    def lines(self, row: int) -> list[list[str]]:
        return [
            [name, number_text(score), *map(number_text, box)]
            for name, score, box in self._found(row)
        ]

    def titles(self) -> list[str]:
        return ["objects"]

    def shown(self, row: int) -> list[str]:
        found = self._found(row)
        texts = [
            f"{one_line(name)} {100 * score:.0f} % at {left:.0f},{top:.0f}–{right:.0f},{bottom:.0f}"
            for name, score, (left, top, right, bottom) in found[:MOST_SHOWN]
        ]
        more = [f"{len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
        return ["; ".join([*texts, *more]) or "none"]


def in_pictures(
    boxes: np.ndarray, sizes: np.ndarray | None, read_as: tuple[int, int]
) -> np.ndarray:
    """Boxes [n, m, 4] in pixels of pictures of `sizes` [n, 2], height and width, that a model reads
    in a size. Without sizes, as they are."""
    if sizes is None or (sizes == read_as).all():
        return boxes
    factors = sizes[:, None, [1, 0, 1, 0]] / np.array([read_as[1], read_as[0]] * 2)
    return (boxes * factors).astype(boxes.dtype)
