"""`optimizer encoder.* = …` and `freeze encoder.*`: how each parameter is trained, by its name."""

from __future__ import annotations

import numpy as np
import pytest
from support import values

from nnc.compiler.elaboration.train_block import FieldType, Setup
from nnc.compiler.ir.equation import System
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.dsl.syntax.formatter import format as formatted
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source
from nnc.runtime.inspect.summary import summarize
from nnc.runtime.project import open_project, setup_of

MODEL = """
model M(x: f32[B, 3], y: f32[B, 2]) -> out: f32[B, 2] {
    trunk = Dense(4)
    out = x |> trunk |> tanh |> Dense(2)
}

train M {
    loss      = mse(out, y)
    %s
}
"""
FIELDS = {"x": FieldType("f32", (3,)), "y": FieldType("f32", (2,))}
SGD = "optimizer = sgd(lr = 0.5)\n"


def step(entries: str) -> tuple[System, list[str]]:
    """The training step in double precision, and the warnings."""
    report, warnings = Report(), Report()
    checked = load_source(Source("test.nn", MODEL % entries), report)
    report.check()
    setup = Setup(checked.definitions, checked.trains[0], {}, FIELDS, 4, float_type="f64")
    system, _ = training_step(setup, warnings)
    return derive(system), [d.code for d in warnings.diagnostics]


def changes(entries: str) -> dict[str, float]:
    """How far each parameter moves in a step, relative to sgd with a rate of 0.5."""
    whole, _ = step(SGD)
    given = values(whole, seed=1)

    def moved(system: System) -> dict[str, np.ndarray]:
        ends = system.replace(outputs=(*system.outputs, *system.updates.values()))
        found = evaluate(
            ends,
            {
                n: given.get(n, np.zeros(t.shape))
                for n, t in ends.tensors.items()
                if t.kind != "temp"
            },
        )
        return {n: found[system.updates[n]] - given[n] for n in given if n in system.updates}

    base, other = moved(whole), moved(step(entries)[0])
    return {
        n: float(np.linalg.norm(other.get(n, 0 * base[n])) / np.linalg.norm(base[n])) for n in base
    }


NAMES = ("trunk_w", "trunk_b", "dense1_w", "dense1_b")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (SGD, (1, 1, 1, 1)),
        (SGD + "optimizer trunk.* = sgd(lr = 0.05)", (0.1, 0.1, 1, 1)),
        (SGD + "optimizer *.b = sgd(lr = 0.05)", (1, 0.1, 1, 0.1)),
        (SGD + "optimizer trunk.w, *.b = sgd(lr = 1.0)", (2, 2, 1, 2)),
        (SGD + "optimizer trunk_w = sgd(lr = 1.0)", (2, 1, 1, 1)),
        (SGD + "freeze trunk.*", (0, 0, 1, 1)),
        (
            SGD + "freeze *.b\n optimizer trunk.b = sgd(lr = 1.0)",
            (1, 2, 1, 0),
        ),  # the last one counts
        ("optimizer * = sgd(lr = 0.25)", (0.5, 0.5, 0.5, 0.5)),
        (SGD + "freeze *\n optimizer dense1.* = sgd(lr = 0.5)", (0, 0, 1, 1)),
    ],
)
def test_every_parameter_has_its_optimizer(entries: str, expected: tuple[float, ...]) -> None:
    assert changes(entries) == pytest.approx(dict(zip(NAMES, expected, strict=True)), rel=1e-9)


def test_frozen_parameters_have_no_gradient() -> None:
    system, warnings = step(SGD + "freeze trunk.*")
    assert warnings == []
    assert set(system.updates) == {"dense1_w", "dense1_b"}
    assert not any(name.startswith("d_trunk") for name in system.tensors)


def test_optimizers_of_different_kinds_have_their_own_states() -> None:
    system, _ = step("optimizer = adam()\n optimizer trunk.* = momentum()\n freeze dense1.b")
    owners = sorted(t.name.rsplit("_", 1)[0] for t in system.of_kind("state"))
    assert owners == ["dense1_w", "dense1_w", "trunk_b", "trunk_w"]


def test_all_frozen_is_a_warning() -> None:
    _, warnings = step(SGD + "freeze *")
    assert warnings == ["W0302"]


@pytest.mark.parametrize(
    ("entries", "code", "marked"),
    [
        (SGD + "freeze trink.*", "E0412", "trink.*"),
        (SGD + "optimizer *.scale = sgd()", "E0412", "*.scale"),
        ("optimizer trunk.* = sgd()", "E0411", "M"),
        (SGD + "optimizer trunk.* = sgt()", "E0406", "sgt"),
        (SGD + "optimizer trunk.* = sgd(rate = 1)", "E0204", "rate = 1"),
    ],
)
def test_mistakes(entries: str, code: str, marked: str) -> None:
    with pytest.raises(UserError) as caught:
        step(entries)
    found = caught.value.diagnostics[0]
    assert (found.code, found.span.text) == (code, marked)


def test_layout_and_summary(tmp_path) -> None:
    text = MODEL % (SGD + "    optimizer *.b   =   sgd( lr=0.1 )\n    freeze   trunk.w ,trunk.b\n")
    tidy = formatted(parse(Source("test.nn", text), Report()))
    assert "optimizer *.b = sgd(lr = 0.1)" in tidy and "freeze trunk.w, trunk.b" in tidy
    assert formatted(parse(Source("test.nn", tidy), Report())) == tidy
    path = tmp_path / "m.nn"
    path.write_text(tidy.replace("train M {", "train M {"))
    project = open_project(path)
    found = summarize(project, setup_of(project, None))
    assert dict(found.groups) == {
        "freeze trunk.w, trunk.b": 16,
        "optimizer": 8,
        "optimizer *.b": 2,
    }
