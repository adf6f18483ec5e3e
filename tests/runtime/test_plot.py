"""`nnc plot`: curves of runs in the terminal, in a pipe and in files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pytest
from pseudo_terminal import at_terminal, plain
from small_programs import write

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.inspect.curves import Choice, History, panels, read_histories, smoothed
from nnc.runtime.inspect.terminal_plot import ticks

RECORDS = [
    {"epoch": e, "step": 10 * e, "loss": 2 / e, "accuracy": 1 - 1 / (e + 1), "test_loss": 3 / e,
     "test_accuracy": None if e == 2 else 0.5, "seconds": 40.0}
    for e in range(1, 6)
]  # fmt: skip


def with_metrics(folder: Path, records) -> Path:
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with runs: `a` and `b` of five epochs, `one` of one, `new` without any."""
    folder = tmp_path_factory.mktemp("runs")
    assert (
        cli.run(["train", str(write(folder)), "--epochs", "1", "--out", str(folder / "one")]) == 0
    )
    for name in ("a", "b", "new"):
        shutil.copytree(folder / "one", folder / name)
    with_metrics(folder / "a", RECORDS)
    with_metrics(folder / "b", [{**r, "loss": 2 * r["loss"]} for r in RECORDS])
    (folder / "new" / "metrics.jsonl").unlink()
    return folder


@pytest.fixture
def nnc(runs, monkeypatch, capfd):
    monkeypatch.chdir(runs)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(arguments)
        return code, *capfd.readouterr()

    return call


# --- in characters --------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal_shows_braille_in_colours(runs, columns: int) -> None:
    pytest.importorskip("plotext")
    text = at_terminal(["plot", "a", "b"], runs, columns)
    lines = plain(text).splitlines()
    assert max(map(len, lines)) <= columns
    assert "\x1b[" in text and any("⠀" < c <= "⣿" for c in text)
    for title in ("loss", "accuracy"):
        assert any(line.startswith(f"{title}  ── a train") for line in lines)


@pytest.mark.parametrize("columns", [80, 40])
def test_a_dumb_terminal_shows_ascii(runs, columns: int) -> None:
    pytest.importorskip("plotext")
    text = at_terminal(["plot", "a", "b", "--metric", "loss"], runs, columns, TERM="dumb")
    assert text.isascii() and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= columns
    assert text.startswith("loss  * a  + b\n") and text.count("*") > 5


def test_a_pipe_gets_80_columns_without_colours(nnc) -> None:
    pytest.importorskip("plotext")
    code, out, err = nnc("plot", "a")
    assert code == 0 and err == "" and "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    # One quantity after the other, each with its sets.
    assert out.index("loss  * train  + test") < out.index("accuracy  * train  + test")


def test_a_run_with_one_record_is_a_point(nnc) -> None:
    pytest.importorskip("plotext")
    code, out, _ = nnc("plot", "one", "--metric", "loss")
    assert code == 0 and sum("⠀" < c <= "⣿" for c in out) == 1


def test_a_run_that_has_measured_nothing_yet(nnc) -> None:
    pytest.importorskip("plotext")
    code, out, err = nnc("plot", "new", "a", "--metric", "loss")
    assert code == 0 and out.startswith("loss") and err == "new has measured nothing yet\n"
    code, out, err = nnc("plot", "new")
    assert code == 1 and out == "" and "E0740" in err and "end of an epoch" in err


def test_a_line_that_is_being_written(runs, tmp_path) -> None:
    shutil.copytree(runs / "a", tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 6, "st')
    (history,), _ = read_histories([tmp_path / "run"])
    assert len(history.records) == 5
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    (tmp_path / "run" / "metrics.jsonl").write_text(text.replace('"step": 20', '"step": '))
    with pytest.raises(UserError, match=r"E0706: line 2 of .*metrics.jsonl is damaged"):
        read_histories([tmp_path / "run"])


# --- files ----------------------------------------------------------------------------------------


def test_files_are_what_their_endings_say(nnc, runs) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    for name in ("c.png", "c.svg", "c.html"):
        code, out, err = nnc("plot", "a", "b", "--smooth", "0.5", "--output", name)
        assert (code, out, err) == (0, "", f"2 panels in {name}\n")
    with image.open("c.png") as picture:
        assert picture.format == "PNG" and picture.width > 600 and picture.height > 600
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50  # not an empty canvas
    drawn = minidom.parse("c.svg").documentElement
    assert drawn.tagName == "svg"
    texts = {"".join(n.data for n in t.childNodes) for t in drawn.getElementsByTagName("text")}
    assert {"loss", "accuracy", "step", "a train", "b test"} <= texts
    page = Path("c.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") and "<svg" in page and "loss: b train" in page
    # Nothing is loaded from elsewhere; names of XML are no addresses that are fetched.
    assert "src=" not in page and "<link" not in page and "@import" not in page


def test_the_same_curves_are_the_same_file(nnc) -> None:
    pytest.importorskip("matplotlib")
    for name in ("1.svg", "2.svg"):
        nnc("plot", "a", "--output", name)
    assert Path("1.svg").read_bytes() == Path("2.svg").read_bytes()


def test_without_the_packages(nnc, monkeypatch) -> None:
    import sys

    for package, arguments in (("matplotlib", ("--output", "x.png")), ("plotext", ())):
        with monkeypatch.context() as patch:
            for name in [n for n in sys.modules if n.split(".")[0] == package]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, package, None)
            code, out, err = nnc("plot", "a", *arguments)
        assert code == 1 and out == "" and "E0741" in err
        assert "pip install 'nnc-lang[plot]'" in err
    assert not Path("x.png").exists()


