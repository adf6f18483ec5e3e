"""A `.nn` file as the commands see it: its definitions, one model, one train block, its settings.

In: a path or text, and assignments of the command line. Out: a `Project`, the compiler's `Setup`
for it, and its data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..compiler.elaboration.train_block import FieldType, Private, Setup
from ..dsl.check.bundle import bundle_text
from ..dsl.check.checker import Checked, check, load, load_source
from ..dsl.check.names import input_symbols, seen_from
from ..dsl.diagnostics.diagnostic import Diagnostic, Report, UserError, did_you_mean, fail
from ..dsl.records import record
from ..dsl.syntax import ast as s
from ..dsl.syntax.ast import walk
from ..dsl.syntax.printer import format_expr, format_type, quoted
from ..dsl.syntax.source import Source
from .assignments import Assignment, assign
from .compiling import compiling
from .data import SOURCES, Dataset, Schema, Search, bind, describe, find_source
from .data import load as load_data
from .data.core.splitting import training_size
from .kept_trees import parse_kept
from .privacy import Sampling
from .settings import DataChoice, Settings, read_settings
from .weights_choice import ARGUMENTS


@record
class Project:
    """One model of a file and, where there is one, how it is trained."""

    path: Path
    checked: Checked
    model: s.Definition
    train: s.Train | None
    settings: Settings
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def block(self) -> s.Train:
        """The train block; UserError E0707 if the file has none for this model."""
        if self.train is None:
            raise fail(
                "E0707",
                f"`{self.path.name}` does not say how `{self.name}` is trained",
                self.model.name_span,
                help=f"add `train {self.name} {{ … }}`",
            )
        return self.train

    @property
    def symbols(self) -> list[str]:
        """The symbolic sizes of the model's inputs, the batch first."""
        return input_symbols(self.model)

    def resolved(self) -> str:
        """The whole program as one text that needs no other file: every definition, and the train
        block with what the command line set."""
        checked = self.checked
        files = {name: _file_text(file) for name, file in checked.files.items()}
        block = [_train_text(self.train)] if self.train else []
        doc = '"""What the program needs of the library."""'
        library = [doc, *(_text(d) for d in _from_library(checked, self.train))]
        main = "\n".join([_file_text(checked.file), *block]) + "\n"
        return bundle_text(main, files, "\n\n".join(library) + "\n")


@compiling()
def open_project(
    path: Path, assignments: Sequence[Assignment] = (), model: str | None = None
) -> Project:
    """Read, parse and check a file. UserError with everything that is wrong in it."""
    report = Report()
    checked = load(path, report, parse_kept)
    # A program with errors is no base for choosing a model; what is left are warnings.
    report.check()
    return project_of(path, checked, report.diagnostics, assignments, model)


@compiling()
def project_of_text(
    text: str,
    name: str = "program.nn",
    folder: Path | None = None,
    assignments: Sequence[Assignment] = (),
    model: str | None = None,
) -> Project:
    """The same for a text; `use` looks in `folder`."""
    report = Report()
    checked = load_source(Source(name, text), report, folder, parse_kept)
    report.check()
    path = (folder or Path()) / name
    return project_of(path, checked, report.diagnostics, assignments, model)


def project_of(
    path: Path,
    checked: Checked,
    found: Sequence[Diagnostic],
    assignments: Sequence[Assignment],
    model: str | None,
) -> Project:
    """The project of a program without errors; `found` are the warnings of its checks."""
    definition = _choose_model(checked, path, model)
    train = next((t for t in checked.trains if t.model.id == definition.name), None)
    warnings = tuple(found)
    symbols = input_symbols(definition)
    # Without a train block, sizes may still be set (`--set B=8`), and the defaults hold.
    if train is None:
        block, sizes = assign(empty_block(definition), assignments, symbols)
        return Project(
            path, checked, definition, None, read_settings(block, symbols, sizes), warnings
        )
    project = Project(path, checked, definition, train, Settings(), warnings)
    return with_assignments(project, assignments)


def empty_block(model: s.Definition) -> s.Train:
    return s.Train(model.span, s.Name(model.name_span, model.name), (), "")


def with_assignments(project: Project, assignments: Sequence[Assignment]) -> Project:
    """The same project with more assignments. UserError E0703, E0704 or E0707."""
    train, sizes = assign(
        project.block, assignments, project.symbols, lambda *of: _order(project.checked, *of)
    )
    # Sizes of earlier assignments persist; earlier fields already stand in the block.
    settings = read_settings(train, project.symbols, {**project.settings.sizes, **sizes})
    checked = _with_train(project.checked, train) if assignments else project.checked
    return replace(project, checked=checked, train=train, settings=settings)


def _order(checked: Checked, field: str, call: str) -> list[str]:
    """The arguments that the call in a field may be given without their names, in order."""
    if field == "weights":
        return list(ARGUMENTS)
    if field == "data":
        source = SOURCES.get(call)
        return [one.name for one in source.settings if one.positional] if source else []
    definition = checked.definitions.get(call) or checked.library.get(call)
    taken = definition is not None and definition.kind == "optimizer"
    return [one.name for one in definition.settings] if definition and taken else []


