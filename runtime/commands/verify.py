"""`nnc verify`: a model's machine code and gradients compared with what defines them.

In: the command line. Out: a table on stdout, line by line of the source; diagnostics on stderr and
exit code 1 if anything is wrong. The comparing is done in `verification.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from ...dsl.diagnostics.diagnostic import UserError
from ..inspect.verification import Line, Verification, verify_project
from ..thread_count import default_threads
from .tables import Row, TableColumn, print_table


def verify(program, threads, seed, samples, tolerance, as_json) -> None:
    """What `nnc verify` does."""
    project, setup = program.project, program.setup_if_trained
    # On one thread and on all: the results must have the same bits.
    found = verify_project(project, setup, (1, default_threads(threads)), seed, samples, tolerance)
    if as_json:
        click.echo(json.dumps(_plain(found)))
    else:
        _print(found)
    # After the table, so that it is seen in full; the exit code is 1.
    if found.mistakes:
        raise UserError(found.mistakes)


def _plain(found: Verification) -> dict[str, Any]:
    return {
        "model": found.name,
        "right": not found.mistakes,
        "tolerance": found.tolerance,
        "sizes": found.sizes,
        "gradient_sizes": found.gradient_sizes,
        "passes": found.passes,
        "threads": list(found.threads),
        "lines": [_plain_line(x) for x in found.sorted_lines()],
    }


def _plain_line(line: Line) -> dict[str, Any]:
    """`worst` is the tensor and the index of each error, which is relative."""
    value, slope = line.value, line.slope
    plain = {
        "file": line.span.source.name,
        "line": line.span.line,
        "text": line.text,
        "right": line.right,
    }
    if value is not None:
        worst = [value.equation.target, *value.index]
        plain |= {"value_error": float(value.error), "value_worst": worst}
    if slope is not None:
        # Without an index the slope is of the whole tensor along one direction.
        worst = [slope.tensor, *(slope.index or ())]
        plain |= {"gradient_error": float(slope.error), "gradient_worst": worst}
    return plain


def _print(found: Verification) -> None:
    columns = (
        TableColumn("line", 4),
        TableColumn("source", 0, right=False),
        TableColumn("values", 6),
        TableColumn("gradient", 8),
        TableColumn("worst at", 30, right=False),
    )
    print_table(columns, _rows(found), gap=2)
    for text in _summary(found):
        click.echo(text)


def _rows(found: Verification) -> Iterator[Row]:
    file = ""
    for line in found.sorted_lines():
        name = line.span.source.name
        if name != file:
            yield ("", name), "bold"
            file = name
        # A line's largest error of values and of gradients; it is red if either is too large.
        errors = _error(line.value), _error(line.slope)
        style = "" if line.right else "bold red"
        yield (str(line.span.line), "  " + line.text, *errors, _worst(line)), style


def _error(measured) -> str:
    # One digit is enough, `3e-07`; an exact 0 needs no exponent, and no comparison leaves a blank.
    return "" if measured is None else f"{measured.error:.0e}" if measured.error else "0"


def _worst(line: Line) -> str:
    """Where the larger of the two errors is."""
    value, slope = line.value, line.slope
    # If only the gradient is wrong, its place is the one to look at.
    if not line.right and slope is not None and not slope.right:
        return _place(f"d_{slope.tensor}", slope.index)
    return _place(value.equation.target, value.index) if value is not None else ""


def _place(name: str, index: tuple[int, ...] | None) -> str:
    return f"{name}{list(index)}" if index else name


def _summary(found: Verification) -> list[str]:
    values, slopes = found.values, found.slopes
    right = sum(v.right for v in values)
    worst = max((v.error for v in values), default=0.0)
    lines = [
        f"{found.name} at {found.sizes}: {right} of {len(values)} results of machine code "
        f"are the evaluator's, off by {worst:.0e} at most; tolerance {found.tolerance:.0e}"
    ]
    if slopes:
        worst = max(s.error for s in slopes)
        # At a kink, as of relu at 0, both one-sided slopes are right, and whatever lies between.
        kinks = sum(s.kinks for s in slopes)
        lines.append(
            f"at {found.gradient_sizes}: {sum(s.right for s in slopes)} of {len(slopes)} gradients "
            f"are those of finite differences, off by {worst:.0e} at most"
            + (f"; {kinks} between the slopes of a kink" if kinks else "")
        )
    if not found.mistakes:
        threads = " and ".join(map(str, found.threads))
        # With one thread there is nothing to compare with.
        plural = "s" * (found.threads[-1:] != (1,))
        lines.append(
            f"{found.passes} passes keep every value; a whole step has the same bits on "
            f"{threads} thread{plural}"
        )
    return lines
