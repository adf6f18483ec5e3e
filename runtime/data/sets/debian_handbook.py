"""`debian_handbook("de")`: sentences of the Debian Administrator's Handbook in English and in a
translation, as `pairs`.

R. Hertzog and R. Mas, "The Debian Administrator's Handbook", and its translators; GPL-2+ or CC
BY-SA 3.0. The HTML files of Debian's package `debian-handbook` are read, where it puts them or in a
folder of the data (`en-US/`, `de-DE/`, …); 25 languages there are translations. `source` is another
language than English: `debian_handbook("en", source = "de")`.

Paragraphs and headings are paired in their order, which is the same in all languages; listings of
programs and what they print, cells of tables, terms and contents are left out, and the numbers of
headings. What is not translated (it is in English in every language) is left out, too. A paragraph
is divided into pairs of a sentence or two each by their lengths (Gale & Church 1993). The split is
by chapters: those on solving problems and on workstations test, those on the case study and on
migrating validate, and the others train; of what tests or validates, pairs whose source trains are
left out. Of English and German 5,945 pairs with 108,055 English words train, 375 test and 156
validate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import did_you_mean, fail
from ..core.data_paths import ENVIRONMENT
from ..core.dataset import Dataset, Schema
from ..core.kept import Kept, as_bytes, from_bytes
from ..core.padding import Sequences
from ..core.sentence_alignment import aligned
from ..core.source import DataSource, Request, Setting
from ..formats.encoded_rows import encoded_texts, vocabularies_of
from ..formats.pairs import PAIR_SETTINGS, SPECIALS, fitting_pairs
from ..formats.text_file import read_text

INSTALLED = Path("/usr/share/doc/debian-handbook/html")
NAME = "debian_handbook"
VERSION = 1  # of how pages become pairs: after a change, kept ones must not be found
CONTENTS = "index"  # the file of contents, which repeats headings of all chapters
TESTS = ("solving-problems", "workstation")  # chapters by the names of their files
VALIDATES = ("case-study", "existing-setup")
NUMBER = re.compile(r"^[A-Z]?[\d.]+\.?\s+")  # of a heading
UP = re.compile(r'<link rel="up" href="([^"]+)\.html"')
VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "col"})


@dataclass(frozen=True)
class SentencePair:
    """A sentence or two and their translation, and the name of the file of their chapter."""

    chapter: str
    source: str
    target: str


def describe(request: Request) -> Schema:
    """Reads the files, as lengths and vocabularies depend on them."""
    return _dataset(request)[0].schema


def load(request: Request) -> Dataset:
    """All three splits. E0601 if the book or a language is not found, E0602 for files that do not
    have the same paragraphs, E0613 or E0617."""
    dataset, note = _dataset(request)
    if note:
        request.search.notify(note)
    return dataset


def _dataset(request: Request) -> tuple[Dataset, str]:
    pairs = read_pairs(request)
    split = split_chapters(pairs)
    sides = [p.source for p in pairs], [p.target for p in pairs]
    known = vocabularies_of(request, [[s[k] for k in split[0]] for s in sides], SPECIALS)
    texts = [
        Sequences.of(encoded_texts(request, side, vocabulary))
        for side, vocabulary in zip(sides, known, strict=True)
    ]
    return fitting_pairs(request, NAME, texts, split, known)


def split_chapters(pairs: list[SentencePair]) -> list[np.ndarray]:
    """The rows that train, test and validate."""
    held_out = TESTS + VALIDATES
    known = {pair.source for pair in pairs if pair.chapter not in held_out}
    train = [k for k, pair in enumerate(pairs) if pair.chapter not in held_out]
    others = (
        [k for k, p in enumerate(pairs) if p.chapter in chapters and p.source not in known]
        for chapters in (TESTS, VALIDATES)
    )
    return [np.array(rows, np.int64) for rows in (train, *others)]


def read_pairs(request: Request) -> list[SentencePair]:
    """All pairs of two languages in the order of the book's files; errors as `load`."""
    first, second = (_folder(request, setting) for setting in ("source", "target"))
    names = [
        path.name
        for path in sorted(first.glob("*.html"))
        if path.stem != CONTENTS and (second / path.name).is_file()
    ]
    files = [folder / name for folder in (first, second) for name in names]
    kept = Kept.of(request.search, NAME, files, VERSION)
    found = kept.find()
    if found is None:
        found = {"pairs": as_bytes([*_read(first, second, names, request.search.cache_folder)])}
        kept.store(found)
    pairs = [SentencePair(*one) for one in from_bytes(found["pairs"])]
    if not pairs:
        raise fail("E0613", f"{first} and {second} have no paragraphs that translate each other")
    return pairs


