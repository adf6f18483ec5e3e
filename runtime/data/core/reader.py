"""How files become the inputs of a model: what a data source does to its own files, as an object.

A source loads its files with a reader, and a run keeps it (`recorded.py`), so that new files go
through the same code with the same settings. In: files of the reader's kind. Out: `NewExamples`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import Report, UserError
from ....dsl.records import record

MAX_LISTED = 8  # files or words in a note


@record
class NewFile:
    """A file that is to be read, and what messages and results call it."""

    path: Path
    name: str


@record(eq=False)
class NewExamples:
    """Inputs by field, stored and scaled as those of a `Split`, and for each example where it comes
    from and, if it is one, its text. `lengths` are those of texts in tokens, where the model is not
    told them, `sizes` those of pictures, height and width, before they became what the model reads;
    `notes` say what was done that may not be expected."""

    arrays: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    scale: Mapping[str, float] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lengths: np.ndarray | None = None
    sizes: np.ndarray | None = None


class Reader(Protocol):
    """What every reader has; a frozen dataclass of plain values besides."""

    kind: ClassVar[str]  # its name in the notes of a run
    file_kinds: ClassVar[tuple[str, ...]]  # of `file_kinds.py`, that it reads
    suffixes: ClassVar[frozenset[str]]  # of the files that it takes from a folder

    @property
    def takes(self) -> str:
        """What it reads, as messages say it: `images, which become 8x8 in grey`."""
        ...

    @property
    def example(self) -> str:
        """A name of a file that it reads."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that it makes."""
        ...

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """UserError with what is wrong in any of the files."""
        ...

    def plain(self) -> dict[str, Any]:
        """Its values as JSON has them; `from_plain` of its class gives an equal one."""
        ...


@contextmanager
def noted(report: Report) -> Iterator[None]:
    """Note what a UserError within says, and go on: of several files, all mistakes are reported."""
    try:
        yield
    except UserError as error:
        report.extend(error.diagnostics)


def listed(words: Iterable[str]) -> str:
    """The first few words, each once."""
    distinct = list(dict.fromkeys(words))
    more = f" and {len(distinct) - MAX_LISTED} more" if len(distinct) > MAX_LISTED else ""
    return ", ".join(distinct[:MAX_LISTED]) + more
