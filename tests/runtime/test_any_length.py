"""`T <= 40` in a train block: one program predicts any length up to that."""

from __future__ import annotations

import numpy as np
import pytest

import nnc
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.assignments import Assignment
from nnc.runtime.device import DEVICES
from nnc.runtime.inference.generate import Generator, longest_window
from nnc.runtime.inference.predict import Request
from nnc.runtime.inference.predict import predict as predict_arrays
from nnc.runtime.inspect.summary import summarize
from nnc.runtime.project import open_project, project_of_text, setup_of, with_batch
from nnc.runtime.training.executor import Executor
from nnc.runtime.training.run_folder import RunFolder

TEXT = """
model M(x: f32[B, T, 4]) -> y: f32[B, T, 4], m: f32[B, 4] {
    a = x |> Dense(4)
    h[b, t, j] = tanh(a[b, t, j] + (h[b, t - 1, j] else 0))
    y[b, t, j] = h[b, t, j] + (x[b, t + 1, j] else 0)
    m[b, j] = mean(t) h[b, t, j]
}
train M {
    input want: f32[B, T, 4]
    loss      = mse(y, want)
    optimizer = sgd(lr = 0.1)
    batch     = 8
    LIMIT
}
"""
LENGTHS = (8, 1, 2, 5, 31, 40)


def loaded(tmp_path, text=TEXT, limit="T <= 40", **options):
    path = tmp_path / f"{limit.replace(' ', '')}.nn"
    path.write_text(text.replace("LIMIT", limit), encoding="utf-8")
    return nnc.load(path, **options)


def sequences(count, length):
    return np.random.default_rng(length).normal(size=(count, length, 4)).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_new_length_is_compiled(tmp_path, compiled, threads):
    model, exact = loaded(tmp_path, threads=threads), loaded(tmp_path, limit="", device="reference")
    for each in (model, exact):
        each.init(sequences(2, 8))
    model.predict(sequences(3, 8))
    for length in LENGTHS:
        x = sequences(9, length)
        before = len(compiled)
        found = model.predict(x)
        assert len(compiled) == before
        meant = exact.predict(x)
        assert found.keys() == meant.keys() == {"y", "m"}
        for name in meant:
            np.testing.assert_allclose(found[name], meant[name], rtol=1e-6, atol=1e-6)
        # An example has the bits that it has alone.
        for n in (0, 8):
            alone = model.predict(x[n : n + 1])
            assert all(np.array_equal(alone[name][0], found[name][n]) for name in found)


def test_the_parameters_are_trained_as_without(tmp_path):
    x, want = sequences(8, 8), sequences(8, 8)[::-1].copy()
    model, exact = (loaded(tmp_path, limit=t) for t in ("T <= 40", ""))
    for each in (model, exact):
        each.fit(x, want, epochs=1)
    for name, array in exact.parameters.items():
        assert np.array_equal(model.parameters[name], array)
    # And the trained weights are those of the next prediction.
    np.testing.assert_allclose(model.predict(x)["y"], exact.predict(x)["y"], rtol=1e-6, atol=1e-6)
    before = model.predict(sequences(2, 3))["y"]
    model.fit(x, want, epochs=1)
    assert abs(model.predict(sequences(2, 3))["y"] - before).max() > 1e-5


def test_a_length_beyond_the_maximum(tmp_path):
    model = loaded(tmp_path)
    model.init(sequences(2, 8))
    with pytest.raises(UserError) as caught:
        model.predict(sequences(2, 41))
    assert "E0708" in str(caught.value)
    assert "`T` is 41 here, and its declared maximum is 40" in str(caught.value)


def test_examples_that_depend_on_each_other(tmp_path, compiled):
    text = TEXT.replace("h[b, t, j] + (x", "h[b, t, j] - mean(c) x[c, t, j] + (x")
    model, exact = loaded(tmp_path, text), loaded(tmp_path, text, "", device="reference")
    for each in (model, exact):
        each.init(sequences(2, 8))
    model.predict(sequences(3, 8))
    before = len(compiled)
    found = [model.predict(sequences(3, length)) for length in LENGTHS]
    assert len(compiled) == before
    for length, results in zip(LENGTHS, found, strict=True):
        for name, array in exact.predict(sequences(3, length)).items():
            np.testing.assert_allclose(results[name], array, rtol=1e-6, atol=1e-6)


def test_tensors_by_name(tmp_path, compiled):
    model = loaded(tmp_path)
    model.init(sequences(2, 8))
    assert model.predict(sequences(2, 8), tensor="h").shape == (2, 8, 4)
    before = len(compiled)
    for length in (3, 40):
        assert model.predict(sequences(5, length), tensor="h").shape == (5, length, 4)
    assert len(compiled) == before


PLACES = """
model M(token: i32[B, T], at: i32[B]) -> y: f32[B, 3] {
    e = token |> Embedding(7, 3)
    y[b, j] = e[b, at[b], j] + mean(t) e[b, t, j]
}
train M {
    loss      = mean(y^2)
    optimizer = sgd(lr = 0.1)
    batch     = 4
    T <= 12
}
"""


