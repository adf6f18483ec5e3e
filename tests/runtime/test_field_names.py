"""Fields of the data, metrics and `let`s with names that mean something elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nnc
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.assignments import Assignment
from nnc.runtime.device import DEVICES
from nnc.runtime.project import planned_setup, project_of_text
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.job import Job, prepare
from nnc.runtime.training.loop import train
from nnc.runtime.training.progress import Silent

TEXT = """
model M(x: f32[B, n]) -> y: f32[B] {
    param w: [n] = 0.1
    h[b, i] = tanh(x[b, i] * w[i])
    y[b] = sum(i) h[b, i]
}
train M {
    data      = npz("numbers.npz")
    loss      = mse(y, FIELD) + 0.01 * mean(FIELD * y)
    metric off = mean(abs(FIELD - y))
    optimizer = adam(lr = 0.1 * min(1, t / steps))
    batch     = 8
    epochs    = 2
}
"""

WORDS = (
    *("t", "steps", "epochs", "training", "share", "pi", "inf", "nan", "fan_in", "relu", "mse"),
    *("p", "g", "norm", "lr", "batch", "data", "optimizer", "metric", "input", "until", "epoch"),
    *("seconds", "clip", "seed_", "position", "tanh", "exp", "count", "off_2", "i", "b", "j"),
    *("d_h", "d_w", "d_y", "w_m", "w_v", "y_sum", "mse1_loss", "mse1_loss_mean", "loss_mean"),
    *("loss_2", "test", "train_", "label", "length", "int", "float", "B_", "_1", "test_loss"),
)


def run(folder: Path, word: str, text: str = TEXT, device: str = "cpu", **fields) -> Job:
    random = np.random.default_rng(5)
    arrays = {"x": random.normal(size=(24, 3)), word: random.normal(size=24), **fields}
    np.savez(folder / "numbers.npz", **{n: np.float32(a) for n, a in arrays.items()})
    project = project_of_text(text.replace("FIELD", word), "m.nn", folder)
    search = data.Search(None, folder, offline=True)
    choice = project.settings.data
    dataset = data.load(choice.source, {"file": "numbers.npz"}, search)
    job = prepare(project, dataset, DEVICES[device](1))
    job.reason = train(job, Silent(), never)
    return job


def measured(job: Job) -> list[list[float]]:
    return [list(record.values.values()) for record in job.records]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[list[float]]:
    return measured(run(tmp_path_factory.mktemp("plain"), "target"))


@pytest.mark.parametrize("word", WORDS)
def test_a_field_is_the_users(word: str, tmp_path: Path, expected) -> None:
    assert measured(run(tmp_path, word, device="reference")) == pytest.approx(
        np.array(expected), rel=1e-5
    )


@pytest.mark.parametrize("word", ["t", "training", "d_h", "share"])
def test_in_machine_code(word: str, tmp_path: Path, expected) -> None:
    assert measured(run(tmp_path, word)) == expected


def test_other_fields_are_no_names(tmp_path: Path, expected) -> None:
    """What the block does not name hides nothing."""
    more = {name: np.zeros(24) for name in ("t", "steps", "w", "h", "y", "mse", "i", "step")}
    assert measured(run(tmp_path, "target", **more)) == expected


def mistakes(text: str, folder: Path, word: str = "target") -> list[str]:
    with pytest.raises(UserError) as found:
        run(folder, word, text)
    return [str(d.code) + " " + d.message for d in found.value.diagnostics if d.is_error]


@pytest.mark.parametrize("word", ["step", "seed"])
def test_reserved_fields(word: str, tmp_path: Path) -> None:
    (found,) = set(mistakes(TEXT, tmp_path, word))
    assert found == f"E0319 `{word}` is an input of the compiler's own"


@pytest.mark.parametrize("word", ["step", "seed"])
def test_reserved_parameters(word: str, tmp_path: Path) -> None:
    text = TEXT.replace("param w:", f"state {word}: [] = 1\n    param w:")
    assert mistakes(text, tmp_path) == [f"E0319 `{word}` is an input of the compiler's own"]


def test_a_size_and_a_field(tmp_path: Path) -> None:
    (found,) = set(mistakes(TEXT, tmp_path, "n"))
    assert found == "E0206 `n` is a size of the model, and a field of the data"


@pytest.mark.parametrize("name", ["y", "h", "w"])
def test_a_field_that_the_model_hides_is_warned_of(name: str, tmp_path: Path) -> None:
    """A result, another tensor or a parameter of the model; once, wherever the block names it."""
    text = TEXT.replace(
        "    optimizer", f"    metric size = mean({name})^2 + mean({name})\n    optimizer"
    )
    hidden = {name: np.zeros(24, np.float32)}
    told = [d for d in run(tmp_path, "target", text, **hidden).warnings if d.code == "W0306"]
    (found,) = {d.message for d in told}
    assert found == f"`{name}` is the model's here, and hides the field `{name}` of the data"
    assert len(told) == 1 and told[0].span is not None and told[0].span.text == name
    assert not [d for d in run(tmp_path, "target", text).warnings if d.code == "W0306"]


@pytest.mark.parametrize("name", ["batch", "steps", "epochs", "seed", "monitor", "data"])
def test_lets_that_are_fields_of_the_block(name: str, tmp_path: Path) -> None:
    text = TEXT.replace("    loss ", f"    let {name} = 3\n    loss ")
    assert mistakes(text, tmp_path) == [f"E0319 `{name}` is a field of a train block"]


@pytest.mark.parametrize(
    "name", ["epoch", "step", "seconds", "loss", "test_off", "validation_loss"]
)
def test_metrics_that_the_log_has(name: str, tmp_path: Path) -> None:
    text = TEXT.replace("    optimizer", f"    metric {name} = mean(y)\n    optimizer")
    (found,) = mistakes(text, tmp_path)
    assert found.startswith(f"E0319 `{name}` is the name of")


@pytest.mark.parametrize("name", ["p", "g", "t", "norm"])
def test_settings_of_an_optimizer(name: str, tmp_path: Path) -> None:
    own = f"optimizer own({name} = 1, rate = 0.1) {{ p' = p - rate * g }}\n"
    (found,) = mistakes(own + TEXT, tmp_path)
    assert found == f"E0319 `{name}` has a meaning in every optimizer"


def test_a_let_comes_before_the_schedules_words(tmp_path: Path) -> None:
    plain = run(tmp_path, "target", TEXT.replace("min(1, t / steps)", "0.5"))
    named = run(
        tmp_path,
        "target",
        TEXT.replace("    loss ", "    let t = 3\n    loss ").replace("min(1, t / steps)", "t / 6"),
    )
    assert measured(named) == measured(plain)


def test_the_steps_rate_where_the_model_has_a_t(tmp_path: Path, expected) -> None:
    """In the optimizer's settings `t` is the step, whatever the model calls so."""
    text = TEXT.replace("x: f32[B, n]", "x: f32[B, n], t: f32[B]").replace(
        "= sum(i)", "= 0*t[b] + sum(i)"
    )
    assert measured(run(tmp_path, "target", text, t=np.zeros(24))) == expected


