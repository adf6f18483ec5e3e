"""Which rows make up which batch, and how they are copied into a program's inputs.

The executor sets the two scalars of a step, `step` and `seed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from ...compiler.ir.dtypes import is_float
from ...compiler.ir.equation import System
from ...compiler.ir.integer_ranges import index_uses
from ...dsl.diagnostics.diagnostic import Diagnostic, Note, UserError, fail
from ...dsl.records import record
from ..data import Dataset, Schema, Split, check_labels
from ..data.core.read_ahead import DEPTH
from ..data.core.splitting import split_rows
from ..device.data_inputs import fields_of


@record(eq=False)
class Examples:
    """Some rows (int64) of a split, in ascending order; `weights` of them (f64, positive), by which
    an epoch draws them, None if all count alike."""

    split: Split
    rows: np.ndarray
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def order(self, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
        """The rows in the order of an epoch (from 1), which depends on the seed and the epoch
        alone. With weights, some come several times or not at all, as many in all."""
        rows = self.rows
        if self.weights is not None:
            rows = resampled(rows, self.weights, np.random.default_rng([seed, epoch, RESAMPLING]))
        return epoch_order(rows, seed, epoch, shuffle)

    def expect(self, order: np.ndarray, size: int, start: int) -> None:
        """Say that the next batches are those of `size` rows from position `start` of an order."""
        self.split.expect(islice(batches(order, size, start), DEPTH))


RESAMPLING = 1  # in the seed of a stream of its own


def resampled(rows: np.ndarray, weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many rows, each as often as its share of the weights says, rounded up or down by chance so
    that the expectation is exact. Systematic resampling: Kitagawa 1996."""
    expected = np.cumsum(weights) * (len(rows) / weights.sum())
    expected[-1] = len(rows)  # whatever the sum was rounded to
    # one draw for all: an expectation of 2.3 gives 2 or 3, and never 0
    ends = np.floor(expected + generator.random()).astype(np.int64)
    return np.repeat(rows, np.diff(ends, prepend=0))


def all_examples(split: Split) -> Examples:
    return Examples(split, np.arange(len(split)))


def split_examples(dataset: Dataset, validation: float) -> dict[str, Examples]:
    """The examples that train, test and validate. `validation` is a fraction of the training split.

    UserError E0703 if there is such a fraction and the data have a validation split of their own.
    """
    # test and validation examples, if the data have them, are taken as they are
    parts = {name: all_examples(split) for name, split in dataset.splits.items()}
    if validation:
        if dataset.validation is not None:
            raise fail(
                "E0703",
                f"{dataset.name} has a validation split of its own",
                help="leave `validation` out of the train block",
            )
        # a seed of its own: all training seeds leave out the same examples, so their losses compare
        training, held_out = split_rows(len(dataset.train), validation, seed=0)
        # of very few examples a fraction may round to none
        if len(held_out):
            parts["train"] = Examples(dataset.train, training)
            parts["validation"] = Examples(dataset.train, held_out)
    return parts


def epoch_order(rows: np.ndarray, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """The rows in the order of an epoch (from 1), which depends on the seed and the epoch alone."""
    if not shuffle:
        return rows
    # a stream for each pair (seed, epoch): resuming in epoch 7 needs no draws for the six before
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows)


def batches(order: np.ndarray, size: int, start: int = 0) -> Iterator[np.ndarray]:
    """Consecutive batches of `size` rows from position `start`; the last may be shorter."""
    for begin in range(start, len(order), size):
        yield order[begin : begin + size]


def step_batches(
    order: np.ndarray, size: int, start: int, count: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The next `count` batches, fewer at the end of an epoch, each with how many are left after
    it."""
    own = [*islice(batches(order, size, start), count)]
    return zip(reversed(range(len(own))), own, strict=True)


def next_batches(order: np.ndarray, size: int, start: int, most: int) -> np.ndarray:
    """The batches of `size` rows from position `start`, [batches, size]: one, or as many complete
    ones as there are, up to `most`."""
    # only complete batches can share a launch; a remainder is one batch by itself
    count = 1 if most == 1 else max(1, min(most, (len(order) - start) // size))
    return order[start : start + count * size].reshape(count, size)


def fill_inputs(fields: list[tuple[str, np.ndarray]], split: Split, rows: np.ndarray) -> None:
    """Write the examples `rows` into the arrays of a program."""
    for name, array in fields:
        split.take(name, rows, array)


# --- checks of the data against the program -------------------------------------------------------


def check_fit(system: System, batch: int, schema: Schema) -> None:
    """UserError E0710 unless every input can be filled with a batch of its field."""
    for tensor in fields_of(system):
        described = schema.field(tensor.name)
        # integers may become reals, but reals would be cut off
        if is_float(described.dtype) and not is_float(tensor.dtype):
            raise fail(
                "E0710",
                f"`{tensor.name}` is {tensor.dtype} in the model, and the data "
                f"hold real numbers ({described.dtype})",
                tensor.span,
            )
        # the data describe one example; the model has the batch before it
        if tensor.shape != (batch, *described.shape):
            raise fail(
                "E0710",
                f"`{tensor.name}` has shape {list(tensor.shape)} in the model, and "
                f"a batch of the data {[batch, *described.shape]}",
                tensor.span,
                help="let the first dimension of every input be one symbol, such as `B`",
            )


def check_indices(system: System, dataset: Dataset) -> None:
    """UserError E0606 for a label in the data that is not one of the classes of the model."""
    limits = system.index_inputs or {}
    for name, limit in limits.items():
        try:
            check_labels(dataset, name, limit, system.tensors[name].span)
        except UserError as error:
            raise UserError(
                [_with_use(d, system, name, limit) for d in error.diagnostics]
            ) from None


def _with_use(mistake: Diagnostic, system: System, name: str, limit: int) -> Diagnostic:
    """The mistake with a note at the equation that takes the input for an index."""
    for eq, used, size in index_uses(system):
        span = eq.span and (eq.span.call_site or eq.span)
        if (used, size) == (name, limit) and span and not span.source.library:
            note = Note(span, f"here `{name}` is an index below {limit:,}")
            return replace(mistake, notes=(*mistake.notes, note))
    return mistake


ONE_HOT_SAMPLE = 1000  # examples


def one_hot_warnings(system: System, dataset: Dataset) -> list[Diagnostic]:
    """W0303 for every field that is used as class indices and whose rows are one-hot: it probably
    encodes one class, rather than listing several."""
    found = []
    for name in system.index_inputs or {}:
        # the first examples tell: a check of all would read the whole data set
        first = dataset.train.arrays[name][:ONE_HOT_SAMPLE]
        if first.ndim < 2 or first.shape[-1] < 2 or not first.size:
            # a single class, or one number for each example, cannot be one-hot
            continue
        # Class indices that happen to be 0 and 1 need not add up to 1 in every row.
        if np.isin(first, (0, 1)).all() and (first.sum(-1) == 1).all():
            found.append(
                Diagnostic(
                    "W0303",
                    f"`{name}` looks one-hot: every row is 0 but for a single 1",
                    system.tensors[name].span,
                    label="each of its numbers is taken for a class",
                    help=f"`argmax({name})` is the class; `cross_entropy_onehot` takes it as it is",
                )
            )
    return found
