"""Attributions: what each method computes, its check, what is written, and mistakes.

That the maps are those of Captum is tested in `test_attribution_captum.py`.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode

import numpy as np
import pytest
from browser import browser

import nnc
from nnc.runtime import cli
from nnc.runtime.inspect.attribution.attention_page import Text, attention_page
from nnc.runtime.inspect.attribution.checks import _turns as curve_turns
from nnc.runtime.inspect.attribution.checks import enlarged, rank_correlation
from nnc.runtime.inspect.attribution.pictures import draw_signal
from nnc.runtime.inspect.attribution.words import Words, words_line, words_page

LINEAR = """
model Line(x: f32[B, 4]) -> y: f32[B] {
    param w: [4] = 0
    y[b] = sum(i) w[i] * x[b, i]
}
"""
PRODUCT = """
model Product(x: f32[B, 3], z: f32[B, 3]) -> y: f32[B], both: f32[B, 2, 2] {
    y[b] = x[b, 0] * x[b, 1] + 2 * z[b, 2]
    both[b, i < 2, j < 2] = x[b, i] * z[b, j]
}
"""
W = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
X = np.array([[1, 2, 3, 4], [0, -1, 1, 2]], np.float32)


@pytest.fixture(scope="module")
def line():
    model = nnc.loads(LINEAR)
    model.init(X)
    model.parameters["w"] = W
    return model


@pytest.fixture(scope="module")
def digits():
    """A model of the digits, trained a little."""
    model = nnc.load("examples/cnn_digits.nn")
    model.fit(steps=60, verbose=False)
    return model


@pytest.fixture(scope="module")
def images():
    from nnc.runtime.data import Search, load

    test = load("digits", {}, Search(None, __import__("pathlib").Path())).test
    return np.asarray(test.arrays["image"][:4], np.float32) / 16


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    return digits.save(tmp_path_factory.mktemp("attribution") / "run")


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["integrated-gradients", "shapley", "occlusion"])
def test_a_linear_models_map_is_its_weights_times_the_change(line, method):
    found = line.attribute(X, method=method, baseline=1.0)
    np.testing.assert_allclose(found.values, W * (X - 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.scores, X @ W, rtol=1e-6)
    np.testing.assert_allclose(found.baseline_scores, W.sum() * np.ones(2), rtol=1e-6)
    if found.gaps is not None:
        assert (found.gaps < 1e-5).all()


def test_gradients_of_a_linear_model(line):
    np.testing.assert_allclose(line.attribute(X, method="saliency").values, np.abs(W) + 0 * X)
    np.testing.assert_allclose(line.attribute(X, method="input_x_gradient").values, W * X)
    smooth = line.attribute(X, method="SmoothGrad", samples=3, seed=4)
    np.testing.assert_allclose(smooth.values, W + 0 * X, rtol=1e-6)


def test_a_baseline_is_an_example_or_one_for_each(line):
    one, each = np.array([1, 1, 0, 0], np.float32), X[::-1]
    np.testing.assert_allclose(line.attribute(X, baseline=one).values, W * (X - one), rtol=1e-5)
    found = line.attribute(X, baseline=np.ascontiguousarray(each))
    np.testing.assert_allclose(found.values, W * (X - each), rtol=1e-5)


@pytest.mark.slow
def test_sampled_shapley_values_add_up_and_come_close_to_the_exact_ones():
    model = nnc.loads(PRODUCT)
    x, z = np.array([[2, 3, 1]], np.float32), np.ones((1, 3), np.float32)
    model.init(x, z)
    exact = model.attribute(x, z, method="shapley", result="y")
    np.testing.assert_allclose(exact.values, [[3, 3, 0]], atol=1e-6)
    sampled = model.attribute(x, z, method="shapley", result="y", samples=400)
    assert sampled.gaps[0] < 1e-6
    np.testing.assert_allclose(sampled.values, exact.values, atol=0.5)
    assert not np.array_equal(sampled.values, exact.values)


def test_another_input_and_a_place_of_a_result():
    model = nnc.loads(PRODUCT)
    x, z = np.array([[2, 3, 1]], np.float32), np.ones((1, 3), np.float32)
    model.init(x, z)
    found = model.attribute(x, z, at="z", result="y", method="saliency")
    np.testing.assert_allclose(found.values, [[0, 0, 2]])
    found = model.attribute(x, z, of="1,0", result="both", method="saliency")
    np.testing.assert_allclose(found.values, [[0, 1, 0]])
    assert found.of == ("both[1, 0]",)


def test_inputs_are_called_as_the_program_calls_its_own():
    """`x` is what is attributed to, another tensor here; `place` is that in a result."""
    model = nnc.loads("""
