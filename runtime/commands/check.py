"""`nnc check`: every mistake of a file.

In: the command line. Out: diagnostics on stderr.
"""

from __future__ import annotations

from pathlib import Path

import click

from ...compiler.pipeline import check_remat
from ...compiler.programs import training_step
from ...dsl.check.checker import load
from ...dsl.diagnostics.diagnostic import Diagnostic, Report, UserError
from ..inspect.emit import model_system
from ..messages import notify
from ..project import planned_setup, project_of
from . import options as o
from .report import print_diagnostics


def check(files, sets, data) -> None:
    """What `nnc check` does."""
    found: list[Diagnostic] = []
    for file in files:
        try:
            found += _mistakes(file, sets, data)
        except UserError as error:  # more than can be listed
            found += error.diagnostics
    # Without repetitions: models that share a layer share its mistakes.
    print_diagnostics(dict.fromkeys(found))
    wrong = sum(d.is_error for d in dict.fromkeys(found))
    # Exit code 2 if all that is wrong is what `--set` says, and 1 if a file is.
    if wrong:
        notify(f"{wrong} mistake{'s' * (wrong != 1)}")
        raise click.exceptions.Exit(2 if UserError(found).of_flags else 1)


def _mistakes(file: Path, sets: tuple[str, ...], data: Path | None) -> list[Diagnostic]:
    """Everything that is wrong in one file: names first, then, if those are right, the sizes of
    every model whose sizes are known."""
    report = Report()
    try:
        checked = load(file, report)
    except UserError as error:
        return list(error.diagnostics)
    # With unknown names, every size that depends on them would be a mistake, too.
    if report.errors:
        return report.diagnostics
    warnings = tuple(report.diagnostics)
    trained = dict.fromkeys(t.model.id for t in checked.trains)
    # A trained model may take sizes from its data; of others they must be known otherwise.
    for model in dict.fromkeys([*trained, *(m.name for m in checked.models)]):
        try:
            project = project_of(file, checked, warnings, o.assignments(sets), model)
            if model in trained:
                setup = planned_setup(project, o.search(data, file.parent, offline=True))
                check_remat(training_step(setup, report)[0], report)
            # All but the batch: without data, any other symbolic size must be set.
            elif unknown := [n for n in project.symbols[1:] if n not in project.settings.sizes]:
                notify(
                    f"{file}: of `{model}` only the names were checked, for nothing says how large "
                    f"`{'`, `'.join(unknown)}` is: `--set {unknown[0]}=32`"
                )
            else:
                model_system(project)
        except UserError as error:
            report.extend(error.diagnostics)
    return report.diagnostics
