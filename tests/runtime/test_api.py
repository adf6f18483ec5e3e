"""`nnc.load`: arrays in, arrays out, and one clear message where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from small_programs import write

import nnc
from nnc.dsl.diagnostics.diagnostic import UserError


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 10, 130)
    return np.eye(64)[label * 6].reshape(130, 8, 8, 1), label


def test_fit_predict_evaluate(tmp_path, arrays):
    model = nnc.load(write(tmp_path), threads=1)
    history = model.fit(*arrays, epochs=6, batch=32)
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["loss"] < history[0]["loss"]
    logits = model.predict(arrays[0])
    assert logits.shape == (130, 10) and logits.dtype == np.float32
    found = model.evaluate(image=arrays[0], label=arrays[1])
    assert found["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == arrays[1]))
    assert model.parameters["dense1_w"].shape == (64, 12)


def test_evaluate_before_fit(tmp_path, arrays):
    one, two = nnc.load(write(tmp_path), threads=1), nnc.load(write(tmp_path), threads=1)
    two.init(arrays[0])  # which knows of no labels
    assert one.evaluate(*arrays) == two.evaluate(*arrays)


def test_fit_goes_on_and_repeats(tmp_path, arrays):
    one, two = nnc.load(write(tmp_path), threads=1), nnc.load(write(tmp_path), threads=1)
    one.fit(*arrays, epochs=1)
    before = one.parameters
    two.fit(*arrays, epochs=1)
    assert all(np.array_equal(before[n], two.parameters[n]) for n in before)
    assert one.fit(*arrays, epochs=1)[0]["loss"] < two.fit(*arrays, epochs=1, seed=5)[0]["loss"] + 1
    assert not np.array_equal(before["dense2_b"], one.parameters["dense2_b"])


def test_fit_without_arrays_reads_the_data_of_the_program(tmp_path):
    model = nnc.load(write(tmp_path), settings={"optimizer.lr": 0.02, "shuffle": False})
    assert "test_accuracy" in model.fit(epochs=1)[0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda x, y: (x, y + 1), "E0606"),
        (lambda x, y: (x, y[:-1]), "E0607"),
        (lambda x, y: (x[:, :7], y), "E0408"),
        (lambda x, y: (x, y, y), "E0708"),
        (lambda x, y: (x.astype(str), y), "E0708"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, change, code):
    with pytest.raises(UserError) as caught:
        nnc.load(write(tmp_path)).fit(*change(*arrays))
    assert caught.value.diagnostics[0].code == code


def test_predict_says_both_shapes(tmp_path, arrays):
    model = nnc.load(write(tmp_path))
    with pytest.raises(UserError, match="no parameters yet"):
        model.predict(arrays[0])
    model.fit(*arrays, epochs=1)
    with pytest.raises(UserError) as caught:
        model.predict(arrays[0][:, :, 0])
    assert "[130, 8, 1]" in str(caught.value) and "f32[B, 8, 8, 1]" in str(caught.value)
