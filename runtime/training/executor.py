"""The compiled programs of one model, by purpose and batch size, and the values that they share.

In: a `Setup` and a device. Out: programs ready to run, each compiled when it is first needed. The
last batch of an epoch is often shorter: it has a program of its own, so that it is exact. Params
and states are copied between the memories of two programs only when the size changes, or when they
have changed; what follows from them alone is then computed anew (`passes/kernels/prologue.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...compiler.elaboration.applications import Part
from ...compiler.elaboration.selection import WHOLE, Selected, Selection, find_part
from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.aggregate_programs import HandedOver, hand_over
from ...compiler.ir.aggregates import Aggregates
from ...compiler.ir.equation import System, Tensor
from ...compiler.programs import dynamic, untrained
from ...compiler.reference.initial_values import initial_values, set_initial_values
from ...dsl.check.turns import Turn
from ...dsl.diagnostics.diagnostic import Note, Report, UserError, fail
from ...dsl.syntax import ast as s
from ..compiling import compiled_once, compiling
from ..device import Device, Twinned
from ..device.cpu import host
from ..device.cpu.uniform_numbers import random_for
from ..memory import NotEnoughMemory, require, size_text
from ..project import with_batch
from .bound_program import BoundProgram
from .kept_programs import evaluation, selected, training_step
from .program_pool import ProgramPool
from .set_measures import SetMeasures
from .sized_predictions import SizedPredictions
from .values_copy import IN_MEMORY

if TYPE_CHECKING:  # formats are made by passes, which a start without them does not import
    from .weight_formats import WeightFormat

Values = dict[str, np.ndarray]


class Executor:
    """All programs of a model, compiled when they are first needed. Steps count from 1.

    Any number of threads may evaluate and predict at the same time, while no other one trains or
    restores values.
    """

    @compiling()
    def __init__(self, setup: Setup, device: Device, seed: int):
        self.setup, self.device, self.seed = setup, device, seed
        # by the losses that a step trains and the size of the batch
        self._training: dict[tuple[Turn, int], BoundProgram] = {}
        self._holder: BoundProgram | None = None  # of the current values that it has
        self._pools: dict[tuple[str, int, Selection], ProgramPool[BoundProgram]] = {}
        names = [i.name.id for i in setup.train.measures]  # the order of the systems' outputs
        known: list[Aggregates] = []
        self.measures = {
            "train": SetMeasures(setup, True, names, device, known),
            "evaluate": SetMeasures(setup, False, names, device, known),
        }
        self.report = Report()  # warnings about the program, of its training step
        self._selected: dict[tuple[Selection, int], Selected] = {}  # by the size of the batch
        self._dynamics: dict[Selection, System | None] = {}
        self._sized = SizedPredictions(setup)
        self._values: Mapping[str, np.ndarray] | None = None  # not drawn yet
        self._changes = 0  # how often somebody could change them
        self._taken = False  # whether they are the weights of a run
        self._format: WeightFormat | None = None  # of the weights, where it is not that of training
        self._formatted: tuple[object, Values] | None = None  # with the version of the values

    @compiled_once
    def _step(self) -> tuple[System, System]:
        """The training step, and the system that draws its values; a model that is only evaluated
        or predicted with needs neither. UserError E0713 if the values do not fit in memory."""
        step, drawn = training_step(self.setup, self.report)
        # these warnings take the passes of autodiff: only programs with `remat` pay for that
        if step.remat:
            from ...compiler.pipeline import check_remat  # only where it is needed

            check_remat(step, self.report)
        # asked before anything is allocated, so that the answer can be a diagnostic
        try:
            taken = values_bytes(step)
            require(taken if taken > IN_MEMORY else MIN_COPIES * taken)
        except NotEnoughMemory as shortage:
            raise does_not_fit(
                "this model", shortage, value_tensors(step), _no_batch(step)
            ) from shortage
        return step, drawn

    @property
    def system(self) -> System:
        """The training step."""
        return self._step[0]

    @compiled_once
    def _model(self) -> tuple[Selected, System, Mapping[str, Part]]:
        """The prediction of one example, the system that draws the model's first values, and the
        layers and models in it."""
        return untrained(with_batch(self.setup, 1))

    @property
    def values(self) -> Mapping[str, np.ndarray]:
        """The current params and states; the next training step may change the arrays. So may who
        asks for them, before the next evaluation or prediction."""
        self._changes += 1
        return self._current()

    @property
    def _version(self) -> tuple[int, int]:
        """Another one whenever the values may have changed."""
        return self._changes, sum(program.runs for program in self._training.values())

    def _current(self) -> Mapping[str, np.ndarray]:
        if self._values is not None:
            return self._values
        with compiling():
            if self._values is None:
                self._values = initial_values(*self._step, self.seed, random_for(self._step[1]))
            return self._values

    @compiled_once
    def weight_names(self) -> tuple[str, ...]:
        """The params, and the states of the model (not those of the optimizer)."""
        return tuple(t.name for t in value_tensors(self._model[0].system))

    @property
    def bf16(self) -> frozenset[str]:
        """The params and states that memory has in bf16; their arrays are of f32."""
        return frozenset(
            t.name for t in value_tensors(self.system) if (t.storage, t.dtype) == ("bf16", "f32")
        )

    def weight_forms(self) -> Values:
        """Arrays of the shapes and types of the weights, without values or memory of their own."""
        tensors = value_tensors(self._model[0].system)
        return {t.name: np.broadcast_to(np.zeros((), t.array_type), t.shape) for t in tensors}

    @compiling()
    def first_weights(self, seed: int | None = None) -> Values:
        """The weights as a training begins with them, drawn from its seed or another one."""
        found, drawn, _ = self._model
        own = self.seed if seed is None else seed
        return initial_values(found.system, drawn, own, random_for(drawn))

    def take(self, weights: Values) -> None:
        """Evaluate and predict with these weights; they are not copied. For training, there is
        `restore`."""
        self._values, self._taken = weights, True
        self._changes += 1

    def predict_in(self, format: WeightFormat | None) -> None:
        """From now on evaluate and predict with the weights in this format."""
        self._format, self._formatted = format, None
        self._pools.clear()

    def weights(self) -> Values:
        """A copy of the params and the model's states, as evaluation and prediction use them."""
        return self.weights_of(self._current())

    def weights_of(self, values: Mapping[str, np.ndarray]) -> Values:
        """The same of any values of the program: averages in place of params that have one."""
        averages = self._averages
        found = {name: values[averages.get(name, name)] for name in self.weight_names}
        # an average is in f32, also of a param in f16
        return {name: array.astype(values[name].dtype) for name, array in found.items()}

    def restore(self, values: Mapping[str, np.ndarray]) -> None:
        """Set params and states; those that are missing are left as they are, but averages begin
        anew from params that come without. After `take` the others are as training begins."""
        if self._taken:
            self._values, self._taken = None, False
        current = self.values
        for name, array in values.items():
            np.copyto(current[name], array)
        for name, average in self._averages.items():
            if name in values and average not in values:
                np.copyto(current[average], values[name])

    @compiling()
    def training(self, batch: int, turn: Turn = ()) -> BoundProgram:
        """The training step for a batch size and the losses whose turn it is, all of them by
        default; its runs change the current values."""
        found = self._training.get((turn, batch))
        # A remainder of an epoch has another size, and so other ranges in all its equations.
        if found is None:
            own = batch == self.setup.batch and not turn
            setup = replace(with_batch(self.setup, batch), turn=turn)
            system = self.system if own else training_step(setup)[0]
            found = self._training[turn, batch] = self._bound("train", batch, system)
        # Each program has an arena of its own: the values move along when another one runs, and
        # from then on its arrays are the current ones. States of optimizers that it does not have
        # stay where they are.
        if found is not self._holder:
            if self._values is None:
                # Into the memory of the program that needs them first: for a moment twice of all
                # values would be too much for a large model.
                rest = [t for t in value_tensors(self.system) if t.name not in found.values]
                self._values = {**found.values, **{t.name: zeros(t) for t in rest}}
                random = random_for(self._step[1])
                set_initial_values(*self._step, self.seed, self._values, random)
            else:
                found.load(self._values)
                self._values = {**self._values, **found.values}
            self._holder = found
        self._changes += 1
        return found

    def evaluation(self, batch: int) -> AbstractContextManager[BoundProgram]:
        """Loss and metrics of a batch under a copy of the current values, for one caller."""
        return self._lent("evaluate", batch, evaluation)

    def prediction(
        self, batch: int, selection: Selection = WHOLE
    ) -> AbstractContextManager[BoundProgram]:
        """The model's results, or what is selected, for a batch under a copy of the current values,
        for one caller. All sizes that `prediction_batches` gives have one program."""
        sizes, own = self._sized.sizes(selection), self._sized.for_all(selection)
        system = self._dynamic(own)
        if system is not None and batch <= system.batch:
            return self._lent("predict", system.batch, lambda setup: system, own, (batch, sizes))
        return self._lent("predict", batch, lambda _: self._system(own, batch), own, (batch, sizes))

    @compiling()
    def selected(self, selection: Selection, batch: int = 1) -> Selected:
        """What computes a selection for a batch. UserError E0715 if it names a tensor that does not
        exist."""
        key = self._sized.for_all(selection), batch
        if key == (WHOLE, 1):
            return self._model[0]
        if key not in self._selected:
            selection = key[0]
            self._selected[key] = selected(with_batch(self.setup, batch), selection)
        return self._selected[key]

    def exact(self, selection: Selection, batch: int) -> System:
        """What is selected for a batch and its sizes alone, for messages."""
        return selected(with_batch(self.setup, batch), selection).system

    @property
    def definition(self) -> s.Definition:
        """The model."""
        return self.setup.definitions[self.setup.train.model.id]

    def part(self, name: str) -> Part | None:
        """The layer or model of this name, None for the model itself. UserError E0707 if there is
        none, or several."""
        return find_part(self.setup, self._model[2], self.setup.train.model.id, name)

    @property
    def layers(self) -> dict[str, Part]:
        """The layers and models that the model itself applies, by name, in order."""
        parts = self._model[2]
        return {
            name: part
            for name, part in parts.items()
            if not any(name.startswith(f"{other}_") for other in parts)
        }

    def prediction_batches(
        self, count: int, selection: Selection = WHOLE
    ) -> Iterator[tuple[int, int, int]] | None:
        """As `evaluation_batches`, of the train block's size, for which one program serves any
        number of examples; None if the results of an example depend on the others."""
        system = self._dynamic(self._sized.for_all(selection))
        return None if system is None else _batches(count, min(count, system.batch))

    def _dynamic(self, selection: Selection) -> System | None:
        """The prediction for any number of examples up to the batch, if there is one."""
        if selection not in self._dynamics:
            with compiling():
                system = self._system(selection, self.setup.batch)
                self._dynamics[selection] = dynamic(self.setup, system)
        return self._dynamics[selection]

    def _system(self, selection: Selection, batch: int) -> System:
        """The prediction for a batch, where it is served by one for any sizes, that."""
        if selection.sizes == tuple(self.setup.limits.items()) and selection.sizes:
            found = self._sized.system(selection, batch)
            if found is not None:
                return found.system
        return selected(with_batch(self.setup, batch), selection).system

    @contextmanager
    def _lent(
        self,
        purpose: str,
        batch: int,
        elaborate: Callable[[Setup], System],
        selection: Selection = WHOLE,
        extent: tuple[int, Mapping[str, int]] | None = None,
    ) -> Iterator[BoundProgram]:
        """A program for a batch, for runs of an `extent` of examples and sizes."""
        key = purpose, batch, selection
        pool = self._pools.get(key) or self._pool(key, elaborate)
        with pool.lend() as program:
            if extent is not None:
                program.resize(*extent)
            program.seed(self.seed)
            # a copy: training must not see what this program does
            program.load(self._in_format(), self._version)
            yield program

    def _in_format(self) -> Mapping[str, np.ndarray]:
        """What evaluations and predictions read."""
        if self._format is None:
            return self._averaged()
        if self._formatted is None or self._formatted[0] != self._version:
            weights = self._format.values(self.weights_of(self._current()))
            self._formatted = self._version, {**self._averaged(), **weights}
        return self._formatted[1]

    def _averaged(self) -> Mapping[str, np.ndarray]:
        """The values with averages in place of params that have one."""
        values, averages = self._current(), self._averages
        return {**values, **{n: values[a] for n, a in averages.items()}} if averages else values

    @property
    def _averages(self) -> Mapping[str, str]:
        """The states that evaluation and prediction use in place of params, by these."""
        entries = self.setup.train.body
        averaging = any(isinstance(i, s.Field) and i.name.id == "average" for i in entries)
        # Weights of a run are averages already. Without an average, only training needs the step.
        return self.system.averages if averaging and not self._taken else {}

    @compiling()
    def _pool(
        self, key: tuple[str, int, Selection], elaborate: Callable[[Setup], System]
    ) -> ProgramPool[BoundProgram]:
        # Another thread may have made it while this one waited for its turn.
        found = self._pools.get(key)
        if found is None:
            purpose, batch, _ = key
            first = self._bound(purpose, batch, elaborate(with_batch(self.setup, batch)))
            if isinstance(first.program, Twinned):
                found = ProgramPool(first, first.twin, first.program.simultaneous)
            else:
                found = ProgramPool(first)
            self._pools[key] = found
        return found

    def _bound(self, purpose: str, batch: int, system: System) -> BoundProgram:
        handed = self._handed(purpose, system)
        if self._format is not None and purpose != "train":
            handed = replace(handed, system=self._format.system(handed.system))
        # the device compiles and allocates; a shortage shows here and not in the middle of a run
        try:
            program = self.device(handed.system)
        except NotEnoughMemory as shortage:
            from ...compiler.pipeline import derive  # not needed where all fits

            help = self._smaller(shortage.free) if purpose == "train" else ""
            tensors = derive(system).tensors.values()
            raise does_not_fit(
                f"a batch of {batch:,}, to {purpose},", shortage, tensors, help
            ) from shortage
        # the data of training and evaluation are compared before any run (`check_indices`)
        compared = {} if purpose == "predict" else self.system.index_inputs or {}
        losses = 0 if purpose == "predict" else len(self.setup.train.losses)
        return BoundProgram(program, self.seed, handed, compared, losses, purpose == "train")

    def _handed(self, purpose: str, system: System) -> HandedOver:
        if purpose in self.measures:
            losses = len(self.setup.train.losses)
            return hand_over(system, self.measures[purpose].aggregates, losses)
        return HandedOver(system, (), ())

    # The arena of a step grows by about the same amount with each example: two plans give the line.
    def _smaller(self, free: int) -> str:
        """The help that names a batch whose training step fits, the largest as far as memory is
        linear in it."""
        own = self.setup.batch
        least = self._step_bytes(1)
        # a single example already, or not even that fits
        if own == 1 or least > free:
            return _no_batch(self.system)
        each = (self._step_bytes(own) - least) / (own - 1)
        batch = max(1, min(own - 1, int(1 + (free - least) / max(each, 1))))
        # the plan may be a little off the line: lower by 5 % until it truly fits
        while batch > 1 and self._step_bytes(batch) > free:
            batch = batch * 19 // 20
        return f"a batch of {batch:,} would fit: `--batch {batch}`"

    def _step_bytes(self, batch: int) -> int:
        from ...compiler.pipeline import plan  # not needed where the code was kept and all fits

        step = training_step(with_batch(self.setup, batch))[0]
        return plan(self._handed("train", step).system, host.target()).arena_bytes


