"""The tokens of a text, for `text` and the sets of texts, in memory or in a file.

In: files, what a token is, and what validates. Out: the ids of the part that trains and of the part
that validates, in the smallest type. The files are read block by block, as often as is needed: for
the vocabulary, to learn byte pairs, to encode. Ids that do not fit into the memory for data go to a
file of the user's cache, where the next run finds them; those of byte pairs and of a tokenizer,
which take long, are always kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import fail
from ..core import byte_pairs, vocabulary
from ..core.decompress import plain_bytes
from ..core.encodings import UTF8, is_utf8
from ..core.kept import Kept, as_bytes, from_bytes
from ..core.shards import Splits
from ..core.source import Request, errors_at
from ..core.stored import Examples, Mapped, Stored
from ..core.vocabulary import Vocabulary
from .new_lines import TEXT_COLUMN
from .table_file import TextForm
from .table_texts import TextTable, is_table
from .text_file import text_blocks

KIND = "texts"  # the folder in the cache
VERSION = 1  # of how texts become ids: after a change, kept ones must not be found
COPIES = 2  # of ids in memory: block by block, and as a whole


@dataclass(frozen=True, eq=False)
class Tokens:
    """The ids of a text: the part that trains and the part that validates, which may be empty. Some
    are `mapped` from a file, since they are more than may be in memory."""

    vocabulary: Vocabulary
    train: np.ndarray
    validation: np.ndarray
    mapped: bool = False


@dataclass(frozen=True)
class Text:
    """The text of files by split, and what it is called in messages. What validates are files that
    say so, or else those that test, or else a share at the end."""

    request: Request
    files: tuple[Path, ...]
    validation: tuple[Path, ...]
    name: str

    @staticmethod
    def of(request: Request, splits: Splits) -> Text:
        paths = [path for own in splits.values() for path in own]
        name = str(paths[0]) if len(paths) == 1 else request["file"]
        others = splits.get("validation") or splits.get("test") or ()
        return Text(request, splits["train"], others, name)

    @property
    def encoding(self) -> str:
        return encoding_of(self.request)

    def blocks(self) -> Iterator[str]:
        """All of it, block by block, as the files are now. UserError as `text_blocks`."""
        with errors_at(self.request.span_of("file")):
            yield from _joined([self._file(path) for path in self.files])
            yield from _joined([self._file(path) for path in self.validation])

    def part(self, begin: int, end: int) -> Iterator[str]:
        """The characters from `begin` to `end`."""
        at = 0
        for block in self.blocks():
            if at >= end:
                return
            if (found := block[max(0, begin - at) : end - at]) and at + len(block) > begin:
                yield found
            at += len(block)

    def measure(self) -> Measured:
        """Reads it once; E0613 if nothing trains."""
        letters: set[str] = set()
        counts = []
        wanted = self.request["vocabulary"] == "chars"
        for files in (self.files, self.validation):
            count = 0
            with errors_at(self.request.span_of("file")):
                for block in _joined([self._file(path) for path in files]):
                    count += len(block)
                    if wanted:
                        letters.update(block)
            counts.append(count)
        if not counts[0]:
            raise fail("E0613", f"{self.name} holds no text")
        if self.validation:
            return Measured(letters, counts[0], sum(counts))
        return Measured(letters, training_length(counts[0], self.request["validation"]), counts[0])

    def _file(self, path: Path) -> Iterator[str]:
        """The text of a file: of a table, those of a column, a line for each row."""
        cache, column = self.request.search.cache_folder, self.request.settings.get("column")
        if not is_table(path, column is not None):
            return text_blocks(path, cache, self.encoding)
        named = (column or TEXT_COLUMN, self.request.span_of("column"))
        table = TextTable(path, [named], TextForm(encoding=self.encoding, cache=cache))
        return (f"{text}\n" for (text,) in table.rows(may_be_empty=True))


@dataclass(frozen=True, eq=False)
class Measured:
    """The characters of a text, how many of them train, and how many there are."""

    letters: set[str]
    training: int
    count: int


def encoding_of(request: Request) -> str:
    """As the program declares it; well-known texts have no such setting."""
    encoding: str = request.settings.get("encoding", UTF8)
    return encoding


def training_length(count: int, share: float) -> int:
    """How much of a text of that length trains: all but the validation share, rounded down."""
    return int(count * (1 - share))


def _joined(texts: Sequence[Iterator[str]]) -> Iterator[str]:
    """One text, in which each begins on a line of its own."""
    for number, text in enumerate(texts, 1):
        last = ""
        for block in text:
            last = block or last
            yield block
        if number < len(texts) and last[-1:] != "\n":
            yield "\n"


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────


def tokens_of(request: Request, splits: Splits) -> tuple[Tokens, str]:
    """The tokens of files, and what messages call these."""
    text = Text.of(request, splits)
    if (raw := _raw(text)) is not None:
        return raw, text.name
    kept = _kept(text)
    found = kept.find()
    if found is None:
        found = _encoded(text, kept)
    return _tokens(found, request.search.memory), text.name


def kept_tokens(request: Request, splits: Splits) -> Tokens | None:
    """The same if another run has kept them."""
    found = _kept(Text.of(request, splits)).find()
    return None if found is None else _tokens(found, request.search.memory)


def _raw(text: Text) -> Tokens | None:
    """Bytes are their own ids, so that a file stays mapped and may be larger than the memory."""
    request, (first, *others) = text.request, text.files
    table = is_table(first, request.settings.get("column") is not None)
    alone = not others and not text.validation and not table and is_utf8(text.encoding)
    if request["vocabulary"] != "bytes" or not alone:
        return None
    raw = plain_bytes(first, request.search.cache_folder)
    cut = training_length(len(raw), request["validation"])
    mapped = raw.nbytes > request.search.memory
    return Tokens(vocabulary.all_bytes(), raw[:cut], raw[cut:], mapped)


def _kept(text: Text) -> Kept:
    request, kind = text.request, text.request["vocabulary"]
    column = request.settings.get("column")
    about = [VERSION, kind, text.encoding, column, len(text.validation), request["validation"]]
    if kind == "bpe":
        about.append(_size(request))
    elif kind not in ("chars", "bytes"):
        about.append(sha256(_of_tokenizer(request).tokenizer.encode()).hexdigest())
    files = (*text.files, *text.validation)
    return Kept.of(request.search, KIND, files, about)


def _size(request: Request) -> int:
    size: int = request["size"]
    byte_pairs.check_size(size, request.span_of("size"))
    return size


def _of_tokenizer(request: Request) -> Vocabulary:
    with errors_at(request.span_of("vocabulary")):
        return vocabulary.of_tokenizer(request.search.find_file(request["vocabulary"]))


def _encoded(text: Text, kept: Kept) -> dict[str, Examples]:
    """What `_tokens` takes, kept for the next run where that saves time."""
    kind, measured = text.request["vocabulary"], text.measure()
    cut, count = measured.training, measured.count
    known = _vocabulary(text, measured)
    # A cut in characters is one in ids only if these are as many; else the parts are encoded one
    # by one.
    parts = [(0, count)] if kind == "chars" else [(0, cut), (cut, count)]
    left, found = text.request.search.memory // COPIES, {}
    for name, (begin, end) in zip(("train", "validation"), parts, strict=False):
        with kept.spool(name, left) as spool:
            spool.add(np.zeros(0, known.dtype))
            for ids in known.encode_parts(text.part(begin, end), text.name):
                spool.add(ids)
            values = spool.values()
            assert values is not None
        found[name] = values
        left = max(0, left - (0 if isinstance(values, Stored) else values.nbytes))
    found["vocabulary"], found["cut"] = as_bytes(known.to_json()), np.array(cut)
    if kind not in ("chars", "bytes") or any(isinstance(one, Stored) for one in found.values()):
        kept.store(found)
    return found


def _vocabulary(text: Text, measured: Measured) -> Vocabulary:
    request, kind = text.request, text.request["vocabulary"]
    if kind == "chars":
        return Vocabulary("chars", tuple(sorted(measured.letters)))
    if kind == "bytes":  # those of UTF-8, as a prompt has them
        return vocabulary.all_bytes()
    if kind == "bpe":
        # From the training part alone: nothing of what validates may leak into the tokens.
        span, training = request.span_of("vocabulary"), text.part(0, measured.training)
        return vocabulary.learn_byte_pairs(training, _size(request), span)
    return _of_tokenizer(request)


def _tokens(found: Mapping[str, Examples], memory: int) -> Tokens:
    known = Vocabulary.from_json(from_bytes(found["vocabulary"]))
    # What is kept in a file may fit into memory by now.
    values = [found[name] for name in ("train", "validation") if name in found]
    whole = sum(one.nbytes for one in values)
    if whole <= memory // COPIES:
        values = [one.held(whole) if isinstance(one, Stored) else one for one in values]
    arrays = [one.array if isinstance(one, Mapped) else np.asarray(one) for one in values]
    mapped = any(isinstance(one, Stored) for one in values)
    if len(arrays) == 1:
        cut = int(np.asarray(found["cut"]))
        arrays = [arrays[0][:cut], arrays[0][cut:]]
    return Tokens(known, arrays[0], arrays[1], mapped)
