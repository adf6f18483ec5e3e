"""Predictions of any number of examples: one program, and each example has the bits that it has
alone."""

from __future__ import annotations

import numpy as np
import pytest
from small_programs import DIGITS, write

import nnc
from nnc.dsl.diagnostics.diagnostic import UserError

CENTRED = (
    DIGITS.replace("Flatten |>", "Flatten |> Centred |>")
    + """
layer Centred()(x: [b, n]) -> y: [b, n] { y[b, i] = x[b, i] - (mean(c) x[c, i]) }
"""
)
WORDS = """
model Words(token: i32[B, 6], length: i32[B]) -> y: f32[B, 3] {
    e = token |> Embedding(9, 8)
    last[b, j] = e[b, length[b] - 1, j]
    y = last |> Dense(3)
}
train Words {
    loss      = mean((y - want)^2)
    optimizer = sgd(lr = 0.1)
    batch     = 8
}
"""


@pytest.fixture
def images():
    return np.random.default_rng(0).random((130, 8, 8, 1), np.float32)


def fitted(path, *arrays, threads=1, **settings):
    model = nnc.load(path, threads=threads, settings=settings)
    model.fit(*arrays, epochs=1)
    return model


@pytest.mark.parametrize("threads", [1, 2])
def test_no_new_size_is_compiled(tmp_path, images, compiled, threads):
    model = fitted(write(tmp_path), images, np.arange(130) % 10, threads=threads, batch=32)
    whole = model.predict(images)
    before = len(compiled)
    for size in (*range(1, 50), 64, 129):
        found = model.predict(images[-size:])
        assert np.array_equal(found, whole[-size:])
    assert len(compiled) == before


def test_examples_that_depend_on_each_other_are_predicted_together(tmp_path, images, compiled):
    model = fitted(write(tmp_path, CENTRED), images, np.arange(130) % 10, batch=32)
    weights = model.parameters
    for size in (5, 40):
        given = images[:size]
        flat = given.reshape(size, 64)
        hidden = np.maximum((flat - flat.mean(0)) @ weights["dense1_w"] + weights["dense1_b"], 0)
        meant = hidden @ weights["dense2_w"] + weights["dense2_b"]
        np.testing.assert_allclose(model.predict(given), meant, rtol=1e-4, atol=1e-5)
    assert len({system.tensors["logits"].shape for system in compiled if not system.updates}) >= 2


def test_integers_are_checked_for_the_examples_that_there_are(tmp_path):
    token, length = np.arange(60).reshape(10, 6) % 9, 1 + np.arange(10) % 6
    model = fitted(write(tmp_path, WORDS), token, length, np.zeros((10, 3)))
    whole = model.predict(token, length)
    wrong = length.copy()
    wrong[2] = 9
    with pytest.raises(UserError) as caught:
        model.predict(token, wrong)
    assert "`length[b] - 1` is 8" in str(caught.value)
    # What the refused call has left does not matter to the next one.
    assert np.array_equal(model.predict(token[:2], length[:2]), whole[:2])
    token[1, 0] = 9
    with pytest.raises(UserError):
        model.predict(token[:2], length[:2])
    assert np.array_equal(model.predict(token[:1], length[:1]), whole[:1])