def zeros(tensor: Tensor) -> np.ndarray:
    return np.zeros(tensor.shape, tensor.array_type)


MIN_COPIES = 2  # of few values: those that are trained, and those to return to (`ValuesCopy`)
LISTED = 3  # tensors that are named


def value_tensors(system: System) -> list[Tensor]:
    """All params and states."""
    return [t for t in system.tensors.values() if t.kind in ("param", "state")]


def values_bytes(system: System) -> int:
    """Bytes of all params and states."""
    return sum(t.bytes for t in value_tensors(system))


def _no_batch(system: System) -> str:
    values = size_text(values_bytes(system))
    return f"no batch is small enough: parameters and states alone take {values}"


def does_not_fit(
    what: str, shortage: NotEnoughMemory, tensors: Iterable[Tensor], help: str
) -> UserError:
    """E0713, with the largest tensors and a help text."""
    # the largest first: those are what a smaller batch or model would shrink
    largest = sorted(tensors, key=lambda t: -t.bytes)[:LISTED]
    notes = tuple(
        Note(t.span, f"`{t.name}`: {t.storage_dtype}{list(t.shape)}, {size_text(t.bytes)}")
        for t in largest
        if t.span is not None
    )
    return fail(
        "E0713",
        f"{what} needs {size_text(shortage.needed)} of memory, and "
        f"{size_text(shortage.free)} are free",
        notes[0].span if notes else None,
        label=notes[0].text if notes else "",
        notes=notes[1:],
        help=help,
    )


EVALUATION_BATCH = 256


def evaluation_batch(count: int) -> int:
    """How many examples to evaluate at once: a divisor of `count` if there is a large one, so that
    all batches have the same size and one program."""
    if count <= EVALUATION_BATCH:
        return count
    # down to half only: below that, more launches cost more than a second program to compile
    for size in range(EVALUATION_BATCH, EVALUATION_BATCH // 2, -1):
        if count % size == 0:
            return size
    return EVALUATION_BATCH


def evaluation_batches(count: int) -> Iterator[tuple[int, int, int]]:
    """How `count` examples are evaluated: (size of a batch, first example, end), so that every
    example is in one batch. The last size may be smaller; it is exact with a program of its own,
    instead of padded."""
    return _batches(count, evaluation_batch(count))


def _batches(count: int, size: int) -> Iterator[tuple[int, int, int]]:
    whole = count - count % size
    yield size, 0, whole
    if whole < count:
        yield count - whole, whole, count
