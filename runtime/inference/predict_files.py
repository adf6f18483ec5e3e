"""Prediction on files, from the command line and from Python: inputs in, results and their rows
out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..project import Project
from ..training.executor import Executor
from .given_files import Given, Run
from .meanings import meanings
from .padding import check_padding
from .predict import Request, predict
from .readable import ResultTable, table_of


def predict_given(executor: Executor, given: Given, request: Request) -> dict[str, np.ndarray]:
    """The results by name. UserError as `predict` and `check_padding`."""
    if given.lengths is not None and isinstance(given.arrays, Mapping):
        width = given.arrays["token"].shape[1]
        check_padding(executor, given.lengths, width, given.names)
    return predict(executor, given.arrays, given.origin, request, given.scale)


def rows_of(
    project: Project,
    run: Run,
    request: Request,
    given: Given,
    results: Mapping[str, np.ndarray],
    top: int | None = None,
    raw: bool = False,
) -> ResultTable:
    """The rows of the results, under what they stand for unless they are `raw` or those of a part
    of the model."""
    is_raw = raw or bool(request.model or request.tensors)
    return table_of(results, {} if is_raw else meanings(project), run.recorded, given, top)
