"""Commands on files of the language."""

from __future__ import annotations

from typing import Any

import click

from ..commands import options as o

_files = click.argument("files", nargs=-1, required=True, type=o.FILE, metavar="FILE…")
_only_check = click.option(
    "--check", "only_check", is_flag=True, help="Change nothing; exit 1 if it would."
)
_only_show = click.option("--diff", is_flag=True, help="Change nothing; show what would change.")


@click.command(epilog=o.examples("nnc check model.nn", "nnc check .", "nnc check - < model.nn"))
@_files
@o.option_group(o.set_option, o.data_option)
def check(**given: Any) -> None:
    """Find every mistake in FILEs, or in the .nn files of folders. `-` is standard input.

    Nothing is compiled or downloaded. Of the data only what sizes and types need is read: headers,
    names of files, the labels of a table, the characters of a text."""
    from ..commands.check import check as run

    run(**given)


@click.command(epilog=o.examples("nnc fmt model.nn", "nnc fmt --check .", "nnc fmt - < model.nn"))
@_files
@_only_check
@_only_show
def fmt(**given: Any) -> None:
    """Lay FILEs out in the one canonical way, or the .nn files of folders. `-` reads standard input
    and writes standard output."""
    from ..commands.formatting import fmt as run

    run(**given)


@click.command(epilog=o.examples("nnc fix --diff model.nn", "nnc fix ."))
@_files
@_only_check
@_only_show
def fix(**given: Any) -> None:
    """Bring FILEs, or the .nn files of folders, to the current version of the language, which their
    first line then states. `-` reads standard input and writes standard output."""
    from ..commands.formatting import fix as run

    run(**given)


def _codes(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """The codes that begin so, for completion."""
    from ..commands.explain import catalogue

    return [code for code in catalogue() if code.startswith(begun.upper())]


@click.command(epilog=o.examples("nnc explain E0304", "nnc explain"))
@click.argument("code", required=False, shell_complete=_codes)
def explain(**given: Any) -> None:
    """Explain the CODE of a message, such as E0304; without one, list all codes."""
    from ..commands.explain import explain as run

    run(**given)
