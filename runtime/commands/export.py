"""`nnc export`: a model as a library for C. The work is done in `export/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np

from ...compiler.elaboration.train_block import Setup
from ...dsl.diagnostics.diagnostic import UserError
from ..data import Dataset
from ..data.core.splitting import training_size
from ..data.recorded import Recorded
from ..export.export import Request, check_folder
from ..export.export import export as write_library
from ..export.header import report
from ..messages import notify
from ..project import field_types, load_dataset, setup_of, untrained_setup
from ..training.executor import Executor
from ..training.initial_weights import initial_weights
from . import options as o
from .report import print_diagnostics
from .weights import chosen_format, data_of_run, take_weights


def export(
    program: o.OpenedProgram,
    to: Path,
    target: str,
    kinds: tuple[str, ...],
    embed: bool,
    functions: tuple[str, ...],
    threads: int,
    weights: str | None,
    calibrate: str | None,
) -> None:
    """What `nnc export` does."""
    check_folder(to)
    project = program.project
    executor = Executor(_setup(program), o.device("cpu", 1), project.settings.seed)
    values = _weights(program, executor)
    own = executor.first_weights() if values is None else values
    read = _data(program)
    format = chosen_format(weights, calibrate, executor, own, project, program.run, read)
    request = Request(to, target, kinds, embed, format, functions, threads)
    about = write_library(project, executor, values, request, _recorded(program))
    click.echo(report(about))
    notify(f"{', '.join(about.named())} in {to}")


def _recorded(program: o.OpenedProgram) -> Recorded | None:
    """What the run keeps of its data."""
    return program.run.recorded if program.run is not None else None


def _data(program: o.OpenedProgram) -> Callable[[], Dataset | None]:
    """The data of the program, or of its run, read when they are needed."""
    project = program.project
    if program.run is not None:
        return data_of_run(project, program.run, program.data)
    search = o.search(program.data, program.file.parent)
    return lambda: None if project.settings.data is None else load_dataset(project, search)


def _setup(program: o.OpenedProgram) -> Setup:
    """What training is for: a schedule may depend on how many steps the data make."""
    project = program.project
    if program.run is not None:
        notes = program.run.settings
        if project.train is None:
            return untrained_setup(project, program.run.fields or None)
        return setup_of(project, program.run.fields, notes["examples"])
    if project.train is None:
        return untrained_setup(project, None)
    setup = program.setup
    settings = project.settings
    if setup.steps is not None or settings.epochs is None or settings.data is None:
        return setup
    # How many examples there are is known only when they are read.
    try:
        dataset = load_dataset(project, o.search(program.data, program.file.parent, offline=True))
    except UserError as error:
        if all(d.code == "E0601" for d in error.diagnostics):  # declared types do, too
            return setup
        raise
    fields = field_types(dataset.schema, project.model)
    return setup_of(project, fields, training_size(len(dataset.train), settings.validation))


def _weights(program: o.OpenedProgram, executor: Executor) -> Mapping[str, np.ndarray] | None:
    """Those of a run, or those that the program names; None if they are drawn."""
    project, folder = program.project, program.run
    if folder is not None:
        return take_weights(folder, executor, project).weights
    choice = project.settings.weights
    if choice is None:
        return None
    values, told, warnings = initial_weights(project, choice, executor)
    notify(str(told))
    print_diagnostics(warnings)
    return values
