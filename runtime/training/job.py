"""A training run that is ready to start: programs compiled, data checked, a position to start from.

In: a `Project` and a `Dataset`. Out: a `Job`, which the loop in `loop.py` advances.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite

import numpy as np

from ...compiler.elaboration.train_block import Setup
from ...dsl.check.turns import Turn
from ...dsl.diagnostics.diagnostic import Diagnostic, fail
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..conditions import Monitor, check_measured, measured_names
from ..data import Dataset
from ..device import Device
from ..project import Project, field_types, sampling_of, setup_of
from ..settings import Settings
from .batch_inputs import Examples, check_fit, check_indices, one_hot_warnings, split_examples
from .checkpoints import Position
from .executor import Executor, Values, evaluation_batches
from .kept_programs import states_kept
from .metrics import EPOCH, LOG, Record
from .narrowing import narrowing_warnings
from .private_draws import PrivateDraws
from .progress_text import Plan
from .run_folder import RunFolder
from .set_measures import Totals


@dataclass
class Job:
    """The state of a run. `parts` are the examples by split; `best` are the best weights, if `keep`
    is "best"; without a `folder` nothing is written; `stop` is a reason to end after this step."""

    settings: Settings
    executor: Executor
    parts: Mapping[str, Examples]
    monitor: Monitor
    losses: Sequence[s.Field | s.Loss]
    warnings: tuple[Diagnostic, ...] = ()
    private: PrivateDraws | None = None
    folder: RunFolder | None = None
    position: Position = field(default_factory=Position)
    best: Values | None = None
    stop: str = ""

    def __post_init__(self) -> None:
        # written with every checkpoint: resuming with other data must be noticed
        self.position.seed, self.position.examples = self.settings.seed, len(self.training)

    @property
    def records(self) -> list[Record]:
        """One per completed epoch, and those within epochs, in order."""
        return self.position.records

    @property
    def training(self) -> Examples:
        return self.parts["train"]

    @property
    def epoch_length(self) -> int:
        """How many examples the steps of an epoch take."""
        return self.private.length if self.private else len(self.training)

    @cached_property
    def last_private_step(self) -> tuple[int, str] | None:
        """After which step a run ends because of what another one would spend, and why."""
        found = self.private and self.private.sampling.last_step(self.settings.until)
        return (
            (found[0], f"`until {found[1].text}` would hold after another step") if found else None
        )

    @property
    def spent(self) -> str:
        """Why a private run takes no other step; empty if it may."""
        step, why = self.last_private_step or (None, "")
        return why if step is not None and self.position.step >= step else ""

    def order(self, epoch: int) -> np.ndarray:
        """The rows of an epoch (from 1) in the order in which its steps take them."""
        if self.private:
            return self.private.order(self.training.rows, epoch)
        return self.training.order(self.settings.seed, epoch, self.settings.shuffle)

    @property
    def steps_per_epoch(self) -> int:
        """The last of which may be of fewer examples."""
        return -(-self.epoch_length // (self.settings.batch * self.settings.accumulate))

    @property
    def plan(self) -> Plan:
        return Plan(
            self.settings.epochs,
            self.settings.steps,
            self.steps_per_epoch,
            tuple(loss.name.id for loss in self.losses),
            self.monitor.name,
            self.last_private_step and self.last_private_step[0],
        )

    def keep_secret(self, folder: RunFolder) -> None:
        """Write what the draws of private training follow from, so that a run can go on."""
        if self.private:
            self.private.write(folder.path)

    def weigh(self, weights: np.ndarray | None) -> None:
        """Draw the training examples by weights of all examples of their split; None: all alike.
        UserError E0704 in private training, whose draws are those that are counted."""
        if weights is not None and self.private:
            help = "leave the weights out, or weigh the losses of examples in the program"
            raise fail("E0704", "private training draws all examples alike", help=help)
        if weights is not None:
            drawn = replace(self.training, weights=weights[self.training.rows])
            self.parts = {**self.parts, "train": drawn}

    def compile_step(self) -> None:
        """Compile the step of a whole batch. Values that are first asked for afterwards are in its
        memory from the beginning. UserError E0713 if it does not fit."""
        size = min(self.settings.batch, len(self.training))
        self.executor.training(size, self.settings.turn(self.position.step + 1))

    def compile_programs(self) -> None:
        """Compile what the epoch under way takes, so that its seconds are those of training; what
        is compiled already is not again. UserError E0713 if it does not fit."""
        self.compile_step()
        for size, turn in self._steps_to_come():
            self.executor.training(size, turn)
        for name, examples in self.parts.items():
            for size, begin, end in evaluation_batches(len(examples)):
                if name != "train" and begin < end:
                    with self.executor.evaluation(size):
                        pass
        # back to the memory of the program of most steps
        self.compile_step()

    def _steps_to_come(self) -> dict[tuple[int, Turn], None]:
        """The batches of the epoch's steps that are left, and the losses that they train."""
        settings, here, examples = self.settings, self.position, self.epoch_length
        left = -(-(examples - here.done) // (settings.batch * settings.accumulate))
        taken = left if settings.steps is None else min(left, settings.steps - here.step)
        if taken <= 0:
            return {}
        cycle = range(1, min(taken, len(settings.turns) or 1) + 1)
        size, rest = min(settings.batch, examples), examples % settings.batch
        found = dict.fromkeys((size, settings.turn(here.step + n)) for n in cycle)
        if taken == left and rest:
            found[rest, settings.turn(here.step + taken)] = None
        return found

    def measured(self, record: Record) -> dict[str, float]:
        """The values that conditions may name."""
        return {"epoch": record.epoch, "step": record.step, **record.values}

    def note(self, record: Record) -> None:
        """Append a record. That of an epoch or a validation is compared with the best one; a
        checkpoint is saved, and the weights if they are to be kept; after an epoch the position
        moves to the next one."""
        here = self.position
        here.records.append(record)
        here.window, here.seconds = Totals(), record.seconds
        if record.kind == LOG:
            if self.folder:
                self.folder.metrics.append(record)
            return
        keep = self._compare(record)
        # The position moves on before it is saved: resuming begins with the next epoch.
        if record.kind == EPOCH:
            here.epoch, here.done, here.totals, here.seconds = record.epoch + 1, 0, Totals(), 0.0
        # The checkpoint first: metrics and weights follow from it if a crash comes in between.
        self.save_checkpoint()
        if self.folder:
            self.folder.metrics.write(here.records)
            if keep and self.best is not None:
                self.folder.write_weights(self.best, here.kept, self.executor.bf16)

    def _compare(self, record: Record) -> bool:
        """Compare a record with the best one so far; whether its weights are those to keep."""
        here = self.position
        value = record.values[self.monitor.name]
        # a loss of NaN compares false with everything and must not become the best
        better = isfinite(value) and self.monitor.better(value, here.best)
        if better:
            here.best, here.stale = value, 0
            here.best_epoch, here.best_step = record.epoch, record.step
        else:
            here.stale += 1
        # If nothing was ever finite, the last weights are kept: a run has weights in any case.
        keep = better or self.settings.keep == "last" or here.best is None
        if keep:
            here.kept, self.best = here.step, self.executor.weights()
        return keep

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the position. UserError E0709 if it cannot be written."""
        if self.folder:
            keep = self.settings.keep_checkpoints
            values, bf16 = self.executor.values, self.executor.bf16
            self.folder.checkpoints.write(values, self.position, keep, bf16)

    def begin_with(self, weights: Values) -> None:
        """Begin with trained weights in place of those that are drawn; some may be left out."""
        self.compile_step()
        self.executor.restore(weights)

    def resume(self, folder: RunFolder) -> list[Diagnostic]:
        """Resume from a folder's last intact checkpoint, or from the start if there is none yet;
        warnings about what was damaged or missing. UserError E0706 if none is intact and of this
        program."""
        self.folder = folder
        if self.private:
            self.private.read(folder.path)
        self.compile_step()
        values, position, warnings = folder.checkpoints.read(self.executor.values)
        # interrupted before its first checkpoint: the run begins anew
        if position is not None:
            # with other data, `done` and the order of the epoch would mean other examples
            if position.examples != self.position.examples:
                raise fail(
                    "E0710",
                    f"{folder.path} was trained on {position.examples:,} examples, and "
                    f"the data have {self.position.examples:,} now",
                )
            position.seed = self.position.seed
            # another version may have handed over other parts
            for name in ("totals", "window"):
                found = getattr(position, name)
                if found.count and not self.executor.measures["train"].fit(found):
                    setattr(position, name, Totals())
            self.executor.restore(values)
            self.position = position
        elif self.settings.weights is not None:
            self.executor.restore(folder.read_initial())
        # `kept` is 0 in the first epoch: there are no best weights yet
        if self.position.kept:
            wanted = self.executor.weights()
            executor = self.executor
            self.best, damage = folder.weights_at(
                self.position.kept, wanted, executor.values, executor.weights_of, executor.bf16
            )
            warnings += damage
        # What is passed over is not missing.
        warnings += folder.metrics.check(self.records, lost=not warnings)
        folder.metrics.write(self.records)
        return warnings


def prepare(project: Project, dataset: Dataset, device: Device) -> Job:
    """Check that program and data fit, and compile the training step.

    UserError with what is wrong in the program (E02 to E05), E0606, E0702, E0703 or E0710.
    """
    settings = project.settings
    # what needs no compiler first: a misspelt monitor is reported at once
    parts = split_examples(dataset, settings.validation)
    fields = field_types(dataset.schema, project.model)
    monitor = _monitor(settings, project.block, parts)
    _check_held_out(project.block, parts)
    setup = setup_of(project, fields, len(parts["train"]))
    private = _private_draws(project, setup, len(parts["train"]))
    if private:  # whose batches are all of one size
        settings = replace(settings, batch=private.batch)
        setup = replace(setup, batch=private.batch)
    # of few examples even the first batch of an epoch is short
    setup = replace(setup, whole=min(setup.batch, len(parts["train"])))
    executor = Executor(setup, device, settings.seed)
    if settings.draw is not None:
        settings.draw.check(dataset.schema)
    check_fit(executor.system, settings.batch, dataset.schema)
    check_indices(executor.system, dataset)
    warnings = (
        *executor.report.diagnostics,
        *one_hot_warnings(executor.system, dataset),
        *narrowing_warnings(executor.system, dataset),
        *executor.measures["train"].warnings(len(parts["train"])),
        *_single_examples(setup, len(parts["train"])),
        *_too_large_batch(project, len(parts["train"])),
    )
    job = Job(settings, executor, parts, monitor, project.block.losses, warnings, private)
    if settings.draw is not None:
        job.weigh(settings.draw.weights(dataset.train))
    return job


def _private_draws(project: Project, setup: Setup, examples: int) -> PrivateDraws | None:
    """How private training draws. UserError E0703 if its batches are too small for its rate."""
    sampling = sampling_of(project.settings, examples)
    if sampling is None:
        return None
    sampling.check(setup.steps, project.settings.until)
    return PrivateDraws(sampling, min(project.settings.batch, examples))


def _single_examples(setup: Setup, examples: int) -> list[Diagnostic]:
    """W0305 for every layer that learns nothing of its states from a batch of one example, if there
    is such a batch."""
    if 1 not in (setup.batch, examples % setup.batch):
        return []
    found: dict[Span | None, list[str]] = {}
    for tensor in states_kept(setup):
        place = tensor.span and (tensor.span.call_site or tensor.span)
        found.setdefault(place, []).append(tensor.name)
    if setup.batch == 1:
        when, help = "a batch of one example", "`batch = 2` is the least that it can learn from"
    else:
        when = f"the last batch of an epoch, one example of {examples:,},"
        help = "another `batch` leaves more than one; evaluation is not affected"
    return [
        Diagnostic(
            "W0305",
            f"{when} does not change {' and '.join(f'`{n}`' for n in names)}",
            place,
            label="one value has no variance",
            help=help,
        )
        for place, names in found.items()
    ]


def _too_large_batch(project: Project, examples: int) -> list[Diagnostic]:
    """W0307 for a batch that is stated, and that the training data do not fill."""
    batch = project.settings.batch
    # `B = 4096` states it, too
    stated = _stated(project.block, "batch", *project.symbols[:1])
    if batch <= examples or stated is None:
        return []
    return [
        Diagnostic(
            "W0307",
            f"a batch is {batch:,} examples, and the training data have {examples:,}",
            stated.value.span,
            label="more than there are",
            help="every step takes all of them",
        )
    ]


def _check_held_out(train: s.Train, splits: Iterable[str]) -> None:
    """UserError E0703 for `validate_every` where nothing is held out."""
    stated = _stated(train, "validate_every")
    if stated is not None and {*splits} == {"train"}:
        raise fail(
            "E0703",
            "`validate_every` measures examples that were held out, and there are none",
            stated.span,
            help="hold out a tenth of the training data with `validation = 0.1`; `log_every` "
            "records what is measured in training",
        )


def _stated(train: s.Train, *names: str) -> s.Field | None:
    """The field of a train block that has one of these names, if it is there."""
    fields = (item for item in train.body if isinstance(item, s.Field))
    return next((field for field in fields if field.name.id in names), None)


def _monitor(settings: Settings, train: s.Train, splits: Iterable[str]) -> Monitor:
    """The monitored value. UserError E0702 if it, or a name in `until`, is not measured."""
    known = measured_names([i.name.id for i in train.measures], splits)
    check_measured(settings.until, settings.monitor, known, settings.private is not None)
    # what was not trained on tells most: validation, then test, then the training loss
    loss = train.losses[0].name.id
    losses = [name for name in (f"validation_{loss}", f"test_{loss}", loss) if name in known]
    return settings.monitor or Monitor(losses[0], True)
