"""The front end on one text: parse, check, elaborate, derive the training step.

Unbound symbolic sizes are small; a train block with `data` gets the fields below.
"""

from __future__ import annotations

from pathlib import Path

from nnc.compiler.elaboration.model import forward
from nnc.compiler.elaboration.train_block import FieldType, Private, Setup
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.verify import verify
from nnc.compiler.pipeline import check_remat, derive
from nnc.compiler.programs import evaluation, training_step
from nnc.dsl.check.checker import Checked, load_source
from nnc.dsl.diagnostics.diagnostic import Diagnostic, Report, UserError
from nnc.dsl.syntax import ast as s
from nnc.dsl.syntax.source import Source

FIELDS = {
    "x": FieldType("f32", (3,)),
    "image": FieldType("f32", (28, 28, 1)),
    "token": FieldType("i32", (8,)),
    "label": FieldType("i32", ()),
    "target": FieldType("f32", ()),
}
BATCH = 4


def checked(text: str, name: str = "test.nn", folder: Path | None = None) -> Checked:
    """The checked program. Raises UserError for its mistakes."""
    report = Report()
    program = load_source(Source(name, text), report, folder)
    report.check()
    return program


def sizes_of(program: Checked, model: str) -> dict[str, int]:
    """A size for each symbol in the inputs of a model: 4 for the first, then 5, 6, …"""
    names: dict[str, int] = {}
    for parameter in program.definitions[model].inputs:
        for item in (parameter.type and parameter.type.shape) or ():
            if isinstance(item, s.Name):
                names.setdefault(item.id, BATCH + len(names))
    return names


def setup_of(program: Checked, train: s.Train) -> Setup:
    """The sizes and fields that a train block is compiled for."""
    has_data = any(isinstance(e, s.Field) and e.name.id == "data" for e in train.body)
    sizes = {} if has_data else sizes_of(program, train.model.id)
    fields = FIELDS if has_data else None
    is_private = any(isinstance(e, s.Field) and e.name.id == "private" for e in train.body)
    private = Private(1.0, 1.0, BATCH / 2) if is_private else None
    precision = next(
        (
            e.value.span.text
            for e in train.body
            if isinstance(e, s.Field) and e.name.id == "precision"
        ),
        "f32",
    )
    return Setup(
        program.definitions,
        train,
        sizes,
        fields,
        BATCH,
        100,
        10,
        precision=precision,
        private=private,
    )


def systems(program: Checked, report: Report) -> list[System]:
    """Every system of a program; warnings go into the report."""
    found = []
    trained = {train.model.id for train in program.trains}
    for train in program.trains:
        setup = setup_of(program, train)
        step, drawn = training_step(setup, report)
        check_remat(step, report)
        found += [step, derive(step), drawn, evaluation(setup)]
    for model in program.models:
        if model.name not in trained:
            found.append(forward(program.definitions, model.name, sizes_of(program, model.name)))
    return [verify(system, "front") for system in found]


def diagnose(text: str, name: str = "test.nn", folder: Path | None = None) -> list[Diagnostic]:
    """Every diagnostic of a text, warnings included."""
    report = Report()
    try:
        program = load_source(Source(name, text), report, folder)
        report.check()
        systems(program, report)
    except UserError as error:
        report.diagnostics += [d for d in error.diagnostics if d not in report.diagnostics]
    return report.diagnostics
