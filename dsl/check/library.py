"""Where definitions come from: `.nn` files on disk and the standard library.

In: paths. Out: `Source`s, and the standard library as a mapping that parses a definition only
when its name is asked for. It checks nothing but that text can be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

from ..diagnostics.diagnostic import Report
from ..syntax import ast as s
from ..syntax.parser import chunks, parse_chunks
from ..syntax.source import Source, Span

_DEFINES = re.compile(r"^(?:layer|fn|model|optimizer)[ \t]+([A-Za-z_][A-Za-z0-9_]*)", re.MULTILINE)
_DOC = re.compile(r'"""[\s\S]*?"""')  # in which a line may begin with such a word

LARGEST = 1_000_000  # bytes of a program's file


def read_source(path: Path, report: Report, asked: Span | None = None) -> Source | None:
    """The text of a file, or None and a diagnostic at the place that `asked` for it."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        report.add(
            "E0216",
            f"cannot read `{path}`: {reason.lower()}",
            asked,
            help="a path is relative to the file that uses it" if asked else "",
        )
        return None
    if len(data) > LARGEST:
        report.add(
            "E0311",
            f"`{path.name}` has more than {LARGEST:,} bytes",
            asked,
            help="is it a program?",
        )
        return None
    try:
        return Source(str(path), data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        good = Source(str(path), data[: error.start].decode("utf-8-sig", "replace"))
        end = len(good.text)
        report.add(
            "E0109",
            f"`{path.name}` is not UTF-8 text",
            Span(good, end, end),
            label=f"byte 0x{data[error.start]:02x} here",
            help="save the file with the encoding UTF-8",
        )
        return None


class Library(Mapping[str, s.Definition]):
    """Every definition of a folder of `.nn` files by name; each is parsed when first needed."""

    def __init__(self, sources: tuple[Source, ...]):
        self._sources = sources
        self._parsed: dict[str, s.Definition] = {}
        self._chunks: dict[Source, list[tuple[int, int]]] = {}

    @cached_property
    def _index(self) -> dict[str, Source]:
        texts = ((source, _DOC.sub("", source.text)) for source in self._sources)
        return {name: source for source, text in texts for name in _DEFINES.findall(text)}

    def __getitem__(self, name: str) -> s.Definition:
        if name not in self._parsed:
            self._parse(name, self._index[name])
        return self._parsed[name]

    def _parse(self, name: str, source: Source) -> None:
        """The declaration of the name, and with it the file's docstring."""
        if source not in self._chunks:
            self._chunks[source] = chunks(source.text)
        first, *others = self._chunks[source]
        wanted = [c for c in others if name in _DEFINES.findall(source.text, *c)]
        report = Report()
        declarations = parse_chunks(source, [first, *wanted], report)
        if report.errors:
            found = report.errors[0]
            raise RuntimeError(f"standard library: {found.span}: {found.message}")
        for declaration in declarations:
            if isinstance(declaration, s.Definition):
                self._parsed.setdefault(declaration.name, declaration)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


@cache
def standard_library() -> Library:
    """The layers, functions and optimizers that come with nnc."""
    folder = files(__package__.rpartition(".")[0]).joinpath("stdlib")
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".nn")), key=lambda f: f.name)
    return Library(tuple(Source(f"stdlib/{f.name}", f.read_text("utf-8"), True) for f in found))
