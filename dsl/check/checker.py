"""Checker: names and structure of a program, all that can be checked without knowing a size.

`load` reads and parses a file with those that it uses; `check` resolves the names (E02xx, E04xx,
W02xx, W04xx). Sizes, types and index ranges are checked by the compiler, in
`compiler/elaboration/`. Tests: tests/language/test_check.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

from ..diagnostics.diagnostic import Note, Report
from ..syntax import ast as s
from ..syntax.parser import parse
from ..syntax.source import Source
from .definitions import DefinitionChecker
from .library import read_source, standard_library
from .names import Scope, called_names, names_in
from .train_block import check_trains


@dataclass(frozen=True)
class Checked:
    """A program whose names are all known.

    `definitions` holds the file's own, those of used files, and what they need of the library.
    """

    file: s.File
    definitions: dict[str, s.Definition]
    library: Mapping[str, s.Definition]

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
) -> Checked:
    """Check one file that sees the `library` and the definitions of the files it uses."""
    used = used or {}
    own = _own_definitions(file, used, report)
    scope = Scope(own, used, library)
    trains = [d for d in file.declarations if isinstance(d, s.Train)]
    read = {train.model.id: names_in(train) for train in trains}
    for name, definition in own.items():
        DefinitionChecker(definition, scope, report, read_outside=read.get(name, set())).check()
    _check_cycles(own, report)
    check_trains(trains, scope, report)
    roots = [*own.values(), *used.values(), *trains]
    return Checked(file, _reachable(roots, {**used, **own}, library), library)


# --- definitions ----------------------------------------------------------------------------------


def _own_definitions(
    file: s.File, used: Mapping[str, s.Definition], report: Report
) -> dict[str, s.Definition]:
    own: dict[str, s.Definition] = {}
    for definition in file.declarations:
        if not isinstance(definition, s.Definition):
            continue
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
        for name in sorted(names_in(worklist.pop())):
            if name not in found and name in library:
                found[name] = library[name]
                worklist.append(library[name])
    return found


def _check_cycles(own: Mapping[str, s.Definition], report: Report) -> None:
    """Definitions are expanded where they are used, so none may need itself."""
    uses = {name: [n for n in called_names(d) if n in own] for name, d in own.items()}
    while True:
        try:
            return TopologicalSorter(uses).prepare()
        except CycleError as error:
            names = error.args[1][:0:-1]  # each uses the next
        first = names.index(min(names, key=list(own).index))
        names = names[first:] + names[:first]
        shown = " → ".join(f"`{name}`" for name in [*names, names[0]])
        report.add(
            "E0213",
            f"`{names[0]}` is defined by itself: {shown}",
            own[names[0]].name_span,
            label="its definition never ends",
            notes=tuple(Note(own[n].name_span, "goes through here") for n in names[1:]),
            help="stack blocks with `repeat`; a recurrence reads an earlier index, `h[t-1]`",
        )
        uses |= {name: [] for name in names}


# --- files ----------------------------------------------------------------------------------------


def load(path: Path, report: Report) -> Checked:
    """Read, parse and check a file with all that it uses. Raises UserError if it is unreadable."""
    source = read_source(path, report)
    if source is None:
        report.check()
    assert source is not None
    return _Loader(report, path.parent).load(source, path)


def load_source(source: Source, report: Report, folder: Path | None = None) -> Checked:
    """The same for a text that is not a file; `use` looks in `folder`."""
    folder = folder or Path()
    return _Loader(report, folder).load(source, folder / source.name)


@dataclass
class _Loader:
    """Follows `use`, loading each file once. `loading` are the files that use each other, from
    the program down to the current one."""

    report: Report
    root: Path
    loading: list[Path] = field(default_factory=list)
    loaded: dict[Path, dict[str, s.Definition]] = field(default_factory=dict)

    def load(self, source: Source, path: Path) -> Checked:
        errors = len(self.report.errors)
        file = parse(source, self.report)
        self.loading.append(path.resolve())
        used: dict[str, s.Definition] = {}
        for use in file.declarations:
            if isinstance(use, s.Use):
                self._import(use, self._use(use, path), used)
        self.loading.pop()
        # After a syntax error names would be missing that the user did write.
        report = self.report if len(self.report.errors) == errors else Report()
        return check(file, standard_library(), report, used)

    def _import(
        self, use: s.Use, found: dict[str, s.Definition], used: dict[str, s.Definition]
    ) -> None:
        for name, definition in found.items():
            first = used.setdefault(name, definition)
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
        key = target.resolve()
        if key in self.loading:
            self.report.add(
                "E0217",
                f"`{written}` uses this file in turn",
                span,
                label="this closes a cycle",
                help="put what both need into a third file",
            )
            return {}
        if not key.is_relative_to(self.root.resolve()):
            self.report.add(
                "E0217",
                f"`use` cannot read `{written}`",
                span,
                label="it is outside the folder of the program",
            )
            return {}
        if key not in self.loaded:
            source = read_source(target, self.report, span)
            self.loaded[key] = self.load(source, target).exported() if source else {}
        return self.loaded[key]
