"""A model by itself, as equations: not trained, and before all passes."""

from __future__ import annotations

from ...compiler.elaboration.context import Context
from ...compiler.elaboration.model import elaborate
from ...compiler.ir.equation import System
from ..project import Project


def model_system(project: Project) -> System:
    """The model alone, not training, before all passes. The batch is bound; UserError E0316 for
    sizes that are not."""
    return elaborated_model(project)[0]


def elaborated_model(project: Project) -> tuple[System, Context]:
    """The same, and the context in which it was elaborated, which knows its layers."""
    # the first symbol is the batch, unless settings say its size themselves
    sizes = {**dict.fromkeys(project.symbols[:1], project.settings.batch), **project.settings.sizes}
    model = elaborate(
        project.checked.definitions,
        project.name,
        sizes,
        training=False,
        float_type=project.settings.float,
    )
    # states are only written in training
    system = model.system().replace(updates={}, precision=project.settings.precision)
    return system, model.ctx
