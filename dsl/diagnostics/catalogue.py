"""The catalogue: what every diagnostic code means, with examples.

The texts are data, `codes_*.toml` beside this file, read when `nnc explain` needs them; the
messages themselves stand where they are reported. `GROUPS` says what the first digits stand for.

An entry of a code that a program alone can cause has a `wrong` program, which yields exactly this
code, and a `right` one, which yields none (tests/language/test_catalogue.py). The others describe
an `example`, which a command of tests/scenes.py reproduces.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

GROUPS = {
    "E01": "Syntax", "E02": "Names", "E03": "Sizes, indices and types", "E04": "Train blocks",
    "E05": "Recurrences", "E06": "Data", "E07": "Runs", "E08": "Verification",
    "W02": "Warnings: names", "W03": "Warnings: what is trained and measured",
    "W04": "Warnings: what is hardly meant", "W06": "Warnings: data", "W07": "Warnings: runs",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One code: its title, what it means and how to fix it, and examples."""

    code: str
    title: str
    explanation: str
    wrong: str = ""
    right: str = ""
    example: str = ""


@cache
def catalogue() -> dict[str, Entry]:
    """Every code with its entry, in order of the codes."""
    entries = {}
    for file in files(__package__).iterdir():
        if file.name.startswith("codes_"):
            for code, texts in tomllib.loads(file.read_text("utf-8")).items():
                assert code not in entries, f"{code} is listed twice"
                entries[code] = Entry(code, **texts)
    # The files divide the codes by topic, and a folder has no order.
    return dict(sorted(entries.items()))
