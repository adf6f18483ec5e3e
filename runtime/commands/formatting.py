"""`nnc fmt` and `nnc fix`: files laid out anew.

In: the command line. Out: files, what would change on stdout, diagnostics on stderr.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from ...dsl.check.library import read_source
from ...dsl.diagnostics.diagnostic import Report, UserError
from ...dsl.syntax import ast as s
from ...dsl.syntax.formatter import format as formatted
from ...dsl.syntax.language_versions import CURRENT, stated
from ...dsl.syntax.parser import parse
from ..messages import notify
from ..training.atomic_files import write_text


def fmt(files, only_check, diff) -> None:
    """What `nnc fmt` does."""
    texts = ("is not laid out canonically", "laid out anew")
    _rewrite(files, formatted, texts, only_check, diff)


def fix(files, only_check, diff) -> None:
    """What `nnc fix` does."""
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
