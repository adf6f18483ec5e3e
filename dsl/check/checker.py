"""Names and structure: everything that can be said of a program without knowing a size.

In: a `syntax.File` and the definitions it can see. Out: `Checked`, with diagnostics E02xx, E04xx
and W02xx in the `Report`. `load` also reads the file, those it uses, and the standard library.
Sizes, types and index ranges are the compiler's (`compiler/elaborate.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..diagnostics.diagnostic import Note, Report
from ..syntax import ast as s
from ..syntax.parser import parse
from ..syntax.source import Source
from .definitions import Body
from .library import read_source, standard_library
from .names import BUILTINS, CONSTANTS, OPTIMIZER_NAMES, Visible, called_names, names_in
from .train_block import TRAIN_FIELDS, check_trains

__all__ = [
    "BUILTINS",
    "CONSTANTS",
    "OPTIMIZER_NAMES",
    "TRAIN_FIELDS",
    "Checked",
    "check",
    "load",
    "load_source",
]


@dataclass(frozen=True)
class Checked:
    """A program whose names are all known.

    `definitions` holds the file's own, those of used files, and what they need of the library.
    """

    file: s.File
    definitions: dict[str, s.Definition]
    library: Mapping[str, s.Definition]

    def find(self, name: str, inside: s.Definition | None = None) -> s.Definition | None:
        """The definition that `name` means `inside` a definition (None: in the file itself).

        A file may redefine a library name; the library goes on using its own.
        """
        if inside is not None and self._is_library(inside):
            return self.library.get(name)
        return self.definitions.get(name)

    def _is_library(self, definition: s.Definition) -> bool:
        return definition.name in self.library and self.library[definition.name] is definition

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
    visible = Visible(own, used, library)
    trains = [d for d in file.declarations if isinstance(d, s.Train)]
    wanted = {train.model.id: names_in(train) for train in trains}
    for definition in own.values():
        Body(definition, visible, report, wanted.get(definition.name, set())).check()
    _check_cycles(own, visible, report)
    check_trains(trains, visible, report)
    roots = [*own.values(), *used.values(), *trains]
    return Checked(file, _reachable(roots, own, used, library), library)


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
    own: Mapping[str, s.Definition],
    used: Mapping[str, s.Definition],
    library: Mapping[str, s.Definition],
) -> dict[str, s.Definition]:
    """Own and used definitions, and those of the library that any of them needs."""
    found = {**used, **own}
    todo = list(roots)
    while todo:
        for name in sorted(names_in(todo.pop())):
            if name not in found and name in library:
                found[name] = library[name]
                todo.append(library[name])
    return found


def _check_cycles(own: Mapping[str, s.Definition], visible: Visible, report: Report) -> None:
    """A definition that comes round to itself has no end."""
    uses = {
        name: [n for n in dict.fromkeys(called_names(d)) if n in own] for name, d in own.items()
    }
    done: set[str] = set()
    for root in own:
        path: list[str] = []
        stack = [(root, iter(uses[root]))] if root not in done else []
        while stack:
            name, rest = stack[-1]
            if len(path) < len(stack):
                path.append(name)
            following = next(rest, None)
            if following is None:
                done.add(name)
                path.pop()
                stack.pop()
            elif following in path:
                _report_cycle(path[path.index(following) :], own, report)
            elif following not in done:
                stack.append((following, iter(uses[following])))


def _report_cycle(names: list[str], own: Mapping[str, s.Definition], report: Report) -> None:
    shown = " → ".join(f"`{name}`" for name in [*names, names[0]])
    first = own[names[0]]
    report.add(
        "E0213",
        f"`{names[0]}` is defined by itself: {shown}",
        first.name_span,
        label="its definition never ends",
        notes=tuple(Note(own[n].name_span, "goes through here") for n in names[1:]),
        help="stack blocks with `repeat`; a recurrence reads an earlier index, `h[t-1]`",
    )


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
    """Follows `use`, each file once. `open_files` are the files on the way to the one at hand."""

    report: Report
    root: Path
    open_files: list[Path] = field(default_factory=list)
    done: dict[Path, dict[str, s.Definition]] = field(default_factory=dict)

    def load(self, source: Source, path: Path) -> Checked:
        before = len(self.report.errors)
        file = parse(source, self.report)
        self.open_files.append(path.resolve())
        used: dict[str, s.Definition] = {}
        for declaration in file.declarations:
            if isinstance(declaration, s.Use):
                self._add(declaration, self._use(declaration, path), used)
        self.open_files.pop()
        # After a syntax error names would be missing that the user did write.
        report = self.report if len(self.report.errors) == before else Report()
        return check(file, standard_library(), report, used)

    def _add(
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
        parts = PurePosixPath(written).parts
        outside = "\\" in written or ":" in written or "\0" in written or ".." in parts
        if not written.endswith(".nn") or outside or written.startswith(("/", "~")):
            self.report.add(
                "E0217",
                f"`use` cannot read `{written}`",
                span,
                label="expected a .nn file in this folder or below",
                help="move the file next to this one",
            )
            return {}
        target = path.parent / written
        key = target.resolve()
        if key in self.open_files:
            self.report.add(
                "E0217",
                f"`{written}` uses this file in turn",
                span,
                label="this closes a circle",
                help="put what both need into a third file",
            )
            return {}
        if not key.is_relative_to(self.root.resolve()):
            self.report.add(
                "E0217",
                f"`use` cannot read `{written}`",
                span,
                label="it leads out of the folder of the program",
            )
            return {}
        if key not in self.done:
            source = read_source(target, self.report, span)
            checked = self.load(source, target) if source else None
            self.done[key] = self._exported(checked) if checked else {}
        return self.done[key]

    def _exported(self, checked: Checked) -> dict[str, s.Definition]:
        return {
            name: d
            for name, d in checked.definitions.items()
            if not (name in checked.library and checked.library[name] is d)
        }
