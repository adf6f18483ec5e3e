"""What a caller gives as data, as NumPy arrays by the names of the model's fields.

In: NumPy arrays, nested lists, tensors of PyTorch and others, columns and frames of pandas, Polars
and Arrow; by position, by name, or in dictionaries. Out: arrays by name, or every mistake at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ...dsl.check.names import CONSTANTS, value_names
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, did_you_mean, fail
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..data import Dataset, Field, Schema, Split
from ..data.core.dataset import validate
from ..data.formats.arrow_table import pyarrow
from ..project import Project
from .errors import ArgumentError
from .frames import by_field, frame_of
from .keywords import unknown_argument


class SupportsDLPack(Protocol):
    """A tensor of any library (https://dmlc.github.io/dlpack)."""

    def __dlpack__(self) -> Any: ...


class SupportsArrowStream(Protocol):
    """A frame of any library (Arrow's PyCapsule interface)."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


Array: TypeAlias = ArrayLike | SupportsDLPack | SupportsArrowStream
Arrays: TypeAlias = Array | Mapping[str, Array]

GIVEN = "the call"  # the name of data that are arrays of a call

# what arrays hold → the language's type, and the NumPy type that is one of its own
_TYPES = {
    "b1": ("bool", "b1"), "u1": ("u8", "u1"), "i1": ("i8", "i1"), "i2": ("i32", "i4"),
    "u2": ("i32", "i4"), "i4": ("i32", "i4"), "u4": ("i64", "i8"), "i8": ("i64", "i8"),
    "f2": ("f32", "f4"), "f4": ("f32", "f4"), "f8": ("f64", "f8"),
}  # fmt: skip


# --- one array ------------------------------------------------------------------------------------


def as_array(name: str, value: object) -> np.ndarray:
    """Anything that holds numbers, one entry per example, as an array of a type that nnc knows.

    UserError E0708 for texts, missing values, ragged lists and what is no array at all."""
    if value is None:
        raise fail("E0708", f"`{name}` is None: expected numbers, one entry per example")
    array = to_numpy(name, value)
    if array.dtype == object:
        array = _of_numbers(name, _stacked(name, array))
    # A frame writes a missing number so; arrays and tensors may mean it.
    if hasattr(value, "__arrow_c_stream__") and array.dtype.kind == "f" and np.isnan(array).any():
        raise _missing(name, np.argwhere(np.isnan(array))[0].tolist())
    # `str[1:]` drops the byte order, `<f4` → `f4`; the conversion below sets it right.
    if array.dtype.str[1:] not in _TYPES or not array.ndim:
        raise fail(
            "E0708",
            f"`{name}` is {array.dtype}{list(array.shape)}: expected "
            "numbers, one entry per example",
            help=_advice(array),
        )
    return np.ascontiguousarray(array, _TYPES[array.dtype.str[1:]][1])


def to_numpy(name: str, value: Any) -> np.ndarray:
    """Anything that can become an array, as one. UserError E0708 otherwise."""
    # NumPy has no bfloat16; f32 has all of its numbers.
    if str(getattr(value, "dtype", "")).endswith("bfloat16"):
        return to_numpy(name, value.float() if hasattr(value, "float") else _wide(value))
    if isinstance(value, np.ndarray):
        return value
    # A tensor that gradients are computed for, or that lies on a GPU, gives no array by itself.
    for method in ("detach", "cpu"):
        if hasattr(value, "__dlpack__") and hasattr(value, method):
            value = getattr(value, method)()
    try:
        if hasattr(value, "__array__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        if hasattr(value, "__arrow_c_stream__") or hasattr(value, "__dataframe__"):
            return _of_arrow(value)
        return np.asarray(value)
    except (ValueError, TypeError, BufferError, RuntimeError) as error:
        ragged = _lengths(value)
        why = "its entries have different lengths" if ragged else str(error).split("\n")[0]
        raise fail("E0708", f"`{name}` cannot become an array: {why}", help=ragged) from None


def _wide(value: Any) -> np.ndarray:
    return np.asarray(value).astype(np.float32)


def _lengths(value: object) -> str:
    """Help for nested lists of different lengths."""
    if not isinstance(value, list | tuple):
        return ""
    found = [len(item) for item in value if isinstance(item, list | tuple)]
    odd = next((k for k, n in enumerate(found) if n != found[0]), None)
    if odd is None:
        return ""
    return f"entry 0 has {found[0]} numbers, and entry {odd} has {found[odd]}"


def _of_arrow(value: Any) -> np.ndarray:
    package = pyarrow("a table of Arrow")  # only for what gives no array in another way
    if not hasattr(value, "__arrow_c_stream__"):
        from pyarrow import interchange

        return np.asarray(interchange.from_dataframe(value))
    try:
        return np.asarray(package.table(value))
    except (ValueError, TypeError):
        return np.asarray(package.chunked_array(value))


def _stacked(name: str, array: np.ndarray) -> np.ndarray:
    """A column of lists of one length as an array with one dimension more."""
    rows = array.tolist() if array.ndim == 1 else []
    if not rows or not all(isinstance(row, list | tuple | np.ndarray) for row in rows):
        return array
    plain = [row.tolist() if isinstance(row, np.ndarray) else list(row) for row in rows]
    if ragged := _lengths(plain):
        message = f"`{name}` cannot become an array: its entries have different lengths"
        raise fail("E0708", message, help=ragged)
    whole = np.asarray(plain)
    return whole if whole.dtype.kind in "biuf" else np.asarray(plain, object)


def _of_numbers(name: str, array: np.ndarray) -> np.ndarray:
    """An array of Python objects, as columns of different types or with missing values become."""
    flat = array.ravel().tolist()
    wrong = next((k for k, v in enumerate(flat) if not _is_number(v)), None)
    if wrong is None:
        return np.array(flat).reshape(array.shape) if flat else np.zeros(array.shape, "f4")
    place = list(map(int, np.unravel_index(wrong, array.shape)))
    if flat[wrong] is None or "NA" in type(flat[wrong]).__name__:
        raise _missing(name, place)
    raise fail(
        "E0708",
        f"`{name}` holds {flat[wrong]!r:.40} at {place}: expected numbers, one entry per example",
        help=_advice(array, flat[wrong]),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def _missing(name: str, place: list[int]) -> UserError:
    return fail(
        "E0708",
        f"`{name}` holds a missing value at {place}: expected numbers, one entry per example",
        help="nothing is filled in silently: remove the example, or fill the value",
    )


def _advice(array: np.ndarray, value: object = None) -> str:
    if array.dtype.kind in "US" and not array.ndim:
        return "an array is read from a file by `np.load(…)`, a table by pandas or Polars"
    if array.dtype.kind in "US" or isinstance(value, str | bytes):
        return "texts are numbered first: `np.unique(labels, return_inverse=True)`"
    if array.dtype.kind in "Mm":
        return "times as numbers: seconds since a date, the hour of the day"
    if array.dtype.kind == "c":
        return "give the real and the imaginary part as two numbers"
    if array.dtype.str[1:] == "u8":
        return "nnc has no u64: `.astype(np.int64)`"
    return ""


# --- several, by name -----------------------------------------------------------------------------


def named_arrays(
    call: str,
    model: str,
    arrays: Sequence[object],
    named: Mapping[str, object],
    names: Sequence[str],
    keywords: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """The arrays of a `call` by the names of the fields that they are for: those without a name in
    the order of `names`, dictionaries by their keys. UserError E0708 with all mistakes, E0704 for
    an argument that is neither a field nor one of the `keywords`."""
    listed = ", ".join(f"`{n}`" for n in names)
    found: dict[str, object] = {}
    wrong: list[Diagnostic] = []
    frame = frame_of(arrays, named)
    columns = by_field(frame, names) if frame else None
    arrays = arrays if columns is None else (columns,)
    single = [a for a in arrays if not isinstance(a, Mapping)]
    if len(single) > len(names):
        message = f"{len(single)} arrays are given; `{model}` takes {listed or 'none'}"
        raise fail("E0708", message)
    found.update(zip(names, single, strict=False))
    given = [item for a in (*arrays, named) if isinstance(a, Mapping) for item in a.items()]
    unknown = [name for name, _ in given if name not in names]
    for name, value in given:
        if name in found:
            wrong.append(Diagnostic("E0708", f"`{name}` is given twice: in place and by name"))
        found.setdefault(name, value)
    arguments = [n for n in unknown if n in named]
    if arguments:
        known = (*names, *keywords)
        raise ArgumentError(
            [*wrong, *(unknown_argument(call, str(n), known) for n in dict.fromkeys(arguments))]
        )
    for name in unknown:
        help = did_you_mean(str(name), names) or f"it has {listed}"
        wrong.append(Diagnostic("E0708", f"`{model}` has no field `{name}`", help=help))
    converted = {}
    for name, value in found.items():
        try:
            converted[name] = as_array(name, value)
        except UserError as error:
            wrong += error.diagnostics
    if wrong:
        raise UserError(dict.fromkeys(wrong))
    return converted


def without_fields(
    error: UserError, call: str, names: Sequence[str], given: Collection[str]
) -> UserError:
    """A mistake about names that nothing defines, if arrays of these names may be given to the call
    and are not: they are what is missing."""
    missing = [n for n in names if n not in given]
    found = {
        d: n
        for d in error.diagnostics
        for n in missing
        if d.code == "E0202" and f"`{n}`" in d.message
    }
    if not found:
        return error
    listed = ", ".join(f"`{n}`" for n in dict.fromkeys(found.values()))
    first = next(iter(found))
    message = f"{call}() is given no {listed}"
    help = f"it takes {', '.join(f'`{n}`' for n in names)}, in this order or by name"
    rest = [d for d in error.diagnostics if d not in found]
    return UserError([Diagnostic("E0708", message, first.span, help=help), *rest])


def fields_of_arrays(found: Mapping[str, np.ndarray]) -> Schema:
    """The fields that arrays are."""
    return Schema(
        tuple(Field(n, _TYPES[a.dtype.str[1:]][0], a.shape[1:]) for n, a in found.items()), None
    )


def dataset_of(found: Mapping[str, np.ndarray]) -> Dataset:
    """Arrays as data. UserError E0607 or E0613 if they are none."""
    return validate(Dataset(GIVEN, fields_of_arrays(found), Split(dict(found))))


def with_validation(dataset: Dataset, held_out: Mapping[str, np.ndarray]) -> Dataset:
    """The data with these arrays as the validation split. UserError E0708 unless they have the same
    fields, E0607 for other shapes."""
    known = dataset.train.arrays
    wrong = [f"lacks `{n}`" for n in known if n not in held_out]
    wrong += [f"has `{n}`, too" for n in held_out if n not in known]
    wrong += [
        f"has `{n}` as {a.dtype}, which is {known[n].dtype} for training"
        for n, a in held_out.items()
        if n in known and a.dtype.kind == "f" and known[n].dtype.kind != "f"
    ]
    if wrong:
        raise fail(
            "E0708",
            f"`validation` {' and '.join(wrong)}",
            help="it has the same fields as the training data, in the same order",
        )
    return validate(replace(dataset, validation=Split(dict(held_out))))


def targets(project: Project, given: Collection[str] = ()) -> list[str]:
    """The fields that the loss and the metrics take from the data, the model's inputs left out.
    A name that has a meaning of its own, such as `t`, is one if it is declared or `given`."""
    block = project.block.body
    fields = {i.name.id for i in block if isinstance(i, s.Input)} | {*given}
    hidden = {*CONSTANTS, "t", "steps", "epochs"} - fields
    # Whatever the program itself defines is no field: the model's sizes, inputs and results, and
    # every name that a statement introduces.
    hidden |= {p.name for p in (*project.model.inputs, *project.model.results)}
    hidden |= {*project.symbols, "loss"}
    for node in walk((project.model.body, block)):
        match node:
            case s.Let(name=name) | s.State(name=name) | s.Loss(name=name) | s.Metric(name=name):
                hidden.add(name.id)
            case s.Param(names=names) | s.Equation(targets=names):
                hidden |= {n.id for n in names}
    values = [
        i.value
        for i in block
        if isinstance(i, s.Let | s.Loss | s.Metric)
        or (isinstance(i, s.Field) and i.name.id == "loss")
    ]
    # In the order of first mention, which is the order of arrays without names.
    found = [n.id for v in values for n in value_names(v)]
    # What is declared has to be given, even if nothing reads it.
    found += [i.name.id for i in project.block.body if isinstance(i, s.Input)]
    return [name for name in dict.fromkeys(found) if name not in hidden]
