"""A model as HTML, for notebooks."""

from __future__ import annotations

from html import escape

from ...dsl.diagnostics.diagnostic import UserError
from ..inspect.layer_work import layer_rows
from ..inspect.structure import structure
from .bars import html_table
from .state import ModelState


def html_of(model: ModelState) -> str:
    """The layers with the shapes of their results and their parameters, and what it has learnt."""
    project, trained = model._project, model._trained
    state = "no parameters yet" if trained is None else f"after {trained.step:,} steps"
    if trained is not None and not trained.step:
        state = "parameters as they are drawn or set"
    title = f"<b>{escape(project.name)}</b> of {escape(str(project.path))}, {state}"
    try:
        rows = layer_rows(structure(project, trained.executor.setup if trained else None))
    except UserError:  # sizes that only data say
        return f"<div>{title}</div>"
    cells = [[r.name, str(list(r.shape)), f"{r.parameters:,}"] for r in rows]
    cells.append(["total", "", f"{sum(r.parameters for r in rows):,}"])
    return f"<div>{title}{html_table(['layer', 'output', 'parameters'], cells)}</div>"
