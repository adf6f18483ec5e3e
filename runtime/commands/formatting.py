"""`nnc fmt` and `nnc fix`: files laid out anew.

In: the command line. Out: files, what would change on stdout, diagnostics on stderr.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from ...dsl.check.renamed import renamed_text
from ...dsl.diagnostics.diagnostic import Report, UserError
from ...dsl.syntax import ast as s
from ...dsl.syntax.formatter import format as formatted
from ...dsl.syntax.language_versions import CURRENT, stated
from ...dsl.syntax.parser import parse
from ..messages import notify
from ..training.atomic_files import write_text
from .program_files import STDIN, program_files, read_program, some_of


def fmt(files, only_check, diff) -> None:
    """What `nnc fmt` does."""
    texts = Texts("not laid out canonically", "laid out anew")
    _rewrite(files, formatted, texts, only_check, diff)


def fix(files, only_check, diff) -> None:
    """What `nnc fix` does."""
    texts = Texts(
        f"without `language {CURRENT}`, or with a former name",
        f"in version {CURRENT} of the language",
    )
    _rewrite(files, lambda tree: stated(renamed_text(tree)), texts, only_check, diff)


class Texts(NamedTuple):
    """Messages about a file: one that would be changed (`--check`), one that was."""

    before: str
    after: str


def _rewrite(
    paths: Sequence[Path],
    change: Callable[[s.File], str],
    texts: Texts,
    only_check: bool,
    diff: bool,
) -> None:
    """Replace the text of each file by what `change` makes of it; that of standard input goes to
    standard output."""
    report, changed = Report(), []
    programs = program_files(paths, report)
    for file in programs.files:
        # The report is of all files, so this one's errors are those that came since.
        before = len(report.errors)
        source = read_program(file, report)
        tree = parse(source, report) if source else None
        if source is None or tree is None or len(report.errors) > before:
            continue
        text = change(tree)
        if text != source.text:
            changed.append(file)
        if diff:
            old, new = (t.splitlines(keepends=True) for t in (source.text, text))
            lines = difflib.unified_diff(old, new, source.name, source.name)
            click.echo("".join(lines), nl=False)
        elif file == STDIN and not only_check:
            click.echo(text, nl=False)
        elif text != source.text:
            _change(file, text, source.name, texts, only_check, report)
    if programs.many and not diff:
        what = texts.before if only_check else texts.after
        notify(f"{some_of(len(changed), programs.files)} {what}")
    # After all files: a mistake in one does not keep the others from being changed.
    report.check()
    if changed and (only_check or diff):
        raise click.exceptions.Exit(1)


def _change(
    file: Path, text: str, name: str, texts: Texts, only_check: bool, report: Report
) -> None:
    if only_check:
        notify(f"{name} is {texts.before}")
        return
    try:
        write_text(file, text)
        notify(f"{name} is {texts.after}")
    except UserError as error:
        report.extend(error.diagnostics)
