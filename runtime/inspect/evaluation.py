"""What a trained model gets right and wrong on the examples of a set.

In: an executor with trained values, a `Project`, examples. Out: a report, by what the loss
compares: classes, numbers, or the tokens of a text. `inference/meanings.py` finds out which; a loss
that it does not know gives no report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np

from ...compiler.ir.dtypes import is_float
from ...dsl.syntax import ast as s
from ..data import Dataset, Field
from ..inference.meanings import NUMBERS, PROBABILITY, SCORES, SIGMOID, Meaning, meanings
from ..project import Project
from ..training.batch_inputs import Examples, fill_inputs
from ..training.bound_program import Refused
from ..training.executor import Executor, evaluation_batches
from ..training.integer_guard import refusal
from .classification import Classification, joined, of_logits, of_probabilities, of_scores
from .labels import LabelSets, joined_sets
from .residuals import SEVERAL, Residuals

# losses that are the mean of -log p of the tokens that count
MASKED = "masked_cross_entropy"
TOKEN_LOSSES = ("cross_entropy", MASKED, "cross_entropy_ignoring")
FEW_CLASSES = 100  # of positions that are judged one by one


@dataclass(frozen=True)
class Tokens:
    """A model of text: the loss of a token in nats."""

    field: str
    loss: float

    @property
    def perplexity(self) -> float:
        """exp(loss): as many equally likely tokens would be as hard to guess."""
        return exp(min(self.loss, 700.0))  # e^709 is the largest of a double

    @property
    def bits(self) -> float:
        return self.loss / log(2)

    def plain(self, worst: int) -> dict[str, Any]:
        return {
            "kind": "tokens",
            "field": self.field,
            "perplexity": self.perplexity,
            "bits_per_token": self.bits,
        }


Report = Classification | LabelSets | Residuals | Tokens


def report(
    executor: Executor,
    project: Project,
    dataset: Dataset,
    examples: Examples,
    measured: Mapping[str, float],
) -> Report | None:
    """What can be said of a set whose loss and metrics are `measured`; None if the loss compares
    nothing that is known, or no field of the data."""
    fields = {field.name: field for field in dataset.schema.fields}
    for result, meaning in meanings(project).items():
        if meaning.field not in fields or not len(examples):
            continue
        tokens = None
        if _has_positions(meaning, fields[meaning.field]):
            tokens = _tokens(project, meaning, measured)
            # Of a text the perplexity says more than which token was taken for which; and a mask
            # leaves out positions that are not known here.
            if meaning.field in dataset.vocabularies or _loss(project)[0] == MASKED:
                return tokens
        found = _compared(executor, dataset, examples, result, meaning) or tokens
        if found is not None:
            return found
    return None


def _has_positions(meaning: Meaning, field: Field) -> bool:
    """Whether an example has several labels: tokens of a sequence, or pixels."""
    classes = meaning.kind not in (NUMBERS, SIGMOID, PROBABILITY)
    return classes and bool(field.shape) and not is_float(field.dtype)


def _tokens(project: Project, meaning: Meaning, measured: Mapping[str, float]) -> Tokens | None:
    """The perplexity, if the loss is nothing else than a cross-entropy without smoothing."""
    name, arguments = _loss(project)
    if name not in TOKEN_LOSSES or (name == "cross_entropy" and arguments > 2):
        return None
    return Tokens(meaning.field, measured[project.block.losses[0].name.id])


def _loss(project: Project) -> tuple[str, int]:
    """The function that the loss is, and its number of arguments; none if it is more than that."""
    match project.block.losses[0].value:
        case s.Call(function=s.Name(id=name), arguments=arguments):
            return name, len(arguments)
        case s.Pipe(stage=s.Call(function=s.Name(id=name), arguments=arguments)):
            return name, len(arguments) + 1
    return "", 0


def _compared(
    executor: Executor, dataset: Dataset, examples: Examples, result: str, meaning: Meaning
) -> Report | None:
    """The classes or numbers of all examples against those that were predicted."""
    targets = _targets(examples, meaning.field)
    if meaning.kind == NUMBERS:
        predicted = _predicted(executor, examples, result)
        return _residuals(dataset, examples.rows, targets, predicted, meaning.field)
    # shares between yes and no are no classes
    if meaning.kind in (SIGMOID, PROBABILITY) and not np.isin(targets, (0, 1)).all():
        return None
    # Batch by batch: the probabilities of many classes are more numbers than the data.
    parts: list[Any] = []
    at = 0
    for rows, values in predictions(executor, examples, result):
        part = _judged(dataset, meaning, rows, targets[at : at + len(rows)], values)
        if part is None:
            return None
        parts.append(part)
        at += len(rows)
    found = joined_sets(parts) if isinstance(parts[0], LabelSets) else joined(parts)
    return found if len(found) else None


def _judged(
    dataset: Dataset, meaning: Meaning, rows: np.ndarray, targets: np.ndarray, values: np.ndarray
) -> Classification | LabelSets | None:
    """The classes of a batch; None if the result is not one score for each class."""
    field = meaning.field
    if meaning.kind in (SIGMOID, PROBABILITY):
        if values.size != targets.size:
            return None
        chances = values.astype(np.float64)
        if meaning.kind == SIGMOID:
            chances = 1 / (1 + np.exp(-np.clip(chances, -700, 700)))
        return _yes_or_no(dataset, field, rows, targets, chances)
    if targets.shape == values.shape:  # one 1 among zeros
        targets = targets.argmax(-1)
    if targets.shape != values.shape[:-1]:
        return None
    if targets.ndim > 1:
        if values.shape[-1] > FEW_CLASSES:
            return None
        rows = np.repeat(rows, targets[0].size)
        targets, values = targets.reshape(-1), values.reshape(-1, values.shape[-1])
    known = (targets >= 0) & (targets < values.shape[1])  # -100 is no class
    names = _names(dataset, field, values.shape[1])
    make = of_scores if meaning.kind == SCORES else of_logits
    return make(field, names, rows[known], targets[known].astype(np.int64), values[known])


def _yes_or_no(
    dataset: Dataset, field: str, rows: np.ndarray, targets: np.ndarray, chances: np.ndarray
) -> Classification | LabelSets:
    """A few labels of an example have a name each; many, such as those of pixels, are one."""
    each = targets[0].size
    if 1 < each <= FEW_CLASSES and targets.ndim == 2:
        columns = dataset.columns.get(field, ())
        names = columns if len(columns) == each else _names(dataset, field, each)
        return LabelSets(field, names, rows, targets.astype(bool), chances.reshape(targets.shape))
    labels = targets.reshape(-1).astype(np.int64)
    names = _names(dataset, field, 2)
    return of_probabilities(field, names, np.repeat(rows, each), labels, chances.reshape(-1))


def _residuals(
    dataset: Dataset, rows: np.ndarray, targets: np.ndarray, predicted: np.ndarray, field: str
) -> Residuals | None:
    if targets.size != predicted.size or len(targets) != len(predicted):
        return None
    y, found = (a.reshape(len(a), -1).astype(np.float64) for a in (targets, predicted))
    columns = dataset.columns.get(field, ())
    count = y.shape[1]
    names = columns if len(columns) == count else [f"{field}_{k}" for k in range(count)]
    title = columns[0] if len(columns) == 1 else field
    return Residuals(title, names[: SEVERAL + 1], rows, y, found)


def _names(dataset: Dataset, field: str, count: int) -> Sequence[str]:
    """The names of the classes; their numbers if the data have none."""
    names = dataset.class_names.get(field, ())
    return names if len(names) == count else [str(k) for k in range(count)]


def _targets(examples: Examples, field: str) -> np.ndarray:
    """[n, …]: a field of the examples, as numbers that lose nothing."""
    array = examples.split.arrays[field]
    exact = {"f": np.float64, "b": np.bool_}.get(array.dtype.kind, np.int64)
    exact = np.float64 if field in examples.split.scale else exact
    found = np.empty((len(examples), *array.shape[1:]), exact)
    examples.split.take(field, examples.rows, found)
    return found


def _predicted(executor: Executor, examples: Examples, result: str) -> np.ndarray:
    """[n, …]: a result of the model for all examples."""
    parts = [part for _, part in predictions(executor, examples, result)]
    return np.concatenate(parts)


def predictions(
    executor: Executor, examples: Examples, result: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A result of the model, batch by batch, with the rows of the batch."""
    count = len(examples)
    batches = executor.prediction_batches(count) or evaluation_batches(count)
    number = 0
    for size, first, last in batches:
        with executor.prediction(size) as program:
            for begin in range(first, last, size):
                rows = examples.rows[begin : begin + size]
                number += 1
                program.step[...] = number  # each batch draws numbers of its own
                fill_inputs(program.fields, examples.split, rows)
                try:
                    program.compute(rows, number)
                except Refused as refused:
                    raise refusal(program, refused, examples.split, executor.seed) from None
                yield rows, program.results[result].copy()