def test_a_place_beyond_the_length_is_refused(tmp_path):
    model = loaded(tmp_path, PLACES)
    token = np.arange(20, dtype=np.int32).reshape(4, 5) % 7
    model.init(token, np.zeros(4, np.int32))
    for at in (5, 11, -1):
        with pytest.raises(UserError) as caught:
            model.predict(token, np.array([0, 1, at, 2], np.int32))
        assert "E0730" in str(caught.value)
    token[1, 1] = 7
    with pytest.raises(UserError) as caught:
        model.predict(token, np.zeros(4, np.int32))
    assert "E0730" in str(caught.value)
    token[1, 1] = 6
    found = model.predict(token, np.full(4, 4, np.int32))
    table = model.parameters["embedding1_table"]
    meant = table[token[:, 4]] + table[token].mean(1)
    np.testing.assert_allclose(found, meant, rtol=1e-6, atol=1e-6)


OTHER = """
model M(x: f32[B, T, 2]) -> y: f32[B, H, 2] {
    y[b, t < T // 2, j] = x[b, 2 * t, j] + x[b, 2 * t + 1, j]
}
train M {
    loss      = mean(y^2)
    optimizer = sgd(lr = 0.1)
    T <= 12
}
"""


def test_a_length_that_needs_a_program_of_its_own(tmp_path):
    model = loaded(tmp_path, OTHER.replace("[B, H, 2]", "[B, T // 2, 2]"))
    x = np.arange(24, dtype=np.float32).reshape(1, 12, 2)
    model.init(x)
    for length in (12, 5, 8):
        found = model.predict(x[:, :length])
        half = length // 2 * 2
        assert np.array_equal(found, x[:, 0:half:2] + x[:, 1:half:2])


def test_parameters_that_depend_on_the_length(tmp_path):
    text = TEXT.replace("a = x |> Dense(4)", "param p: [T, 4] = 1\n a = x + p")
    model = loaded(tmp_path, text)
    model.init(sequences(2, 8))
    assert model.predict(sequences(3, 8))["y"].shape == (3, 8, 4)
    with pytest.raises(UserError) as caught:
        model.predict(sequences(3, 7))
    assert "E0714" in str(caught.value) and "`p`" in str(caught.value)


def test_two_sizes(tmp_path, compiled):
    text = """
        model M(x: f32[B, T, 4], z: f32[B, S, 4]) -> y: f32[B, T, 4] {
            score[b, t, s] = sum(j) x[b, t, j] * z[b, s, j]
            weight = softmax(score)
            h[b, t, j] = sum(s) weight[b, t, s] * z[b, s, j]
            y = h |> Dense(4)
        }
        train M {
            loss      = mean(y^2)
            optimizer = sgd(lr = 0.1)
            T <= 10
            S <= 14
        }"""
    model = loaded(tmp_path, text)
    model.init(sequences(2, 8), sequences(2, 5))
    model.predict(sequences(2, 8), sequences(2, 5))
    weights, before = model.parameters, len(compiled)
    for t, s in ((3, 3), (10, 14), (1, 7), (10, 1)):
        x, z = sequences(3, t), sequences(3, s)
        found = model.predict(x, z)
        score = np.exp(np.einsum("btj,bsj->bts", x, z))
        h = np.einsum("bts,bsj->btj", score / score.sum(2, keepdims=True), z)
        meant = h @ weights["dense1_w"] + weights["dense1_b"]
        np.testing.assert_allclose(found, meant, rtol=1e-5, atol=1e-5)
    assert len(compiled) == before
    with pytest.raises(UserError) as caught:
        model.predict(sequences(2, 11), sequences(2, 15))
    text = str(caught.value)
    assert "`T` is 11 here" in text and "`S` is 15 here" in text


# --- the declaration ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "code", "part"),
    [
        ("T <= 0", "E0415", "a whole number from 1"),
        ("T <= 2.5", "E0415", "a whole number from 1"),
        ("T <= -3", "E0703", "a whole number from 1"),
        ("T <= x", "E0415", "`x` is not known when compiling"),
        ("T < 512", "E0415", "`T <= 512`"),
        ("T >= 2", "E0415", "`<=`"),
        ("B <= 64", "E0415", "counts examples"),
        ("t <= 64", "E0415", "`T`"),
        ("length <= 64", "E0415", "no size of `M`"),
        ("T <= 5; T <= 6", "E0405", "`T` is set twice"),
    ],
)
def test_a_wrong_declaration(entry: str, code: str, part: str) -> None:
    with pytest.raises(UserError) as caught:
        project_of_text(TEXT.replace("LIMIT", entry))
    (mistake,) = caught.value.diagnostics
    assert mistake.code == code and part in mistake.message + mistake.help