def test_a_size_that_is_called_as_a_field() -> None:
    text = TEXT.replace("f32[B, n]", "f32[steps, batch]").replace("w: [n]", "w: [batch]")
    project = project_of_text(
        text.replace("FIELD", "target"),
        assignments=[Assignment("steps", "7"), Assignment("batch", "16")],
    )
    assert project.settings.steps == 7 and project.settings.batch == 16
    assert not project.settings.sizes


def test_the_norm_reaches_a_clipping_function_that_calls_it_otherwise(tmp_path: Path) -> None:
    own = "fn own_clip(g, total, most) = g * min(1, most / (total + 1e-12))\n"
    plain, own_clip = (
        run(
            tmp_path,
            "target",
            own + TEXT.replace("    batch", f"    clip = {name}(0.1)\n    batch"),
        )
        for name in ("clip_norm", "own_clip")
    )
    np.testing.assert_allclose(measured(plain), measured(own_clip), rtol=1e-5)


def test_from_python(tmp_path: Path, expected) -> None:
    random = np.random.default_rng(5)
    x, target = np.float32(random.normal(size=(24, 3))), np.float32(random.normal(size=24))
    for word in ("t", "training", "share", "d_h", "i"):
        path = tmp_path / f"{word}.nn"
        path.write_text(TEXT.replace("FIELD", word))
        model = nnc.load(path)
        history = model.fit(x=x, **{word: target})
        assert [[r["loss"], r["off"]] for r in history] == expected
        assert model.evaluate(x=x, **{word: target})["loss"] < expected[0][0]


def test_a_field_with_a_name_of_fits_own(tmp_path: Path, expected) -> None:
    random = np.random.default_rng(5)
    x, target = np.float32(random.normal(size=(24, 3))), np.float32(random.normal(size=24))
    path = tmp_path / "m.nn"
    path.write_text(TEXT.replace("FIELD", "batch"))
    model = nnc.load(path)
    with pytest.raises(UserError, match="`batch` of fit is an argument") as found:
        model.fit(x=x, batch=target)
    assert "by its place" in found.value.diagnostics[0].help
    assert [[r["loss"], r["off"]] for r in model.fit(x, target)] == expected


def test_the_initialisers_words_are_the_layers_where_it_has_them() -> None:
    text = (
        TEXT.replace("FIELD", "target")
        .replace("param w: [n] = 0.1", "let fan_in = 1e-6\n    param w: [n] ~ normal(0, fan_in)")
        .replace('data      = npz("numbers.npz")', "steps = 9; input target: f32[B]")
    )
    project = project_of_text(text, assignments=[Assignment("n", "50")])
    _, drawn = training_step(planned_setup(project, data.Search(None, Path(), True)))
    w = evaluate(drawn, {"seed": np.int32(0), "step": np.int32(0)})["w"]
    assert np.abs(w).max() < 1e-5


def test_the_length_of_a_run_that_nothing_says(tmp_path: Path) -> None:
    """It is no field of the data, so no input is advised."""
    text = TEXT.replace("    epochs    = 2\n", "").replace(
        '    data      = npz("numbers.npz")\n', ""
    )
    text = text.replace("mse(y, FIELD)", "mean(y^2)").replace("FIELD", "1").replace("n]", "3]")
    project = project_of_text(text, "m.nn", tmp_path)
    setup = planned_setup(project, data.Search(None, tmp_path, offline=True))
    with pytest.raises(UserError) as found:
        training_step(setup)
    (mistake,) = found.value.diagnostics
    assert mistake.code == "E0409" and "the number of steps is not known" in mistake.message
    assert "`steps = 1000`" in mistake.help
    said = project_of_text(
        text.replace("    batch", "    steps = 1000\n    batch"), "m.nn", tmp_path
    )
    training_step(planned_setup(said, data.Search(None, tmp_path, offline=True)))
