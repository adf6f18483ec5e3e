"""Models on disk and in pickles.

A saved model is a run folder: its program, settings and weights, for `nnc.load`, `nnc predict` and
`--init`. A pickle holds the program as text and the weights, so it needs no other file.
"""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from ...dsl.diagnostics.diagnostic import UserError
from ..project import Project, project_of_text, setup_of, untrained_setup
from ..training.executor import Executor
from ..training.run_folder import RunFolder, create_run
from ..training.run_notes import SAVED, run_notes
from .arguments import assignments
from .errors import boundary
from .state import Compute, ModelState, Trained

State = TypeVar("State", bound=ModelState)


def save(model: ModelState, path: str | PathLike[str]) -> Path:
    """Write a model into a new or empty folder. UserError E0707 without parameters, E0705 if the
    folder is in use, E0709 if it cannot be written."""
    trained = model._trained
    if trained is None:
        raise model._without_parameters()
    project, executor = trained.project, trained.executor
    notes = run_notes(
        project, executor.setup, trained.examples, *model._compute, data=model._search.explicit,
        base=model._search.base, command=SAVED,
    )  # fmt: skip
    if trained.inputs is not None:
        notes["inputs"] = dict(trained.inputs)

    def fill(folder: RunFolder) -> None:
        folder.metrics.write(trained.records)
        folder.write_weights(trained.weights, trained.step)

    try:
        folder = create_run(
            Path(path), project.name.lower(), project.resolved(), notes, trained.vocabularies,
            fill=fill,
        )  # fmt: skip
    except UserError as error:
        help = "name a new or empty folder"
        raise UserError(
            [replace(d, help=help) if d.code == "E0705" else d for d in error.diagnostics]
        ) from None
    return folder.path


# --- pickles --------------------------------------------------------------------------------------


def state_of(model: ModelState) -> dict[str, Any]:
    """All of a model, as plain values that can be pickled."""
    trained, state = model._trained, {**_program(model._project), **model._compute._asdict()}
    state |= {"part": model._part, "search": model._search, "trained": None}
    if trained is not None:
        setup = trained.executor.setup
        state["trained"] = {
            "program": None if trained.project is model._project else _program(trained.project),
            "fields": setup.fields,
            "seed": trained.executor.seed,
            **{n: getattr(trained, n) for n in Trained._fields if n not in ("executor", "project")},
        }
    return state


@boundary
def model_of(kind: type[State], state: dict[str, Any]) -> State:
    """The model of a state."""
    project = _project(state)
    model = kind(project, Compute(state["device"], state["threads"]), state.get("search"))
    model._part = state["part"]
    if state["trained"] is not None:
        rest = dict(state["trained"])
        own, fields, seed = (rest.pop(name) for name in ("program", "fields", "seed"))
        began = project if own is None else _project(own)
        if began.train is None:
            setup = untrained_setup(began, fields)
        else:
            setup = setup_of(began, fields, rest["examples"])
        executor = Executor(setup, model._device, seed)
        executor.take(rest["weights"])
        model._trained = Trained(executor=executor, project=began, **rest)
    return model


def _program(project: Project) -> dict[str, Any]:
    return {
        "text": project.resolved(),
        "path": str(project.path),
        "model": project.name,
        "sizes": dict(project.settings.sizes),
    }


def _project(state: dict[str, Any]) -> Project:
    path = Path(state["path"])
    sizes = assignments(state["sizes"])
    return project_of_text(state["text"], path.name, path.parent, sizes, state["model"])