def _with_train(checked: Checked, train: s.Train) -> Checked:
    """The program with another block for that model, checked again: it may use other definitions
    of the library. UserError with what is wrong in the block."""
    # Definitions come from three places: this file, files that it names with `use`, and the
    # library. The first are in its declarations and the last in `library`; `used` are the second.
    file, library, report = checked.file, checked.library, Report()
    own = {d.name for d in file.declarations if isinstance(d, s.Definition)}
    others = {n: d for n, d in checked.definitions.items() if n not in own}
    used = {n: d for n, d in others.items() if library.get(n) is not d}
    declarations = tuple(
        train if isinstance(d, s.Train) and d.model.id == train.model.id else d
        for d in file.declarations
    )
    scopes = checked.definitions.scopes
    result = check(replace(file, declarations=declarations), library, report, used, scopes)
    report.check()
    # With the file as it was written, for whatever shows the user's text.
    return replace(result, file=file, files=checked.files)


def _choose_model(checked: Checked, path: Path, name: str | None) -> s.Definition:
    """The model of that name, else the one that is trained, else the only one."""
    models = {d.name: d for d in checked.definitions.values() if d.kind == "model"}
    if name is not None:
        if name in models:
            return models[name]
        raise fail(
            "E0707",
            f"`{path.name}` has no model `{name}`",
            help=did_you_mean(name, models) or f"it has {_listed(models)}",
        )
    # A train block says which model is meant, even among helper models without one.
    trained = [t.model.id for t in checked.trains] or [m.name for m in checked.models]
    if len(trained) == 1:
        return models[trained[0]]
    if not trained:
        raise fail("E0707", f"`{path.name}` has no model")
    raise fail(
        "E0707",
        f"`{path.name}` has several models: {_listed(trained)}",
        help=f"choose one: `--model {trained[0]}`",
    )


def _listed(names) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


# --- for the compiler -----------------------------------------------------------------------------


def schema_of(choice: DataChoice, search: Search) -> Schema:
    """The fields of the data that a train block names, from as little reading as possible."""
    settings = source_settings(choice)
    return describe(choice.source, settings, search, spans=choice.spans, span=choice.span)


def load_dataset(project: Project, search: Search) -> Dataset:
    """The data that the train block names. UserError E0711 if it names none, or what is wrong."""
    choice = project.settings.data
    if choice is None:
        message, help = f"`train {project.name}` names no data", "like `data = mnist()`"
        raise fail("E0711", message, project.block.span, help=help)
    settings = source_settings(choice)
    return load_data(choice.source, settings, search, spans=choice.spans, span=choice.span)


def source_settings(choice: DataChoice) -> dict:
    """The arguments of a data source by name."""
    source = find_source(choice.source, choice.span)
    return bind(source, choice.positional, choice.named, choice.span, choice.names)


def field_types(schema: Schema, model: s.Definition) -> dict[str, FieldType]:
    """The fields as the compiler takes them: f64 and i64 are computed in f32 and i32, unless the
    model's input says otherwise."""
    narrow = {"f64": "f32", "i64": "i32"}
    # f64 is computed in f32 for speed; who declares f64 in the model asks for it.
    declared = {p.name: p.type.dtype for p in model.inputs if p.type}
    return {
        f.name: FieldType(
            f.dtype if declared.get(f.name) == f.dtype else narrow.get(f.dtype, f.dtype), f.shape
        )
        for f in schema.fields
    }


