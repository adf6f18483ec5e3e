"""`nnc predict`: a trained model, or a part of it, applied to files or arrays.

In: the command line, a run folder, files, standard input. Out: a table on a terminal, a line of
JSON for each example elsewhere, or a file. The work is done in `inference/`.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from ...dsl.diagnostics.diagnostic import UserError, fail
from ..data.formats.array_file import read_arrays
from ..inference.given_files import STDIN, Given, Run, given_arrays, read_inputs
from ..inference.predict import Request, needed_names
from ..inference.predict_files import predict_given, rows_of
from ..inference.readable import THEN, ResultTable
from ..inference.result_files import Results, check_ending, json_lines, write_results
from ..inference.result_sounds import rate_of
from ..messages import notify
from ..project import open_project, setup_of
from ..training.atomic_files import check_not_read
from ..training.executor import Executor
from ..training.run_folder import RunFolder
from . import options as o
from .program_files import standard_input
from .tables import TableColumn, print_table
from .weights import chosen_format, data_of_run, take_weights

NARROWEST, WIDEST = 10, 40  # columns of a terminal that the first cell takes at least, any at most


def predict(
    run_folder, inputs, array_file, output_file, rate, top, raw, invert, model, tensors, seed,
    weights, calibrate, device_name, threads,
) -> None:  # fmt: skip
    """What `nnc predict` does."""
    if array_file and inputs:
        raise click.UsageError("give each INPUT by itself, or arrays with --input, not both")
    if output_file is not None:
        check_ending(output_file)
        check_not_read(output_file, [Path(name) for name in (*inputs, array_file) if name])
    folder = RunFolder(run_folder)
    notes = folder.settings
    rate = rate_of(output_file, folder.recorded, rate)
    project = open_project(folder.model)
    setup = setup_of(project, folder.fields, notes["examples"])
    executor = Executor(setup, o.device(device_name, threads), project.settings.seed)
    request = Request(model, tuple(dict.fromkeys(tensors)), seed)
    cache, needed = o.search(None, run_folder).cache_folder, needed_names(executor, request)
    run = Run(str(run_folder), folder.recorded, cache, needed, invert)
    given = _given(inputs, array_file, run)
    trained = take_weights(folder, executor, project)
    known = data_of_run(project, folder)
    format = chosen_format(weights, calibrate, executor, trained.weights, project, folder, known)
    executor.predict_in(format)
    for note in given.notes:
        notify(note)
    results = predict_given(executor, given, request)
    table = rows_of(project, run, request, given, results, top, raw)
    if output_file is None:
        _print(results, table)
        return
    for remark in write_results(output_file, results, table, rate):
        notify(remark)


def _given(inputs: tuple[str, ...], array_file: Path | None, run: Run) -> Given:
    """What the command line names, or what comes through a pipe if it names nothing and the model
    needs something."""
    if array_file is not None:
        return given_arrays(_arrays(array_file, run), str(array_file), run)
    is_read = STDIN in inputs or (not inputs and bool(run.needed) and _is_piped())
    content = standard_input() if is_read else b""
    names = inputs or (STDIN,) * bool(content)
    if names:
        return read_inputs(names, run, content)
    reader = run.recorded.reader if run.recorded else None
    if run.needed and reader:
        missing = " and no ".join(f"`{name}`" for name in run.needed)
        help = f"{run.name} reads {reader.takes}: {run.given(reader.example)}"
        raise fail("E0708", f"the command line has no {missing}", help=help)
    return Given({}, "the command line")


def _arrays(path: Path, run: Run) -> np.ndarray | dict[str, np.ndarray]:
    """The arrays of `--input`. UserError as `read_arrays`."""
    try:
        return read_arrays(path)
    except UserError as error:
        given = f"`nnc predict {run.name} {path}`"
        raise UserError(
            replace(d, help=f"{d.help}; a file of another kind is given without `--input`: {given}")
            if d.code == "E0602"
            else d
            for d in error.diagnostics
        ) from None


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file, so that something may come from it."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        # None of the system's: a text that somebody has put in its place, or closed.
        return isinstance(sys.stdin, io.TextIOWrapper) and not sys.stdin.closed
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _print(results: Results, table: ResultTable) -> None:
    """A table on a terminal, else a line of JSON for each example."""
    if not sys.stdout.isatty():
        for line in json_lines(results, table, "standard output has"):
            click.echo(line)
        return
    count = table.count(results, "standard output has")
    rows = [table.titles(), *(table.shown(row) for row in range(count))]
    columns = [list(column) for column in zip(*rows, strict=True)]
    gap, width = 1, shutil.get_terminal_size().columns
    # Where there is little room, the classes after the likeliest are left out first.
    while _width(columns, gap) > width and any(column[0] == THEN for column in columns[1:]):
        columns.remove(next(c for c in reversed(columns) if c[0] == THEN))
    rest = width - _width(columns[1:], gap) - gap
    first = min(max(rest, NARROWEST), _widest(columns[0]))
    widths = [first, *(min(_widest(column), WIDEST) for column in columns[1:])]
    heads = [TableColumn(c[0], n, right=False) for c, n in zip(columns, widths, strict=True)]
    print_table(heads, [(cells, "") for cells in zip(*(c[1:] for c in columns), strict=True)], gap)


def _widest(column: list[str]) -> int:
    return max(map(len, column))


def _width(columns: list[list[str]], gap: int) -> int:
    return sum(min(_widest(column), WIDEST) + gap for column in columns)
