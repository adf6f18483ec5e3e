"""What a data source returns: fields, their schema, and splits of examples in NumPy arrays.

In: arrays, in memory or mapped from disk, or examples that are read when they are taken, in the
type in which they are stored. Out: batches in the model's type, written into the caller's buffers
by `Split.take`. This file opens no files and knows no source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from math import prod

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.records import record
from ....dsl.syntax.source import Span
from .mapped_file import MappedFile
from .read_ahead import ReadAhead
from .reader import Reader
from .stored import Examples, Stored, blocks, bounds, fitting, gather, selected
from .vocabulary import Vocabulary

SCRATCH_BYTES = 1 << 18  # converted at a time: small enough to stay in the second-level cache
MAX_LISTED = 6  # labels in a message
LABEL_BLOCK = 1 << 20  # labels checked at a time, so that a mapped file is not read at once


@record
class Field:
    """One named value of an example. `shape` is without the batch dimension."""

    name: str
    dtype: str  # one of the language's
    shape: tuple[int, ...]
    classes: int | None = None  # of a label, if known: values are 0 <= v < classes

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@record
class Schema:
    """The fields of every example, and the number of training examples if it is cheap to know."""

    fields: tuple[Field, ...]
    count: int | None

    def field(self, name: str) -> Field:
        """The field of that name; KeyError if there is none."""
        for known in self.fields:
            if known.name == name:
                return known
        raise KeyError(name)


@record(eq=False)
class Split:
    """Examples as stored: one array per field, first axis the example, all of one length.

    A field in `scale` is stored as integers; its value is the stored one times the scale.
    """

    arrays: Mapping[str, Examples]
    scale: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) if self.arrays else 0

    @cached_property
    def _mapped(self) -> dict[str, MappedFile]:
        # Found once: a batch is taken in microseconds.
        return {n: file for n, a in self.arrays.items() if (file := MappedFile.of(a))}

    @cached_property
    def _ahead(self) -> ReadAhead | None:
        stored = {n: a for n, a in self.arrays.items() if isinstance(a, Stored)}
        return ReadAhead(stored) if stored else None

    def expect(self, batches: Iterable[np.ndarray]) -> None:
        """Say which batches of rows (int64 [n] each) are taken next: what is not in memory is read
        beside what happens until then."""
        if self._ahead is not None:
            self._ahead.expect(batches)

    def take(self, name: str, rows: np.ndarray, out: np.ndarray) -> None:
        """Write the examples `rows` (int64 [n]) of a field into `out` ([n, *shape]).

        Converts to the type of `out` and applies the scale; may be called from several threads.
        IndexError, ValueError (shape) or TypeError (real numbers into integers) for a caller's
        error, and UserError E0606 for an integer that does not fit in `out`.
        """
        array, scale = self.arrays[name], self.scale.get(name)
        # Checked here, because `_gather` would clip wrong rows and broadcast wrong shapes.
        if out.shape != (len(rows), *array.shape[1:]):
            wanted = (len(rows), *array.shape[1:])
            raise ValueError(f"field {name!r}: out has shape {out.shape}, not {wanted}")
        if len(rows) and (rows.min() < 0 or rows.max() >= len(array)):
            raise IndexError(f"field {name!r}: rows outside 0 … {len(array) - 1}")
        if isinstance(array, Stored):
            assert self._ahead is not None
            picked = self._ahead.read(name, rows)
            _check_conversion(name, array.dtype, out.dtype, scale)
            _convert(name, picked, out, scale)
            return
        # Immediately before the rows are read: a file can only be cut short in between.
        if name in self._mapped:
            self._mapped[name].check()
        # Without conversion, rows go straight from the stored array into the caller's buffer.
        if scale is None and array.dtype == out.dtype:
            gather(array, rows, out)
            return
        _check_conversion(name, array.dtype, out.dtype, scale)
        # Otherwise through a small buffer in the stored type: gathering all rows before converting
        # them would write a batch to memory and read it again.
        row_bytes = max(1, array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
        step = max(1, SCRATCH_BYTES // row_bytes)
        scratch = np.empty((min(step, len(rows)), *array.shape[1:]), array.dtype)
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            picked = scratch[: len(piece)]
            gather(array, piece, picked)
            _convert(name, picked, out[start : start + len(piece)], scale)


def _check_conversion(name: str, stored: np.dtype, wanted: np.dtype, scale: float | None) -> None:
    # bool → signed → unsigned → real: values may go to the right. Integers may become any other
    # integers, since `_convert` checks their range. `find` is -1 for text or complex numbers.
    order = "biuf"
    source, target = order.find(stored.kind), order.find(wanted.kind)
    whole = stored.kind in "iu" and wanted.kind in "iu"
    if (scale is not None and wanted.kind != "f") or not (whole or 0 <= source <= target):
        raise TypeError(f"field {name!r}: stored as {stored}, cannot become {wanted}")


def _convert(name: str, picked: np.ndarray, out: np.ndarray, scale: float | None) -> None:
    if scale is not None:
        np.multiply(picked, scale, out=out, dtype=out.dtype, casting="unsafe")
        return
    # A narrowing such as i64 → i32: NumPy would wrap values silently, so look before copying.
    if out.dtype.kind in "iu" and not np.can_cast(picked.dtype, out.dtype, "safe"):
        limits = np.iinfo(out.dtype)
        outside = (picked < limits.min) | (picked > limits.max)
        if outside.any():
            value = picked[outside].flat[0]
            raise fail("E0606", f"field `{name}` holds {value}, which does not fit in {out.dtype}")
    with np.errstate(over="ignore"):  # found below, with the number that it was
        np.copyto(out, picked, casting="unsafe")
    if out.dtype.kind == "f" and picked.dtype.kind == "f" and picked.itemsize > out.itemsize:
        lost = np.isinf(out) & np.isfinite(picked)
        if lost.any():
            value = picked[lost].flat[0]
            message = f"field `{name}` holds {value:g}, which does not fit in {out.dtype}"
            help = 'compute with `float = "f64"`'
            if out.dtype == np.float16:
                help = "bf16 and f32 hold larger numbers"
            raise fail("E0606", message, help=help)


@record(eq=False)
class Dataset:
    """A loaded data source. `class_names` are the names of the labels 0, 1, … by field,
    `vocabularies` those of the fields of tokens, `columns` the names of a field's numbers; `reader`
    makes the same of new files, where data come from files or could."""

    name: str
    schema: Schema
    train: Split
    test: Split | None = None
    validation: Split | None = None
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reader: Reader | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name, training first."""
        every = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: split for name, split in every.items() if split is not None}