model M(x: f32[B, 3], place: f32[B, 3]) -> y: f32[B, 2] {
    h = tanh(x)
    y[b, k < 2] = sum(i) (k + 1) * x[b, i] * h[b, i] * place[b, i]
}
""")
    x, place = X[:, :3], np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    model.init(x, place)
    found = model.attribute(x, place, at="h", of=1, method="input-x-gradient", curves=True)
    np.testing.assert_allclose(found.values, 2 * x * np.tanh(x) * place, rtol=1e-5)
    np.testing.assert_allclose(found.scores, found.values.sum(axis=1), rtol=1e-5)
    found = model.attribute(x, place, at="place", of=0, method="input-x-gradient")
    np.testing.assert_allclose(found.values, x * np.tanh(x) * place, rtol=1e-5)


def test_weights_are_those_of_layers_with_similar_names():
    """The bias of `a` would be called `a_b`, as a layer is."""
    model = nnc.loads("""
model M(x: f32[B, 4]) -> y: f32[B] {
    a = Dense(1)
    a_b = Dense(5)
    h = x |> a_b |> a
    y[b] = h[b, 0]
}
""")
    model.init(X, seed=3)
    model.parameters["a_b_2"] = np.ones(1, np.float32)
    found = model.attribute(X)
    np.testing.assert_allclose(found.scores, model.predict(X), rtol=1e-6)
    assert (found.gaps < 1e-4).all()


def test_integrated_gradients_add_up_on_a_trained_network(digits, images):
    found = digits.attribute(images)
    assert found.values.shape == images.shape
    assert (found.gaps < 0.01).all()
    chosen = digits.predict(images).argmax(axis=1)
    assert found.of == tuple(map(str, chosen))
    np.testing.assert_allclose(found.scores, digits.predict(images).max(axis=1), rtol=1e-5)


def test_a_gap_is_warned_of(digits, images):
    with pytest.warns(nnc.ProgramWarning, match="does not add up"):
        digits.attribute(images, steps=1)


def test_a_map_that_is_not_finite_is_warned_of(line):
    with pytest.warns(nnc.ProgramWarning, match="1 of 2 maps have numbers that are not finite"):
        line.attribute(np.array([[1, 2, 3, np.inf], [0, 1, 2, 3]], np.float32))


def test_a_layer_is_attributed_to_as_the_gradient_of_what_follows_it(digits, images):
    """The number of a class is linear in what the last layer reads."""
    weights = digits.parameters["dense2.w"]
    found = digits.attribute(images, at="dense1", of=3, method="saliency")
    before = digits.predict(images, tensor="dense1")
    expected = np.where(before > 0, np.abs(weights[:, 3]), 0)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-6)


def test_grad_cam_takes_the_last_feature_map_by_default(digits, images):
    found = digits.attribute(images, method="grad-cam")
    named = digits.attribute(images, method="gradcam", at="maxpool1")
    np.testing.assert_array_equal(found.values, named.values)
    assert found.values.shape == (4, 4, 4)
    assert (found.values >= 0).all()


def test_maps_change_when_the_weights_are_drawn_anew(digits, images):
    found = digits.attribute(images, method="occlusion", randomise=True)
    assert list(found.randomised) == ["dense2", "dense1", "conv2", "conv1"]
    assert all(abs(value) < 0.7 for value in found.randomised.values())


def test_a_rank_correlation_is_spearmans():
    a = np.array([1.0, 3.0, 2.0, 5.0])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, np.array([0, 1, 1, 2.0])) == pytest.approx(0.9486833)
    assert rank_correlation(a, np.ones(4)) is None


# --- tokens ---------------------------------------------------------------------------------------

READER = """
model Reader(token: i32[B, 5], length: i32[B]) -> logits: f32[B, 5, 3] {
    words = token |> Embedding(7, 4)
    read = Attention(2, causal = true)(words, length) + words
    logits = read |> Attention(1) |> Dense(3)
}
train Reader {
    input next: i32[B, 5]
    loss      = cross_entropy(logits, next)
    optimizer = adam()
}
"""


@pytest.fixture(scope="module")
def reader():
    model = nnc.loads(READER)
    token = np.array([[1, 2, 3, 4, 5], [6, 5, 4, 0, 0]], np.int32)
    length = np.array([5, 3], np.int32)
    model.init(token, length, seed=2)
    return model, token, length


def test_tokens_are_attributed_to_by_their_embeddings(reader):
    model, token, length = reader
    found = model.attribute(token, length)
    nothing = model.predict(0 * token, length, tensor="embedding1")
    whole = model.attribute(token, length, at="embedding1", baseline=nothing)
    assert found.values.shape == (2, 5)
    assert (found.gaps < 0.01).all()
    np.testing.assert_allclose(found.values, whole.values.sum(axis=-1), rtol=1e-4, atol=1e-6)
    # of the last token of each text
    logits = model.predict(token, length)
    np.testing.assert_allclose(found.scores, logits[[0, 1], [4, 2]].max(axis=1), rtol=1e-5)


def test_a_position_depends_on_what_stands_before_it(reader):
    """The first block is causal; the second is not."""
    model, token, length = reader
    first = model.attribute(token, length, position=0, method="saliency", at="attention1")
    assert (first.values[:, 0] > 0).any()


def test_shapley_values_of_tokens(reader):
    model, token, length = reader
    found = model.attribute(token, length, method="shapley", samples=4, baseline=1)
    assert found.values.shape == (2, 5)
    change = found.scores - found.baseline_scores
    np.testing.assert_allclose(found.values.sum(axis=1), change, rtol=1e-4, atol=1e-6)


def test_attention_maps_are_found_by_what_they_are(reader):
    model, token, length = reader
    found = model.attribute(token, length, method="attention")
    assert [array.shape for array in found.values()] == [(2, 2, 5, 5), (2, 1, 5, 5)]
    for array in found.values():
        np.testing.assert_allclose(array.sum(axis=-1), 1, rtol=1e-5)
    causal = next(iter(found.values()))
    assert (np.triu(causal, 1) == 0).all()


def test_what_curves_measure(line):
    """Of a linear model they follow from its weights: elements go in the order of their values."""
    found = line.attribute(X[:1], curves=True)
    terms = np.sort((W * X[0])[::-1])[::-1]
    gone = np.arange(21)[:, None] >= np.arange(4) * 20 // 4 + 1
    for area, kept in ((found.deletion, ~gone), (found.insertion, gone)):
        curve = (terms * kept).sum(axis=1)
        np.testing.assert_allclose(area, ((curve[1:] + curve[:-1]) / 2).mean(), rtol=1e-5)


def test_curves_of_tokens_leave_padding_alone(reader):
    model, token, length = reader
    found = model.attribute(token, length, curves=True)
    alone = model.attribute(token[1:], length[1:], curves=True)
    assert ((found.deletion > 0) & (found.deletion < 1)).all()
    np.testing.assert_allclose(found.insertion[1:], alone.insertion, rtol=1e-5)
    turns = curve_turns(np.broadcast_to(found.values[1][:, None], (5, 4)), 3)
    assert sorted(turns[:3, 0]) == [1, 7, 14]
    assert (turns[3:] == 21).all()


@pytest.mark.slow
def test_curves_of_a_tensor_inside(reader):
    model, token, length = reader
    found = model.attribute(token, length, at="attention1", method="saliency", curves=True)
    assert ((found.deletion > 0) & (found.deletion < 1)).all()


def test_attention_is_shown_as_a_page():
    weights = np.array([[[1, 0, 0], [0.25, 0.75, 0], [0.2, 0.3, 0.5]]] * 2, np.float32)
    text = Text(("</script>", "b"), 3, "")
    page = attention_page({"block1_y": weights, "block2_y": weights[:1]}, [text], "a < b")
    assert "<title>a &lt; b: attention</title>" in page
    assert page.count("</script>") == 2  # a token does not end an element
    (given,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page)
    first, second = json.loads(given)["maps"]
    assert (first["name"], first["heads"], second["name"], second["heads"]) == (
        "block1", 2, "block2", 1
    )  # fmt: skip
    assert first["keyTexts"] == ["</script>", "b"]
    assert first["same"]
    # without padding, bytes of which 255 is the largest weight
    bytes = np.frombuffer(b64decode(first["weights"]), np.uint8).reshape(2, 2, 2)
    assert bytes[0].tolist() == [[255, 0], [64, 191]]


def test_the_page_of_attention_is_driven(tmp_path):
    weights = np.random.default_rng(0).dirichlet(np.ones(3), (1, 2, 3))[0].astype(np.float32)
    page = attention_page({"w": weights}, [Text(("ab", "c", "d"), 3, " ")], "text")
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    with browser(tmp_path / "profile") as driven:
        driven.open(tmp_path / "a.html")
        status = "document.getElementById('status').textContent"
        assert driven.value(status).startswith("“d” (2) attends to")
        driven.click("#maps button:last-child")
        driven.point("[data-query='0']")
        best = ("ab", "c", "d")[weights[1, 0].argmax()]
        assert driven.value(status).startswith(f"“ab” (0) attends to “{best}”")
        driven.key("ArrowDown")
        assert driven.value(status).startswith("“c” (1)")
        assert not driven.errors


# --- files and the command line -------------------------------------------------------------------


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_command_writes_maps_and_says_how_good_they_are(run, tmp_path, capsys):
    pytest.importorskip("PIL", reason="maps are drawn with Pillow")
    to = tmp_path / "maps"
    command = ["attribute", str(run), "--example", "3", "--example", "5", "--to", str(to)]
    assert cli.run(command) == 0
    first, second = lines(capsys)
    assert first["method"] == "integrated-gradients"
    assert first["gap"] < 0.01
    assert first["deletion"] < first["insertion"]
    assert second["input"] == "test 5"
    assert sorted(path.name for path in to.iterdir()) == [
        "attributions.jsonl", "test-3.npy", "test-3.png", "test-5.npy", "test-5.png"
    ]  # fmt: skip
    values = np.load(to / "test-3.npy")
    assert values.shape == (8, 8, 1)
    assert values.sum() == pytest.approx(first["sum"], rel=1e-4)
    from PIL import Image

    picture = np.asarray(Image.open(to / "test-3.png"), np.int64)
    assert picture.shape == (320, 976, 3)
    # where the value is largest the heat map is red
    row, column = np.unravel_index(values[..., 0].argmax(), (8, 8))
    red, _, blue = picture[row * 40 + 20, 328 + column * 40 + 20]
    assert red > blue + 60


@pytest.mark.slow
def test_arrays_are_given_as_to_predict_and_maps_are_printed(run, tmp_path, capsys, images):
    np.save(tmp_path / "x.npy", images[:2])
    command = ["attribute", str(run), "--input", str(tmp_path / "x.npy"), "--method", "saliency"]
    assert cli.run([*command, "--of", "7", "--randomise"]) == 0
    found = lines(capsys)
    assert [one["of"] for one in found] == ["7", "7"]
    assert np.shape(found[0]["map"]) == (8, 8, 1)
    assert "gap" not in found[0]
    assert list(found[0]["randomised"]) == ["dense2", "dense1", "conv2", "conv1"]


@pytest.mark.slow
def test_columns_of_a_table_have_values_by_name(tmp_path, capsys):
    rows = ["size,kind,price"]
    rows += [f"{n % 7},{'abc'[n % 3]},{n % 7 + 5 * (n % 3)}" for n in range(60)]
    (tmp_path / "houses.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "houses.nn").write_text("""
