"""A compiled program and the arrays that the training loop uses at every step: data in, one run or
several, what it measured out.

In: a device's program. Out: its fields and results as views into its memory. Which programs a model
has, and which values they share, is the `executor`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ...compiler.elaboration.context import DRAWN, NOISE_KEY
from ...compiler.ir.aggregate_programs import HandedOver
from ...compiler.ir.dtypes import is_float
from ...compiler.ir.dynamic_sizes import Sizes, size_input, size_value
from ...compiler.ir.equation import CHECK
from ..device import Batched, Prepared, Program, Shortened, Twinned
from ..device.data_inputs import fields_of
from .batch_inputs import Examples, fill_inputs
from .set_measures import Value


class Refused(Exception):
    """A run on these rows of a split had an index outside, or an integer without a result; its
    other results mean nothing. `integer_guard.explained` says where."""

    def __init__(self, rows: np.ndarray, step: int, left: int = 0):
        super().__init__("an integer operation had no result")
        self.rows, self.step, self.left = rows, step, left


# What a run measures: the losses of its batch, and the parts of the measures of a set.
Measured = tuple[tuple[float, ...], list[Value]]


class BoundProgram:
    """A program, and the arrays that the training loop uses at every step."""

    def __init__(
        self,
        program: Program,
        seed: int,
        handed: HandedOver,
        compared: Mapping[str, int],
        losses: int = 0,
        trains: bool = False,
    ):
        """`compared` are the limits of indices that all data have been compared with; so many of
        the first outputs are `losses`. A program that `trains` changes the values, and so may
        others; else only `load` does."""
        self.system = system = handed.system
        self.program = program
        self._seed, self._handed_over, self._compared = seed, handed, compared
        self.runs = 0  # begun so far
        self._again = None if trains or not isinstance(program, Prepared) else program.run_again
        self._run = program.run
        self._version: object = None  # of the values that it holds
        arrays = program.arrays
        # views into the program's arena: writing to them changes what the next run reads
        self.values = {
            t.name: arrays[t.name] for t in system.tensors.values() if t.kind in ("param", "state")
        }
        self.fields = [(t.name, arrays[t.name]) for t in fields_of(system)]
        self.losses = system.outputs[:losses]
        self._losses, self._handed = [arrays[name] for name in self.losses], handed
        self._parts = [arrays[name] for name in handed.outputs]
        self._check = arrays.get(CHECK)
        # inputs that are indices, and that nobody has looked at: those that are given by hand
        self._unseen = [
            (_unsigned(arrays[name]), limit)
            for name, limit in (system.index_inputs or {}).items()
            if name not in compared or compared[name] > limit
        ]
        # numbers alone can be handed over for several runs at once
        numbers = not any(array.ndim for array in self._parts) and not self._unseen
        self._plain = numbers and {*handed.divisors} <= {1.0}
        # runs that are a step together come one by one
        numbers &= "microbatches_left" not in arrays and DRAWN not in arrays
        self._batched = program if isinstance(program, Batched) and numbers else None
        self.results = {name: arrays[name] for name in system.outputs}
        # From a run's last example on, all along the dimension are like it, and after the last
        # place of a size.
        self._padded: list[tuple[int, np.ndarray]] = []
        self._extent: object = (system.batch, {})  # the examples and sizes of which runs are
        self.step = arrays.get("step", np.zeros((), np.int32))
        self.left = arrays.get("microbatches_left", np.zeros((), np.int32))
        # of private training: how many of the first examples count, and the key of its noise
        self._drawn = arrays.get(DRAWN, np.zeros((), np.int32))
        self._key = [arrays.get(name, np.zeros((), np.int32)) for name in NOISE_KEY]
        self._seeded = arrays.get("seed")  # of programs that draw random numbers, as dropout does
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Draw other random numbers."""
        if self._seeded is not None:
            self._seeded[...] = seed

    def draw(self, count: int, key: Iterable[int]) -> None:
        """Have the next run count so many of its first examples, with noise of this key."""
        self._drawn[...] = count
        for array, word in zip(self._key, key, strict=True):
            array[...] = word

    @property
    def drawn(self) -> dict[str, np.ndarray]:
        """The inputs that `draw` sets, by name."""
        names = (DRAWN, *NOISE_KEY)
        return {n: self.program.arrays[n] for n in names if n in self.program.arrays}

    def twin(self) -> BoundProgram:
        """The same program with another arena, where the device has twins."""
        assert isinstance(self.program, Twinned)
        twin, losses = self.program.twin(), len(self.losses)
        return BoundProgram(twin, self._seed, self._handed_over, self._compared, losses)

    def resize(self, examples: int, sizes: Sizes) -> None:
        """Let the runs to come be of so many examples, if the system has a batch, and of these
        sizes: `fields` and `results` have no more."""
        if (examples, sizes) == self._extent:
            return
        self._extent = None  # nothing, if this is interrupted
        arrays, batch = self.program.arrays, self.system.batch
        if batch and isinstance(self.program, Shortened):
            self.program.shorten(examples)
        for symbol, size in sizes.items():
            if size_input(symbol) in arrays:
                arrays[size_input(symbol)][...] = size
        inputs = [(t, arrays[t.name]) for t in fields_of(self.system)]
        fields = {t.name: array[:examples] if batch else array for t, array in inputs}
        # Whatever else the program computes or checks must be possible for the others, too.
        self._padded = [
            (0, array[examples - 1 :])
            for tensor, array in inputs
            if batch and examples < batch and (CHECK in arrays or not is_float(tensor.dtype))
        ]
        for name, array in fields.items():
            fields[name] = self._of_sizes(name, array, sizes, padded=True)
        self.fields = [*fields.items()]
        self.results = {
            name: self._of_sizes(name, arrays[name][:examples] if batch else arrays[name], sizes)
            for name in self.system.outputs
        }
        self._extent = (examples, sizes)

    def _of_sizes(
        self, name: str, array: np.ndarray, sizes: Sizes, padded: bool = False
    ) -> np.ndarray:
        """The part of an array that has these sizes; what is beyond may be `padded` in each run."""
        for axis, form in self.system.sized.get(name, {}).items():
            size, along = size_value(form, sizes), np.moveaxis(array, axis, 0)
            if padded and size < len(along):
                self._padded.append((axis, np.moveaxis(along[size - 1 :], 0, axis)))
            array = np.moveaxis(along[:size], 0, axis)
        return array

    def run(self, examples: Examples, rows: np.ndarray, step: int, left: int = 0) -> Measured:
        """One run on these rows, of a step with so many batches left after it. Raises Refused."""
        fill_inputs(self.fields, examples.split, rows)
        self.step[...], self.left[...] = step, left
        self.compute(rows, step, left)
        if self._plain:
            losses = tuple([array.item() for array in self._losses])
            return losses, [array.item() for array in self._parts]
        return self._measured(self._losses, self._parts)

    def _measured(self, losses: Iterable[np.ndarray], parts: Iterable[np.ndarray]) -> Measured:
        numbers = tuple([array.item() for array in losses])
        return numbers, list(map(_handed, parts, self._handed.divisors))

    def compute(self, rows: np.ndarray, step: int, left: int = 0) -> None:
        """One run on what the inputs hold, the examples `rows`. Raises Refused."""
        # Backwards: what is padded along several dimensions is first padded along the last.
        for axis, array in reversed(self._padded):
            along = np.moveaxis(array, axis, 0)
            along[1:] = along[0]
        for array, limit in self._unseen:
            if np.maximum.reduce(array, axis=None) >= limit:
                raise Refused(rows, step, left)
        self.runs += 1
        self._run()
        # From now on only what depends on the inputs is computed, until there are other values.
        if self._again is not None:
            self._run = self._again
        if self._check is not None and self._check:
            raise Refused(rows, step, left)

    def together(self, examples: Examples) -> int:
        """How many runs on these examples the device takes in one launch."""
        return max(1, self._batched.hold(examples.split)) if self._batched else 1

    def run_many(
        self, examples: Examples, rows: np.ndarray, steps: Sequence[int]
    ) -> Iterator[Measured]:
        """A run for every batch of rows ([runs, batch]) with its step number; yields what each
        measures. If the device takes them in one launch, all are done before the first is
        yielded."""
        if self._batched is None or not self._batched.hold(examples.split):
            for batch, step in zip(rows, steps, strict=True):
                yield self.run(examples, batch, step)
            return
        self.runs += 1
        # one array for each output, with an element for each run
        found = self._batched.run_many(rows, steps)
        checks = found.get(CHECK)
        for run in range(len(rows)):
            if checks is not None and checks[run]:
                raise Refused(rows[run], steps[run])
            parts = [found[name][run] for name in self._handed.outputs]
            yield self._measured([found[name][run] for name in self.losses], parts)

    def load(self, values: Mapping[str, np.ndarray], version: object = None) -> None:
        """Copy the params and states that the program has; those of the version that it holds
        already are not copied again."""
        if version is not None and version == self._version:
            return
        # If this is interrupted, the program holds no version.
        self._version, self._run = None, self.program.run
        for name, array in self.values.items():
            np.copyto(array, values[name])
        self._version = version


def _unsigned(array: np.ndarray) -> np.ndarray:
    """An array of whole numbers as unsigned ones: what is negative is beyond every limit."""
    return array.view(f"u{array.itemsize}")


def _handed(array: np.ndarray, divisor: float) -> Value:
    """A part as the totals take it: apart from the program's memory."""
    value = array.copy() if array.ndim else array.item()
    return value if divisor == 1 else value / divisor
