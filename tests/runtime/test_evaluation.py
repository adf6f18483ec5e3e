"""`nnc eval`: what a model gets right and wrong, on a terminal and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pseudo_terminal import at_terminal, plain
from small_programs import DIGITS, write

from nnc.runtime import cli
from nnc.runtime.commands import evaluation_tables
from nnc.runtime.inspect.classification import (
    BINS,
    Classification,
    joined,
    of_logits,
    of_probabilities,
)
from nnc.runtime.inspect.labels import LabelSets, joined_sets
from nnc.runtime.inspect.residuals import QUANTILES, Residuals

CALIBRATED = DIGITS.replace(
    "    optimizer", "    metric ece = calibration_error(logits, label)\n    optimizer"
)
TABLE = """
model M(x: f32[B, 2]) -> RESULT {
    BODY
}
train M {
    data      = csv("rows.csv", target = "TARGET", test = 0.25)
    loss      = LOSS
    optimizer = adam(lr = 0.05)
    batch     = 16
    epochs    = 3
}
"""
TEXT = """
model M(token: i32[B, T]) -> logits: f32[B, T, 32] {
    logits = token |> Embedding(32, 4) |> Dense(32)
}
train M {
    data       = text("words.txt", length = 8)
    loss       = cross_entropy(logits, target)
    optimizer  = adam(lr = 0.01)
    batch      = 8
    steps      = 5
}
"""


def table(result: str, body: str, target: str, loss: str) -> str:
    words = {"RESULT": result, "BODY": body, "TARGET": target, "LOSS": loss}
    text = TABLE
    for word, value in words.items():
        text = text.replace(word, value)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs of a classifier of images, of one with names and two classes, of a yes or no, of
    numbers, and of a model of text."""
    path = tmp_path_factory.mktemp("evaluation")
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(80, 2))
    lines = ["a,b,kind,yes,price"]
    for a, b in rows:
        kind = ("apple", "a pear of a very long name")[int(a + b > 0)]
        lines.append(f"{a:.4f},{b:.4f},{kind},{int(a > 0)},{2 * a - b:.4f}")
    text = "\n".join(lines)
    for target in ("kind", "yes", "price"):  # the other targets are no inputs
        keep = [0, 1, lines[0].split(",").index(target)]
        own = "\n".join(",".join(np.array(line.split(","))[keep]) for line in text.splitlines())
        (path / target).mkdir()
        (path / target / "rows.csv").write_text(own + "\n")
    (path / "text").mkdir()
    (path / "text" / "words.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30)
    logits = "logits: f32[B, 2]"
    number = "guess: f32[B]", "h = x |> Dense(1)\n    guess[b] = h[b, 0]"
    programs = {
        "digits": CALIBRATED,
        "kind": table(logits, "logits = x |> Dense(2)", "kind", "cross_entropy(logits, y)"),
        "yes": table(*number, "yes", "binary_cross_entropy_logits(guess, y)"),
        "price": table(*number, "price", "mse(guess, y)"),
        "text": TEXT,
    }
    for name, program in programs.items():
        (path / name).mkdir(exist_ok=True)
        file = write(path / name, program)
        arguments = ["train", str(file), "--out", str(path / name / "run")]
        assert cli.run([*arguments, "--epochs", "2"]) == 0, name
    return path


@pytest.fixture
def evaluated(folder, monkeypatch, capfd):
    """What `nnc eval` of a run prints in a pipe, which is one JSON object and nothing else."""

    def call(name: str, *options: str) -> dict:
        monkeypatch.chdir(folder / name)
        code = cli.run(["eval", "run", *options])
        out, err = capfd.readouterr()
        assert (code, err) == (0, "") and out.count("\n") == 1
        return json.loads(out)

    return call


# --- JSON -----------------------------------------------------------------------------------------


def test_classes(evaluated) -> None:
    found = evaluated("digits", "--worst", "5")
    report = found["reports"]["test"]
    matrix = np.array(report["confusion_matrix"])
    assert report["kind"] == "classification" and report["classes"] == [*"0123456789"]
    assert matrix.sum() == report["examples"] == 359
    # Two ways to the same figures: the library's metrics over the set, and the report.
    assert np.trace(matrix) / 359 == pytest.approx(found["test_accuracy"])
    error = report["calibration"]["expected_calibration_error"]
    assert error == pytest.approx(found["test_ece"], abs=1e-6)
    losses = [one["loss"] for one in report["worst"]]
    assert len(losses) == 5 and losses == sorted(losses, reverse=True)
    assert all(-np.log(1 - one["probability"]) <= one["loss"] * 1.001
               for one in report["worst"] if one["true"] != one["predicted"])  # fmt: skip
    assert sum(row["support"] for row in report["per_class"]) == 359


def test_worst_examples_are_those_of_the_data(evaluated, folder) -> None:
    """By predicting with the model again."""
    import nnc
    from nnc.runtime.data.sets import digits

    (one,) = evaluated("digits", "--worst", "1")["reports"]["test"]["worst"]
    model = nnc.load(folder / "digits" / "run")
    from nnc.runtime import data

    dataset = data.load("digits", {}, data.Search(None, Path(), offline=True))
    assert digits and dataset.test is not None
    image = dataset.test.arrays["image"][one["index"]].astype(np.float32)
    image = image * dataset.test.scale.get("image", 1.0)
    logits = model.predict(image[None].astype(np.float32))[0].astype(np.float64)
    label = int(dataset.test.arrays["label"][one["index"]])
    assert (str(label), str(logits.argmax())) == (one["true"], one["predicted"])
    loss = np.log(np.exp(logits).sum()) - logits[label]
    assert loss == pytest.approx(one["loss"], rel=1e-5)


def test_classes_with_names(evaluated) -> None:
    report = evaluated("kind")["reports"]["test"]
    assert sorted(report["classes"]) == ["a pear of a very long name", "apple"]
    assert report["examples"] == 20 and report["worst"][0]["true"] in report["classes"]


def test_a_yes_or_no(evaluated) -> None:
    found = evaluated("yes")
    report = found["reports"]["test"]
    assert report["classes"] == ["0", "1"] and len(report["confusion_matrix"]) == 2
    assert report["calibration"]["bins"]


def test_numbers(evaluated) -> None:
    found = evaluated("price")
    report = found["reports"]["test"]
    (output,) = report["outputs"]
    assert report["kind"] == "regression" and output["name"] == "price"
    assert output["rmse"] ** 2 == pytest.approx(found["test_loss"], rel=1e-5)
    assert list(output["residuals"]) == ["0%", "5%", "25%", "50%", "75%", "95%", "100%"]
    first = report["worst"][0]
    assert first["error"] == pytest.approx(abs(first["true"] - first["predicted"]), rel=1e-5)


def test_text(evaluated) -> None:
    found = evaluated("text")
    report = found["reports"]["validation"]
    assert report["kind"] == "tokens"
    assert report["perplexity"] == pytest.approx(np.exp(found["validation_loss"]))
    assert report["bits_per_token"] == pytest.approx(found["validation_loss"] / np.log(2))


ONE_HOT = """
model M(x: f32[B, 2]) -> logits: f32[B, 3] { logits = x |> Dense(3) }
train M {
    data      = npy(x = "x.npy", label = "LABELS")
    loss      = LOSS
    optimizer = sgd(lr = 0.1)
    epochs    = 1
    validation = 0.5
}
"""


@pytest.mark.parametrize("form", ["one_hot", "ignored", "other"])
def test_other_forms_of_labels(form: str, tmp_path, monkeypatch, capfd) -> None:
    """One 1 among zeros; -100 for none; and a target that is no field has no report."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 3, 40).astype(np.int32)
    np.save("x.npy", generator.normal(size=(40, 2)).astype(np.float32))
    labels, loss = {
        "one_hot": (np.eye(3, dtype=np.float32)[classes], "cross_entropy_onehot(logits, label)"),
        "ignored": (np.where(np.arange(40) % 2, -100, classes).astype(np.int32),
                    "cross_entropy_ignoring(logits, label)"),
        "other": (classes, "cross_entropy(logits, label % 3)"),
    }[form]  # fmt: skip
    np.save("labels.npy", labels)
    write(tmp_path, ONE_HOT.replace("LABELS", "labels.npy").replace("LOSS", loss))
    assert cli.run(["train", "small.nn", "--out", "run"]) == 0
    capfd.readouterr()
    assert cli.run(["eval", "run"]) == 0
    found = json.loads(capfd.readouterr().out)
    if form == "other":
        assert list(found) == ["validation_loss"]
        return
    report = found["reports"]["validation"]
    if form == "one_hot":
        assert report["examples"] == 20
    assert report["examples"] == np.sum(report["confusion_matrix"]) > 0
    assert all(one["true"] in "012" for one in report["worst"])


SEQUENCE = """
model M(x: f32[B, T, 2]) -> logits: f32[B, T, 3] { logits = x |> Dense(3) }
train M {
    data      = npy(x = "x.npy", label = "labels.npy")
    loss      = LOSS
    optimizer = sgd(lr = 0.1)
    epochs    = 1
}
"""


@pytest.mark.parametrize("loss", ["cross_entropy(logits, label)", "logits |> cross_entropy(label)"])
def test_several_labels_of_an_example(loss: str, tmp_path, monkeypatch, capfd) -> None:
    """Each position counts, under the number of its example."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.save("x.npy", generator.normal(size=(12, 5, 2)).astype(np.float32))
    np.save("labels.npy", generator.integers(0, 3, (12, 5)).astype(np.int32))
    write(tmp_path, SEQUENCE.replace("LOSS", loss))
    assert cli.run(["train", "small.nn", "--out", "run"]) == 0
    capfd.readouterr()
    assert cli.run(["eval", "run", "--worst", "60"]) == 0
    found = json.loads(capfd.readouterr().out)
    report = found["reports"]["train"]
    assert report["kind"] == "classification" and report["examples"] == 60
    worst = report["worst"]
    assert {one["index"] for one in worst} == set(range(12))
    assert np.mean([one["loss"] for one in worst]) == pytest.approx(found["loss"], rel=1e-5)


TAGS = """
model M(x: f32[B, 2]) -> logits: f32[B, 3] { logits = x |> Dense(3) }
train M {
    data      = csv("t.csv", target = ["cat", "dog", "emu"], labels = false, test = 0)
    loss      = binary_cross_entropy(logits, y)
    optimizer = sgd(lr = 0.5)
    epochs    = 3
}
"""


def test_several_yes_or_no_of_an_example(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    has = np.stack([x[:, 0] > 0, x[:, 1] > 0.5, x.sum(1) > 9], 1).astype(int)  # no emu at all
    rows = [",".join(map(str, (*a, *b))) for a, b in zip(x, has, strict=True)]
    Path("t.csv").write_text("\n".join(["a,b,cat,dog,emu", *rows]) + "\n")
    write(tmp_path, TAGS)
    assert cli.run(["train", "small.nn", "--out", "run"]) == 0
    capfd.readouterr()
    assert cli.run(["eval", "run", "--worst", "60"]) == 0
    measured = json.loads(capfd.readouterr().out)
    found = measured["reports"]["train"]
    assert (found["kind"], found["labels"]) == ("labels", ["cat", "dog", "emu"])
    cat, _, emu = found["per_label"]
    assert cat["label"] == "cat" and cat["auc"] > 0.8 and cat["support"] > 0
    assert (emu["auc"], emu["recall"], emu["support"]) == (None, 0, 0)
    assert np.mean([one["loss"] for one in found["worst"]]) == pytest.approx(
        measured["loss"], rel=1e-5
    )
    worst = found["worst"][0]
    assert worst["true"] == [
        n for n, one in zip(("cat", "dog", "emu"), has[worst["index"]], strict=True) if one
    ]
    text = plain(at_terminal(["eval", "run"], tmp_path, 60))
    assert "micro mean" in text and "macro mean" in text and "AUC" in text
    assert all(len(line) <= 60 for line in text.splitlines())


def test_a_yes_or_no_for_each_pixel(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.save("x.npy", generator.normal(size=(12, 4, 5)).astype(np.float32))
    np.save("mask.npy", generator.integers(0, 2, (12, 4, 5)).astype(np.int32))
    program = """
model M(x: f32[B, 4, 5]) -> p: f32[B, 4, 5] {
    param w: [] = 1
    p = sigmoid(w*x)
}
train M {
    data      = npy(x = "x.npy", mask = "mask.npy")
    loss      = brier(p, mask)
    optimizer = sgd(lr = 0)
    epochs    = 1
}
fn brier(probability, target) = mean((probability - target)^2)
"""
    write(tmp_path, program)
    assert cli.run(["train", "small.nn", "--out", "run"]) == 0
    capfd.readouterr()
    assert cli.run(["eval", "run"]) == 0
    report = json.loads(capfd.readouterr().out)["reports"]["train"]
    assert (report["kind"], report["examples"]) == ("classification", 240)
    assert np.sum(report["confusion_matrix"]) == 240


# --- on a terminal --------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal_shows_tables_once(folder, columns: int) -> None:
    text = at_terminal(["eval", "run"], folder / "digits", columns)
    lines = plain(text).splitlines()
    assert max(map(len, lines)) <= columns
    assert "\x1b[1m" in text and "{" not in text
    for part in ("confusion matrix", "classes", "calibration", "worst examples"):
        assert sum(line.startswith(part) for line in lines) == 1, part
    # Numbers are whole: four digits behind the point of the loss, three of F1.
    assert sum("macro mean" in line and line.count(".") == 3 for line in lines) == 1
    assert plain(text).count("accuracy") == 1


def test_json_on_a_terminal(folder) -> None:
    text = at_terminal(["eval", "run", "--json"], folder / "digits")
    assert json.loads(text)["reports"]["test"]["examples"] == 359


def test_long_names_are_shortened(folder) -> None:
    lines = plain(at_terminal(["eval", "run"], folder / "kind", 40)).splitlines()
    assert max(map(len, lines)) <= 40 and any("…" in line for line in lines)


@pytest.mark.parametrize("name", ["price", "text"])
def test_numbers_and_text_on_a_terminal(folder, name: str) -> None:
    text = plain(at_terminal(["eval", "run"], folder / name, 40))
    assert max(map(len, text.splitlines())) <= 40
    assert {"price": "R²", "text": "perplexity"}[name] in text


def test_a_thousand_classes_are_shortened(monkeypatch, capsys) -> None:
    generator = np.random.default_rng(0)
    labels, guesses = generator.integers(0, 1000, (2, 5000))
    guesses[:4000] = labels[:4000]
    names = [f"class {k}" for k in range(1000)]
    found = Classification("label", names, np.arange(5000), labels, guesses)
    monkeypatch.setattr(evaluation_tables, "screen_width", lambda: 40)
    evaluation_tables.print_tables({"test": {"accuracy": 0.8}}, {"test": found}, 3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 40
    assert "most frequent mistakes" in lines and "confusion matrix" not in "".join(lines)
    text = json.dumps(found.plain(3))
    assert "confusion_matrix" not in text and len(found.plain(3)["confusions"]) == 20


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_of_the_worst(folder, monkeypatch, capfd) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(folder / "digits")
    assert cli.run(["eval", "run", "--worst", "6", "--pictures", "worst.png"]) == 0
    assert "worst.png" in capfd.readouterr().err
    with image.open("worst.png") as picture:
        assert picture.format == "PNG" and picture.width > picture.height > 300
    assert cli.run(["eval", "run", "--pictures", "worst.gif"]) == 1
    assert "E0716" in capfd.readouterr().err
    monkeypatch.chdir(folder / "price")
    assert cli.run(["eval", "run", "--pictures", "worst.png"]) == 1
    assert "`x` are none" in capfd.readouterr().err


# --- figures, by their definitions ----------------------------------------------------------------


def test_figures_of_classes() -> None:
    generator = np.random.default_rng(3)
    labels, guesses = generator.integers(0, 4, (2, 60))
    guesses[labels == 2] = 1  # a class that is never right
    found = Classification("y", [*"abcd"], np.arange(60), labels, guesses)
    for k, row in enumerate(found.table):
        hit = int(((labels == k) & (guesses == k)).sum())
        precision = hit / max(int((guesses == k).sum()), 1)
        recall = hit / int((labels == k).sum())
        f1 = 2 * precision * recall / (precision + recall) if hit else 0
        assert (row.name, row.support) == ("abcd"[k], int((labels == k).sum()))
        assert (row.precision, row.recall) == pytest.approx((precision, recall))
        assert row.f1 == pytest.approx(f1)
        assert found.matrix()[k].tolist() == [
            int(((labels == k) & (guesses == j)).sum()) for j in range(4)
        ]
    macro, weighted = found.means
    assert macro.recall == pytest.approx(np.mean([r.recall for r in found.table]))
    assert weighted.recall == pytest.approx(found.accuracy)
    assert found.confusions[0][2] == max(n for *_, n in found.confusions)
    assert found.calibration_error is None and found.bins == []


def test_figures_of_probabilities() -> None:
    generator = np.random.default_rng(4)
    logits, labels = generator.normal(size=(200, 3)) * 3, generator.integers(0, 3, 200)
    found = of_logits("y", [*"abc"], np.arange(200), labels, logits)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found.losses, -np.log(chances[np.arange(200), labels]))
    np.testing.assert_allclose(found.confidence, chances.max(1))
    error = 0.0
    for k in range(BINS):
        own = (chances.max(1) > k / BINS) & (chances.max(1) <= (k + 1) / BINS)
        if own.any():
            right = (chances.argmax(1) == labels)[own].mean()
            error += own.mean() * abs(right - chances.max(1)[own].mean())
    assert found.calibration_error == pytest.approx(error)
    both = joined(
        [
            of_logits("y", [*"abc"], np.arange(a, b), labels[a:b], logits[a:b])
            for a, b in ((0, 60), (60, 200))
        ]
    )
    np.testing.assert_array_equal(both.losses, found.losses)
    assert both.worst(3) == found.worst(3) and len(both) == 200
    two = of_probabilities("y", [*"ab"], np.arange(3), np.array([0, 1, 1]), np.array([0.9, 0.8, 0]))
    assert two.predicted.tolist() == [1, 1, 0] and np.isfinite(two.losses).all()
    np.testing.assert_allclose(two.losses[:2], [-np.log(0.1), -np.log(0.8)])


def test_figures_of_labels() -> None:
    generator = np.random.default_rng(5)
    labels = generator.random((80, 3)) < (0.2, 0.5, 0.9)
    chances = (generator.random((80, 3)) + 0.3 * labels).round(1) / 1.3  # with ties
    found = LabelSets("y", [*"abc"], np.arange(80), labels, chances)
    guesses = chances > 0.5

    def figures(true: np.ndarray, guess: np.ndarray, chance: np.ndarray) -> tuple[float, ...]:
        hit, yes, has = (true & guess).sum(), guess.sum(), true.sum()
        pairs = chance[true][:, None] - chance[~true]
        area = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
        return hit / yes, hit / has, 2 * hit / (yes + has), area

    every = [figures(labels[:, k], guesses[:, k], chances[:, k]) for k in range(3)]
    for row, expected in zip(found.table, every, strict=True):
        assert (row.precision, row.recall, row.f1, row.auc) == pytest.approx(expected)
    micro, macro = found.means
    expected = figures(labels.ravel(), guesses.ravel(), chances.ravel())
    assert (micro.precision, micro.recall, micro.f1, micro.auc) == pytest.approx(expected)
    assert (macro.precision, macro.recall, macro.f1, macro.auc) == pytest.approx(np.mean(every, 0))
    assert found.plain(0)["exact_match"] == pytest.approx((labels == guesses).all(1).mean())
    assert found.plain(0)["hamming_loss"] == pytest.approx((labels != guesses).mean())
    parts = [
        LabelSets("y", [*"abc"], np.arange(a, b), labels[a:b], chances[a:b])
        for a, b in ((0, 30), (30, 80))
    ]
    assert joined_sets(parts).plain(80) == found.plain(80)


def test_figures_of_residuals() -> None:
    generator = np.random.default_rng(5)
    y, guess = generator.normal(size=(2, 50, 3))
    found = Residuals("y", [*"abc"], np.arange(50), y, guess)
    *each, whole = found.rows
    assert [row.name for row in each] == [*"abc"] and whole.name == "all"
    off = y[:, 1] - guess[:, 1]
    assert each[1].r2 == pytest.approx(1 - (off**2).sum() / ((y[:, 1] - y[:, 1].mean()) ** 2).sum())
    assert each[1].mae == pytest.approx(np.abs(off).mean())
    assert each[1].quantiles == pytest.approx(np.quantile(off, QUANTILES).tolist())
    errors = np.sqrt(((y - guess) ** 2).mean(1))
    assert found.worst(1)[0].index == errors.argmax()
    constant = Residuals("y", ["y"], np.arange(2), np.ones((2, 1)), np.zeros((2, 1)))
    assert constant.rows[0].r2 is None
