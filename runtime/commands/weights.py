"""The weights that commands compute with: those of a run, and their format for predictions.

In: a run or a program, and what `--weights` and `--calibrate` say. Out: an executor that has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import click
import numpy as np

from ...compiler.elaboration.selection import WHOLE
from ...dsl.diagnostics.diagnostic import UserError
from ..data import Dataset
from ..inference.given_files import Run, read_inputs
from ..inference.predict import Request, needed_names
from ..inference.weight_choice import Calibration, format_of
from ..memory import size_text
from ..messages import notify
from ..project import Project, load_dataset
from ..training.batch_inputs import split_examples
from ..training.executor import Executor, values_bytes
from ..training.loop import measure
from ..training.run_folder import RunFolder
from ..training.trained_weights import TrainedWeights, trained_weights
from ..training.weight_formats import WeightFormat
from . import options as o
from .report import print_diagnostics


def take_weights(folder: RunFolder, executor: Executor, project: Project) -> TrainedWeights:
    """The weights of a run, which the executor takes; what is odd about them, or about the reader
    of the run's inputs, is told. UserError as `trained_weights`."""
    trained = trained_weights(folder, executor, project.settings.keep)
    executor.take(trained.weights)
    if trained.remark:
        notify(trained.remark)
    print_diagnostics([*trained.warnings, *folder.complete_as_reader()])
    return trained


def chosen_format(
    name: str | None,
    calibrate: str | None,
    executor: Executor,
    weights: Mapping[str, np.ndarray],
    project: Project,
    folder: RunFolder | None,
    data: Callable[[], Dataset | None],
) -> WeightFormat | None:
    """The format, with the ranges of its examples where it needs any. UserError as `format_of` and
    `read_inputs`."""
    if calibrate is not None and name != "int8":
        raise click.UsageError("--calibrate goes with --weights int8")
    calibration: Calibration = None
    if calibrate is not None:
        if calibrate.isdigit() and not Path(calibrate).exists():
            calibration = int(calibrate)
            if not calibration:
                raise click.UsageError("--calibrate takes 1 example at least")
        else:
            calibration = read_inputs((calibrate,), _reading(executor, project, folder))
            for note in calibration.notes:
                notify(note)
    return format_of(name, calibration, executor, weights, project.settings.validation, data)


def _reading(executor: Executor, project: Project, folder: RunFolder | None) -> Run:
    """How files are read: as those of the run, or as arrays."""
    needed = needed_names(executor, Request())
    cache = o.search(None, Path()).cache_folder
    if folder is None:
        usage = "--calibrate {file}"
        return Run(project.name, None, cache, needed, usage=usage)
    usage = "nnc export {name} --weights int8 --calibrate {file}"
    return Run(str(folder.path), folder.recorded, cache, needed, usage=usage)


def data_of_run(
    project: Project, folder: RunFolder, data: Path | None = None, offline: bool = False
) -> Callable[[], Dataset | None]:
    """The data that a run was trained with, read when they are needed."""
    notes = folder.settings

    def read() -> Dataset | None:
        if project.settings.data is None:
            return None
        return load_dataset(project, o.search_of_run(notes, data, offline))

    return read


def compared(
    executor: Executor,
    weights: Mapping[str, np.ndarray],
    format: WeightFormat,
    project: Project,
    data: Callable[[], Dataset | None],
) -> str:
    """What a format saves and costs beside the one of training: the bytes of the weights, and the
    loss and the metrics on the held-out data, if they can be read."""
    executor.take({**weights})
    prediction = executor.selected(WHOLE).system
    forms = (None, format)
    systems = [prediction if form is None else form.system(prediction) for form in forms]
    rows = {"weights": [size_text(values_bytes(system)) for system in systems]}
    measured = [*_measured(executor, project, data, forms)]
    for name in measured[0] if measured else ():
        rows[name] = [f"{found[name]:.4f}" for found in measured]
    rows = {"": ["as trained", format.name], **rows}
    width = max(map(len, rows))
    columns = [max(map(len, column)) for column in zip(*rows.values(), strict=True)]
    return "\n".join(
        f"{name:{width}}  {cells[0]:>{columns[0]}}  {cells[1]:>{columns[1]}}"
        for name, cells in rows.items()
    )


def _measured(
    executor: Executor,
    project: Project,
    data: Callable[[], Dataset | None],
    forms: Iterable[WeightFormat | None],
) -> Iterator[dict[str, float]]:
    """The measures of the validation and the test data in each format; nothing without data."""
    try:
        dataset = data() if project.train is not None else None
    except UserError:  # it may be elsewhere
        return
    if dataset is None:
        return
    parts = split_examples(dataset, project.settings.validation)
    held = [name for name in sorted(parts, reverse=True) if name != "train"]
    for form in forms:
        executor.predict_in(form)
        found = {name: measure(executor, parts[name], 1) for name in held}
        yield {f"{name}_{key}": v for name, own in found.items() for key, v in own.items()}
