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
