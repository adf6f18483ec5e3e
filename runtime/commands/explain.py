"""`nnc explain`: what the code of a message means.

In: the command line. Out: text on stdout. The texts are those of the catalogue.
"""

from __future__ import annotations

import textwrap

import click

from ...dsl.diagnostics.catalogue import GROUPS, catalogue
from ...dsl.diagnostics.diagnostic import did_you_mean


def explain(code: str | None) -> None:
    """What `nnc explain` does."""
    click.echo(_all() if code is None else _one(code))


def _all() -> str:
    """Every code with its title, by group."""
    lines = []
    for prefix, group in GROUPS.items():
        lines += ["", group]
        lines += [f"  {e.code}  {e.title}" for e in catalogue().values() if e.code[:3] == prefix]
    return "\n".join([*lines[1:], "", "`nnc explain CODE` says more about one of them."])


def _one(code: str) -> str:
    """UsageError for a code that does not exist."""
    entry = catalogue().get(code.upper())
    if entry is None:
        hint = did_you_mean(code.upper(), catalogue()) or "codes are like E0304"
        raise click.UsageError(f"there is no code `{code}`: {hint}; `nnc explain` lists all")
    parts = [
        f"{entry.code}: {entry.title}",
        textwrap.fill(entry.explanation, 80, break_on_hyphens=False),
    ]
    for name in ("wrong", "right", "example"):
        if text := getattr(entry, name):
            parts.append(f"{name}:\n{textwrap.indent(text, '    ')}")
    return "\n\n".join(parts)