def split_dataset(
    name: str,
    fields: Sequence[Field],
    arrays: Mapping[str, Examples],
    parts: Sequence[np.ndarray],
    scale: Mapping[str, float] | None = None,
    class_names: Mapping[str, tuple[str, ...]] | None = None,
    vocabularies: Mapping[str, Vocabulary] | None = None,
    columns: Mapping[str, tuple[str, ...]] | None = None,
    reader: Reader | None = None,
    memory: int = 0,
) -> Dataset:
    """A validated dataset of which the rows `parts[0]` train, `parts[1]` test and `parts[2]`
    validate, if there are any. What is stored comes into `memory` if all of it fits there."""
    fits = sum(array.nbytes for array in arrays.values()) <= memory
    most = memory if fits else 0
    train, *others = (
        Split(fitting({n: selected(a, rows) for n, a in arrays.items()}, most), scale or {})
        for rows in parts
    )
    schema = Schema(tuple(fields), len(train))
    # No examples to test on means no test split, rather than an empty one.
    test, validation = [*(split if len(split) else None for split in others), None, None][:2]
    names = (class_names or {}, vocabularies or {}, columns or {})
    found = Dataset(name, schema, train, test, validation, *names, reader)
    return validate(found)


def validate(dataset: Dataset) -> Dataset:
    """The same dataset, if its lengths and shapes agree (E0607, E0613) and labels fit (E0606)."""
    # Shapes before labels: the latter are read from the data, the former are only metadata.
    for split_name, split in dataset.splits.items():
        _check_lengths(dataset, split_name, split)
        for described in dataset.schema.fields:
            found = split.arrays[described.name].shape[1:]
            if found != described.shape:
                raise fail(
                    "E0607",
                    f"field `{described.name}` of {dataset.name} has examples of shape "
                    f"{list(found)} in the {split_name} split, but {list(described.shape)} in "
                    "training",
                )
    for described in dataset.schema.fields:
        if described.classes is not None:
            check_labels(dataset, described.name, described.classes)
    return dataset


