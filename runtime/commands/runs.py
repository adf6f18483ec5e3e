"""`nnc runs`: the runs in a folder, and in what some of them differ.

In: the command line. Out: tables on stdout, or JSON. The reading is done in `inspect/runs.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ...dsl.diagnostics.diagnostic import fail
from ...dsl.likely_paths import did_you_mean_path
from ..inspect.runs import (
    RunSummary,
    differing,
    find_runs,
    metrics_of,
    program_difference,
    summary_of,
)
from ..memory import size_text
from ..training.metrics import format_number
from .tables import TableColumn, print_table

COMPARE, DIFF = "compare", "diff"
DEFAULT = Path("runs")  # where `nnc train` makes them


def runs(words, as_json) -> None:
    """What `nnc runs` does."""
    first, *rest = words or ("",)
    if first == COMPARE:
        _compare(_named(rest, 2, "compare takes two RUNs or more"), as_json)
    elif first == DIFF:
        if len(rest) != 2:
            raise click.UsageError("diff takes two RUNs: `nnc runs diff runs/a runs/b`")
        one, two = _named(rest, 2, "")
        _diff(one, two, as_json)
    else:
        _list([Path(word) for word in words], as_json)


def _named(names: Sequence[str], least: int, message: str) -> list[RunSummary]:
    if len(names) < least:
        raise click.UsageError(f"{message}: `nnc runs compare runs/a runs/b`")
    return [summary_of(Path(name)) for name in names]


def _list(folders: list[Path], as_json: bool) -> None:
    if not folders:
        folders = [DEFAULT if DEFAULT.is_dir() else Path()]
    for folder in folders:
        if not folder.is_dir():
            help = did_you_mean_path(folder, Path.is_dir)
            raise fail("E0706", f"there is no folder {folder}", help=help)
    paths = dict.fromkeys(path for folder in folders for path in find_runs(folder))
    found = [summary_of(path) for path in paths]
    if as_json:
        click.echo(json.dumps([run.plain() for run in found]))
        return
    if not found:
        click.echo(f"no runs in {', '.join(map(str, folders))}; `nnc train FILE` makes one")
        return
    rows = [(str(r.path), r.status, str(r.step), _best(r), r.date[:16], _size(r)) for r in found]
    heads = ("run", "status", "step", "best", "date", "size")
    _print(heads, rows, right=("step", "size"))


def _best(run: RunSummary) -> str:
    return f"{run.metric} {format_number(run.best)}" if run.best is not None else ""


def _size(run: RunSummary) -> str:
    return size_text(run.bytes)


def _compare(found: list[RunSummary], as_json: bool) -> None:
    settings, metrics = differing(found), metrics_of(found)
    if as_json:
        plain = {"runs": [run.plain() for run in found], "settings": settings, "metrics": metrics}
        click.echo(json.dumps(plain))
        return
    about: dict[str, list[Any]] = {
        "status": [r.status for r in found],
        "epoch": [r.epoch for r in found],
        "step": [r.step for r in found],
        "best": [_best(r) for r in found],
        "date": [r.date[:16] for r in found],
        "size": [_size(r) for r in found],
    }
    rows = [(n, *map(_shown, row)) for n, row in {**about, **metrics, **settings}.items()]
    _print(("", *(str(r.path) for r in found)), rows)


def _diff(one: RunSummary, two: RunSummary, as_json: bool) -> None:
    settings, metrics = differing([one, two]), metrics_of([one, two])
    text = program_difference(one, two)
    if as_json:
        plain = {"runs": [str(one.path), str(two.path)], "settings": settings, "metrics": metrics}
        click.echo(json.dumps({**plain, "program": text}))
        return
    heads = ("", str(one.path), str(two.path))
    for title, rows in (("settings", settings), ("metrics", metrics)):
        if rows:
            _print((title, *heads[1:]), [(n, *map(_shown, row)) for n, row in rows.items()])
        else:
            click.echo(f"{title}: none differ\n" if title == "settings" else "metrics: none\n")
    click.echo("\n".join(text) if text else "The programs are the same.")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return format_number(value)
    return value if isinstance(value, str) else json.dumps(value)


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    columns = []
    for head, cells in zip(heads, zip(*rows, strict=True), strict=True):
        width = max(map(len, (head, *cells)))
        columns.append(TableColumn(head, width, right=head in right))
    print_table(columns, [(tuple(row), "") for row in rows], gap=2)