def _read(
    first: Path, second: Path, names: list[str], cache: Path
) -> Iterator[tuple[str, str, str]]:
    """The pairs as their chapters, sources and targets."""
    pages = {
        name: [read_text(folder / name, cache) for folder in (first, second)] for name in names
    }
    above = {name: UP.search(english) for name, (english, _) in pages.items()}
    chapters = {n.removesuffix(".html"): up[1] for n, up in above.items() if up}
    for name, texts in pages.items():
        blocks = [blocks_of(text) for text in texts]
        if [kind for kind, _ in blocks[0]] != [kind for kind, _ in blocks[1]]:
            message = f"{first / name} and {second / name} do not have the same paragraphs"
            raise fail("E0602", message, help="are both of one edition of the handbook?")
        chapter = _top(chapters, name.removesuffix(".html"))
        for (kind, text), (_, translation) in zip(*blocks, strict=True):
            if text == translation or not text or not translation:
                continue
            pairs = aligned(text, translation) if kind == "para" else [(text, translation)]
            yield from ((chapter, *pair) for pair in pairs if pair[0] != pair[1])


def _top(above: dict[str, str], file: str) -> str:
    """The file of the chapter that a file belongs to, below that of the contents."""
    while above.get(file, CONTENTS) != CONTENTS:
        file = above[file]
    return file


class _Blocks(HTMLParser):
    """The paragraphs and headings of a page, and what stands in them, listings left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[list[str]] = []
        # Open elements: a tag, and the number of the block that its text belongs to; -1 is none.
        self.open: list[tuple[str, int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        kind = _kind(tag, dict(attrs).get("class") or "")
        own = self.open[-1][1] if self.open else -1
        if kind in ("para", "title"):
            own = len(self.found)
            self.found.append([kind, ""])
        self.open.append((tag, -1 if kind == "other" else own))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content changes nothing."""

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][1] >= 0:
            self.found[self.open[-1][1]][1] += data


def _kind(tag: str, classes: str) -> str:
    """What an element is: a paragraph, a heading, something whose text is left out, or nothing of
    its own."""
    if tag == "div" and classes == "para":
        return "para"
    if classes == "title" and (tag == "p" or re.fullmatch("h[1-6]", tag)):
        return "title"
    return "other" if tag in ("pre", "table", "dl", "head") or "docnav" in classes else ""


def blocks_of(html: str) -> list[tuple[str, str]]:
    """The paragraphs (`para`) and headings (`title`) of a page in their order, spaces put
    together; the number of a heading is left out."""
    parser = _Blocks()
    parser.feed(html)
    parser.close()
    texts = [(kind, " ".join(text.split())) for kind, text in parser.found]
    return [(kind, NUMBER.sub("", text) if kind == "title" else text) for kind, text in texts]


# --- where the files are --------------------------------------------------------------------------


def _folder(request: Request, setting: str) -> Path:
    """The folder of a language, such as `de-DE` of `de`; E0601 if there is none, or more."""
    wanted, book = request[setting], _book(request)
    languages = sorted(path.name for path in book.iterdir() if (path / "preface.html").is_file())
    found = [name for name in languages if wanted in (name, name.partition("-")[0])]
    if len(found) == 1:
        return book / found[0]
    short = [name.partition("-")[0] for name in languages]
    raise fail(
        "E0601",
        f"the handbook in {book} has {len(found) or 'no'} folders of `{wanted}`",
        request.span_of(setting),
        help=f"write one of {', '.join(found)}"
        if found
        else did_you_mean(wanted, {*short, *languages}) or f"there are {', '.join(languages)}",
    )


def _book(request: Request) -> Path:
    """The folder with those of the languages; E0601 if there is none."""
    search = request.search
    for folder in search.set_folders(NAME):
        if (folder / "en-US" / "preface.html").is_file():
            return search.checked(folder)
    if (INSTALLED / "en-US").is_dir():
        return INSTALLED
    raise search.set_missing(
        NAME,
        "the Debian Administrator's Handbook is",
        f"`apt-get install debian-handbook` puts it into {INSTALLED}; a copy of that folder is "
        f"named with `--data` or ${ENVIRONMENT}",
    )


DEBIAN_HANDBOOK = DataSource(
    NAME,
    "a handbook and its translation: source, target_in and target_out i32[…], and their lengths",
    (
        Setting("target", "text", "the language that is written", positional=True),
        Setting("source", "text", "the language that is read", "en"),
        *PAIR_SETTINGS,
    ),
    describe,
    load,
)