def _check_lengths(dataset: Dataset, split_name: str, split: Split) -> None:
    lengths = {name: len(array) for name, array in split.arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"`{name}` has {length}" for name, length in lengths.items())
        raise fail(
            "E0607",
            f"fields of {dataset.name} have different numbers of examples in the {split_name} "
            f"split: {listed}",
            help="every field needs one entry per example, along the first axis",
        )
    if not len(split):
        raise fail("E0613", f"{dataset.name} has no examples in the {split_name} split")


def check_labels(dataset: Dataset, name: str, classes: int, span: Span | None = None) -> None:
    """Raise E0606 unless every value of an integer field, in all splits, is 0 <= v < classes.

    For a model that knows the number of classes when the data does not: its logits' last size.
    """
    for split_name, split in dataset.splits.items():
        low, high = bounds(split.arrays[name])
        if low >= 0 and high < classes:
            continue
        start = 0
        for block in _label_blocks(split.arrays[name]):
            if block.size and (block.min() < 0 or block.max() >= classes):
                # For example [3, 17] in a block of [n, length]: example 3, position 17.
                index = np.argwhere((block < 0) | (block >= classes))[0]
                example = f"{split_name} split, example {start + int(index[0])}, counted from 0"
                raise _label_error(dataset, name, int(block[tuple(index)]), classes, example, span)
            start += len(block)


def _label_blocks(array: Examples) -> Iterator[np.ndarray]:
    # Labels may have further dimensions, as a sequence of tokens does.
    return blocks(array, max(1, LABEL_BLOCK // max(1, prod(array.shape[1:]))))


def _label_error(
    dataset: Dataset, name: str, value: int, classes: int, example: str, span: Span | None
) -> UserError:
    vocabulary, names = dataset.vocabularies.get(name), dataset.class_names.get(name, ())
    shown, kind = str(value), ("label", "classes")
    every = [split.arrays[name] for split in dataset.splits.values()]
    ends = [(int(b.min()), int(b.max())) for each in every for b in _label_blocks(each) if b.size]
    least, greatest = min(low for low, _ in ends), max(high for _, high in ends)
    help = ""
    # Without a span the number of classes is that of the data's own description.
    if greatest == classes and (least == 1 or span is None):
        help = "are the labels counted from 1? subtract 1"
    elif least >= 0 and span is not None:
        help = f"labels go from {least} to {greatest}: give the model {greatest + 1} classes"
    if 0 <= value < len(names):
        shown = f"`{names[value]}` ({value})"
        listed = ", ".join(names[:MAX_LISTED]) + ", …" * (len(names) > MAX_LISTED)
        help = f"the data have {len(names)} labels, {listed}; give the model as many"
    if vocabulary:
        kind = ("token", "tokens")
        help = f"the vocabulary has {len(vocabulary)} tokens; give the model as many"
    return fail(
        "E0606",
        f"{kind[0]} {shown} in field `{name}` of {dataset.name} ({example}) is not one of the "
        f"{classes} {kind[1]} 0 to {classes - 1}",
        span,
        help=help,
    )
