"""The features of an example: which of its numbers belong together, and what they are called.

In: the shape of an example, and what a run keeps of its data. Out: the number of the feature of
each of an example's numbers, and names.
"""

from __future__ import annotations

import numpy as np

from ...data.recorded import Recorded

PATCHES = 7  # along a side of an image


def groups_of(
    recorded: Recorded | None, name: str, shape: tuple[int, ...], window: tuple[int, ...] | None
) -> np.ndarray:
    """The features of an example: the columns of a table, each with all numbers that it became;
    else the numbers of a vector, the positions of a sequence, the patches of an image, by a
    `window` or 7 along each side."""
    columns = columns_of(recorded, name, shape)
    if columns and window is None:
        known = list(dict.fromkeys(columns))
        return np.array([known.index(one) for one in columns], np.int32)
    if window is None:
        sides = [-(-size // PATCHES) for size in shape[:2]]
        window = (*sides, *shape[2:]) if len(shape) > 2 else (1, *shape[1:])
    window = (*window, *shape[len(window) :])
    counts = [-(-size // side) for size, side in zip(shape, window, strict=True)]
    places = [np.arange(size) // side for size, side in zip(shape, window, strict=True)]
    grid = np.meshgrid(*places, indexing="ij")
    return np.asarray(np.ravel_multi_index(grid, counts), np.int32)


def titles_of(recorded: Recorded | None, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """What the numbers of an example are called, `colour is red`; empty if they have no names."""
    titles = tuple(recorded.columns.get(name, ())) if recorded else ()
    return titles if shape == (len(titles),) else ()


def columns_of(recorded: Recorded | None, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The column of a table that each number of an example comes from; empty if they have none."""
    titles = titles_of(recorded, name, shape)
    reader = recorded.reader if recorded else None
    columns = tuple(getattr(reader, "columns", ())) if reader and reader.kind == "csv" else ()
    if not titles or not columns:
        return titles
    # Longer names first: `size of lot` is no category of `size`.
    by_length = sorted(columns, key=len, reverse=True)
    return tuple(
        next((c for c in by_length if title == c or title.startswith(f"{c} is ")), title)
        for title in titles
    )
