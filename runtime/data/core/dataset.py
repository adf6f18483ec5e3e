"""What a data source gives: fields, their schema, and splits of examples in NumPy arrays.

In: arrays, in memory or mapped from disk, in the type they are stored in. Out: batches in the type
that the model wants, written into the caller's buffers by `Split.take`. This file reads no files
and knows no source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.syntax.source import Span
from .vocabulary import Vocabulary

SCRATCH_BYTES = 1 << 18  # converted at a time: small enough to stay in the second-level cache
NAMED = 6  # labels in a message
LABEL_BLOCK = 1 << 20  # labels checked at a time, so that a mapped file is not held in memory


@dataclass(frozen=True)
class Field:
    """One named value of an example. `shape` is that of one example, without the batch."""

    name: str
    dtype: str  # 'f32', 'f64', 'i32', 'i64', 'u8' or 'bool'
    shape: tuple[int, ...]
    classes: int | None = None  # of a label, if known: values are 0 <= v < classes

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Schema:
    """The fields of every example, and the number of training examples if it is cheaply known."""

    fields: tuple[Field, ...]
    count: int | None

    def field(self, name: str) -> Field:
        """The field of that name; KeyError if there is none."""
        for known in self.fields:
            if known.name == name:
                return known
        raise KeyError(name)


@dataclass(frozen=True, eq=False)
class Split:
    """Examples as stored: one array per field, first axis the example, all of one length.

    A field in `scale` is stored as integers and means the stored value times its scale.
    """

    arrays: Mapping[str, np.ndarray]
    scale: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) if self.arrays else 0

    def take(self, name: str, rows: np.ndarray, out: np.ndarray) -> None:
        """Write the examples `rows` (int64 [n]) of a field into `out` ([n, *shape]).

        Converts to the type of `out`, scaled if the field is; safe to call from several threads.
        Raises IndexError, ValueError (shape) or TypeError (real numbers into integers) for a
        caller's mistake, and UserError E0606 for an integer that does not fit in `out`.
        """
        array, scale = self.arrays[name], self.scale.get(name)
        if out.shape != (len(rows), *array.shape[1:]):
            wanted = (len(rows), *array.shape[1:])
            raise ValueError(f"field {name!r}: out has shape {out.shape}, not {wanted}")
        if len(rows) and (rows.min() < 0 or rows.max() >= len(array)):
            raise IndexError(f"field {name!r}: rows outside 0 … {len(array) - 1}")
        if scale is None and array.dtype == out.dtype:
            _gather(array, rows, out)
            return
        _check_conversion(name, array.dtype, out.dtype, scale)
        row_bytes = max(1, array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
        step = max(1, SCRATCH_BYTES // row_bytes)
        scratch = np.empty((min(step, len(rows)), *array.shape[1:]), array.dtype)
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            picked = scratch[: len(piece)]
            _gather(array, piece, picked)
            _convert(name, picked, out[start : start + len(piece)], scale)


def _gather(array: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Copy rows of an array of any layout; `rows` are known to be inside."""
    if array.flags.c_contiguous and array.flags.aligned:
        np.take(array, rows, axis=0, out=out, mode="clip")  # "raise" would go through a copy
    else:
        out[...] = array[rows]  # np.take would first copy the whole array, mapped or not


def _check_conversion(name: str, stored: np.dtype, wanted: np.dtype, scale: float | None) -> None:
    order = "biuf"
    source, target = order.find(stored.kind), order.find(wanted.kind)
    whole = stored.kind in "iu" and wanted.kind in "iu"
    if (scale is not None and wanted.kind != "f") or not (whole or 0 <= source <= target):
        raise TypeError(f"field {name!r}: stored as {stored}, cannot become {wanted}")


def _convert(name: str, picked: np.ndarray, out: np.ndarray, scale: float | None) -> None:
    if scale is not None:
        np.multiply(picked, scale, out=out, dtype=out.dtype, casting="unsafe")
        return
    if out.dtype.kind in "iu" and not np.can_cast(picked.dtype, out.dtype, "safe"):
        limits = np.iinfo(out.dtype)
        outside = (picked < limits.min) | (picked > limits.max)
        if outside.any():
            value = picked[outside].flat[0]
            raise fail("E0606", f"field `{name}` holds {value}, which does not fit in {out.dtype}")
    np.copyto(out, picked, casting="unsafe")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A loaded data source. `class_names` gives, by field, the names of the labels 0, 1, …;
    `vocabularies`, by field, what its tokens stand for.
    """

    name: str
    schema: Schema
    train: Split
    test: Split | None = None
    validation: Split | None = None
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name, training first."""
        every = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: split for name, split in every.items() if split is not None}


def validate(dataset: Dataset, span: Span | None = None) -> Dataset:
    """The same dataset, if its lengths and shapes agree (E0607, E0613) and labels fit (E0606)."""
    for split_name, split in dataset.splits.items():
        _check_lengths(dataset, split_name, split, span)
        for described in dataset.schema.fields:
            found = split.arrays[described.name].shape[1:]
            if found != described.shape:
                raise fail(
                    "E0607",
                    f"field `{described.name}` of {dataset.name} has examples of shape "
                    f"{list(found)} in the {split_name} split, but {list(described.shape)} in "
                    "training",
                    span,
                )
    for described in dataset.schema.fields:
        if described.classes is not None:
            check_labels(dataset, described.name, described.classes, span)
    return dataset


def _check_lengths(dataset: Dataset, split_name: str, split: Split, span: Span | None) -> None:
    lengths = {name: len(split.arrays[name]) for name in split.arrays}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"`{name}` has {length}" for name, length in lengths.items())
        raise fail(
            "E0607",
            f"fields of {dataset.name} have different numbers of examples in the {split_name} "
            f"split: {told}",
            span,
            help="every field needs one entry per example, along the first axis",
        )
    if not len(split):
        raise fail("E0613", f"{dataset.name} has no examples in the {split_name} split", span)


def check_labels(dataset: Dataset, name: str, classes: int, span: Span | None = None) -> None:
    """Raise E0606 unless every value of an integer field, in all splits, is 0 <= v < classes.

    For a model that knows the number of classes when the data does not: its logits' last size.
    """
    for split_name, split in dataset.splits.items():
        array = split.arrays[name]
        step = max(1, LABEL_BLOCK // max(1, int(np.prod(array.shape[1:], dtype=np.int64))))
        for start in range(0, len(array), step):
            block = array[start : start + step]
            if not block.size or (block.min() >= 0 and block.max() < classes):
                continue
            place = np.argwhere((block < 0) | (block >= classes))[0]
            value = block[tuple(place)]
            known = dataset.vocabularies.get(name)
            names = dataset.class_names.get(name, ())
            named = 0 <= value < len(names)
            shown = f"`{names[value]}` ({value})" if named else str(value)
            what, of = ("token", "tokens") if known else ("label", "classes")
            advice = "are the labels counted from 1? subtract 1" if value == classes else ""
            if known:
                advice = f"the vocabulary has {len(known)} tokens; give the model as many"
            elif named:
                listed = ", ".join(names[:NAMED]) + ", …" * (len(names) > NAMED)
                advice = f"the data have {len(names)} labels, {listed}; give the model as many"
            raise fail(
                "E0606",
                f"{what} {shown} in field `{name}` of {dataset.name} ({split_name} split, example "
                f"{start + int(place[0])}, counted from 0) is not one of the {classes} {of} "
                f"0 to {classes - 1}",
                span,
                help=advice,
            )
