"""`pairs("sentences.tsv")`: two texts per line, the second to be generated from the first.

In: text, plain or gzip'd, in UTF-8 or the declared `encoding`; on every line that is not blank a
source, a delimiter and a target. Or a table with columns `source` and `target`, or those that these
settings name, such as `translation.de`, and several files, as for `lines`. Out: `source`
i32[source_length] and its length; for the target y: `target_in`, which is `<start>` and then y, and
`target_out`, which is y and then `<end>`, both i32[target_length], padded with 0; and
`target_length`, the number of tokens of y plus one. Each side has a vocabulary of its own, from the
training lines, or both have one, if they are `joint`. The lengths are those of the longest texts
unless they are set; then a pair that does not fit is left out, since half a translation is wrong,
and a line on stderr says how many. Where pairs are `packed`, an example is as many of them as fit,
so that little is padded: `source` is x1, `<start>`, x2, … and for their targets `target_in` is
`<start>`, y1, `<start>`, y2, … and `target_out` y1, `<end>`, y2, `<end>`, …; with `parts` and
attention within these a model keeps them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import maxsize
from typing import Any, ClassVar

import numpy as np

from ....dsl.diagnostics.diagnostic import Report, fail
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.encodings import UTF8
from ..core.padding import Packed, Padded, Sequences, pack
from ..core.reader import NewExamples, NewFile, noted
from ..core.source import DataSource, Request, Setting
from ..core.stored import Examples, in_memory
from ..core.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from .encoded_rows import VOCABULARY_SETTINGS, encode_rows
from .lines import SPLIT_SETTINGS
from .new_lines import (
    KINDS,
    SUFFIXES,
    NewLine,
    divided,
    encoded,
    new_lines,
    plain_values,
    unknown_note,
)
from .two_texts import PAIR, TwoColumns

SPECIALS = (PAD, UNKNOWN, START, END)


def describe(request: Request) -> Schema:
    """Reads the file as `load` does: lengths and vocabularies depend on all of it."""
    return _dataset(request)[0].schema


def load(request: Request) -> Dataset:
    """Both splits. E0601, E0603, E0604, E0612, E0613, E0616 or E0617 if that cannot be."""
    dataset, note = _dataset(request)
    if note:
        request.search.notify(note)
    return dataset


def _dataset(request: Request) -> tuple[Dataset, str]:
    read = TwoColumns(request, PAIR, PAIR, False)
    # A vocabulary for each side unless they are joint: shared words do not matter.
    rows = encode_rows(request, read, SPECIALS, labelled=False)
    columns = (request["source"] or PAIR[0], request["target"] or PAIR[1])
    form = request["delimiter"], request["encoding"], columns if read.is_table else ()
    return fitting_pairs(request, read.name, rows.texts, rows.parts, rows.vocabularies, form)


def fitting_pairs(
    request: Request,
    name: str,
    texts: Sequence[Sequences],
    split: Sequence[np.ndarray],
    vocabularies: Sequence[Vocabulary],
    form: tuple[str, str, tuple[str, ...]] = ("\t", UTF8, ()),
) -> tuple[Dataset, str]:
    """The dataset of sources and targets in ids, of which the rows `split` train, test and
    validate, by the `PAIR_SETTINGS` of a request, and a remark on those that do not fit. `form` is
    how new files are read: what divides lines, their encoding, and the columns of a table.
    UserError E0613."""
    sources, targets = texts
    # One more for a target, since it is stored with a mark: `<start> y`, and `y <end>`.
    lengths = (
        request["source_length"] or sources.longest,
        request["target_length"] or targets.longest + 1,
    )
    # Too long pairs are left out, not cut: a truncated target would not translate its source. A
    # target must be strictly shorter, to leave room for its mark.
    fits = (sources.lengths <= lengths[0]) & (targets.lengths < lengths[1])
    parts = [part[fits[part]] for part in split]
    if not len(parts[0]):
        message = f"no training pair of {name} fits into {lengths[0]} and {lengths[1]} tokens"
        raise fail("E0613", message, request.span_of("file"), help="choose larger lengths")
    dataset = pair_dataset(
        name,
        sources,
        targets,
        parts,
        lengths,
        vocabularies,
        request["lowercase"],
        *form,
        request.search.memory,
        request["packed"],
    )
    lost = len(fits) - int(fits.sum())
    note = f"{lost} of {len(fits)} pairs of {name} do not fit and are left out" if lost else ""
    return dataset, note


def pair_dataset(
    name: str,
    sources: Sequences,
    targets: Sequences,
    parts: Sequence[np.ndarray],
    lengths: tuple[int, int],
    vocabularies: Sequence[Vocabulary],
    lowercase: bool = False,
    delimiter: str = "\t",
    encoding: str = UTF8,
    columns: tuple[str, ...] = (),
    memory: int = maxsize,
    packed: bool = False,
) -> Dataset:
    """The validated dataset of pairs in ids (without special tokens): of the rows `parts`, the
    first train, and the second and third, if there are any, test and validate. The four before
    `memory`, of which the data may take so much, are for new texts."""
    reader, writer = vocabularies
    known = {"source": reader, "target_in": writer, "target_out": writer}
    inputs = PairReader(*lengths, lowercase, delimiter, known, encoding, columns)
    fields = (
        Field("source", "i32", lengths[:1], len(reader)),
        Field("source_length", "i32", ()),
        Field("target_in", "i32", lengths[1:], len(writer)),
        Field("target_out", "i32", lengths[1:], len(writer)),
        Field("target_length", "i32", ()),
    )
    groups: list[list[int]] | None = None
    if packed:
        sizes = np.stack([sources.lengths, targets.lengths], axis=1)
        each = [[rows[group].tolist() for group in pack(sizes[rows], lengths)] for rows in parts]
        groups = [group for part in each for group in part]
        parts = np.split(np.arange(len(groups)), np.cumsum([len(part) for part in each])[:-1])
    arrays = {**inputs.sources(sources, groups), **inputs.targets(targets, groups)}
    return split_dataset(
        name, fields, arrays, parts, vocabularies=known, reader=inputs, memory=memory
    )


@dataclass(frozen=True)
class PairReader:
    """A source a line, and where every line has one after a delimiter, its target. A text that does
    not fit is an error, since half a sentence is another one."""

    source_size: int
    target_size: int
    lowercase: bool
    delimiter: str
    vocabularies: Mapping[str, Vocabulary]
    encoding: str = UTF8
    columns: tuple[str, ...] = ()  # of sources and targets, in a table

    kind: ClassVar[str] = "pairs"
    file_kinds: ClassVar[tuple[str, ...]] = KINDS
    suffixes: ClassVar[frozenset[str]] = SUFFIXES
    example: ClassVar[str] = "pairs.tsv"
    fields: ClassVar[tuple[str, ...]] = (
        "source", "source_length", "target_in", "target_out", "target_length"
    )  # fmt: skip

    @property
    def takes(self) -> str:
        kind = self.vocabularies["source"].kind
        return f"texts, one a line, of up to {self.source_size} {kind}"

    def plain(self) -> dict[str, Any]:
        return plain_values(self)

    def sources(
        self, tokens: Sequences, groups: Sequence[Sequence[int]] | None = None
    ) -> dict[str, Examples]:
        """The inputs of sources in tokens, those of a group in one example, if there are groups."""
        source: Padded | Packed
        if groups is None:
            source = Padded(tokens, self.source_size)
        else:
            start = self.vocabularies["source"].special(START)
            source = Packed(tokens, groups, self.source_size, before=start, between=True)
        return {"source": source, "source_length": source.lengths}

    def targets(
        self, tokens: Sequences, groups: Sequence[Sequence[int]] | None = None
    ) -> dict[str, Examples]:
        """The inputs of targets in tokens, those of a group in one example, if there are groups."""
        writer, size = self.vocabularies["target_in"], self.target_size
        start, end = (writer.special(mark) for mark in (START, END))
        # Teacher forcing: the model reads `<start> a b` and is to write `a b <end>`, so that at
        # each place it has all of the target before that place. Both have one length.
        shifted: Padded | Packed
        ended: Padded | Packed
        if groups is None:
            shifted, ended = Padded(tokens, size, before=start), Padded(tokens, size, after=end)
        else:
            shifted = Packed(tokens, groups, size, before=start)
            ended = Packed(tokens, groups, size, after=end)
        return {"target_in": shifted, "target_out": ended, "target_length": shifted.lengths}

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """The texts of all lines; E0708 for those that do not fit."""
        lines = new_lines(files, cache, self.encoding, *self.columns[:1])
        cells = divided(lines, self.delimiter, False)
        texts = [cell[0] for cell in cells] if cells else [line.text.strip() for line in lines]
        report = Report()
        arrays: dict[str, np.ndarray] = {}
        with noted(report):
            tokens = self._encoded(lines, texts, "source", self.source_size)
            arrays |= in_memory(self.sources(Sequences.of(tokens)))
        if cells:
            with noted(report):
                # One place less, for the mark at the end.
                others = [cell[1] for cell in cells]
                tokens = self._encoded(lines, others, "target_in", self.target_size - 1)
                arrays |= in_memory(self.targets(Sequences.of(tokens)))
        report.check()
        notes = unknown_note(texts, self.vocabularies["source"])
        places = tuple(line.place for line in lines)
        return NewExamples(arrays, places, texts=tuple(texts), notes=notes)

    def _encoded(
        self, lines: Sequence[NewLine], texts: Sequence[str], field: str, most: int
    ) -> list[np.ndarray]:
        def fits(line: NewLine, count: int) -> None:
            if count > most:
                what = "target" if field == "target_in" else "text"
                message = f"the {what} of {line.place} has {count} tokens, more than {most}"
                raise fail("E0708", message, help="shorten it, or cut it in two")

        folded = [text.lower() for text in texts] if self.lowercase else texts
        return encoded(lines, folded, self.vocabularies[field], fits)


PAIR_SETTINGS = (
    Setting("source_length", "count", "the most tokens of a source (the longest)", None),
    Setting("target_length", "count", "the most tokens of a target and its end mark", None),
    *VOCABULARY_SETTINGS,
    Setting("joint", "bool", "whether both sides have one vocabulary", False),
    Setting("packed", "bool", "whether an example is as many pairs as fit", False),
)

PAIRS = DataSource(
    "pairs",
    "a source and a target per line: source, target_in and target_out i32[…], and their lengths",
    (
        Setting("file", "text", "the file, a folder, or a pattern of files", positional=True),
        Setting("source", "text", "the column of the sources, in a table (source)", None),
        Setting("target", "text", "the column of the targets, in a table (target)", None),
        *PAIR_SETTINGS,
        *SPLIT_SETTINGS,
    ),
    describe,
    load,
)
