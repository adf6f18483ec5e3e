"""`nnc export --as page`: in a headless Chromium a page draws, predicts, writes and learns, without
a network."""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, pi, sin
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, browser
from small_programs import DIGITS, write

import nnc
from nnc.runtime import cli

ZERO = [(0.5 + 0.2 * cos(t * pi / 8), 0.5 + 0.35 * sin(t * pi / 8)) for t in range(17)]
ONE = [(0.4, 0.3), (0.52, 0.15), (0.52, 0.5), (0.52, 0.85)]


@pytest.fixture(scope="module")
def chrome(tmp_path_factory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A model that has learnt, and its page."""
    model = nnc.loads(DIGITS.replace("epochs    = 2", "epochs    = 30"))
    model.fit()
    return model, model.export(tmp_path_factory.mktemp("digits") / "c", kinds="page")


def text(chrome: Browser, selector: str) -> str:
    return chrome.value(f"document.querySelector({selector!r}).textContent")


def test_a_digit_is_drawn_and_taught(chrome, digits):
    model, folder = digits
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "small.html"]
    chrome.open(folder / "small.html")
    assert "Draw something" in text(chrome, ".answer")
    chrome.draw(".pad", ZERO)
    assert text(chrome, ".answer").startswith("0 ")
    assert chrome.value("document.querySelectorAll('.bars li').length") == 10
    # The numbers are those of Python: the digit as the page sees it.
    image = np.array(chrome.value("Array.from(model.inputs.image)"), np.float32)
    assert image.max() > 0.8 and image.min() == 0
    found = np.array(chrome.value("Array.from(model.predict(model.inputs).logits)"))
    assert np.abs(found - model.predict(image.reshape(1, 8, 8, 1))[0]).max() < 2e-6
    # Without an answer there is nothing to learn.
    chrome.value("document.getElementById('teach').click()")
    assert "choose first: label" in text(chrome, "#notice")
    chrome.click("[data-name=label] label:nth-child(4)")
    chrome.click("#teach")
    assert text(chrome, "#notice") == ""
    assert text(chrome, ".answer").startswith("3 ")
    assert text(chrome, "#lesson").startswith("1 taught, ")
    chrome.click("#forget")
    assert text(chrome, ".answer").startswith("0 ")
    chrome.click("#clear")
    assert "Draw something" in text(chrome, ".answer")
    assert not chrome.errors
    assert chrome.requests == [(folder / "small.html").as_uri()]


def test_keys_draw_and_a_phone_has_room(chrome, digits):
    _, folder = digits
    chrome.open(folder / "small.html")
    chrome.value("document.querySelector('.pad').focus()")
    for key, count, draws in (("ArrowUp", 6, False), ("ArrowDown", 12, True)):
        for _ in range(count):
            chrome.key(key, draws)
    assert text(chrome, ".answer").startswith("1 ")
    chrome.key("Delete")
    assert "Draw something" in text(chrome, ".answer")
    chrome.resize(390, 844)
    assert chrome.value("document.documentElement.scrollWidth") == 390
    chrome.draw(".pad", ONE)
    assert text(chrome, ".answer").startswith("1 ")
    colours = []
    for scheme in ("light", "dark"):
        chrome.scheme(scheme)
        colours.append(chrome.value("getComputedStyle(document.body).backgroundColor"))
    chrome.scheme("light")
    chrome.resize(1280, 800)
    assert colours == ["rgb(246, 247, 249)", "rgb(16, 20, 26)"]
    assert not chrome.errors


PLAIN = """
model Plain(x: f32[B, 2], kind: i32[B]) -> y: f32[B, 2], sure: f32[B], p: f32[B, 4, 4, 1] {
    param table: [3] = 1.5
    param w: [2] = 2
    y[b, n] = w[n] * x[b, n] + table[kind[b]]
    sure[b] = y[b, 0] - y[b, 1]
    p[b, i, j, c] = x[b, 0] * i / 3
}

train Plain {
    input x: f32[B, 2]
    input kind: i32[B]
    input target: f32[B, 2]
    input right: f32[B]
    loss      = mse(y, target) + binary_cross_entropy_logits(sure, right)
    optimizer = sgd(lr = 0.1)
    batch     = 4
}
"""


def fill(chrome: Browser, selector: str, value: str) -> None:
    chrome.value(
        f"(() => {{ const e = document.querySelector({selector!r}); e.value = {value!r};"
        " e.dispatchEvent(new Event('input')); })()"
    )


def test_any_model_has_inputs_and_outputs(chrome, tmp_path):
    assert cli.run(["export", str(write(tmp_path, PLAIN, "plain.nn")), "--to",
                    str(tmp_path / "c"), "--as", "page", "--embed"]) == 0  # fmt: skip
    chrome.open(tmp_path / "c" / "plain.html")
    fill(chrome, "[data-name=x] input", "0.25")
    assert text(chrome, "table[data-name=y]") == "target[0]2target[1]1.5"
    assert text(chrome, "[data-name=sure]") == "yes 62.2 %"
    pixel = (
        "document.querySelector('canvas[data-name=p]').getContext('2d').getImageData(0, {}, 1, 1)"
    )
    shades = [chrome.value(pixel.format(row) + ".data[0]") for row in (0, 3)]
    assert shades in ([0, 63], [0, 64])
    fill(chrome, "[data-name=x] input", "")
    assert "is no number" in text(chrome, "#notice")
    fill(chrome, "[data-name=x] input", "0.25")
    assert text(chrome, "#notice") == ""
    for selector in ("[data-name=right] input", "#teach"):  # below what is shown
        chrome.value(f"document.querySelector({selector!r}).click()")
    assert "10 steps" in text(chrome, "#lesson")
    assert text(chrome, "table[data-name=y]") != "target[0]2target[1]1.5"
    assert not chrome.errors


STORY = "the cat and the <b>hat</b> sat on the mat. " * 40
WRITER = """
model Writer(token: i32[B, T]) -> logits: f32[B, T, 16] {
    logits = token |> Embedding(16, 8) |> LSTM(16) |> Dense(16)
}

train Writer {
    data      = text("story.txt", length = 16)
    loss      = cross_entropy(logits, target)
    optimizer = adam(lr = 1e-2)
    batch     = 4
    steps     = 5
}
"""


@pytest.mark.slow
def test_a_model_that_writes_goes_on_from_a_prompt(chrome, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(STORY)
    write(tmp_path, WRITER, "writer.nn")
    assert cli.run(["train", "writer.nn", "--out", "run"]) == 0
    assert cli.run(["export", "run", "--to", "c", "--as", "page"]) == 0
    capfd.readouterr()
    asked = ["--prompt", "the ", "--length", "50", "--temperature", "0"]
    assert cli.run(["generate", "run", *asked]) == 0
    expected = capfd.readouterr().out.rstrip("\n")
    chrome.open(tmp_path / "c" / "writer.html")
    assert chrome.value("document.getElementById('prompt').value") == "the "
    for name, value in (("temperature", "0"), ("count", "50")):
        chrome.value(f"document.getElementById({name!r}).value = {value!r}")
    chrome.click("#write")
    chrome.wait("document.getElementById('written').dataset.done === 'yes'")
    assert text(chrome, "#written") == expected
    chrome.value("document.getElementById('prompt').value = 'X'")
    chrome.click("#write")
    assert "“X” is not in the vocabulary" in text(chrome, "#notice")
    assert not chrome.errors
