"""Checker: names and structure of a program, all that can be checked without knowing a size.

`load` reads and parses a file with those that it uses; `check` resolves the names (E02xx, E04xx,
W02xx, W04xx). Sizes, types and index ranges are checked by the compiler, in
`compiler/elaboration/`. Tests: tests/language/test_check.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

from ..diagnostics.diagnostic import Note, Report
from ..records import record
from ..regular_files import is_within
from ..syntax import ast as s
from ..syntax.parser import parse
from ..syntax.source import Source, Span
from .bundle import Bundle, unbundle
from .definitions import DefinitionChecker
from .library import read_source, standard_library
from .names import Definitions, Scope, called_names, names_in
from .suspicious import check_layers
from .tables import expand_tables
from .train_block import check_trains

MAX_DEPTH = 40  # files of which each is used by the one before
MAX_CYCLE = 8  # definitions between the first and the last that the message of a cycle names


@record
class Checked:
    """A program whose names are all known.

    `definitions` holds the file's own, those of used files, and what they need of the library.
    `files` are the used files by their paths relative to the program's folder.
    """

    file: s.File
    definitions: Definitions
    library: Mapping[str, s.Definition]
    files: Mapping[str, s.File] = field(default_factory=dict)

    def exported(self) -> dict[str, s.Definition]:
        """The definitions that are not the library's."""
        return {n: d for n, d in self.definitions.items() if self.library.get(n) is not d}

    @property
    def models(self) -> tuple[s.Definition, ...]:
        return tuple(
            d for d in self.file.declarations if isinstance(d, s.Definition) and d.kind == "model"
        )

    @property
    def trains(self) -> tuple[s.Train, ...]:
        return tuple(d for d in self.file.declarations if isinstance(d, s.Train))


def check(
    file: s.File,
    library: Mapping[str, s.Definition],
    report: Report,
    used: Mapping[str, s.Definition] | None = None,
    scopes: Mapping[Source, Mapping[str, s.Definition]] | None = None,
) -> Checked:
    """Check one file that sees the `library` and the definitions of the files it uses, whose own
    `scopes` these are."""
    used = used or {}
    own = _own_definitions(file, used, report)
    scope = Scope(own, used, library)
    trains = [d for d in file.declarations if isinstance(d, s.Train)]
    # What only the train block reads (a result for the loss) is not unread in the model.
    read = {train.model.id: names_in(train) for train in trains}
    layers: dict[str, Mapping[str, s.Definition]] = {}  # that definitions give names to
    for name, definition in own.items():
        checker = DefinitionChecker(definition, scope, report, read_outside=read.get(name, set()))
        checker.check()
        layers[name] = checker.layers
        check_layers(definition, scope, report)
    _check_cycles(own, report)
    check_trains(trains, scope, layers, report)
    # Train blocks are roots, too: they name losses, metrics and optimizers of the library.
    roots = [*own.values(), *used.values(), *trains]
    found = _reachable(roots, {**used, **own}, library)
    return Checked(file, Definitions(found, {} if scopes is None else scopes), library)


# --- definitions ----------------------------------------------------------------------------------


def _own_definitions(
    file: s.File, used: Mapping[str, s.Definition], report: Report
) -> dict[str, s.Definition]:
    own: dict[str, s.Definition] = {}
    for definition in file.declarations:
        if not isinstance(definition, s.Definition):
            continue
        # A name of the library may be defined anew, one of a used file may not.
        first = own.get(definition.name) or used.get(definition.name)
        if first is not None:
            report.add(
                "E0201",
                f"`{definition.name}` is defined twice",
                definition.name_span,
                label="defined again here",
                notes=(Note(first.name_span, "first defined here"),),
                help="rename one of them",
            )
        # The first one stands: later stages go on with some definition of the name.
        own.setdefault(definition.name, definition)
    return own


