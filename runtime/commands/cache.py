"""`nnc cache`: what is stored between runs, and where; and clearing it.

In: the command line. Out: a table on stdout, or JSON. Only regular files that nnc has written are
removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from ...dsl.diagnostics.diagnostic import did_you_mean
from ...dsl.files import chosen_cache, remove, user_cache
from ...dsl.syntax.parser_tables import CACHED
from ..cache import kernel_cache
from ..memory import size_text
from .tables import TableColumn, print_table

CLEAR = "clear"


@dataclass(frozen=True)
class Store:
    """One kind of what is stored: its folder (None: it is off, or there is none) and files."""

    name: str
    what: str
    folder: Path | None
    files: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        return sum(os.lstat(file).st_size for file in self.files)


def stores() -> list[Store]:
    """Everything that is stored, by kind."""
    kernels, chosen, user = kernel_cache(), chosen_cache(), user_cache()
    data = None if user is None else user / "data"
    return [
        Store(
            "kernels", "machine code, equations and trees of programs",
            kernels.folder if kernels else None, tuple(kernels.files()) if kernels else (),
        ),
        Store(
            "grammar", "the parser's tables",
            chosen, tuple(sorted(chosen.glob(CACHED))) if chosen else (),
        ),
        Store("data", "downloads and what was computed from data", data, tuple(_below(data))),
    ]  # fmt: skip


def _below(folder: Path | None) -> Iterator[Path]:
    # A link to another folder is not followed: what is there is not nnc's.
    if folder is not None and not folder.is_symlink():
        for place, _, names in os.walk(folder):
            yield from (Path(place, name) for name in sorted(names))


def cache(words, as_json) -> None:
    """What `nnc cache` does."""
    found = stores()
    if words:
        _clear(words, {store.name: store for store in found})
        found = stores()
    if as_json:
        plain = {
            s.name: {"folder": s.folder and str(s.folder), "files": len(s.files), "bytes": s.bytes}
            for s in found
        }
        click.echo(json.dumps(plain))
        return
    rows = [(s.name, str(len(s.files)), size_text(s.bytes), s.what) for s in found]
    heads = ("", "files", "size", "")
    columns = [
        TableColumn(head, max(map(len, (head, *cells))), right=head in ("files", "size"))
        for head, cells in zip(heads, zip(*rows, strict=True), strict=True)
    ]
    print_table(columns, [(row, "") for row in rows], gap=2)
    # Below the table, where no terminal is too narrow for them: they are there to be copied.
    for store in found:
        click.echo(f"{store.name:{columns[0].width}}  {store.folder or 'off'}")


def _clear(words: tuple[str, ...], known: dict[str, Store]) -> None:
    """Remove the files of the kinds named after `clear`, or of all. UsageError for others."""
    action, *names = words
    if action != CLEAR:
        hint = did_you_mean(action, [CLEAR]) or "`nnc cache` shows it, `nnc cache clear` clears it"
        raise click.UsageError(f"`{action}` is nothing to do with a cache: {hint}")
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
            raise click.UsageError(f"nothing that is stored is called `{name}`: {hint}")
    for name in names or known:
        for file in known[name].files:
            remove(file)
