"""What a run keeps of its data: how files became inputs, and what classes and columns are called.

In: a dataset, or the `inputs` in the notes of a run. Out: a `Recorded`. New files are read by the
same reader that read those of training (`core/reader.py`); what tokens stand for is in
`vocabulary.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from math import isfinite
from typing import Any

from ...dsl.diagnostics.diagnostic import fail
from ...dsl.records import record
from .core.dataset import Dataset
from .core.reader import Reader
from .core.vocabulary import Vocabulary

# the kind of a reader → its file in formats/, and its name there; a run needs one of them
READERS = {
    "images": ("images", "ImageReader"),
    "csv": ("table_reader", "TableReader"),
    "lines": ("new_lines", "LineReader"),
    "cells": ("new_lines", "CellReader"),
    "pairs": ("pairs", "PairReader"),
    "text": ("text", "WindowReader"),
    "time_series": ("time_series", "SeriesReader"),
    "wav": ("wav", "SoundReader"),
    "samples": ("samples", "SampleReader"),
}


@record(eq=False)
class Recorded:
    """`reader` is None if no files became the inputs: then there are only arrays. `class_names` are
    the names of the labels 0, 1, … by field, `classes` their number, `columns` the names of a
    field's numbers, `vocabularies` those of fields of tokens."""

    source: str
    reader: Reader | None
    class_names: Mapping[str, tuple[str, ...]]
    classes: Mapping[str, int]
    columns: Mapping[str, tuple[str, ...]]
    vocabularies: Mapping[str, Vocabulary]

    def names_of(self, field: str, count: int) -> tuple[str, ...]:
        """The names of the classes of a field; their numbers if they have none, or not so many."""
        names = self.class_names.get(field, ())
        return names if len(names) == count else tuple(map(str, range(count)))

    def title_of(self, field: str) -> str:
        """What a field is called: by its column, if it is one."""
        columns = self.columns.get(field, ())
        return columns[0] if len(columns) == 1 else field

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        reader = self.reader
        return {
            "source": self.source,
            "reader": reader and {"kind": reader.kind, **reader.plain()},
            "class_names": {name: list(names) for name, names in self.class_names.items()},
            "classes": dict(self.classes),
            "columns": {name: list(names) for name, names in self.columns.items()},
        }


def recorded(dataset: Dataset, source: str) -> Recorded:
    """What a run on these data keeps of them."""
    classes = {f.name: f.classes for f in dataset.schema.fields if f.classes is not None}
    return Recorded(
        source,
        dataset.reader,
        dataset.class_names,
        classes,
        dataset.columns,
        dataset.vocabularies,
    )


def from_plain(plain: Any, vocabularies: Mapping[str, Vocabulary], origin: str) -> Recorded:
    """What `plain` was made of; E0706 for what it never is, as the notes of a run may come from
    others."""
    try:
        reader = plain["reader"]
        if reader is not None:
            values = {name: value for name, value in reader.items() if name != "kind"}
            file, name = READERS[reader["kind"]]
            kind = getattr(import_module(f"{__package__}.formats.{file}"), name)
            reader = _made(kind, values, vocabularies)
        return Recorded(
            _checked(plain["source"], str),
            reader,
            {_checked(n, str): _texts(v) for n, v in plain["class_names"].items()},
            {_checked(n, str): _checked(v, int) for n, v in plain["classes"].items()},
            {_checked(n, str): _texts(v) for n, v in plain["columns"].items()},
            vocabularies,
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        message = f"`inputs` in {origin} do not say how files are read: {error}"
        raise fail("E0706", message) from error


def _made(kind: Any, values: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary]) -> Any:
    """An object of a kind; ValueError unless its values are of the types of its fields."""
    types = {one.name: str(one.type) for one in fields(kind)}
    given = {name: _value(value, types[name], name) for name, value in values.items()}
    if "vocabularies" in types:
        given["vocabularies"] = dict(vocabularies)
    return kind(**given)


def _value(value: Any, kind: str, name: str) -> Any:
    """A value of JSON as a field of that type has it."""
    if value is None and kind.endswith("| None"):
        return None
    match kind.removesuffix(" | None"):
        case "int":
            return _checked(value, int)
        case "float":
            number = float(_checked(value, int, float))
            if isfinite(number):
                return number
        case "bool":
            return _checked(value, bool)
        case "str":
            return _checked(value, str)
        case "tuple[str, ...]":
            return _texts(value)
        case "tuple[float, ...]":
            return tuple(_value(one, "float", name) for one in _checked(value, list))
        case "tuple[bool, ...]":
            return tuple(_checked(one, bool) for one in _checked(value, list))
        case "tuple[tuple[str, ...], ...]":
            return tuple(map(_texts, _checked(value, list)))
        case "Features":
            from .formats.csv_features import Features  # of tables alone

            return _made(Features, _checked(value, dict), {})
        case "tuple[int, ...]":
            return tuple(_checked(one, int) for one in _checked(value, list))
    raise ValueError(f"`{name}` is {str(value)[:40]}")


def _checked(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise ValueError(f"{str(value)[:40]!r} is no {kinds[0].__name__}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_checked(one, str) for one in _checked(value, list))
