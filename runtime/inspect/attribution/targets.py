"""Which number of a model's results is attributed, and to which tensor.

In: a trained model, results of a prediction, names as they were given. Out: a result with a place
in it for each example; an input of the model, or a tensor inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....compiler.elaboration.selection import WHOLE, Selection
from ....compiler.elaboration.values import Array
from ....compiler.ir.dtypes import is_float
from ....compiler.ir.equation import System
from ....compiler.ir.expr import Read, walk
from ....dsl.diagnostics.diagnostic import UserError, did_you_mean, fail
from ....dsl.syntax import ast as s
from ...data.recorded import Recorded
from ...inference.meanings import NUMBERS, PROBABILITY, SIGMOID, SOFTMAX, TOKENS, Meaning
from ...training.executor import Executor

LISTED = 12  # names in a message
ONE_NUMBER = (SIGMOID, PROBABILITY)  # of two classes, the chance of the second


# --- the number -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A number of each example's result: its place, and what it stands for."""

    result: str
    places: tuple[tuple[int, ...], ...]
    titles: tuple[str, ...]


def choose_target(
    results: Mapping[str, np.ndarray],
    meanings: Mapping[str, Meaning],
    recorded: Recorded | None,
    of: str | int | None,
    result: str | None = None,
    position: int | None = None,
    lengths: np.ndarray | None = None,
) -> Target:
    """The number that `of` names in the results [n, …]: a class by its number or name, or a place;
    the predicted class if it is None. Of a sequence of classes, the one at `position`, by default
    the last. UserError E0750 with what there is to choose from."""
    name = _result(results, meanings, result)
    array, meaning = results[name], meanings.get(name)
    if not array.ndim or array.dtype.kind != "f":
        raise fail("E0750", f"`{name}` has no real number for each example to attribute")
    own = array.shape[1:]
    stated = _stated(of, own) if isinstance(of, str) else None
    if stated is not None:
        return Target(name, (stated,) * len(array), (f"{name}{[*stated]}",) * len(array))
    sequence = len(own) == 2 and meaning is not None and meaning.kind == SOFTMAX
    if len(own) > 2 or (len(own) == 2 and not sequence):
        raise _without_classes(name, own)
    if position is not None and not sequence:
        raise fail("E0750", f"`{name}` has no positions: {_shape(own)} for each example")
    if not own:
        return _of_numbers(name, array, meaning, recorded, of)
    names, has_classes = _names(meaning, recorded, own[-1])
    ends = _ends(array, position, lengths) if sequence else None
    values = array if ends is None else array[np.arange(len(array)), ends]
    if of is None and not has_classes and own[-1] > 1:
        raise _without_classes(name, own, names)
    chosen = values.argmax(axis=-1)
    if of is not None:
        chosen = np.full(len(array), _index(of, name, names))
    places = np.stack([chosen] if ends is None else [ends, chosen], axis=1)
    return Target(
        name, tuple(tuple(map(int, place)) for place in places), tuple(names[k] for k in chosen)
    )


def _result(
    results: Mapping[str, np.ndarray], meanings: Mapping[str, Meaning], name: str | None
) -> str:
    """The result that is asked for, else the first that stands for something, else the first."""
    if name is not None:
        if name in results:
            return name
        listed = ", ".join(f"`{n}`" for n in results)
        help = f"{did_you_mean(name, results)} there are {listed}".strip()
        raise fail("E0750", f"there is no result `{name}`", help=help)
    real = [n for n, array in results.items() if array.ndim and array.dtype.kind == "f"]
    known = [n for n in real if n in meanings and meanings[n].kind != TOKENS]
    found = [*known, *real, *results]
    return found[0]


def _stated(of: str, own: tuple[int, ...]) -> tuple[int, ...] | None:
    """`3,4,0`: a place written out; None for anything else."""
    parts = of.split(",")
    if len(parts) < 2 or not all(p.strip().isdecimal() for p in parts):
        return None
    place = tuple(map(int, parts))
    if len(place) != len(own) or any(i >= size for i, size in zip(place, own, strict=True)):
        raise fail("E0750", f"there is no place {of}: an example has {_shape(own)} numbers")
    return place


def _of_numbers(
    name: str,
    array: np.ndarray,
    meaning: Meaning | None,
    recorded: Recorded | None,
    of: str | int | None,
) -> Target:
    """A result that is one number for each example."""
    names, _ = _names(meaning, recorded, 1)
    title = names[0] if meaning is not None and meaning.kind == NUMBERS else name
    if meaning is not None and meaning.kind in ONE_NUMBER:
        classes = recorded.names_of(meaning.field, 2) if recorded else ("0", "1")
        title = classes[1]
        if of is not None and _index(of, name, classes) == 0:
            raise fail(
                "E0750",
                f"`{name}` is the one number of the class `{classes[1]}`",
                help="leave `of` out: what speaks against it speaks for the other class",
            )
    elif of is not None and str(of) not in ("0", title):
        raise fail("E0750", f"`{name}` is one number, and no class `{of}`", help="leave `of` out")
    return Target(name, ((),) * len(array), (title,) * len(array))


