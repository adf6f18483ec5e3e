"""A layer or model in a trained one is computed by itself, with the weights that it has there; and
any tensor by its name: from the command line and from Python."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import nnc
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.data import Search
from nnc.runtime.device import DEVICES
from nnc.runtime.project import load_dataset, open_project
from nnc.runtime.training.job import prepare

PROGRAM = """
layer Encoder(units)(x: [..., n]) -> code: [..., units] {
    hidden = x |> Dense(5) |> tanh
    code = hidden |> Dense(units)
}

model Decoder(code: f32[B, 2], noise: f32[B, 2] = 0.5) -> y: f32[B, 6] {
    seen[b, i] = code[b, i] + noise[b, i] * random()
    y = seen |> Block |> Block |> Dense(6)
}

layer Block(x: [..., n]) -> y: [..., n] {
    y = x + (x |> Dense(n) |> tanh)
}

model Auto(x: f32[B, 6], other: f32[B, 3]) -> y: f32[B, 6], far: f32[B] {
    encode = Encoder(2)
    code = encode(x)
    again = encode(2 * x)
    y = Decoder(code, 0 * code)
    twice = 2 * code
    far[b] = mean(i) (code[b, i] - again[b, i])^2 * other[b, 0]
}

model Codes(x: f32[B, 6]) -> code: f32[B, 2], middle: f32[2], all: f32 {
    encode = Encoder(2)
    code = encode(x)
    middle[i] = mean(b) code[b, i]
    all = mean(middle)
}

model Stranger(x: f32[B, 6]) -> y: f32[B, 4] {
    encode = Encoder(4)
    y = encode(x)
}

model Draws() -> y: f32[3, 4] {
    y[i < 3, j < 4] = random()
}

train Auto {
    data      = npz("set.npz")
    loss      = mse(y, x) + 0.01 * mean(far)
    optimizer = adam(lr = 1e-2)
    batch     = 20
    epochs    = 1
}
"""
RNG = np.random.default_rng(0)
X, OTHER = RNG.normal(size=(600, 6)).astype("f4"), np.ones((600, 3), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of the program, its data and its run."""
    found = tmp_path_factory.mktemp("parts")
    (found / "auto.nn").write_text(PROGRAM)
    np.savez(found / "set.npz", x=X[:100], other=OTHER[:100])
    np.save(found / "x.npy", X)
    np.savez(found / "all.npz", x=X, other=OTHER)
    out = ["--out", str(found / "run")]
    assert cli.run(["train", str(found / "auto.nn"), *out]) == 0
    return found


@pytest.fixture(scope="module")
def model(folder) -> nnc.Model:
    return nnc.load(folder / "run", threads=1)


