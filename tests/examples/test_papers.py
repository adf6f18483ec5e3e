"""The tables of papers: their programs are the networks that the papers describe, each row trains,
and the table has what its runs have reached."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import nnc
from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.dsl.syntax.formatter import format as formatted
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source
from nnc.examples.papers import __main__ as papers
from nnc.runtime.assignments import Assignment
from nnc.runtime.data import Search
from nnc.runtime.device import DEVICES
from nnc.runtime.inspect.emit import Stages
from nnc.runtime.project import load_dataset, open_project, planned_setup
from nnc.runtime.training.job import prepare
from nnc.runtime.training.loop import train
from nnc.runtime.training.progress import Silent

ROOT = Path(__file__).parents[2]
TABLES = papers.tables()
ROWS = [row for table in TABLES.values() for row in table.rows]
FILES = sorted({(papers.HERE / row.file).resolve() for row in ROWS})
# parameters that are trained, as the papers count them
PUBLISHED = {
    "linear_1998": 7_850,
    "mlp_1998": 784 * 300 + 300 + 300 * 10 + 10,
    "lenet1_1998": 2_578,
    "lenet5_1998": 60_000,
}


def search(path: Path) -> Search:
    """Where the data are: in $NNC_DATA, or in the shared folder."""
    shared = ROOT.parent / "shared" / "data"
    unnamed = "NNC_DATA" not in os.environ and shared.is_dir()
    return Search(shared if unnamed else None, path.parent, offline=True)


@pytest.mark.parametrize("path", sorted(papers.HERE.glob("*.nn")), ids=lambda path: path.stem)
def test_is_laid_out(path: Path) -> None:
    text = path.read_text("utf-8")
    assert formatted(parse(Source(path.name, text), Report())) == text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_says_what_it_is_and_has_no_mistakes(path: Path) -> None:
    project = open_project(path)
    assert not project.warnings
    about = project.checked.file.doc
    assert "to learn from" in about and "Reaches" in about


@pytest.mark.parametrize("name", TABLES)
def test_the_settings_of_a_row_are_those_of_its_program(name: str) -> None:
    table = TABLES[name]
    assert all(len(row.published) == len(table.columns) for row in table.rows)
    for row in {(row.file, row.sets[:1]): row for row in table.rows[-4:]}.values():
        sets = [Assignment(*text.split("=", 1)) for text in row.sets]
        project = open_project((papers.HERE / row.file).resolve(), sets)
        assert not project.warnings
        measured = {"loss", *(one.name.id for one in project.train.measures)}
        assert table.measure.removeprefix("test_") in measured


@pytest.mark.parametrize("stem", PUBLISHED)
def test_a_network_has_as_many_parameters_as_in_the_paper(stem: str) -> None:
    path = papers.HERE / f"{stem}.nn"
    project = open_project(path)
    system = Stages(project, planned_setup(project, search(path))).system
    trained = [t for t in system.of_kind("param") if t.name != "code"]
    assert sum(tensor.size for tensor in trained) == PUBLISHED[stem]


def test_the_matrix_of_the_unitary_network_is_unitary() -> None:
    model = nnc.load(papers.HERE / "urnn_copying.nn")
    x = np.zeros((20, 120), np.int32)
    model.init(x=x)
    matrix = model.predict(x, tensor="W")
    matrix = matrix[0] if matrix.ndim == 3 else matrix
    assert matrix.shape == (256, 256)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(256), atol=2e-6)


def test_a_table_is_trained_once_and_printed(tmp_path: Path, monkeypatch, capsys) -> None:
    """Each row is a run; what is done is not trained again, what has begun goes on."""
    trained: list[list[str]] = []

    class Done:
        waits = 0

        def wait(self) -> int:
            self.waits += 1
            if self.waits == 1:
                raise KeyboardInterrupt  # which the training decides about
            return 0

    def run(words: list[str]) -> Done:
        trained.append(words)
        out = Path(words[words.index("--out" if "--out" in words else "--resume") + 1])
        out.mkdir(parents=True, exist_ok=True)
        values = [{"test_error": 0.5}, {"test_error": 0.01 * len(trained)}, {"loss": 1}]
        text = "".join(json.dumps(value) + "\n" for value in values)
        (out / "metrics.jsonl").write_text(text)
        return Done()

    monkeypatch.setattr(papers.subprocess, "Popen", run)
    begun = tmp_path / "lenet-1"
    begun.mkdir()
    (begun / "settings.json").write_text("{}")
    papers.main(["lenet1998", "--out", str(tmp_path), "--threads", "1"])
    assert [("--resume" in words, words[-2:]) for words in trained] == [
        (begins == "LeNet-1", ["--threads", "1"])
        for begins in (row.name for row in TABLES["lenet1998"].rows)
    ]
    shown = capsys.readouterr().out
    assert [line.split()[-4:-2] for line in shown.splitlines()[-4:]] == [
        [row.published[0], f"{number}.00"] for number, row in enumerate(TABLES["lenet1998"].rows, 1)
    ]
    papers.main(["lenet1998", "--out", str(tmp_path)])
    assert len(trained) == len(TABLES["lenet1998"].rows)
    assert capsys.readouterr().out.strip() in shown


def test_a_table_of_many_rows_has_their_mean() -> None:
    table = TABLES["babi"]
    done = {row.name: (0.01 * number, 2.0) for number, row in enumerate(table.rows)}
    last = papers.lines(table, done)[-1].split()
    assert last == ["mean", *table.means, "9.5", "40", "s"]
    for column, mean in enumerate(table.means):
        figures = [float(row.published[column]) for row in table.rows]
        assert np.mean(figures) == pytest.approx(float(mean), abs=0.05)


def test_a_table_that_there_is_not_is_named(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        papers.main(["alexnet"])
    assert caught.value.code == 2 and "lenet1998" in capsys.readouterr().err
    papers.main([])
    assert capsys.readouterr().out.count("\n") == len(TABLES)


def test_a_training_that_fails_ends_the_table(tmp_path: Path, capfd) -> None:
    with pytest.raises(SystemExit) as caught:
        papers.main(["lenet1998", "--out", str(tmp_path), "--device", "none"])
    assert caught.value.code == 1 or caught.value.code == 2
    assert not (tmp_path / papers.DONE).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, settings, measured, bound",
    [
        ("linear_1998.nn", {"steps": "2000"}, "test_error", 0.2),
        ("mlp_1998.nn", {"steps": "2000"}, "test_error", 0.16),
        ("lenet1_1998.nn", {"steps": "1500"}, "test_error", 0.15),
        ("lenet5_1998.nn", {"steps": "1000"}, "test_error", 0.12),
        ("lstm_copying.nn", {"steps": "150"}, "test_loss", 1.2),
        ("urnn_copying.nn", {"steps": "50"}, "test_loss", 1.0),
    ],
)
def test_a_short_training_learns(file, settings, measured, bound) -> None:
    path = papers.HERE / file
    project = open_project(path, [Assignment(*one) for one in settings.items()])
    try:
        dataset = load_dataset(project, search(path))
    except UserError as error:
        assert error.diagnostics[0].code == "E0601"
        pytest.skip("MNIST is not on this machine: name its folder in $NNC_DATA")
    job = prepare(project, dataset, DEVICES["cpu"](2))
    train(job, Silent(), lambda: False)
    assert job.records[-1].values[measured] <= bound


@pytest.mark.slow
def test_a_table_is_one_command(tmp_path: Path, capfd) -> None:
    papers.main(["copying", "--out", str(tmp_path), "--steps", "2", "--threads", "1"])
    last = capfd.readouterr().out.splitlines()[-2:]
    assert [line.split()[0] for line in last] == ["LSTM", "unitary"]
    assert all(1 < float(line.split()[-3]) < 4 for line in last)


def test_the_page_has_the_figures_that_are_published() -> None:
    page = (ROOT / "docs" / "papers.md").read_text("utf-8")
    for name, table in TABLES.items():
        assert f"python -m nnc.examples.papers {name}" in page
        for row in table.rows:
            assert f"| {row.name} | {' | '.join(row.published)} |" in page, row.name