def test_a_declaration_is_kept() -> None:
    project = project_of_text(TEXT.replace("LIMIT", "let n = 4; T <= 10 * n"))
    assert project.settings.limits == {"T": 40}
    again = project_of_text(project.resolved())
    assert again.settings.limits == {"T": 40}


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("T <= 40", "T <= 40: trained with T = 7; one program predicts any size"),
        (
            "T <= 40; average = ema(0.9)",
            "T <= 40: trained with T = 7; one program predicts any size",
        ),
        ("", ""),
    ],
)
def test_the_summary_says_how_many_programs_there_are(entry: str, text: str) -> None:
    found = summarized(TEXT.replace("LIMIT", entry))
    assert found.endswith(f"\n\n{text}\n") if text else "trained with" not in found


def test_the_summary_names_what_is_in_the_way() -> None:
    found = summarized(OTHER.replace("[B, H, 2]", "[B, T // 2, 2]"))
    assert found.endswith(
        "T <= 12: trained with T = 7; predictions are compiled for each size: `y` depends on a "
        "size in another way\n"
    )


def summarized(text: str) -> str:
    project = project_of_text(text, assignments=[Assignment("T", "7")])
    return summarize(project, setup_of(project, None)).text()


def test_a_size_beyond_its_maximum(tmp_path) -> None:
    model = loaded(tmp_path)
    with pytest.raises(UserError) as caught:
        model.fit(sequences(4, 41), sequences(4, 41), epochs=1)
    assert "E0415" in str(caught.value) and "`T` is 41" in str(caught.value)
    text = TEXT.replace("LIMIT", "T <= 40")
    assert project_of_text(text, assignments=[Assignment("T", "7")]).settings.sizes == {"T": 7}


# --- evaluation, and what the commands do ---------------------------------------------------------


def test_evaluation_of_another_length(tmp_path):
    model = loaded(tmp_path, device="reference")
    model.init(sequences(2, 8))
    for length in (5, 8, 11):
        x, want = sequences(20, length), sequences(20, length + 1)[:, 1:]
        meant = np.mean((model.predict(x)["y"] - want) ** 2)
        assert model.evaluate(x, want)["loss"] == pytest.approx(meant, rel=1e-6)
    with pytest.raises(UserError) as caught:
        model.evaluate(sequences(4, 41), sequences(4, 41))
    assert "E0415" in str(caught.value)


WRITER = """
model Writer(token: i32[B, T]) -> logits: f32[B, T, 12] {
    logits = token |> Embedding(12, 8) |> Attention(2, causal = true) |> Dense(12)
}
train Writer {
    data      = text("words.txt", length = 8)
    loss      = cross_entropy(logits, target)
    optimizer = sgd(lr = 0.1)
    batch     = 16
    steps     = 3
    T <= 30
}
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writer")
    (folder / "words.txt").write_text("the hen sat on the tea chest\n" * 8, encoding="utf-8")
    (folder / "writer.nn").write_text(WRITER, encoding="utf-8")
    assert cli.run(["train", str(folder / "writer.nn"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.slow
def test_no_command_compiles_another_length(written, tmp_path, monkeypatch):
    monkeypatch.setenv("NNC_CACHE", str(tmp_path / "cache"))

    def predicted(length: int) -> np.ndarray:
        np.save(tmp_path / "in.npy", np.arange(3 * length, dtype=np.int32).reshape(3, -1) % 12)
        names = ["--input", str(tmp_path / "in.npy"), "--output", str(tmp_path / "out.npy")]
        assert cli.run(["predict", str(written), *names]) == 0
        return np.load(tmp_path / "out.npy")

    longest = predicted(30)
    monkeypatch.setattr("nnc.runtime.device.cpu.code_cache.jit.Machine", None)  # compiles
    for length in (1, 8, 29):
        found = predicted(length)
        assert found.shape == (3, length, 12)
        # The first example has the same tokens, and the model sees what is before alone.
        np.testing.assert_allclose(found[0], longest[0, :length], rtol=1e-5, atol=1e-6)
    np.save(tmp_path / "in.npy", np.zeros((1, 31), np.int32))
    names = ["--input", str(tmp_path / "in.npy"), "--output", str(tmp_path / "out.npy")]
    assert cli.run(["predict", str(written), *names]) != 0


def test_texts_are_written_in_a_window_of_the_maximum(written):
    folder = RunFolder(written)
    setup = with_batch(setup_of(open_project(folder.model), folder.fields), 1)
    executor = Executor(setup, DEVICES["cpu"](1), 0)
    weights = folder.read_weights(executor.weight_forms())
    executor.take(weights)
    generator = Generator(longest_window(setup), weights, executor.device)
    tokens = np.arange(30) * 5 % 12
    logits = [generator.feed(int(token)).copy() for token in tokens]
    whole = predict_arrays(executor, tokens[None].astype(np.int32), "the test", Request())
    np.testing.assert_allclose(logits, whole["logits"][0], rtol=1e-4, atol=1e-5)
    assert generator.roles.window == 30


def test_a_run_is_evaluated(written, capsys):
    assert cli.run(["eval", str(written)]) == 0
    assert "loss" in capsys.readouterr().out
