"""New texts, a line each: what the readers of `lines`, `pairs`, `text` and sets of texts share.

In: files of text and a vocabulary. Out: lines with their places, and their tokens. What is wrong
with any line is reported; what a vocabulary reads as `<unk>` is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import Report, fail
from ..core.encodings import UTF8
from ..core.file_kinds import GZIP, TABLE, TEXT
from ..core.padding import Padded, Sequences
from ..core.reader import NewExamples, NewFile, listed, noted
from ..core.stored import Examples, in_memory
from ..core.vocabulary import UNKNOWN, Vocabulary
from .table_file import ENDINGS, TextForm
from .table_texts import TextTable, is_table
from .text_file import text_lines

TEXT_COLUMN = "text"
SUFFIXES = frozenset({".txt", ".text", ".md"}) | ENDINGS
KINDS = (TEXT, GZIP, TABLE)


@dataclass(frozen=True)
class NewLine:
    """A line that is not blank, and where it stands; lines count from 1."""

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def new_lines(
    files: Sequence[NewFile], cache: Path, encoding: str = UTF8, column: str = ""
) -> list[NewLine]:
    """The lines of all files, blank ones left out, and the texts in that column of those that are
    tables; E0603, E0609, E0612 to E0614, E0616 or E0617."""
    report, found = Report(), []
    for file in files:
        with noted(report):
            if is_table(file.path, bool(column)):
                form = TextForm(encoding=encoding, cache=cache)
                table = TextTable(file.path, [(column or TEXT_COLUMN, None)], form)
                rows = zip(table.rows(), table.lines(), strict=True)
                found += [NewLine(file.name, line, text) for (text,), line in rows]
                continue
            lines = enumerate(text_lines(file.path, cache, encoding), 1)
            own = [NewLine(file.name, number, text) for number, text in lines if text.strip()]
            if not own:
                raise fail("E0613", f"{file.path} holds only blank lines")
            found += own
    report.check()
    return found


def encoded(
    lines: Sequence[NewLine],
    texts: Sequence[str],
    vocabulary: Vocabulary,
    fits: Callable[[NewLine, int], None] = lambda line, count: None,
) -> list[np.ndarray]:
    """The tokens of a text of each line. UserError with all that is not in the vocabulary (E0619),
    and what `fits` raises for numbers of tokens."""
    report, found = Report(), []
    for line, text in zip(lines, texts, strict=True):
        with noted(report):
            tokens = vocabulary.encode(text, line.file, line.line)
            fits(line, len(tokens))
            found.append(tokens)
    report.check()
    return found


def unknown_note(texts: Sequence[str], vocabulary: Vocabulary) -> tuple[str, ...]:
    """A remark on what is read as `<unk>`, if anything is."""
    found = [piece for text in texts for piece in vocabulary.unknown(text)]
    return (f"not in the vocabulary, and read as {UNKNOWN}: {listed(found)}",) if found else ()


def divided(lines: Sequence[NewLine], delimiter: str, last: bool) -> list[tuple[str, str]] | None:
    """The two cells of every line as `read_rows` divides them; None if a line has but one."""
    pairs = []
    for line in lines:
        left, mark, right = (line.text.rpartition if last else line.text.partition)(delimiter)
        if not mark or not left.strip() or not right.strip():
            return None
        pairs.append((left.strip(), right.strip()))
    return pairs


@dataclass(frozen=True)
class LineReader:
    """A text a line as `token` i32[size], padded with 0, and `length`, the tokens that count;
    longer texts are cut. A label, one of `labels` at the begin or the end of every line, is left
    out."""

    size: int
    lowercase: bool
    delimiter: str
    label_last: bool
    labels: tuple[str, ...]
    vocabularies: Mapping[str, Vocabulary]
    encoding: str = UTF8
    column: str = ""  # of texts, in a table

    kind: ClassVar[str] = "lines"
    file_kinds: ClassVar[tuple[str, ...]] = KINDS
    suffixes: ClassVar[frozenset[str]] = SUFFIXES
    example: ClassVar[str] = "reviews.txt"
    fields: ClassVar[tuple[str, ...]] = ("token", "length")

    @property
    def vocabulary(self) -> Vocabulary:
        return self.vocabularies["token"]

    @property
    def takes(self) -> str:
        return f"texts, one a line, of up to {self.size} {self.vocabulary.kind}"

    def plain(self) -> dict[str, Any]:
        return plain_values(self)

    def arrays(self, tokens: Sequences) -> dict[str, Examples]:
        """The inputs of texts in tokens."""
        token = Padded(tokens, self.size)
        return {"token": token, "length": token.lengths}

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """The texts of all lines; errors as `new_lines` and `encoded`."""
        lines = new_lines(files, cache, self.encoding, self.column)
        texts, notes = self._texts(lines)
        folded = [text.lower() for text in texts] if self.lowercase else texts
        tokens = encoded(lines, folded, self.vocabulary)
        notes += unknown_note(folded, self.vocabulary)
        cut = [line.place for line, one in zip(lines, tokens, strict=True) if len(one) > self.size]
        if cut:
            notes += (f"cut at {self.size} {self.vocabulary.kind}: {listed(cut)}",)
        places = tuple(line.place for line in lines)
        arrays = in_memory(self.arrays(Sequences.of(tokens)))
        return NewExamples(arrays, places, texts=tuple(texts), notes=notes)

    def _texts(self, lines: Sequence[NewLine]) -> tuple[list[str], tuple[str, ...]]:
        """The texts without labels, where every line has one."""
        cells = divided(lines, self.delimiter, self.label_last)
        if cells and all(cell[self.label_last] in self.labels for cell in cells):
            return [cell[not self.label_last] for cell in cells], ("the labels are not read",)
        return [line.text.strip() for line in lines], ()


def plain_values(reader: Any) -> dict[str, Any]:
    """The values of a reader without its vocabularies, which a run keeps by themselves."""
    return {name: value for name, value in asdict(reader).items() if name != "vocabularies"}


@dataclass(frozen=True)
class CellReader:
    """A line as several texts, divided by tabs, of exactly as many tokens each as `sizes` says:
    what is not padded in training has no length of its own."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    vocabularies: Mapping[str, Vocabulary]

    kind: ClassVar[str] = "cells"
    file_kinds: ClassVar[tuple[str, ...]] = KINDS
    suffixes: ClassVar[frozenset[str]] = SUFFIXES
    example: ClassVar[str] = "questions.tsv"

    @property
    def fields(self) -> tuple[str, ...]:
        return self.names

    @property
    def takes(self) -> str:
        cells = [
            f"a `{name}` of {size} {self.vocabularies[name].kind}"
            for name, size in zip(self.names, self.sizes, strict=True)
        ]
        return f"lines of {', a tab and '.join(cells)}"

    def plain(self) -> dict[str, Any]:
        return plain_values(self)

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """The texts of all lines; E0604 and E0708 for lines of another form."""
        lines, report = new_lines(files, cache), Report()
        for line in lines:
            if line.text.count("\t") != len(self.names) - 1:
                found = line.text.count("\t") + 1
                message = f"{line.place} has {found} texts divided by tabs, not {len(self.names)}"
                report.add("E0604", message, help=f"the run reads {self.takes}")
        report.check()
        arrays = {}
        for k, (name, size) in enumerate(zip(self.names, self.sizes, strict=True)):
            texts = [line.text.split("\t")[k].strip() for line in lines]

            def fits(line: NewLine, count: int, name: str = name, size: int = size) -> None:
                if count != size:
                    message = f"`{name}` of {line.place} has {count} tokens, not {size}"
                    raise fail("E0708", message, help=f"the run reads {self.takes}")

            with noted(report):
                arrays[name] = np.stack(encoded(lines, texts, self.vocabularies[name], fits))
        report.check()
        places, whole = tuple(line.place for line in lines), tuple(line.text for line in lines)
        return NewExamples(arrays, places, texts=whole)
