"""Files and the standard library: texts read from disk, library definitions parsed when needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from ..diagnostics.diagnostic import Report, closest
from ..likely_paths import did_you_mean_path
from ..regular_files import open_regular
from ..syntax import ast as s
from ..syntax.parser import Chunk, chunks, grammar, parse_declarations
from ..syntax.source import Source, Span
from ..syntax.stored_trees import load_tree, stored_trees

MAX_BYTES = 1_000_000  # of a program's file


def read_source(path: Path, report: Report, use: Span | None = None) -> Source | None:
    """The text of a file; None if it cannot be read, which is reported at the `use` that names
    it (E0109, E0216, E0311)."""
    try:
        with open_regular(path) as file:
            # One byte more than the limit tells a longer file without reading all of it: it may be
            # a data set, or a device that never ends.
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # the latter for a name with a NUL
        reason = getattr(error, "strerror", None) or "it cannot be read"
        rule = "a path is relative to the file that uses it" if use else ""
        report.add(
            "E0216",
            f"cannot read `{path}`: {reason.lower()}",
            use,
            help=likely_file(path) or rule,
        )
        return None
    return source_of(data, str(path), report, use)


def source_of(data: bytes, name: str, report: Report, use: Span | None = None) -> Source | None:
    """The text of a file's bytes; None if it is none, which is reported (E0109, E0311)."""
    shown = Path(name).name
    if len(data) > MAX_BYTES:
        message = f"`{shown}` has more than {MAX_BYTES:,} bytes"
        report.add("E0311", message, use, help="is it a program?")
        return None
    try:
        # utf-8-sig: Windows editors may put a byte order mark first
        return Source(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # The text up to the wrong byte is enough to show the line on which it stands.
        valid = Source(name, data[: error.start].decode("utf-8-sig", "replace"))
        report.add(
            "E0109",
            f"`{shown}` is not UTF-8 text",
            Span(valid, len(valid.text), len(valid.text)),
            label=f"byte 0x{data[error.start]:02x} here",
            help="save the file with the encoding UTF-8",
        )
        return None


def likely_file(path: Path) -> str:
    """Help for a program's path that cannot be read: the same with its ending, or a similar name
    beside it; empty if there is neither."""
    with suppress(OSError, ValueError):  # a folder that cannot be read; a name with a NUL
        if path.is_dir():
            return f"`nnc check {path}` and `nnc fmt {path}` take folders, too"
        names = {file.name for file in path.parent.glob("*.nn")}
        # `model` is `model.nn` before it is `model2`; and `modle` is that, too.
        endless = {name.removesuffix(".nn"): name for name in names}
        meant = closest(path.name, names) or endless.get(closest(path.name, endless), "")
        if f"{path.name}.nn" in names:
            meant = f"{path.name}.nn"
        if meant:
            return f"did you mean `{path.with_name(meant)}`?"
    # Of a folder that is missing: another one may be meant.
    return "" if path.parent.is_dir() else did_you_mean_path(path, _is_program)


def _is_program(path: Path) -> bool:
    return path.suffix == ".nn" and path.is_file()


class Library(Mapping[str, s.Definition]):
    """The definitions of some `.nn` files by name; each is read when it is first looked up, from
    its stored tree if there is one, else from its text."""

    def __init__(
        self,
        sources: tuple[Source, ...],
        trees: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    ):
        self.sources = sources
        self._trees = trees
        self._parsed: dict[str, s.Definition] = {}

    @cached_property
    def _index(self) -> dict[str, tuple[Source, Chunk]]:
        return {
            chunk.name: (source, chunk)
            for source in self.sources
            for chunk in chunks(source.text)
            if chunk.name
        }

    def __getitem__(self, name: str) -> s.Definition:
        # A program uses a few of the library's definitions; reading all would dominate a short
        # command. They are compared by identity: the first of two threads decides.
        if name not in self._parsed:
            self._parsed.setdefault(name, self._stored(name) or self.parsed(name))
        return self._parsed[name]

    def _stored(self, name: str) -> s.Definition | None:
        source, chunk = self._index[name]
        tree = self._trees.get(name)
        return load_tree(tree, grammar(), source, chunk.start, chunk.end) if tree else None

    def parsed(self, name: str) -> s.Definition:
        """A definition from its text."""
        source, chunk = self._index[name]
        report = Report()
        # The source is the whole file, so that spans have true line numbers.
        parsed = parse_declarations(source, chunk.start, chunk.end, report)
        assert not report.errors and isinstance(parsed[0], s.Definition), report.errors
        return parsed[0]

    def place(self, name: str) -> Chunk:
        """Where the text of a definition is in its source."""
        return self._index[name][1]

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


@cache
def standard_library() -> Library:
    """The layers, functions and optimizers that are part of nnc."""
    folder = files(__package__.rpartition(".")[0]).joinpath("stdlib")
    # Sorted, as the order in which a folder lists its files differs between file systems.
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".nn")), key=lambda f: f.name)
    return Library(
        tuple(Source(f"stdlib/{f.name}", f.read_text("utf-8"), True) for f in found), stored_trees()
    )
