"""Every mistake of a program: names, then sizes and types, as `nnc check` and editors show them.

In: a text and where it lies. Out: diagnostics. Of the data only what sizes and types need is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...compiler.ir.equation import System
from ...compiler.programs import prediction, training_step
from ...dsl.check.checker import Checked, load_source
from ...dsl.diagnostics.diagnostic import Diagnostic, Report, UserError
from ...dsl.syntax.source import Source
from ..assignments import Assignment
from ..compiling import compiling
from ..data import Search
from ..project import planned_setup, privacy_text, project_of
from .model_system import model_system


@dataclass
class Examined:
    """What was found out about a program: what is wrong or doubtful in it, its definitions (None if
    they could not be read), and the equations of its models, made when they are asked for."""

    diagnostics: list[Diagnostic]
    checked: Checked | None = None
    systems: dict[str, Callable[[], System]] = field(default_factory=dict)


@compiling()
def examine(
    source: Source,
    path: Path,
    search: Search,
    assignments: Sequence[Assignment] = (),
    remark: Callable[[str], None] = lambda text: None,
) -> Examined:
    """Everything that is wrong or doubtful in the program of a text that lies, or could lie, at
    `path`: names first, then, if those are right, the sizes of every model whose sizes are known.
    What could not be checked is remarked."""
    report = Report()
    found = Examined(report.diagnostics)
    try:
        found.checked = load_source(source, report, path.parent)
        # With unknown names, every size that depends on them would be a mistake, too.
        if not report.errors:
            _examine_models(found, report, source, path, search, assignments, remark)
    except UserError as error:  # more than can be listed, or a text that cannot be parsed
        found.diagnostics = list(dict.fromkeys([*report.diagnostics, *error.diagnostics]))
    return found


def _examine_models(
    found: Examined,
    report: Report,
    source: Source,
    path: Path,
    search: Search,
    assignments: Sequence[Assignment],
    remark: Callable[[str], None],
) -> None:
    checked, warnings = found.checked, tuple(report.diagnostics)
    assert checked is not None
    trained = dict.fromkeys(t.model.id for t in checked.trains)
    # A trained model may take sizes from its data; of others they must be known otherwise.
    for model in dict.fromkeys([*trained, *(m.name for m in checked.models)]):
        try:
            project = project_of(path, checked, warnings, assignments, model)
            if model in trained:
                setup = planned_setup(project, search)
                step, _ = training_step(setup, report)
                found.systems[model] = partial(prediction, setup)
                if text := privacy_text(project, setup):
                    remark(f"{source.name}: {text}")
                if step.remat:
                    from ...compiler.pipeline import check_remat  # all passes, only where needed

                    check_remat(step, report)
            # All but the batch: without data, any other symbolic size must be set.
            elif unknown := [n for n in project.symbols[1:] if n not in project.settings.sizes]:
                remark(
                    f"{source.name}: of `{model}` only the names were checked, for nothing says "
                    f"how large `{'`, `'.join(unknown)}` is: `--set {unknown[0]}=32`"
                )
            else:
                model_system(project)
                found.systems[model] = partial(model_system, project)
        except UserError as error:
            report.extend(error.diagnostics)
