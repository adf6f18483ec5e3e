"""`nnc eval`: what a trained model gets right and wrong.

In: the command line and a run folder. Out: tables on a terminal, one JSON object elsewhere. What is
said of the examples is computed in `inspect/evaluation.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import click

from ...dsl.diagnostics.diagnostic import fail
from ..inspect.evaluation import Report, Tokens, report
from ..messages import notify
from ..project import field_types, load_dataset, open_project, setup_of
from ..training.atomic_files import write_bytes
from ..training.batch_inputs import check_indices, split_examples
from ..training.executor import Executor
from ..training.loop import measure
from ..training.run_folder import RunFolder
from . import options as o
from .evaluation_tables import print_tables
from .report import print_diagnostics
from .weights import chosen_format, take_weights


def evaluate_run(
    run_folder, data, offline, worst, pictures, as_json, weights, calibrate, device_name, threads
) -> None:
    """What `nnc eval` does."""
    if pictures is not None:
        from ..inspect.worst_pictures import check_ending  # only where it is asked for

        check_ending(pictures)
    folder = RunFolder(run_folder)
    notes = folder.settings
    project = open_project(folder.model)
    search = o.search_of_run(notes, data, offline)
    dataset = load_dataset(project, search)
    # A schedule in the loss goes by the steps of the run, whatever data is measured now.
    # One that was saved before it was trained would have gone by these.
    parts = split_examples(dataset, project.settings.validation)
    examples = notes["examples"] or len(parts.get("train", ()))
    setup = setup_of(project, field_types(dataset.schema, project.model), examples)
    executor = Executor(setup, o.device(device_name, threads), project.settings.seed)
    # The data may have changed since: an index out of range would read beyond a tensor.
    check_indices(executor.system, dataset)
    trained = take_weights(folder, executor, project)
    format = chosen_format(
        weights, calibrate, executor, trained.weights, project, folder, lambda: dataset
    )
    executor.predict_in(format)
    # The training data only if nothing was held back; `validation` before `test`.
    held = [name for name in parts if name != "train"]
    names = sorted(held, reverse=True) or ["train"]
    values: dict[str, dict[str, float]] = {}
    reports: dict[str, Report] = {}
    for name in names:
        print_diagnostics(executor.measures["evaluate"].warnings(len(parts[name])))
        values[name] = measure(executor, parts[name], trained.step)
        found = report(executor, project, dataset, parts[name], values[name])
        if found is not None:
            reports[name] = found
    if pictures is not None:
        _draw(pictures, worst, reports, project.model, parts)
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(_finite(_plain(values, reports, worst)), allow_nan=False))
        return
    print_tables(values, reports, worst)


def _plain(
    values: Mapping[str, Mapping[str, float]], reports: Mapping[str, Report], worst: int
) -> dict[str, Any]:
    """What was measured, by the names of `metrics.jsonl`, and the reports by set."""
    found: dict[str, Any] = {}
    for name, own in values.items():
        prefix = "" if name == "train" else f"{name}_"
        found |= {prefix + key: value for key, value in own.items()}
    if reports:
        found["reports"] = {name: own.plain(worst) for name, own in reports.items()}
    return found


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null, as in `metrics.jsonl`."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _draw(
    path: Path, count: int, reports: Mapping[str, Report], model: Any, parts: Mapping[str, Any]
) -> None:
    """A picture of the worst examples of the last set."""
    from ..inspect.worst_pictures import draw_worst

    for name in reversed(list(reports)):
        found = reports[name]
        if not isinstance(found, Tokens):
            inputs = [parameter.name for parameter in model.inputs]
            write_bytes(path, draw_worst(path, found, count, inputs, parts[name]))
            notify(f"the worst examples of the {name} data in {path}")
            return
    message = "there are no worst examples: the loss compares no results with fields of the data"
    raise fail("E0716", message)
