"""Cells of a table: numbers, missing values, and what is wrong with a cell that is neither.

In: the texts of cells. Out: numbers, or a `WrongCell`, which knows nothing of its file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ....compiler.ir.lazy_numpy import np

EXACT = 1 << 53  # whole numbers up to this are exact in f64
MISSING = {"", "nan", "na", "n/a", "null", "none", "?", "-"}


class WrongCell(Exception):
    """A cell that is not what its column holds; `row` and `column` count from 0, without the header
    and empty lines."""

    def __init__(self, code: str, row: int, column: int, message: str, hint: str = ""):
        super().__init__(message)
        self.code, self.row, self.column = code, row, column
        self.message, self.hint = message, hint


def numbers(column: int, cells: Sequence[str], first: int, may_miss: bool = False) -> np.ndarray:
    """The numbers (f64) in cells of a column from row `first` on, where they `may_miss` not a
    number for those that do; WrongCell E0605 or E0616 for the first other cell."""
    # All cells at once; only if that fails is the cell at fault searched for.
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
        if np.isfinite(values).all() and "_" not in "".join(cells):  # float() takes 1_000
            return values
    except ValueError:
        pass
    if may_miss:
        stripped = [cell.strip() for cell in cells]
        absent = np.array([is_missing(cell) for cell in stripped])
        if absent.any():
            present = [
                cell if not gone else "0" for cell, gone in zip(stripped, absent, strict=True)
            ]
            return np.where(absent, np.nan, numbers(column, present, first))
    row = next(row for row, cell in enumerate(cells) if not is_number(cell))
    raise not_a_number(first + row, column, cells[row].strip())


def is_number(cell: str) -> bool:
    """Whether a cell holds a number in the range of f64."""
    try:
        return bool(np.isfinite(float(cell))) and "_" not in cell
    except ValueError:
        return False


def is_missing(cell: str) -> bool:
    """Whether a cell says in one of the usual ways that there is no value."""
    return cell.lower() in MISSING


NO_DATE = (
    "a date or time is no number: leave the column out with `columns = [...]`, or write the time "
    "since a fixed one"
)
NO_WORD = "leave a column of words out with `columns = [...]`, or name it in `categories = [...]`"
FILL_IT = "fill the cell or remove the row; nothing is filled in silently"
NOT_MISSING = f'{FILL_IT}, but `missing = "fill"` or "indicator" says how'
# what a program could say → what is left to do once a run was trained without it
FOR_NEW_TABLES = {
    NO_DATE: "in training this column held numbers: write it as there",
    NO_WORD: "in training this column held numbers: write one",
    NOT_MISSING: "in training no cell of an input was missing: fill it or leave the row out",
}

# what a cell that is no number looks like → what to do; `{n}` is the cell without what disturbs
HINTS = (
    (re.compile(r"[+-]?\d{1,3}(,\d{3})+\.\d*|[+-]?\d{1,3}(,\d{3}){2,}"), ",",
     "write it without separators: `{n}`"),
    (re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d*"), ".",
     "write it without separators and decimals with a point"),
    (re.compile(r"[+-]?\d{1,3}([ '\u2019\u00a0\u202f_]\d{3})+([.,]\d*)?"), " '\u2019\u00a0\u202f_",
     "write it without separators: `{n}`"),
    (re.compile(r"[+-]?\d{1,3},\d{3}"), ",",
     "write `{n}`, or decimals with a point"),
    (re.compile(r"[+-]?\d*,\d*"), "", "write decimals with a point"),
    (re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|\d{1,2}:\d{2}.*"), "", NO_DATE),
    (re.compile(r"(?i)true|false|yes|no"), "", "write 1 and 0"),
    (re.compile(r"[$\u20ac\u00a3]?\s*[+-]?[\d.,]+\s*[%$\u20ac\u00a3]?"), "",
     "write the number alone, without its unit"),
)  # fmt: skip


def not_a_number(row: int, column: int, cell: str, is_target: bool = False) -> WrongCell:
    """What is wrong with a cell among numbers."""
    # A missing value first, as the commonest reason, whatever the column is for.
    if is_missing(cell):
        found = f"holds `{cell}`, a missing value" if cell else "is empty"
        return WrongCell("E0616", row, column, found, FILL_IT if is_target else NOT_MISSING)
    hint = NO_WORD
    if is_target:
        hint = "most cells of this column are numbers, so all must be; `labels = true` reads words"
    for form, disturbing, advice in HINTS:
        if form.fullmatch(cell):
            hint = advice.format(n="".join(c for c in cell if c not in disturbing))
            break
    # `1e999` is a number, but not in f64; `1_000` is one to Python's `float` alone.
    try:
        beyond = not np.isnan(float(cell)) and "_" not in cell
    except ValueError:
        beyond = False
    why = "is beyond the range of f64" if beyond else "is not a number"
    return WrongCell("E0605", row, column, f"`{cell[:60]}` {why}", hint)


def inexact(row: int, column: int, value: int) -> WrongCell:
    """What is wrong with a whole number that f64 does not hold."""
    return WrongCell(
        "E0605",
        row,
        column,
        f"`{value}` is a whole number beyond 2^53, which f64 does not hold exactly",
        "an identifier is left out with `columns = [...]` or named in `categories`; of times and "
        "the like, subtract what they have in common",
    )
