"""The program that a run folder keeps: every part of it means what it meant in the files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_programs import DIGITS

from nnc.compiler.ir.structural_hash import system_signature
from nnc.compiler.programs import evaluation, training_step
from nnc.dsl.check.library import standard_library
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.project import Project, open_project, project_of_text, setup_of

TRAIN = """
train M {
    input target: f32[B]
    loss      = mse(y, target)
    optimizer = sgd(lr = 0.1)
    batch     = 4
}
"""


def steps(project: Project) -> list[str]:
    setup = setup_of(project, None)
    return [*map(system_signature, training_step(setup)), system_signature(evaluation(setup))]


def same_when_kept(project: Project) -> str:
    """The kept text, which is the same program, also when it is kept once more."""
    text = project.resolved()
    again = project_of_text(text)
    assert steps(again) == steps(project)
    assert again.resolved() == text
    assert len(again.warnings) == len(project.warnings)
    return text


def test_names_that_the_library_gives_away() -> None:
    same_when_kept(
        project_of_text(
            "model M(x: f32[B, 5, 3]) -> y: f32[B] {\n"
            "    h, _ = LSTM(4)(x)\n"
            "    k, _ = LSTM(2)(h)\n"
            "    z = k |> BiLSTM(2) |> last |> Dense(1)\n"
            "    y[b] = z[b, 0]\n}\n" + TRAIN
        )
    )


def test_a_layer_of_the_librarys_name_is_the_programs_alone() -> None:
    own = "layer LSTM(units)(x: [..., T, n]) -> h: [..., T, units] { h = x |> Dense(units) }\n"
    model = "model M(x: f32[B, 5, 3]) -> y: f32[B] { y = mean_of(x |> LSTM(4) |> BiLSTM(4)) }\n"
    last = "fn mean_of(x: [B, T, n]) -> y: [B] { y[b] = mean(t, j) x[b, t, j] }\n"
    text = same_when_kept(project_of_text(own + model + last + TRAIN))
    assert text.count("layer LSTM(") == 2


def test_an_initialiser_of_the_librarys_name_is_the_programs_alone() -> None:
    own = "fn glorot_uniform() = 0.5\n"
    model = (
        "model M(x: f32[B, 3]) -> y: f32[B] {\n"
        "    param w: [3] ~ glorot_uniform\n"
        "    z = x |> Dense(3)\n"
        "    y[b] = sum(j) z[b, j] * w[j]\n}\n"
    )
    project = project_of_text(own + model + TRAIN)
    same_when_kept(project)
    drawn = training_step(setup_of(project, None))[1]
    random = {t for eq in drawn.equations for t in [eq.target] if "random" in repr(eq.body)}
    assert any(name.startswith("dense1_w") for name in random) and "w" not in random


def test_a_penalty_and_a_clip_of_the_librarys_names() -> None:
    own = "fn l2(w, rate) = rate * 3\nfn clip_norm(g, norm, most) = g * most\n"
    model = "model M(x: f32[B, 3]) -> y: f32[B] { z = x |> Dense(1); y[b] = z[b, 0] }\n"
    more = TRAIN.replace("    batch", "    penalty = l2(0.5)\n    clip = clip_norm(0.5)\n    batch")
    same_when_kept(project_of_text(own + model + more))


def test_the_rules_for_the_librarys_text_hold_in_a_run() -> None:
    # of two numbers, which the library's means allow
    model = "model M(x: f32[B]) -> y: f32[] { param w: [] = 1\n y = w * mean(x) }\n"
    train = "train M { loss = mse(y, 2.0); optimizer = sgd() }\n"
    same_when_kept(project_of_text(model + train))


def test_used_files_keep_their_view(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner.nn").write_text(
        '"""Of a used file."""\nlayer Inner(x: [B, n]) -> y: [B, n] { y = x |> Dense(n) |> relu }\n'
    )
    (tmp_path / "outer.nn").write_text(
        'use "sub/inner.nn"\nlayer Outer(x: [B, n]) -> y: [B, n] { y = x |> Inner |> silu }\n'
    )
    main = tmp_path / "main.nn"
    main.write_text(
        'use "outer.nn"\n'
        "fn relu(x) = x * 7\n"
        "layer Dense(units)(x: [B, n]) -> y: [B, units] { y[b, j < units] = sum(i) x[b, i] }\n"
        "model M(x: f32[B, 3]) -> y: f32[B] {\n"
        "    z = x |> Outer |> Dense(1) |> relu\n"
        "    y[b] = z[b, 0]\n}\n" + TRAIN
    )
    project = open_project(main)
    # `Dense` and `relu` are the library's in the used files, and the program's in its own
    names = training_step(setup_of(project, None))[0].tensors
    assert "outer1_inner1_dense1_w" in names
    text = same_when_kept(project)
    kept = tmp_path / "run" / "model.nn"
    kept.parent.mkdir()
    kept.write_text(text)
    assert steps(open_project(kept)) == steps(project)


def test_a_kept_program_that_is_damaged_is_a_mistake_of_the_user() -> None:
    text = project_of_text(DIGITS).resolved()
    wrong = [text[:end] for end in range(0, len(text), 97)]
    wrong += [text[:at] + "§" + text[at + 1 :] for at in range(0, len(text), 211)]
    wrong += [re.sub(r"\bshare\b", "shade", text), text.replace("## nnc library", "## nnc file x")]
    for each in wrong:
        try:
            steps(project_of_text(each))
        except UserError as error:
            assert error.diagnostics


def test_messages_about_a_kept_program_show_its_lines() -> None:
    text = project_of_text(DIGITS).resolved()
    with pytest.raises(UserError) as found:
        project_of_text(text.replace("= log_softmax(logits)", "= log_softmax(logit)"))
    (mistake,) = found.value.diagnostics
    assert mistake.span is not None
    line = text[: text.index("= log_softmax(logits)")].count("\n") + 1
    assert mistake.code == "E0202" and mistake.span.line == line


@pytest.mark.slow
def test_every_part_of_the_library_is_kept() -> None:
    """What is kept of the library is complete: no name of it is missing."""
    for name, definition in standard_library().items():
        if definition.kind != "layer":
            continue
        text = (
            "layer Own(x: [..., n]) -> y: [..., n] {\n"
            f"    y = if rank(x) > 9 then (x |> {name}) else x\n}}\n"
        )
        settings = ", ".join(f"{p.name} = 1" for p in definition.settings if p.default is None)
        text = text.replace(f"|> {name}", f"|> {name}({settings})" if settings else f"|> {name}")
        more = [p for p in definition.inputs[1:] if p.default is None]
        if more or len(definition.results) > 1:
            continue
        model = "model M(x: f32[B]) -> y: f32[B] { y = x |> Own }\n"
        project_of_text(project_of_text(text + model).resolved())
