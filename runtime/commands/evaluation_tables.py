"""What `nnc eval` shows on a terminal.

In: measured values and reports, by set. Out: tables on stdout, as wide as the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from textwrap import fill

import click

from ..inspect.classification import Classification
from ..inspect.evaluation import Report, Tokens
from ..inspect.fitted_table import Fitting, laid_out
from ..inspect.labels import LabelSets
from ..inspect.residuals import QUANTILES, Residuals
from ..messages import uses_color
from ..training.metrics import format_number
from .tables import screen_width

LONGEST_NAME = 6  # of a class at the head of the confusion matrix
MOST_CLASSES = 20  # that have a row each; of more, the worst
MOST_CONFUSIONS = 10


def print_tables(
    values: Mapping[str, Mapping[str, float]], reports: Mapping[str, Report], worst: int
) -> None:
    """The loss and the metrics of every set, and below them what its report says."""
    names = list(dict.fromkeys(name for own in values.values() for name in own))
    columns = [
        Fitting("", right=False),
        *(Fitting(name, needed=n < 2) for n, name in enumerate(names)),
    ]
    rows = [
        [split, *(format_number(own[n]) if n in own else "" for n in names)]
        for split, own in values.items()
    ]
    _print(laid_out(columns, rows, screen_width()))
    for split, found in reports.items():
        match found:
            case Classification():
                _classes(split, found, worst)
            case LabelSets():
                _labels(split, found, worst)
            case Residuals():
                _numbers(split, found, worst)
            case Tokens():
                text = f"perplexity {format_number(found.perplexity)}"
                _say(f"{split}: {text}, {found.bits:.3f} bits per token of `{found.field}`")


def _print(lines: Sequence[str], title: str = "") -> None:
    """A title, the headings in bold, and an empty line at the end."""
    if title:
        click.echo(fill(title, screen_width()))
    color = uses_color(sys.stdout)
    click.echo(click.style(lines[0], bold=True) if color else lines[0], color=color)
    for line in lines[1:]:
        click.echo(line, color=color)
    click.echo()


def _say(text: str) -> None:
    click.echo(fill(text, screen_width()) + "\n")


# --- classes --------------------------------------------------------------------------------------


def _classes(split: str, found: Classification, worst: int) -> None:
    wrong = int((~found.right).sum())
    _say(f"{split}: {len(found):,} examples, {wrong:,} wrong in `{found.field}`")
    matrix = _matrix(found, screen_width())
    if matrix:
        _print(matrix, "confusion matrix: rows true, columns predicted")
    if found.confusions and not matrix:
        rows = [[a, b, f"{n:,}"] for a, b, n in found.confusions[:MOST_CONFUSIONS]]
        columns = [Fitting("true", False), Fitting("predicted", False), Fitting("examples")]
        _print(laid_out(columns, rows, screen_width()), "most frequent mistakes")
    _per_class(found)
    _calibration(found)
    _worst(found, worst)


def _matrix(found: Classification, width: int) -> list[str]:
    """The lines of the confusion matrix; none if it is wider than the terminal."""
    count = len(found.names)
    heads = [name[:LONGEST_NAME] for name in found.names]
    digits = max(len(str(n)) for n in found.pairs.values())
    size = max(digits, *map(len, heads)) + 1
    left = max(len(name) for name in found.names)
    left = min(left, max(width - count * size, LONGEST_NAME))
    if left + count * size > width:
        return []
    color = uses_color(sys.stdout)
    lines = [" " * left + "".join(head.rjust(size) for head in heads)]
    for k, row in enumerate(found.matrix()):
        cells = []
        for j, n in enumerate(row):
            cell = (str(n) if n else "·").rjust(size)
            shade = ("green" if j == k else "red") if n else "bright_black"
            cells.append(click.style(cell, fg=shade) if color else cell)
        name = found.names[k]
        name = name if len(name) <= left else f"{name[: left - 1]}…"
        lines.append(name.ljust(left) + "".join(cells))
    return lines


def _per_class(found: Classification) -> None:
    rows, title = found.table, "classes"
    if len(rows) > MOST_CLASSES:
        title = f"the {MOST_CLASSES} worst of {len(rows):,} classes, by F1"
        rows = sorted(rows, key=lambda row: row.f1)[:MOST_CLASSES]
    columns = [
        Fitting("", False), Fitting("precision"), Fitting("recall"), Fitting("F1"),
        Fitting("examples", needed=False),
    ]  # fmt: skip
    cells = [
        [r.name, f"{r.precision:.3f}", f"{r.recall:.3f}", f"{r.f1:.3f}", f"{r.support:,}"]
        for r in (*rows, *found.means)
    ]
    _print(laid_out(columns, cells, screen_width()), title)


def _calibration(found: Classification) -> None:
    if found.calibration_error is None:
        return
    columns = [
        Fitting("probability", False), Fitting("mean"), Fitting("right"),
        Fitting("examples", needed=False),
    ]  # fmt: skip
    rows = [
        [f"{b.low:.2f} to {b.high:.2f}", f"{b.confidence:.3f}", f"{b.accuracy:.3f}", f"{b.count:,}"]
        for b in found.bins
    ]
    title = f"calibration: the expected error is {found.calibration_error:.4f}"
    _print(laid_out(columns, rows, screen_width()), title)


def _worst(found: Classification | LabelSets, count: int) -> None:
    examples = found.worst(count)
    if not examples:
        return
    columns = [
        Fitting("example"), Fitting("loss"), Fitting("true", False), Fitting("predicted", False),
        Fitting("probability", needed=False),
    ]  # fmt: skip
    rows = [
        [
            str(one.index),
            "" if one.loss is None else format_number(one.loss),
            one.true,
            one.predicted,
            "" if one.probability is None else f"{one.probability:.3f}",
        ]
        for one in examples
    ]
    if isinstance(found, LabelSets):  # each label has a probability of its own
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    _print(laid_out(columns, rows, screen_width()), "worst examples")


# --- labels ---------------------------------------------------------------------------------------


def _labels(split: str, found: LabelSets, worst: int) -> None:
    wrong = int((~found.right).sum())
    _say(f"{split}: {len(found):,} examples, {wrong:,} with a wrong label in `{found.field}`")
    rows, title = found.table, "labels"
    if len(rows) > MOST_CLASSES:
        title = f"the {MOST_CLASSES} worst of {len(rows):,} labels, by F1"
        rows = sorted(rows, key=lambda row: row.f1)[:MOST_CLASSES]
    columns = [
        Fitting("", False), Fitting("precision"), Fitting("recall"), Fitting("F1"), Fitting("AUC"),
        Fitting("examples", needed=False),
    ]  # fmt: skip
    cells = [
        [
            *(r.name, f"{r.precision:.3f}", f"{r.recall:.3f}", f"{r.f1:.3f}"),
            *("" if r.auc is None else f"{r.auc:.3f}", f"{r.support:,}"),
        ]
        for r in (*rows, *found.means)
    ]
    _print(laid_out(columns, cells, screen_width()), title)
    _worst(found, worst)


# --- numbers --------------------------------------------------------------------------------------


def _numbers(split: str, found: Residuals, worst: int) -> None:
    _say(f"{split}: {len(found):,} examples of `{found.field}`")
    columns = [Fitting("", False), Fitting("R²"), Fitting("MAE"), Fitting("RMSE")]
    rows = [
        [r.name, "" if r.r2 is None else f"{r.r2:.4f}", format_number(r.mae), format_number(r.rmse)]
        for r in found.rows
    ]
    _print(laid_out(columns, rows, screen_width()))
    outputs = found.rows
    quantiles = [
        [f"{q:.0%}", *(format_number(row.quantiles[k]) for row in outputs)]
        for k, q in enumerate(QUANTILES)
    ]
    heads = [
        Fitting("quantile"),
        # Where there is no room for all, that of all together stays.
        *(Fitting(r.name, needed=r is outputs[-1]) for r in outputs),
    ]
    _print(laid_out(heads, quantiles, screen_width()), "residuals: true minus predicted")
    examples = found.worst(worst)
    if examples:
        columns = [Fitting("example"), Fitting("error"), Fitting("true"), Fitting("predicted")]
        rows = [
            [
                str(one.index),
                format_number(one.error),
                "" if one.true is None else format_number(one.true),
                "" if one.predicted is None else format_number(one.predicted),
            ]
            for one in examples
        ]
        single = examples[0].true is not None
        _print(laid_out(columns if single else columns[:2], rows, screen_width()), "worst examples")
