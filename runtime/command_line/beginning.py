"""Commands that give something to begin with."""

from __future__ import annotations

from typing import Any

import click

from ..commands import options as o


def _templates(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """The names that begin so, for completion."""
    from ..commands.beginning import templates

    return [name for name in templates() if name.startswith(begun)]


def _examples(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    from ..commands.beginning import example_programs

    return [name for name in example_programs() if name.startswith(begun)]


@click.command(
    epilog=o.examples("nnc new digits", "nnc new prices --template tabular", "nnc new --list")
)
@click.argument("name", required=False)
@o.option_group(
    click.option(
        "--template",
        metavar="TEMPLATE",
        default="cnn",
        show_default=True,
        shell_complete=_templates,
        help="What to begin with: mlp, cnn, tabular, text, gpt, forecast.",
    ),
    click.option("--list", "list_all", is_flag=True, help="List the templates."),
)
def new(**given: Any) -> None:
    """Make a folder NAME with a program to change, a note on its data and, where it needs some,
    data. Nothing is written over."""
    from ..commands.beginning import new as run

    run(**given)


@click.command(
    epilog=o.examples("nnc examples", "nnc examples cnn_digits", "nnc examples char_gpt --copy")
)
@click.argument("name", required=False, shell_complete=_examples)
@o.option_group(
    click.option("--copy", is_flag=True, help="Copy it, with its data, to the current folder."),
    click.option("--to", "folder", type=o.FILE, metavar="DIR", help="Copy it to another folder."),
)
def examples(**given: Any) -> None:
    """List the examples, or print the one called NAME."""
    from ..commands.beginning import examples as run

    run(**given)
