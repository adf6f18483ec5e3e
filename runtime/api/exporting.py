"""`Model.export`: a library for C of a model as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np

from ...dsl.diagnostics.diagnostic import did_you_mean
from ..data import Dataset, Search
from ..device import DEVICES
from ..export.export import FUNCTIONS, KINDS, MOST_THREADS, Request
from ..export.export import export as write_library
from ..inference.given_files import Given
from ..inference.weight_choice import Calibration, format_of
from ..project import Project, load_dataset
from ..training.executor import Executor
from ..training.weight_formats import FORMATS
from .files import recorded_of
from .state import ModelState

Calibrating = int | np.ndarray | Mapping[str, np.ndarray] | None


def export(
    model: ModelState,
    path: str | PathLike[str],
    target: str | None,
    kinds: str | tuple[str, ...] | None,
    embed: bool,
    batch: int | None,
    weights: str | None,
    functions: tuple[str, ...],
    calibrate: Calibrating,
    threads: int,
) -> Path:
    """What `Model.export` does."""
    found = (kinds,) if isinstance(kinds, str) else tuple(kinds or ())
    for kind in found:
        if kind not in KINDS:
            hint = did_you_mean(str(kind), KINDS) or f"there are {', '.join(KINDS)}"
            raise ValueError(f"no kind {kind!r}; {hint}")
    for function in functions:
        if function not in FUNCTIONS:
            hint = did_you_mean(str(function), FUNCTIONS) or f"there are {', '.join(FUNCTIONS)}"
            raise ValueError(f"no function {function!r}; {hint}")
    if weights is not None and weights not in FORMATS:
        hint = did_you_mean(str(weights), FORMATS) or f"there are {', '.join(FORMATS)}"
        raise ValueError(f"no format {weights!r} of weights; {hint}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch = {batch}: a batch has 1 example at least")
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads = {threads}: a call is divided among 1 to {MOST_THREADS}")
    trained = model._trained
    if trained is None:
        raise model._without_parameters()
    setup = trained.executor.setup
    if batch is not None:
        setup = replace(setup, batch=batch)
    # One of its own: the values of training change in it.
    executor = Executor(setup, DEVICES["cpu"](1), trained.executor.seed)
    project, validation = trained.project, trained.project.settings.validation
    calibration = _calibration(weights, calibrate)
    format = format_of(
        weights, calibration, executor, trained.weights, validation, lambda: _data(project)
    )
    request = Request(Path(path), target or "", found, embed, format, functions, threads)
    write_library(trained.project, executor, trained.weights, request, recorded_of(trained))
    return request.to


def _calibration(weights: str | None, calibrate: Calibrating) -> Calibration:
    """A number of examples, or arrays of inputs."""
    if calibrate is None:
        return None
    if weights != "int8":
        raise ValueError("calibrate goes with weights = 'int8'")
    if isinstance(calibrate, int):
        if calibrate < 1:
            raise ValueError(f"calibrate = {calibrate}: it takes 1 example at least")
        return calibrate
    if isinstance(calibrate, Mapping):
        return Given({name: np.asarray(a) for name, a in calibrate.items()}, "`calibrate`")
    return Given(np.asarray(calibrate), "`calibrate`")


def _data(project: Project) -> Dataset | None:
    if project.settings.data is None:
        return None
    return load_dataset(project, Search(None, project.path.parent))