def _reachable(
    roots: Iterable[s.Node],
    definitions: dict[str, s.Definition],
    library: Mapping[str, s.Definition],
) -> dict[str, s.Definition]:
    """The definitions, and those of the library that any of them needs."""
    found, worklist = dict(definitions), list(roots)
    while worklist:
        # Sorted, so that the order of the result does not depend on a set. Any name that is used
        # counts, called or not: a superset does no harm.
        for name in sorted(names_in(worklist.pop())):
            if name not in found and name in library:
                found[name] = library[name]
                worklist.append(library[name])
    return found


def _check_cycles(own: Mapping[str, s.Definition], report: Report) -> None:
    """Definitions are expanded where they are used, so none may need itself."""
    # Used files and the library cannot need a definition of this file.
    uses = {name: [n for n in called_names(d) if n in own] for name, d in own.items()}
    while True:
        try:
            return TopologicalSorter(uses).prepare()
        except CycleError as error:
            # graphlib lists [a, c, b, a], each needed by the next; without the repeated a, and
            # reversed
            names = error.args[1][:0:-1]  # each uses the next
        # Begin with the definition that stands first in the file, wherever the search entered the
        # cycle.
        first = names.index(min(names, key=list(own).index))
        names = names[first:] + names[:first]
        # The way round is shown as long as it can be read.
        middle = [f"`{n}`" for n in names[1:]]
        if len(middle) > MAX_CYCLE:
            left_out = len(middle) - MAX_CYCLE + 1
            middle[MAX_CYCLE // 2 : -(MAX_CYCLE // 2)] = [f"… {left_out:,} more …"]
        shown = " → ".join([f"`{names[0]}`", *middle, f"`{names[0]}`"])
        report.add(
            "E0213",
            f"`{names[0]}` is defined by itself: {shown}",
            own[names[0]].name_span,
            label="its definition never ends",
            notes=tuple(Note(own[n].name_span, "goes through here") for n in names[1:MAX_CYCLE]),
            help="stack blocks with `repeat`; a recurrence reads an earlier index, `h[t-1]`",
        )
        # This cycle is reported: take its edges away and look for another.
        uses |= {name: [] for name in names}


# --- files ----------------------------------------------------------------------------------------


Parse = Callable[[Source, Report], s.File]


def load(path: Path, report: Report, parse: Parse = parse) -> Checked:
    """Read, parse and check a file with all that it uses, by this parser. Raises UserError if it is
    unreadable."""
    source = read_source(path, report)
    if source is None:
        report.check()
    assert source is not None
    return _load(source, path, report, parse)


def load_source(
    source: Source, report: Report, folder: Path | None = None, parse: Parse = parse
) -> Checked:
    """The same for a text that is not a file; `use` looks in `folder`."""
    folder = folder or Path()
    return _load(source, folder / source.name, report, parse)


def _load(source: Source, path: Path, report: Report, parse: Parse) -> Checked:
    bundle = unbundle(source)
    if bundle is None:
        return _Loader(report, path.parent, parse).load(source, path)
    # A mistake in there is damage: nobody writes that text by hand.
    library = {
        d.name: d for d in parse(bundle.library, report).declarations if isinstance(d, s.Definition)
    }
    inside = Report()
    for definition in library.values():
        DefinitionChecker(definition, Scope({}, {}, library), inside).check()
    report.diagnostics += inside.errors
    loader = _Loader(report, path.parent, parse, library, bundle)
    loader.scopes[bundle.library] = library
    return loader.load(bundle.main, path)


@dataclass
class _Loader:
    """Follows `use`, loading each file once: from `root`, or from a `bundle`. `loading` are the
    files that use each other, from the program down to the current one; `scopes` what the used ones
    see."""

    report: Report
    root: Path
    parse: Parse
    library: Mapping[str, s.Definition] = field(default_factory=standard_library)
    bundle: Bundle | None = None
    loading: list[Path] = field(default_factory=list)
    loaded: dict[Path, dict[str, s.Definition]] = field(default_factory=dict)
    files: dict[str, s.File] = field(default_factory=dict)
    scopes: dict[Source, Mapping[str, s.Definition]] = field(default_factory=dict)

    def load(self, source: Source, path: Path) -> Checked:
        # The report is shared by all files, so only errors from here on are this file's.
        errors = len(self.report.errors)
        file = expand_tables(self.parse(source, self.report), path.parent, self.report)
        # Resolved, as two different paths may lead to one file.
        self.loading.append(Path(os.path.realpath(path)))
        used: dict[str, s.Definition] = {}
        for use in file.declarations:
            if isinstance(use, s.Use):
                # All definitions of a used file come in, and those that it uses in turn.
                self._import(use, self._use(use, path), used)
        self.loading.pop()
        # After a syntax error names would be missing that the user did write.
        report = self.report if len(self.report.errors) == errors else Report()
        found = check(file, self.library, report, used, self.scopes)
        # What this file sees: `definitions` are the program's, in which others may shadow it.
        if self.loading:
            self.scopes[source] = {**self.library, **found.exported()}
            self.files[path.relative_to(self.root).as_posix()] = file
        return replace(found, files=self.files)

    def _import(
        self, use: s.Use, found: dict[str, s.Definition], used: dict[str, s.Definition]
    ) -> None:
        for name, definition in found.items():
            first = used.setdefault(name, definition)
            # The same definition by two ways (a diamond of files) is no conflict.
            if first is not definition:
                self.report.add(
                    "E0201",
                    f"`{name}` comes from two used files",
                    use.span,
                    label=f"`{definition.span.source.name}` defines it",
                    notes=(Note(first.name_span, "so does this file"),),
                    help="rename one of them",
                )

    def _use(self, use: s.Use, path: Path) -> dict[str, s.Definition]:
        """The definitions of a used file and of what it uses in turn."""
        written, span = use.path.value, use.path.span
        target = path.parent / written
        # A program reads files beside it or below it only: opening someone's program must not read
        # the rest of the disk. Backslash, `:` and NUL have meanings on some systems only.
        outside = set(written) & set("\\:\0") or ".." in PurePosixPath(written).parts
        if not written.endswith(".nn") or outside or written.startswith(("/", "~")):
            self.report.add(
                "E0217",
                f"`use` cannot read `{written}`",
                span,
                label="expected a .nn file in this folder or below",
                help="move the file next to this one",
            )
            return {}
        # Each file of a chain is parsed within the one that uses it, on Python's stack.
        if len(self.loading) >= MAX_DEPTH:
            self.report.add(
                "E0217",
                f"`{written}` is used by {MAX_DEPTH} files in turn",
                span,
                label="more than that are not followed",
                help="let the program use these files itself, side by side",
            )
            return {}
        if self.bundle is not None:
            return self._bundled(target, span)
        # A path without `..` can still leave the folder, by a symbolic link. `realpath` never
        # raises: of links that lead in a circle it returns one.
        key = Path(os.path.realpath(target))
        # Depth first: what is still loading is an ancestor, so this would close a cycle.
        if key in self.loading:
            self.report.add(
                "E0217",
                f"`{written}` uses this file in turn",
                span,
                label="this closes a cycle",
                help="put what both need into a third file",
            )
            return {}
        if not is_within(key, [self.root]):
            self.report.add(
                "E0217",
                f"`use` cannot read `{written}`",
                span,
                label="it is outside the folder of the program",
            )
            return {}
        if key not in self.loaded:
            source = read_source(target, self.report, span)
            # Unreadable files count as empty; the names that are missing then are reported as
            # unknown.
            self.loaded[key] = self.load(source, target).exported() if source else {}
        return self.loaded[key]

    def _bundled(self, target: Path, use: Span) -> dict[str, s.Definition]:
        """The same for a file of the bundle, whose names are paths as `use` writes them."""
        assert self.bundle is not None
        name = target.relative_to(self.root).as_posix()
        source = self.bundle.files.get(name)
        if source is None or Path(os.path.realpath(target)) in self.loading:
            self.report.add("E0216", f"`{name}` is missing in this program", use)
            return {}
        if target not in self.loaded:
            self.loaded[target] = self.load(source, target).exported()
        return self.loaded[target]