@pytest.fixture
def predict(folder, tmp_path, monkeypatch, capfd):
    """Runs `nnc predict run` with these flags: the exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    for name in ("run", "x.npy", "all.npz"):
        (tmp_path / name).symlink_to(folder / name)

    def call(line: str) -> tuple[int, str]:
        code = cli.run(["predict", "run", *line.split()])
        return code, capfd.readouterr().err

    return call


def dense(model: nnc.Model, name: str, x: np.ndarray) -> np.ndarray:
    return x @ model.parameters[f"{name}_w"] + model.parameters[f"{name}_b"]


def encoded(model: nnc.Model, x: np.ndarray) -> np.ndarray:
    return dense(model, "encode_dense2", np.tanh(dense(model, "encode_dense1", x)))


def decoded(model: nnc.Model, code: np.ndarray) -> np.ndarray:
    for block in ("decoder1_block1", "decoder1_block2"):
        code = code + np.tanh(dense(model, f"{block}_dense1", code))
    return dense(model, "decoder1_dense1", code)


def refused(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return " ".join(f"{d.code} {d.message} {d.help}" for d in caught.value.diagnostics)


# --- parts ----------------------------------------------------------------------------------------


def test_a_layer_by_its_name(model):
    np.testing.assert_allclose(model.predict(X, model="encode"), encoded(model, X), atol=1e-5)
    first = model.predict(X[:5], model="encode.dense1")
    np.testing.assert_allclose(first, dense(model, "encode_dense1", X[:5]), atol=1e-5)


def test_a_model_that_is_applied_once_by_the_name_of_its_definition(model):
    code = encoded(model, X)
    zero = np.zeros_like(code)
    for name in ("Decoder", "decoder1"):
        found = model.predict(code, zero, model=name)
        np.testing.assert_allclose(found, decoded(model, code), atol=1e-5)
    inner = model.predict(code[:5], model="decoder1_block2")
    expected = code[:5] + np.tanh(dense(model, "decoder1_block2_dense1", code[:5]))
    np.testing.assert_allclose(inner, expected, atol=1e-5)


def test_the_parts_are_the_whole(model):
    y = model.predict(X[:9], OTHER[:9])["y"]
    code = model.predict(X[:9], model="Encoder")
    parts = model.predict(code=code, noise=np.zeros((9, 2)), model="Decoder")
    np.testing.assert_allclose(parts, y, atol=1e-5)
    assert np.array_equal(y, model.predict(X[:9], OTHER[:9], model="Auto")["y"])


def test_a_part_is_loaded(folder, model):
    decoder = nnc.load(folder / "run", model="Decoder", threads=1)
    code, zero = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)
    assert np.array_equal(decoder.predict(code, zero), model.predict(code, zero, model="Decoder"))
    assert "E0707" in refused(lambda: nnc.load(folder / "run", model="Decodr"))


def test_another_model_has_the_parameters_of_its_names(model):
    found = model.predict(X, model="Codes")
    np.testing.assert_allclose(found["code"], encoded(model, X), atol=1e-5)
    # of all examples, whatever the batches
    np.testing.assert_allclose(found["middle"], encoded(model, X).mean(0), atol=1e-5)
    np.testing.assert_allclose(found["all"], encoded(model, X).mean(), atol=1e-5)
    said = refused(lambda: model.predict(X, model="Stranger"))
    assert "E0714 `Stranger` is no part of `Auto`" in said
    assert "`encode_dense2_w` [5, 4], which is [5, 2]" in said


def test_a_model_without_inputs(model):
    drawn = model.predict(model="Draws", seed=1)
    assert drawn.shape == (3, 4) and (drawn != model.predict(model="Draws", seed=2)).all()


# --- tensors --------------------------------------------------------------------------------------


def test_tensors_by_name(model):
    found = model.predict(x=X, tensor=["code", "twice", "encode.hidden", "encode_hidden"])
    np.testing.assert_allclose(found["code"], encoded(model, X), atol=1e-5)
    np.testing.assert_allclose(found["twice"], 2 * found["code"], atol=1e-6)
    hidden = np.tanh(dense(model, "encode_dense1", X))
    np.testing.assert_allclose(found["encode.hidden"], hidden, atol=1e-5)
    assert np.array_equal(found["encode.hidden"], found["encode_hidden"])


def test_parameters_and_inputs_are_tensors(model):
    w = model.predict(tensor="encode.dense1.w")
    assert np.array_equal(w, model.parameters["encode_dense1_w"])
    assert np.array_equal(model.predict(X, tensor="x"), X)


def test_a_tensor_of_a_part(model):
    code = encoded(model, X[:4])
    found = model.predict(code, np.zeros((4, 2)), model="Decoder", tensor="block1.dense1.y")
    np.testing.assert_allclose(found, dense(model, "decoder1_block1_dense1", code), atol=1e-5)
    assert np.allclose(model.predict(code, np.zeros((4, 2)), model="Decoder", tensor="seen"), code)


# --- random numbers -------------------------------------------------------------------------------


def test_a_seed_decides_what_is_drawn(model):
    code = np.zeros((600, 2), np.float32)
    one, two = (model.predict(code, model="Decoder", seed=seed) for seed in (1, 2))
    assert np.array_equal(one, model.predict(code, model="Decoder", seed=1))
    assert (one != two).any(1).all()
    assert np.array_equal(
        model.predict(code, model="Decoder"), model.predict(code, model="Decoder")
    )


def test_examples_draw_numbers_of_their_own_whatever_comes_after_them(model):
    code = np.zeros((600, 2), np.float32)
    drawn = model.predict(code, model="Decoder", seed=3)
    assert len(np.unique(drawn, axis=0)) == 600
    for count in (1, 30, 300):
        assert np.array_equal(model.predict(code[:count], model="Decoder", seed=3), drawn[:count])


# --- the command line -----------------------------------------------------------------------------


def test_the_command(predict, model):
    assert predict("--model Encoder --input x.npy --output code.npy")[0] == 0
    code = np.load("code.npy")
    assert np.array_equal(code, model.predict(X, model="Encoder"))
    assert predict("--model Decoder --input code.npy --output y.npy --seed 7")[0] == 0
    assert np.array_equal(np.load("y.npy"), model.predict(code, model="Decoder", seed=7))
    flags = "--tensor code --tensor encode.hidden --input x.npy"
    status, said = predict(f"{flags} --output both.npz")
    assert status == 0 and "encode.hidden: float32[600, 5] in both.npz" in said
    assert set(np.load("both.npz")) == {"code", "encode.hidden"}
    assert predict("--tensor encode_dense1_w --output w.npy")[0] == 0
    assert np.array_equal(np.load("w.npy"), model.parameters["encode_dense1_w"])


def test_rows_of_text(predict, model):
    expected = model.predict(X, OTHER)
    assert predict("--input all.npz --output y.csv")[0] == 0
    rows = list(csv.DictReader(Path("y.csv").read_text().splitlines()))
    assert list(rows[0]) == [*(f"y_{i}" for i in range(6)), "far"] and len(rows) == 600
    found = np.array([[row[f"y_{i}"] for i in range(6)] for row in rows], np.float32)
    assert np.array_equal(found, expected["y"])
    assert predict("--input all.npz --output y.jsonl")[0] == 0
    lines = [json.loads(line) for line in Path("y.jsonl").read_text().splitlines()]
    assert np.array_equal(np.array([line["y"] for line in lines], np.float32), expected["y"])
    assert np.array_equal(np.array([line["far"] for line in lines], np.float32), expected["far"])


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ("--input all.npz --output y.txt", "E0716", ".npy, .npz, .csv, .jsonl"),
        ("--input all.npz --output y.jsnl", "E0716", "did you mean `.jsonl`?"),
        ("--input all.npz --output y.npy", "E0716", "`y.npz` holds several"),
        ("--input x.npy --model Codes --output y.csv", "E0716", "`middle` [2]"),
        ("--input x.npy --model encod --output y", "E0707", "did you mean `encode`?"),
        ("--input x.npy --model Decodr --output y", "E0707", "did you mean `Decoder`?"),
        ("--input x.npy --model Block --output y", "E0707", "`decoder1_block1`, `decoder1_block2`"),
        ("--input x.npy --tensor cod --output y", "E0715", "did you mean `code`?"),
        ("--input x.npy --tensor nothing --output y", "E0715", "`y` [B, 6], "),
        ("--input x.npy --output y", "E0708", "`x`, `other`: x.npy holds one array"),
        ("--output y", "E0708", "has no `x` and no `other`"),
        ("--input x.npy --model decoder1 --output y", "E0708", "f32[B, 2]"),
        ("--input x.npy --model encode.dense2 --output y", "E0708", "the model takes [n, 5]"),
        ("--input x.npy --output y --seed -1", "", "--seed"),
    ],
)
def test_wrong_uses(predict, flags, code, said):
    status, error = predict(flags)
    assert status in (1, 2) and code in error and said in error
    assert not Path("y").exists()


# --- before training ------------------------------------------------------------------------------


@pytest.fixture
def fresh(folder) -> nnc.Model:
    return nnc.load(folder / "auto.nn", threads=1)


def test_predicting_before_training(folder, fresh):
    assert fresh.parameters == {}
    assert "init()" in refused(lambda: fresh.predict(X[:3], OTHER[:3]))
    drawn = fresh.init()
    before = fresh.predict(X[:3], OTHER[:3])["y"]
    assert {n: a.shape for n, a in drawn.items()} == {
        n: a.shape for n, a in nnc.load(folder / "run").parameters.items()
    }
    assert np.array_equal(
        nnc.load(folder / "auto.nn").init()["encode_dense1_w"], drawn["encode_dense1_w"]
    )
    assert before.shape == (3, 6)
    assert fresh.predict(X[:3], model="encode").shape == (3, 2)
    assert np.array_equal(fresh.init(X, OTHER)["encode_dense1_w"], drawn["encode_dense1_w"])
    assert not np.array_equal(fresh.init(seed=5)["encode_dense1_w"], drawn["encode_dense1_w"])


def test_training_goes_on_from_what_was_drawn(folder, fresh):
    drawn = fresh.init(seed=5)
    fresh.fit(steps=1)
    assert np.abs(fresh.parameters["encode_dense1_w"] - drawn["encode_dense1_w"]).max() < 0.02


def test_what_is_drawn_is_what_training_draws(folder, fresh):
    project = open_project(folder / "auto.nn")
    job = prepare(project, load_dataset(project, Search(None, folder)), DEVICES["cpu"](1))
    drawn, trained = fresh.init(), job.executor.weights()
    assert all(np.array_equal(drawn[n], a) for n, a in trained.items()) and len(drawn) == 10


def test_seeds_are_whole_numbers(fresh):
    for wrong in (-1, 1 << 31, 0.5):
        assert "E0703" in refused(lambda: fresh.init(seed=wrong))  # noqa: B023
        fresh.init()
        assert "E0703" in refused(lambda: fresh.predict(X, OTHER, seed=wrong))  # noqa: B023


def test_a_model_that_is_not_trained_at_all(tmp_path):
    (tmp_path / "m.nn").write_text("model M(x: f32[B, n]) -> y: f32[B, 2] { y = x |> Dense(2) }")
    model = nnc.load(tmp_path / "m.nn")
    model.init(X)
    np.testing.assert_allclose(model.predict(X), dense(model, "dense1", X), atol=1e-5)
    assert "E0316" in refused(lambda: nnc.load(tmp_path / "m.nn").init())


def test_loading_weights(folder, model, fresh):
    report = fresh.load_weights(folder / "run")
    assert report.is_complete and len(report.matched) == 10
    assert np.array_equal(fresh.predict(X, model="encode"), model.predict(X, model="encode"))
    before = fresh.init()
    given = {"x_dense1_w": model.parameters["encode_dense1_w"]}
    report = fresh.load_weights(given, partial=True, rename=("x", "encode"))
    assert report.matched == ("encode_dense1_w",) and len(report.missing) == 9
    assert np.array_equal(fresh.parameters["encode_dense1_w"], given["x_dense1_w"])
    assert np.array_equal(fresh.parameters["encode_dense2_w"], before["encode_dense2_w"])
    assert "E0714" in refused(lambda: fresh.load_weights(given))
    assert "E0706" in refused(lambda: fresh.load_weights(folder / "nothing"))


def test_names_of_arguments_that_are_inputs(model):
    assert "by its place" in refused(lambda: model.predict(X, model=X))


def test_sizes_that_the_model_was_not_trained_for(tmp_path):
    text = """model M(x: f32[B, T, 3]) -> y: f32[B, T, 2] {
        %s
        y = x |> RNN(4) |> Dense(2)
    }"""
    x = RNG.normal(size=(4, 9, 3)).astype("f4")
    (tmp_path / "m.nn").write_text(text % "")
    model = nnc.load(tmp_path / "m.nn", threads=1)
    model.init(x[:, :6])
    found = model.predict(x)
    assert found.shape == (4, 9, 2)
    np.testing.assert_allclose(found[:, :6], model.predict(x[:, :6]), atol=1e-6)
    positions = "param p: [T, 3] = 0\n z[b, t, i] = x[b, t, i] + p[t, i]"
    (tmp_path / "p.nn").write_text((text % positions).replace("y = x", "y = z"))
    model = nnc.load(tmp_path / "p.nn", threads=1)
    model.init(x)
    said = refused(lambda: model.predict(x[:, :6]))
    assert "E0714" in said and "`p` [6, 3], which is [9, 3]" in said