def setup_of(
    project: Project, fields: Mapping[str, FieldType] | None, examples: int | None = None
) -> Setup:
    """What the compiler needs; `examples` is the size of the training set: None or, of a model that
    was saved before it met any data, 0 if it is not known."""
    settings, examples = project.settings, examples or None
    steps = settings.steps
    # The total number of steps, for schedules: the last, shorter one of an epoch counts as one.
    sampling = sampling_of(settings, examples)
    if settings.epochs is not None and examples is not None:
        each = -(-examples // (settings.batch * settings.accumulate))
        by_epochs = settings.epochs * (sampling.steps if sampling else each)
        steps = by_epochs if steps is None else min(steps, by_epochs)
    return Setup(
        project.checked.definitions,
        project.block,
        settings.sizes,
        fields,
        settings.batch,
        steps,
        settings.epochs,
        settings.float,
        settings.precision,
        accumulate=settings.accumulate,
        limits=settings.limits,
        private=None
        if sampling is None
        else Private(sampling.choice.clip, sampling.choice.noise, sampling.expected, examples),
    )


# Of a private program without its data: enough examples that their number hardly matters.
MANY_EXAMPLES = 10**6


def sampling_of(settings: Settings, examples: int | None) -> Sampling | None:
    """How private training draws its examples; None if it is not private."""
    if settings.private is None:
        return None
    count = MANY_EXAMPLES if examples is None else examples
    return Sampling(settings.private, count, min(settings.batch, count) * settings.accumulate)


def untrained_setup(project: Project, fields: Mapping[str, FieldType] | None) -> Setup:
    """The setup for predicting alone, which a model without a train block has, too."""
    return setup_of(replace(project, train=project.train or empty_block(project.model)), fields)


def planned_setup(project: Project, search: Search) -> Setup:
    """The setup without loading data, for commands that train nothing. Where the data cannot be
    found, the types must stand in the file: `input label: i32[B]`."""
    return planned(project, search)[0]


def planned(project: Project, search: Search) -> tuple[Setup, int]:
    """The same, and how many examples would train: 0 if it is not known."""
    choice = project.settings.data
    if choice is None:
        return setup_of(project, None), 0
    try:
        schema = schema_of(choice, search)
        if project.settings.draw is not None:
            project.settings.draw.check(schema)
    except UserError as error:
        # Only missing data may be made up for by declared types: a wrong setting stays an error.
        missing = all(d.code == "E0601" for d in error.diagnostics)
        if missing and any(isinstance(item, s.Input) for item in project.block.body):
            return setup_of(project, None), 0
        raise
    held = project.settings.validation
    examples = 0 if schema.count is None else training_size(schema.count, held)
    return setup_of(project, field_types(schema, project.model), examples), examples


def privacy_text(project: Project, setup: Setup) -> str:
    """What the run of a private program will spend; empty of another, or where nobody knows how
    many examples there are. UserError E0703 as for the run."""
    settings, private = project.settings, setup.private
    sampling = private and private.examples and sampling_of(settings, private.examples)
    if not sampling:
        return ""
    sampling.check(setup.steps, settings.until)
    return sampling.text(sampling.planned(setup.steps, settings.until))


def with_batch(setup: Setup, batch: int) -> Setup:
    """The same for another number of examples."""
    return replace(setup, batch=batch, whole=setup.whole or setup.batch)


# --- text -----------------------------------------------------------------------------------------


def _file_text(file: s.File) -> str:
    """The definitions of a file, and what it uses."""
    uses = [f"use {quoted(d.path.value)}" for d in file.declarations if isinstance(d, s.Use)]
    definitions = [_text(d) for d in file.declarations if isinstance(d, s.Definition)]
    # The first docstring of a text is the text's, so one stands before that of a definition.
    doc = file.doc or (
        "A part of a program." if definitions[:1] and '"""' in definitions[0] else ""
    )
    head = [f"language {file.language.version.text}"] if file.language else []
    return "\n\n".join([*head, *([f'"""{doc}"""'] if doc else []), *uses, *definitions]) + "\n"


def _from_library(checked: Checked, train: s.Train | None) -> list[s.Definition]:
    """What a program needs of the library, in the order in which it meets it."""
    found: dict[str, s.Definition] = {}
    worklist: list[s.Node] = [*checked.exported().values(), *([train] if train else [])]
    while worklist:
        for node in walk(worklist.pop(0)):
            # Each name in the scope of its own text: the program's `Dense` is not the library's.
            if not isinstance(node, s.Name):
                continue
            definition = seen_from(checked.definitions, node.span.source).get(node.id)
            known = definition is None or definition.name in found
            if definition and not known and checked.library.get(definition.name) is definition:
                found[definition.name] = definition
                worklist.append(definition)
    return list(found.values())


def _text(definition: s.Definition) -> str:
    # The docstring of a definition may stand before its span, and is then put back.
    text = _with_tables(definition)
    return text if '"""' in text or not definition.doc else f'"""{definition.doc}"""\n{text}'


def _with_tables(definition: s.Definition) -> str:
    """The text with the numbers of its tables in place of `table("priors.csv")`."""
    source, start, end = definition.span.source, definition.span.start, definition.span.end
    parts, at = [], start
    for node in walk(definition):
        # A list that a table became has the place of the call, as have the lists in it.
        if (
            isinstance(node, s.List)
            and not node.span.text.startswith("[")
            and node.span.start >= at
        ):
            parts += [source.text[at : node.span.start], format_expr(node)]
            at = node.span.end
    return "".join([*parts, source.text[at:end]])


def _train_text(train: s.Train) -> str:
    lines = []
    for item in train.body:
        match item:
            case s.Field(name=name, value=value):
                lines.append(f"{name.id} = {format_expr(value)}")
            case s.Limit(name=name, op=sign, value=value):
                lines.append(f"{name.id} {sign} {format_expr(value)}")
            case s.Loss(name=name, patterns=patterns, value=value):
                names = ", ".join(p.text for p in patterns)
                lines.append(f"loss {name.id} for {names} = {format_expr(value)}")
            case s.Metric(name=name, value=value):
                lines.append(f"metric {name.id} = {format_expr(value)}")
            case s.Let(name=name, value=value):
                lines.append(f"let {name.id} = {format_expr(value)}")
            case s.ParamGroup(patterns=patterns, value=value):
                names = ", ".join(p.text for p in patterns)
                lines.append(
                    f"optimizer {names} = {format_expr(value)}" if value else f"freeze {names}"
                )
            case s.Until(condition=condition):
                lines.append(f"until {format_expr(condition)}")
            case s.Input(name=name, type=type):
                lines.append(f"input {name.id}: {format_type(type)}")
    return "\n".join([f"train {train.model.id} {{", *(f"    {line}" for line in lines), "}"])
