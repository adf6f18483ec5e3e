"""`nnc export`: a model as a library for C. The work is done in `export/`."""

from __future__ import annotations

from pathlib import Path

import click

from ..data.recorded import Recorded
from ..export.export import Request, check_folder
from ..export.export import export as write_library
from ..export.header import report
from ..messages import notify
from ..training.executor import Executor
from . import options as o
from .program_weights import data_of, setup_of_program, weights_of
from .weights import chosen_format, compared


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
    executor = Executor(setup_of_program(program), o.device("cpu", 1), project.settings.seed)
    values = weights_of(program, executor)
    own = executor.first_weights() if values is None else values
    read = data_of(program)
    format = chosen_format(weights, calibrate, executor, own, project, program.run, read)
    request = Request(to, target, kinds, embed, format, functions, threads)
    about = write_library(project, executor, values, request, _recorded(program))
    click.echo(report(about))
    if format is not None:
        click.echo(compared(executor, own, format, project, read))
    notify(f"{', '.join(about.named())} in {to}")


def _recorded(program: o.OpenedProgram) -> Recorded | None:
    """What the run keeps of its data."""
    return program.run.recorded if program.run is not None else None
