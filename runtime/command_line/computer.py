"""Commands about this computer."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import get_completion_class

from ..commands import options as o


@click.command(epilog=o.examples("nnc doctor"))
def doctor(**given: Any) -> None:
    """Say what is used of the CPU, which CuPy, driver and NVRTC are there, and how to install what
    is missing."""
    from ..commands.doctor import doctor as run

    run(**given)


def _cached(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    words = ["kernels", "grammar", "data"] if context.params.get("words") else ["clear"]
    return [word for word in words if word.startswith(begun)]


@click.command(epilog=o.examples("nnc cache", "nnc cache clear", "nnc cache clear kernels"))
@click.argument("words", nargs=-1, metavar="[clear [KIND…]]", shell_complete=_cached)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def cache(**given: Any) -> None:
    """Show what nnc stores between runs: machine code, the parser's tables, downloads and what was
    computed from data. `clear` removes it, or the kinds that are named. NNC_CACHE names another
    folder for the first two; `off` does without."""
    from ..commands.cache import cache as run

    run(**given)


@click.command(
    epilog=o.examples(
        "nnc completion bash >> ~/.bashrc",
        "nnc completion zsh >> ~/.zshrc",
        "nnc completion fish > ~/.config/fish/completions/nnc.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what SHELL reads at its start so that it completes the command lines of nnc: commands,
    options and their values, files."""
    found = get_completion_class(shell)
    assert found is not None, shell
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "nnc", "_NNC_COMPLETE").source())
