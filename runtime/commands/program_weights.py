"""The weights of a program or a run for commands that train nothing.

In: an `OpenedProgram`. Out: the setup of its executor, the values that it begins with, its data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...compiler.elaboration.train_block import Setup
from ...dsl.diagnostics.diagnostic import UserError
from ..data import Dataset
from ..data.core.splitting import training_size
from ..messages import notify
from ..project import field_types, load_dataset, setup_of, untrained_setup
from ..training.executor import Executor
from ..training.initial_weights import initial_weights
from . import options as o
from .report import print_diagnostics
from .weights import data_of_run, take_weights


def data_of(program: o.OpenedProgram) -> Callable[[], Dataset | None]:
    """The data of the program, or of its run, read when they are needed."""
    project = program.project
    if program.run is not None:
        return data_of_run(project, program.run, program.data)
    search = o.search(program.data, program.file.parent)
    return lambda: None if project.settings.data is None else load_dataset(project, search)


def setup_of_program(program: o.OpenedProgram) -> Setup:
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


def weights_of(program: o.OpenedProgram, executor: Executor) -> Mapping[str, np.ndarray] | None:
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
