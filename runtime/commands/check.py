"""`nnc check`, `nnc fmt`, `nnc fix` and `nnc explain`: what needs no code and no data.

In: the command line. Out: diagnostics on stderr, text on stdout, files laid out anew.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from ...compiler.pipeline import check_remat
from ...compiler.programs import training_step
from ...dsl.check.checker import load
from ...dsl.check.library import read_source
from ...dsl.diagnostics.catalogue import catalogue
from ...dsl.diagnostics.diagnostic import Diagnostic, Report, UserError, did_you_mean
from ...dsl.syntax import ast as s
from ...dsl.syntax.formatter import format as formatted
from ...dsl.syntax.language_versions import CURRENT, stated
from ...dsl.syntax.parser import parse
from ..inspect.emit import model_system
from ..project import planned_setup, project_of
from ..training.atomic_files import write_text
from ..training.progress import notify
from . import options as o
from .report import ERROR_FORMAT, print_diagnostics

_files = click.argument("files", nargs=-1, required=True, type=o.FILE, metavar="FILE…")


@click.command()
@_files
@o.option_group(o.set_option, o.data_option)
def check(files, sets, data) -> None:
    """Find every mistake in FILEs. Nothing is compiled and no data is read."""
    found: list[Diagnostic] = []
    for file in files:
        try:
            found += _mistakes(file, sets, data)
        except UserError as error:  # more than can be listed
            found += error.diagnostics
    # Without repetitions: models that share a layer share its mistakes.
    print_diagnostics(
        dict.fromkeys(found), click.get_current_context().find_root().params[ERROR_FORMAT]
    )
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


_only_check = click.option(
    "--check", "only_check", is_flag=True, help="Change nothing; exit 1 if it would."
)
_only_show = click.option("--diff", is_flag=True, help="Change nothing; show what would change.")


@click.command()
@_files
@_only_check
@_only_show
def fmt(files, only_check, diff) -> None:
    """Lay FILEs out in the one canonical way."""
    texts = ("is not laid out canonically", "laid out anew")
    _rewrite(files, formatted, texts, only_check, diff)


@click.command()
@_files
@_only_check
@_only_show
def fix(files, only_check, diff) -> None:
    """Bring FILEs to the current version of the language, which their first line then states."""
    texts = (f"does not say `language {CURRENT}`", f"is in version {CURRENT} of the language")
    _rewrite(files, lambda tree: stated(tree.source.text), texts, only_check, diff)


def _rewrite(
    files: Sequence[Path],
    change: Callable[[s.File], str],
    texts: tuple[str, str],
    only_check: bool,
    diff: bool,
) -> None:
    """Replace the text of each file by what `change` makes of it; `texts` say of a file that it
    would be changed, and that it was."""
    report, changed = Report(), []
    for file in files:
        source = read_source(file, report)
        # The report is of all files, so this one's errors are those that came since.
        before = len(report.errors)
        tree = parse(source, report) if source else None
        if source is None or tree is None or len(report.errors) > before:
            continue
        text = change(tree)
        if text == source.text:
            continue
        changed.append(file)
        if diff:
            old, new = (t.splitlines(keepends=True) for t in (source.text, text))
            click.echo("".join(difflib.unified_diff(old, new, str(file), str(file))), nl=False)
        elif only_check:
            notify(f"{file} {texts[0]}")
        else:
            try:
                write_text(file, text)
                notify(f"{file} {texts[1]}")
            except UserError as error:
                report.extend(error.diagnostics)
    # After all files: a mistake in one does not keep the others from being changed.
    report.check()
    if changed and (only_check or diff):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("code")
def explain(code) -> None:
    """Explain the CODE of a message, such as E0304."""
    entry = catalogue().get(code.upper())
    if entry is None:
        hint = did_you_mean(code.upper(), catalogue())
        raise click.UsageError(f"there is no code `{code}`: {hint or 'codes are like E0304'}")
    click.echo(f"{entry.code}: {entry.title}\n")
    click.echo(textwrap.fill(entry.explanation, 80, break_on_hyphens=False))
    for name in ("wrong", "right", "example"):
        if text := getattr(entry, name):
            click.echo(f"\n{name}:\n{textwrap.indent(text, '    ')}")
