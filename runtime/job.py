"""A training run made ready: programs compiled, data checked, a place to begin.

In: a `Project` and a `Dataset`. Out: a `Job`, which the loop in `train.py` works on, and which
keeps what was learnt. This file does not loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from ..dsl import syntax as s
from ..dsl.source import Span
from .conditions import Monitor, check_names
from .data import Dataset
from .device import Device
from .executor import Executor, Values
from .feeding import Examples, check_fit, check_indices, divide
from .metrics import Means, Record
from .project import Project, field_types, setup_of
from .run_folder import Position, RunFolder
from .settings import Settings


@dataclass
class Job:
    """What a run works on. `parts` are the examples by split; `best` the weights to keep, if
    `keep` is "best"; without a `folder` nothing is written."""

    settings: Settings
    executor: Executor
    parts: Mapping[str, Examples]
    monitor: Monitor
    loss_span: Span | None
    folder: RunFolder | None = None
    position: Position = field(default_factory=Position)
    records: list[Record] = field(default_factory=list)
    best: Values | None = None

    @property
    def training(self) -> Examples:
        return self.parts["train"]

    def measured(self, record: Record) -> dict[str, float]:
        """What conditions may speak of."""
        return {"epoch": record.epoch, "step": record.step, **record.values}

    def finish_epoch(self, record: Record) -> None:
        """Note the record, keep what is to be kept, and stand before the next epoch."""
        here = self.position
        self.records.append(record)
        value = record.values[self.monitor.name]
        better = isfinite(value) and self.monitor.better(value, here.best)
        if better:
            here.best, here.best_epoch, here.stale = value, record.epoch, 0
        else:
            here.stale += 1
        if better or self.settings.keep == "last" or here.best is None:
            self.keep(record.epoch)
        here.epoch, here.batch, here.means, here.seconds = record.epoch + 1, 0, Means(), 0.0
        if self.folder:
            self.folder.write_metrics(self.records)
            self.save_place()

    def step_back_to(self, step: int) -> None:
        """The steps of this epoch after that one have been undone."""
        here = self.position
        here.batch -= here.step - step
        here.step = step

    def keep(self, epoch: int) -> None:
        """The current weights are the ones to keep."""
        self.best = self.executor.weights()
        if self.folder:
            self.folder.write_weights(self.best, epoch)

    def save_place(self) -> None:
        """Write what is needed to go on from here."""
        if self.folder:
            self.folder.write_checkpoint(self.executor.values, self.position)

    def resume(self, folder: RunFolder) -> None:
        """Go on from a folder's checkpoint. UserError E0706 if it does not fit this program."""
        self.folder = folder
        values, self.position = folder.read_checkpoint(self.executor.values)
        self.executor.restore(values)
        self.records = folder.read_metrics(self.position.epoch)
        if folder.weights_file.exists():
            self.best = folder.read_weights(self.executor.weights())


def prepare(project: Project, dataset: Dataset, device: Device) -> Job:
    """Check that program and data fit, and compile the training step.

    UserError with what is wrong in the program (E02 to E05), E0606, E0702, E0703 or E0710.
    """
    settings = project.settings
    parts = divide(dataset, settings.validation)
    fields = field_types(dataset.schema, project.model)
    metrics = [i.name.id for i in project.block.body if isinstance(i, s.Metric)]
    monitor = _watch(settings, ["loss", *metrics], parts)
    setup = setup_of(project, fields, len(parts["train"]))
    executor = Executor(setup, device, settings.seed)
    check_fit(executor.system, settings.batch, dataset.schema)
    check_indices(executor.system, dataset)
    loss = next(i for i in project.block.body if isinstance(i, s.Field) and i.name.id == "loss")
    return Job(settings, executor, parts, monitor, loss.span)


def _watch(settings: Settings, names: list[str], parts: Mapping[str, Examples]) -> Monitor:
    """What is monitored. UserError E0702 if it, or something in `until`, is not measured."""
    prefixes = ["", *(f"{name}_" for name in ("validation", "test") if name in parts)]
    measured = [prefix + name for prefix in prefixes for name in names]
    until = [pair for condition in settings.until for pair in condition.names.items()]
    watched = [(settings.monitor.name, settings.monitor.span)] if settings.monitor else []
    check_names(until, [*measured, "epoch", "step"])
    check_names(watched, measured)
    return settings.monitor or Monitor(f"{prefixes[1] if len(prefixes) > 1 else ''}loss", True)