model Houses(x: f32[B, n]) -> price: f32[B] {
    h = x |> Dense(1)
    price[b] = h[b, 0]
}
train Houses {
    data      = csv("houses.csv", target = "price", categories = ["kind"])
    loss      = mse(price, y)
    optimizer = adam(lr = 0.1)
    epochs    = 3
}
""")
    assert cli.run(["train", str(tmp_path / "houses.nn"), "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "new.csv").write_text("\n".join(rows[:2]) + "\n")
    command = ["attribute", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--method"]
    capsys.readouterr()
    assert cli.run([*command, "shapley"]) == 0
    (found,) = lines(capsys)
    assert list(found["attributions"]) == ["size", "kind"]
    assert sum(found["attributions"].values()) == pytest.approx(
        found["score"] - found["baseline_score"], rel=1e-4
    )
    assert cli.run([*command, "ig"]) == 0
    names = ["size", "kind is a", "kind is b", "kind is c"]
    assert list(lines(capsys)[0]["attributions"]) == names


def test_a_signal_is_drawn_over_the_colours_of_its_values():
    x = np.sin(np.arange(30, dtype=np.float32))
    values = np.zeros(30, np.float32)
    values[7], values[20] = 1, -0.5
    drawn = draw_signal(x, values, "why < how")
    assert drawn.count("<rect") == 3 and drawn.count("<polyline") == 1
    assert "why &lt; how" in drawn
    assert "rgb(214,40,40)" in drawn and "rgb(31,90,199)" in drawn


def test_words_are_a_page_of_their_own():
    words = Words(("a", "<b>", "c"), np.array([0.0, 2.0, -1.0]), " ")
    page = words_page(words, "it", [("of", "good & bad")])
    assert "&lt;b&gt;" in page and "good &amp; bad" in page and "<b>" not in page
    assert page.count("<span") == 3
    assert words_line(words).startswith("a ")


def test_a_map_of_places_is_judged_at_the_images_elements():
    large = enlarged(np.arange(4.0).reshape(2, 2), (4, 6, 1))
    assert large.shape == (4, 6, 1)
    np.testing.assert_array_equal(large[:, :, 0][::2, ::3], [[0, 1], [2, 3]])


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "code", "says"),
    [
        ({"method": "salency"}, "E0750", "did you mean `saliency`?"),
        ({"method": "lime"}, "E0750", "there are saliency, input-x-gradient"),
        ({"at": "conv3"}, "E0715", "did you mean `conv2`?"),
        ({"at": "nothing"}, "E0715", "`conv1` [B, 8, 8, 16]"),
        ({"at": "conv1_k"}, "E0750", "real numbers for each"),
        ({"of": 12}, "E0750", "`logits` has no class `12`"),
        ({"of": "1,2"}, "E0750", "no place 1,2"),
        ({"result": "logit"}, "E0750", "did you mean `logits`?"),
        ({"position": 2}, "E0750", "no positions"),
        ({"steps": 0}, "E0750", "`steps` is at least 1"),
        ({"baseline": np.zeros((3, 3))}, "E0750", "the baseline is float64[3, 3]"),
        ({"baseline": float("nan")}, "E0750", "not finite"),
        ({"baseline": "blurr"}, "E0750", "did you mean `blur`?"),
        ({"method": "occlusion", "window": 9}, "E0750", "does not fit 8×8×1"),
        ({"method": "shapley", "features": np.zeros((2, 2), int)}, "E0750", "the features are"),
        ({"method": "attention"}, "E0750", "has no attention"),
    ],
)
def test_wrong_wishes(digits, images, wish, code, says):
    with pytest.raises(nnc.UserError) as error:
        digits.attribute(images[:1], **wish)
    assert error.value.diagnostics[0].code == code
    assert says in str(error.value)


def test_a_model_without_classes_needs_a_place():
    model = nnc.loads("model M(x: f32[B, 3]) -> y: f32[B, 3] { y = 2*x }")
    model.init(X[:, :3])
    with pytest.raises(nnc.UserError, match="no classes"):
        model.attribute(X[:, :3])
    found = model.attribute(X[:, :3], of=1)
    np.testing.assert_allclose(found.values, [[0, 4, 0], [0, -2, 0]], atol=1e-6)


def test_a_model_of_whole_numbers_without_an_embedding_is_refused():
    model = nnc.loads("model M(k: i32[B, 3]) -> y: f32[B] { y[b] = sum(i) f32(k[b, i]) }")
    model.init(np.ones((1, 3), np.int32))
    with pytest.raises(nnc.UserError, match="no input of real numbers and no embedding"):
        model.attribute(np.ones((1, 3), np.int32))


def test_a_model_of_a_fixed_number_of_examples_is_refused():
    model = nnc.loads("model M(x: f32[2, 3]) -> y: f32[2] { y[b] = sum(i) x[b, i]^2 }")
    model.init(np.ones((2, 3), np.float32))
    with pytest.raises(nnc.UserError, match="fixed number of examples"):
        model.attribute(np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give an INPUT"),
        (["--example", "9999"], "no example 9999 in the test data"),
        (["--example", "0", "--baseline", "zeros"], "did you mean `zero`?"),
        (["--example", "0", "x.npy"], "not both"),
        (["--example", "0", "--window", "a"], "is not a size"),
        (["--example", "0", "--method", "saliency", "--steps", "5"], "saliency has no --steps"),
        (["--example", "0", "--method", "attention", "--randomise"], "has no --randomise"),
    ],
)
def test_wrong_command_lines(run, capsys, arguments, says):
    assert cli.run(["attribute", str(run), *arguments]) in (1, 2)
    assert says in capsys.readouterr().err