# --- mistakes -------------------------------------------------------------------------------------


def test_mistakes(nnc) -> None:
    code, _, err = nnc("plot", "a", "--metric", "los,acuracy")
    assert code == 1 and "did you mean `loss`?" in err and "did you mean `accuracy`?" in err
    code, _, err = nnc("plot", "a", "--output", "a.pgn")
    assert code == 1 and "E0716" in err and "did you mean `.png`?" in err
    code, _, err = nnc("plot", "a", "--output", "a")
    assert code == 1 and "without an ending" in err
    code, _, err = nnc("plot", "bb", "aa", "one")
    assert code == 1 and "no run folder bb" in err and "no run folder aa" in err
    code, _, err = nnc("plot", "small.nn")
    assert code == 1 and "is a model, not the folder of a run" in err
    code, _, err = nnc("plot", "a", "--smooth", "1")
    assert code == 2 and "--smooth" in err
    code, _, err = nnc("plot")
    assert code == 2


# --- what is drawn --------------------------------------------------------------------------------


def test_curves_have_the_values_of_the_records() -> None:
    loss, accuracy = panels([History("a", RECORDS)])
    assert (loss.title, accuracy.title, loss.x_label) == ("loss", "accuracy", "step")
    assert loss.labels == accuracy.labels == ["train", "test"]
    np.testing.assert_array_equal(loss.curves[0].x, [10, 20, 30, 40, 50])
    np.testing.assert_array_equal(loss.curves[1].y, [3 / e for e in range(1, 6)])
    assert np.isnan(accuracy.curves[1].y[1]) and not np.isnan(accuracy.curves[1].y[2])


def test_patterns_and_several_runs() -> None:
    other = [{k: v for k, v in r.items() if "accuracy" not in k} for r in RECORDS]
    both = [History("a", RECORDS), History("b", other)]
    (loss,) = panels(both, Choice(("*loss",)))
    assert loss.labels == ["a train", "a test", "b train", "b test"]
    (accuracy,) = panels(both, Choice(("test_accuracy",)))  # of one run alone
    assert accuracy.labels == ["a"]
    with pytest.raises(UserError, match="E0740: `los` was not measured"):
        panels(both, Choice(("los", "loss")))


def test_axes() -> None:
    """Records of one epoch each, and several in an epoch, whose seconds count from its begin."""
    (panel,) = panels([History("a", RECORDS)], Choice(("loss",), "time"))
    assert panel.x_label == "minutes"
    np.testing.assert_allclose(panel.curves[0].x, np.arange(1, 6) * 40 / 60)
    within = [
        {"epoch": 1, "step": 5, "loss": 1.0, "seconds": 2.0},
        {"epoch": 1, "step": 10, "loss": 1.0, "seconds": 4.0},
        {"epoch": 2, "step": 15, "loss": 1.0, "seconds": 3.0},
    ]
    history = History("a", within, steps_per_epoch=10)
    np.testing.assert_array_equal(history.positions("time"), [2, 4, 7])
    np.testing.assert_array_equal(history.positions("epoch"), [0.5, 1, 1.5])
    np.testing.assert_array_equal(history.positions("step"), [5, 10, 15])


def test_records_within_an_epoch() -> None:
    """Those of training are of the examples since the record before; the record of the epoch, which
    is of all of them, would be counted twice."""
    records = [
        {"epoch": 1, "step": 5, "kind": "log", "loss": 3.0, "seconds": 1.0},
        {
            "epoch": 1,
            "step": 8,
            "kind": "validation",
            "loss": 2.0,
            "test_loss": 2.5,
            "seconds": 2.0,
        },
        {"epoch": 1, "step": 10, "loss": 2.4, "test_loss": 2.2, "seconds": 3.0},
        {"epoch": 2, "step": 20, "loss": 1.0, "test_loss": 1.5, "seconds": 3.0},
    ]
    (panel,) = panels([History("a", records)])
    assert panel.title == "loss" and panel.labels == ["train", "test"]
    train, test = panel.curves
    np.testing.assert_array_equal((train.x, train.y), [(5, 8, 20), (3, 2, 1)])
    np.testing.assert_array_equal((test.x, test.y), [(8, 10, 20), (2.5, 2.2, 1.5)])


def test_smoothing() -> None:
    """Against the definition: the mean of v₁ … vₖ with weights wᵏ⁻ⁱ."""
    values, weight = np.array([3.0, 1.0, 4.0, 1.0, 5.0]), 0.8
    for k, found in enumerate(smoothed(values, weight)):
        weights = weight ** np.arange(k, -1, -1)
        assert found == pytest.approx((weights * values[: k + 1]).sum() / weights.sum())
    gap = smoothed(np.array([1.0, np.nan, 1.0]), 0.9)
    np.testing.assert_allclose(gap, [1, np.nan, 1])
    assert smoothed(values, 0.0) is values


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [(0, 10, 5, [0, 2, 4, 6, 8, 10]), (0.12, 0.57, 5, [0.2, 0.3, 0.4, 0.5]), (3, 3, 4, [3.0]),
     (50, 270, 3, [100, 200]), (-1, 1, 4, [-1, -0.5, 0, 0.5, 1])],
)  # fmt: skip
def test_ticks_are_round_numbers(low, high, most, expected) -> None:
    np.testing.assert_allclose(ticks(low, high, most), expected)