def _names(
    meaning: Meaning | None, recorded: Recorded | None, count: int
) -> tuple[tuple[str, ...], bool]:
    """What the numbers along a result's last dimension are called, and whether they are classes."""
    numbers = tuple(map(str, range(count)))
    if meaning is None:
        return numbers, False
    if meaning.kind == NUMBERS:
        columns = tuple(recorded.columns.get(meaning.field, ())) if recorded else ()
        return (columns if len(columns) == count else numbers), False
    if recorded and meaning.field in recorded.vocabularies:
        names = recorded.vocabularies[meaning.field].names
        return (names if len(names) == count else numbers), True
    return (recorded.names_of(meaning.field, count) if recorded else numbers), True


def _index(of: str | int, name: str, names: Sequence[str]) -> int:
    """A class by its name, else by its number."""
    text = str(of)
    if text in names:
        return list(names).index(text)
    folded = [n.casefold() for n in names]
    if folded.count(text.casefold()) == 1:
        return folded.index(text.casefold())
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    listed = ", ".join(names[:LISTED]) + f" and {len(names) - LISTED} more" * (len(names) > LISTED)
    help = f"{did_you_mean(text, names)} there are {listed}".strip()
    raise fail("E0750", f"`{name}` has no class `{of}`", help=help)


def _ends(array: np.ndarray, position: int | None, lengths: np.ndarray | None) -> np.ndarray:
    """The position of each example's sequence that is looked at."""
    steps = array.shape[1]
    if position is None:
        return np.full(len(array), steps - 1) if lengths is None else lengths - 1
    if not -steps <= position < steps:
        raise fail("E0750", f"there is no position {position} in a sequence of {steps}")
    return np.full(len(array), position % steps)


def _without_classes(name: str, own: tuple[int, ...], names: Sequence[str] = ()) -> UserError:
    """E0750 for a result of which no class is predicted."""
    last = ",".join(str(size - 1) for size in own)
    listed = ", ".join(names[:LISTED]) if names and names[0] != "0" else f"0 to {last}"
    help = f"choose one of them with `of`: {listed}"
    if len(own) > 1:
        help = f"choose one by its place, with `of` from {','.join('0' * len(own))} to {last}"
    return fail(
        "E0750",
        f"`{name}` has {_shape(own)} numbers for each example and no classes",
        help=help,
    )


def _shape(own: Sequence[int]) -> str:
    return "×".join(map(str, own)) or "one"


# --- what it is attributed to ---------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """An input of the model, or the tensor `name` inside it if it `is_inside`; `tokens` is the
    input of tokens of which it is the embedding."""

    name: str
    is_inside: bool = False
    tokens: str = ""


def choose_subject(
    executor: Executor, at: str | None, result: str, needs_map: bool = False
) -> Subject:
    """What a result is attributed to: `at`, else the last feature map if a method `needs_map`, else
    the first input of real numbers, or the embedding of the first of tokens. UserError E0715 if the
    model has nothing called `at`, E0750 if there is nothing to choose."""
    inputs = {p.name: _dtype(p) for p in executor.definition.inputs}
    system = executor.selected(WHOLE).system
    if at is not None and at not in inputs:
        executor.selected(Selection(None, (at,)))
        return Subject(at, is_inside=True)
    if at is None and needs_map:
        return Subject(_feature_map(executor, system, result), is_inside=True)
    reached = system.ancestors([executor.selected(WHOLE).outputs[result]])
    candidates = [at] if at is not None else [n for n in inputs if n in reached]
    for name in candidates:
        if is_float(inputs[name]):
            return Subject(name)
    for name in candidates:
        embedding = _embedding(system, name)
        if embedding is not None:
            return Subject(_layer_of(executor, embedding), is_inside=True, tokens=name)
    raise fail(
        "E0750",
        f"`{executor.definition.name}` has no input of real numbers and no embedding of one of "
        "whole numbers",
        executor.definition.name_span,
        help=f"name a tensor in it with `at`: {_listed(list(executor.layers))}",
    )


def _dtype(parameter: s.Parameter) -> str:
    return (parameter.type and parameter.type.dtype) or "f32"


def _embedding(system: System, tokens: str) -> str | None:
    """The first tensor of real numbers that reads a parameter at places which are `tokens`."""
    params = {t.name for t in system.tensors.values() if t.kind == "param"}
    for eq in system.equations:
        for read in walk(eq.body):
            if not isinstance(read, Read) or read.tensor not in params:
                continue
            places = (node for index in read.index for node in walk(index))
            if any(isinstance(node, Read) and node.tensor == tokens for node in places):
                return eq.target
    return None


def _layer_of(executor: Executor, tensor: str) -> str:
    """The layer whose result a tensor is, or the tensor itself."""
    for name, part in executor.layers.items():
        first = part.results[0] if part.results else None
        if isinstance(first, Array) and first.tensor and first.tensor.name == tensor:
            return name
    return tensor


def _feature_map(executor: Executor, system: System, result: str) -> str:
    """The last layer whose result has places and channels: of an image, else of a sequence."""
    reached = system.ancestors([executor.selected(WHOLE).outputs[result]])
    for rank in (4, 3):
        for name, part in reversed(executor.layers.items()):
            shape = part.shapes[0] if part.shapes else ()
            first = part.results[0] if part.results else None
            tensor = first.tensor if isinstance(first, Array) else None
            if len(shape) == rank and max(shape[1:-1]) > 1 and tensor and tensor.name in reached:
                return name
    raise fail(
        "E0750",
        f"`{executor.definition.name}` has no layer with a feature map",
        executor.definition.name_span,
        help="name a tensor [B, …, channels] with `at`",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:LISTED])
