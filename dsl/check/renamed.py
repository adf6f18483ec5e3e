"""Fields of a train block that had another name: read, warned of, and renamed by `nnc fix`.

Runs keep their program as it was written, so a former name means what it meant for as long as such
runs can be resumed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..syntax import ast as s

FORMER = {"checkpoint_steps": "checkpoint_every"}  # since 0.2.0


def with_current_names(train: s.Train) -> s.Train:
    """The block with current names only."""
    return replace(train, body=tuple(map(_renamed, train.body)))


def renamed_text(file: s.File) -> str:
    """The text of a file with current names only."""
    text = file.source.text
    trains = [d for d in file.declarations if isinstance(d, s.Train)]
    # from the end, so that the places before it stay
    for field in reversed([field for train in trains for field in former_fields(train)]):
        span = field.name.span
        text = text[: span.start] + FORMER[field.name.id] + text[span.end :]
    return text


def former_fields(train: s.Train) -> list[s.Field]:
    """The fields with former names, in the order of the text."""
    return [item for item in train.body if isinstance(item, s.Field) and item.name.id in FORMER]


def _renamed(item: Any) -> Any:
    if isinstance(item, s.Field) and item.name.id in FORMER:
        return replace(item, name=replace(item.name, id=FORMER[item.name.id]))
    return item
