"""Tables of constants: `table("priors.csv")` becomes the list of numbers that the file holds.

    let priors = table("priors.csv")   →   let priors = [0.2, 0.5, 0.3]

The path is relative to the file that names it, in its folder or below. From then on a program has
the numbers themselves: so does the copy that a run keeps. Tests: tests/language/test_tables.py.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from ..diagnostics.diagnostic import Report
from ..regular_files import is_within, open_regular
from ..syntax import ast as s
from ..syntax.source import Span

MAX_NUMBERS = 2048  # of a list, too
MAX_BYTES = 1_000_000
Nested = float | list["Nested"]  # type: ignore[misc]


def expand_tables(file: s.File, folder: Path, report: Report) -> s.File:
    """The file with its tables read; E0216 or E0217 for those that cannot be."""
    own = {d.name for d in file.declarations if isinstance(d, s.Definition)}
    if "table" in own or "table" not in file.source.text:
        return file
    declarations = tuple(_expanded(d, folder, report) for d in file.declarations)
    return replace(file, declarations=declarations)


def _expanded(node: Any, folder: Path, report: Report) -> Any:
    if isinstance(node, tuple):
        found = tuple(_expanded(item, folder, report) for item in node)
        # Nodes that did not change stay the same objects.
        return found if any(a is not b for a, b in zip(found, node, strict=True)) else node
    if not isinstance(node, s.Node):
        return node
    match node:
        case s.Call(span, s.Name(id="table"), (s.Argument(name=None, value=s.String() as path),)):
            return _list(_read(path, folder, report), span)
    changed = {}
    for field in fields(node):
        old = getattr(node, field.name)
        new = _expanded(old, folder, report)
        if new is not old:
            changed[field.name] = new
    return replace(node, **changed) if changed else node


def _list(numbers: Any, span: Span) -> s.Expr:
    if isinstance(numbers, list):
        return s.List(span, tuple(_list(item, span) for item in numbers))
    if isinstance(numbers, bool):
        return s.Boolean(span, numbers)
    if math.isnan(numbers) or math.isinf(numbers):
        word: s.Expr = s.Name(span, "nan" if math.isnan(numbers) else "inf")
        return s.Unary(span, "-", word) if numbers < 0 else word
    size = s.Number(span, abs(numbers), repr(abs(numbers)))
    return s.Unary(span, "-", size) if math.copysign(1, numbers) < 0 else size


def _read(path: s.String, folder: Path, report: Report) -> Any:
    """The numbers of a file as nested lists; one number where there is a mistake."""
    written, span = path.value, path.span
    outside = set(written) & set("\\:\0") or ".." in PurePosixPath(written).parts
    target = folder / written
    if outside or written.startswith(("/", "~")) or not is_within(target, [folder]):
        report.add(
            "E0217",
            f"`table` cannot read `{written}`",
            span,
            label="expected a file in this folder or below",
            help="move the file next to this one",
        )
        return [0.0]
    try:
        with open_regular(target) as opened:
            data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        found = _of_npy(data) if written.endswith(".npy") else _of_text(data.decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        report.add(
            "E0216",
            f"cannot read `{written}`: {reason.lower()}",
            span,
            help="a path is relative to the file that names it",
        )
        return [0.0]
    return found


def _of_npy(data: bytes) -> Any:
    import numpy as np

    try:
        array = np.lib.format.read_array(BytesIO(data), allow_pickle=False)
    except (ValueError, SyntaxError, EOFError, TypeError) as error:
        raise ValueError("it is no array in NumPy's format") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"its elements are {array.dtype}, not numbers")
    return _checked(array.size, array.tolist())


def _of_text(text: str) -> Any:
    """Lines of numbers with commas, semicolons or blanks between; of one number each, a vector. A
    first line of words is a heading."""
    lines = [line for line in text.splitlines() if line.strip()]
    rows = [_row(line, number) for number, line in enumerate(lines)]
    if len(rows) > 1 and rows[0] is None:
        rows = rows[1:]
    if not rows or None in rows:
        raise ValueError("it has no numbers" if not rows else f"`{lines[0].strip()}` is no number")
    if len({len(row) for row in rows if row}) > 1:
        raise ValueError("its lines have different numbers of values")
    flat = [row[0] for row in rows if row and len(row) == 1]
    found = flat if len(flat) == len(rows) else rows[0] if len(rows) == 1 else rows
    return _checked(sum(len(row) for row in rows if row), found)


def _row(line: str, number: int) -> list[float] | None:
    """The values of a line; None for a heading."""
    separator = "," if "," in line else ";" if ";" in line else None
    words = [word.strip() for word in line.strip().split(separator)]
    found: list[float] = []
    for word in words:
        try:
            found.append(int(word) if word.lstrip("+-").isdecimal() else float(word))
        except ValueError:
            if number == 0:
                return None
            raise ValueError(f"`{word}` in line {number + 1} is no number") from None
    return found


def _checked(count: int, numbers: Any) -> Any:
    if not count:
        raise ValueError("it has no numbers")
    if count > MAX_NUMBERS:
        raise ValueError(f"it has {count:,} numbers, and a table has at most {MAX_NUMBERS:,}")
    return numbers
