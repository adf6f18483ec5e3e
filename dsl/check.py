"""Names and structure: everything that can be said of a program without knowing a size.

In: a `syntax.File` and the definitions it can see. Out: `Checked`, with diagnostics E02xx, E04xx
and W02xx in the `Report`. `load` also reads the file, those it uses, and the standard library.
Sizes, types and index ranges are the compiler's (`compiler/elaborate.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from . import syntax as s
from .bodies import Body
from .calls import apply_to, groups_of, match_arguments
from .diagnostics import Note, Report, did_you_mean
from .library import read_source, standard_library
from .names import (
    BUILTINS,
    CONSTANTS,
    OPTIMIZER_NAMES,
    Visible,
    called_names,
    likely,
    names_in,
    walk,
)
from .parser import parse
from .source import Source, Span

__all__ = [
    "BUILTINS",
    "CONSTANTS",
    "OPTIMIZER_NAMES",
    "TRAIN_FIELDS",
    "Checked",
    "check",
    "load",
    "load_source",
    "walk",
]

TRAIN_FIELDS = (
    "data",
    "loss",
    "optimizer",
    "batch",
    "epochs",
    "steps",
    "seed",
    "patience",
    "validation",
    "clip",
    "penalty",
    "keep",
    "checkpoint_steps",
    "keep_checkpoints",
    "shuffle",
    "monitor",
    "float",
)

# Fields whose functions are readers of data, known to the runtime alone.
_DATA_FIELDS = ("data", "validation")

# Fields whose functions are given some of their arguments by the training loop.
_PARTIAL_FIELDS = ("optimizer", "penalty", "clip")


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
    _check_trains(trains, visible, report)
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


# --- one application ------------------------------------------------------------------------------


# --- train blocks ---------------------------------------------------------------------------------


def _check_trains(trains: list[s.Train], visible: Visible, report: Report) -> None:
    seen: dict[str, s.Train] = {}
    for train in trains:
        first = seen.setdefault(train.model.id, train)
        if first is not train:
            report.add(
                "E0402",
                f"`{train.model.id}` has two train blocks",
                train.model.span,
                label="again here",
                notes=(Note(first.model.span, "first here"),),
                help="keep one; what differs between runs is given with `--set`",
            )
        model = visible.find(train.model.id)
        if model is None or model.kind != "model":
            models = [
                d.name for d in (*visible.own.values(), *visible.used.values()) if d.kind == "model"
            ]
            what = "is not defined" if model is None else f"is a {model.kind}, not a model"
            report.add(
                "E0403",
                f"`{train.model.id}` {what}",
                train.model.span,
                label="expected the name of a model",
                help=did_you_mean(train.model.id, models),
            )
        _check_train(train, visible, report)


def _check_train(train: s.Train, visible: Visible, report: Report) -> None:
    seen: dict[str, Span] = {}
    for entry in train.body:
        name = entry.name if not isinstance(entry, s.Until) else None
        if name is not None:
            _once(name, seen, report)
        if isinstance(entry, s.Field) and entry.name.id not in TRAIN_FIELDS:
            report.add(
                "E0401",
                f"a train block has no field `{entry.name.id}`",
                entry.name.span,
                label="unknown field",
                help=did_you_mean(entry.name.id, TRAIN_FIELDS)
                or f"a value of your own is a `let {entry.name.id} = …`",
            )
            continue
        if isinstance(entry, s.Field) and entry.name.id in _DATA_FIELDS:
            continue
        partial = isinstance(entry, s.Field) and entry.name.id in _PARTIAL_FIELDS
        if isinstance(entry, s.Field) and entry.name.id == "optimizer":
            _check_optimizer(entry, visible, report)
        elif not isinstance(entry, s.Input):
            _check_calls(entry, visible, report, partial)
    if "loss" not in seen:
        report.add(
            "E0404",
            f"`train {train.model.id}` has no loss",
            train.model.span,
            label="nothing to make smaller",
            help="add `loss = …`, such as `loss = cross_entropy(logits, label)`",
        )


def _once(name: s.Name, seen: dict[str, Span], report: Report) -> None:
    if name.id in seen:
        report.add(
            "E0405",
            f"`{name.id}` is set twice",
            name.span,
            label="again here",
            notes=(Note(seen[name.id], "first here"),),
            help="keep one of them",
        )
    seen.setdefault(name.id, name.span)


def _check_optimizer(entry: s.Field, visible: Visible, report: Report) -> None:
    """`adam` or `adam(lr = …)`; its settings may be schedules, which get the step themselves."""
    groups, callee = groups_of(entry.value)
    found = visible.find(callee.id) if isinstance(callee, s.Name) else None
    if not isinstance(callee, s.Name) or found is None or found.kind != "optimizer":
        shown = f"`{callee.id}`" if isinstance(callee, s.Name) else "this"
        names = [n for n in visible.names() if (d := visible.find(n)) and d.kind == "optimizer"]
        known = isinstance(callee, s.Name) and found is None
        report.add(
            "E0406",
            f"{shown} is not an optimizer",
            callee.span,
            label="not defined here or in the library" if known else "",
            help=(likely(callee.id, names) if isinstance(callee, s.Name) else "")
            or "write one such as `adam(lr = 1e-3)`",
        )
        return
    match_arguments(
        found, found.settings, groups[0] if groups else (), entry.value.span, False, report, False
    )
    for argument in groups[0] if groups else ():
        _check_calls(argument, visible, report, partial=True)


def _check_calls(node: s.Node, visible: Visible, report: Report, partial: bool) -> None:
    """Calls in a train block; plain names may be fields of the data, so they are not looked up."""
    inner: set[int] = set()
    for part in walk(node):
        if isinstance(part, s.Ellipsis_ | s.Name) or id(part) in inner:
            continue
        if isinstance(part, s.Pipe):
            groups, callee = groups_of(part.stage)
            piped, whole = True, part.stage
            inner.add(id(part.stage))
        elif isinstance(part, s.Call):
            groups, callee = groups_of(part)
            piped, whole = False, part
        else:
            continue
        function = whole
        while isinstance(function, s.Call):
            inner.add(id(function))
            function = function.function
        if isinstance(callee, s.Name):
            apply_to(callee, groups, whole.span, piped, visible, report, partial)


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
