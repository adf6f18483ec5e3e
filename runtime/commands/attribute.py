"""`nnc attribute`: which parts of an input a trained model's result is due to.

In: the command line, a run folder, files, arrays, or examples of the run's data. Out: a table on a
terminal, a line of JSON for each example elsewhere, and with --to a folder of maps and pictures.
The work is done in `inspect/attribution/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
from click.core import ParameterSource

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ..data import Dataset, Split
from ..inference.given_files import STDIN, Given, Run, read_inputs
from ..inference.meanings import meanings
from ..inference.predict import Request, needed_names
from ..inspect.attribution.attention import attention_of
from ..inspect.attribution.attribute import BLUR, Attributor, Wish
from ..inspect.attribution.checks import Randomised, curves, randomised
from ..inspect.attribution.methods import METHODS, Method, Options, find_method
from ..messages import notify
from ..project import Project, load_dataset, open_project, setup_of
from ..training.executor import Executor
from ..training.run_folder import RunFolder
from . import options as o
from .attribution_output import Explained, Output
from .program_files import standard_input
from .weights import take_weights

MEAN, ZERO = "mean", "zero"
# what all methods are told but attention, whose maps are tensors of the model
OF_MAPS = ("of", "at", "baseline", "result", "position", "randomise")
MOST_AVERAGED = 10_000  # examples of which a baseline is the mean


def attribute(
    run_folder, inputs, input_files, numbers, method, of, at, baseline, steps, noise, samples,
    window, stride, result, position, randomise, to, invert, data, offline, seed, device_name,
    threads,
) -> None:  # fmt: skip
    """What `nnc attribute` does."""
    chosen = find_method(method)
    _check_options(chosen)
    files = (*inputs, *map(str, input_files))
    if files and numbers:
        raise click.UsageError("give files, or --example, not both")
    if not files and not numbers:
        raise click.UsageError("give an INPUT, or --example N for one of the run's own data")
    output = Output(to, chosen)
    folder = RunFolder(run_folder)
    notes = folder.settings
    project = open_project(folder.model)
    setup = setup_of(project, folder.fields, notes["examples"])
    executor = Executor(setup, o.device(device_name, threads), project.settings.seed)
    take_weights(folder, executor, project)
    cache = o.search(None, run_folder).cache_folder
    needed = needed_names(executor, Request())
    run = Run(
        str(run_folder), folder.recorded, cache, needed, invert, "nnc attribute {name} {file}"
    )
    own = _OwnData(project, notes, data, offline)
    given = own.examples(numbers, needed) if numbers else _given(files, run)
    for note in given.notes:
        notify(note)
    if chosen.attention:
        output.attention(
            attention_of(executor, given.arrays, given.origin, given.scale), given, folder.recorded
        )
        return
    wish = Wish(
        method,
        of,
        at,
        _baseline(baseline, run, own, needed),
        Options(steps, noise, samples, window, stride),
        result,
        position,
        None,
        seed,
    )
    kinds = meanings(project)
    attributor = Attributor(
        executor,
        given.arrays,
        given.origin,
        wish,
        kinds,
        folder.recorded,
        given.scale,
        given.lengths,
    )
    found = list(attributor.maps())
    for warning in attributor.warnings(found):
        notify(f"warning: {warning}")
    meaning = kinds.get(attributor.target.result)
    rows: list[Randomised] = randomised(attributor, found) if randomise else []
    explained = [
        Explained(attributor, given, row, one, curves(attributor, row, one, meaning))
        for row, one in enumerate(found)
    ]
    output.write(explained, rows)
    output.show(explained, rows, sys.stdout.isatty())


def _check_options(method: Method) -> None:
    """UsageError for an option of the command line that the method does not read."""
    context = click.get_current_context()
    others = {name for one in METHODS.values() for name in one.options} - {*method.options}
    for name in (*sorted(others), *(OF_MAPS if method.attention else ())):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{method.name} has no --{name}")


def _given(files: tuple[str, ...], run: Run) -> Given:
    """The inputs in files; `-` is standard input."""
    return read_inputs(files, run, standard_input() if STDIN in files else None)


class _OwnData:
    """The data that the run was trained on, read when they are first needed."""

    def __init__(self, project: Project, notes, data: Path | None, offline: bool):
        self._project = project
        self._search = o.search_of_run(notes, data, offline)
        self._dataset: Dataset | None = None

    @property
    def dataset(self) -> Dataset:
        if self._dataset is None:
            self._dataset = load_dataset(self._project, self._search)
        return self._dataset

    def examples(self, numbers: tuple[int, ...], needed: tuple[str, ...]) -> Given:
        """Examples of the test data, or of the training data if there are none, by their numbers
        from 0. UserError E0750 for one that there is not."""
        which = "test" if self.dataset.test is not None else "training"
        split: Split = self.dataset.test or self.dataset.train
        rows = np.array(numbers, np.int64)
        if rows.max() >= len(split):
            raise fail(
                "E0750",
                f"there is no example {rows.max()} in the {which} data",
                help=f"they are 0 to {len(split) - 1}",
            )
        arrays = {name: np.asarray(split.arrays[name][rows]) for name in needed}
        names = tuple(f"{which} {number}" for number in numbers)
        scale = {name: value for name, value in split.scale.items() if name in needed}
        return Given(arrays, f"the {which} data", scale, names)

    def mean(self, name: str) -> np.ndarray:
        """The mean of an input over the training data, or the first 10,000 of them."""
        split = self.dataset.train
        rows = np.arange(min(len(split), MOST_AVERAGED))
        place = np.empty((len(rows), *split.arrays[name].shape[1:]), np.float32)
        split.take(name, rows, place)
        return np.asarray(place.mean(axis=0, dtype=np.float64), np.float32)


def _baseline(
    text: str, run: Run, own: _OwnData, needed: tuple[str, ...]
) -> float | np.ndarray | str:
    """What `--baseline` says: `zero`, `mean`, `blur`, a number, or a file as those of inputs."""
    if text == ZERO:
        return 0.0
    if text == BLUR:
        return BLUR
    if text == MEAN:
        if len(needed) != 1 or (
            own.dataset.train.arrays[needed[0]].dtype.kind in "iub"
            and (needed[0] not in own.dataset.train.scale)
        ):
            message = "there is a mean of one input of real numbers only"
            raise fail("E0750", message, help="give a file, or a number")
        return own.mean(needed[0])
    try:
        return float(text)
    except ValueError:
        pass
    if not Path(text).exists():
        near = did_you_mean(text, (ZERO, MEAN, BLUR))
        help = f"{near} it is {ZERO}, {MEAN}, {BLUR}, a number, or a file".strip()
        raise fail("E0750", f"there is no baseline `{text}`", help=help)
    given = read_inputs((text,), run)
    arrays = given.arrays
    if isinstance(arrays, np.ndarray):
        return arrays
    name = next((n for n in needed if n in arrays), next(iter(arrays)))
    array = arrays[name]
    split = Split({name: array}, {n: s for n, s in given.scale.items() if n == name})
    if name not in split.scale:
        return array
    place = np.empty(array.shape, np.float32)
    split.take(name, np.arange(len(array)), place)
    return place
