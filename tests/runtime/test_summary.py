"""The memory that `nnc summary` foretells is the memory that a run takes; its layers and their work
are those that a pencil gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_simulator import SimulatedProgram, available
from pseudo_terminal import at_terminal
from small_programs import write

from nnc.runtime import cli
from nnc.runtime.assignments import Assignment
from nnc.runtime.commands import tables
from nnc.runtime.device import DEVICES
from nnc.runtime.inspect.fitted_table import Fitting, laid_out
from nnc.runtime.inspect.layer_work import LayerRow
from nnc.runtime.inspect.summary import Summary, short_number, summarize
from nnc.runtime.project import project_of_text, setup_of
from nnc.runtime.training.executor import Executor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["mlp", "rnn"])
def test_the_foretold_memory_is_taken(name: str, tmp_path, monkeypatch) -> None:
    """Within one part in twenty: in training and in prediction, compiled now and kept."""
    monkeypatch.setenv("NNC_CACHE", str(tmp_path))
    project = project_of_text((BENCHMARKS / f"{name}.nn").read_text(encoding="utf-8"))
    setup = setup_of(project, None)
    foretold = summarize(project, setup)
    for _ in range(2):
        executor = Executor(setup, DEVICES["cpu"](2), 0)
        with executor.prediction(setup.batch) as predicting:
            for expected, bound in (
                (foretold.training_bytes, executor.training(setup.batch)),
                (foretold.inference_bytes, predicting),
            ):
                taken = bound.program._memory.nbytes
                assert expected is not None and taken == pytest.approx(expected, rel=0.05)
                assert taken >= expected


@pytest.mark.skipif(not available(), reason="needs g++")
def test_the_memory_of_a_gpu() -> None:
    """What a program of the same plan takes: operands stored as bf16 are counted, and so are the
    parts of sums."""
    text = (BENCHMARKS / "mlp.nn").read_text(encoding="utf-8")
    project = project_of_text(text, "mlp.nn", None, [Assignment("precision", "bf16")])
    setup = setup_of(project, None)
    foretold = summarize(project, setup, "cuda")
    program = Executor(setup, SimulatedProgram, 0).training(setup.batch).program
    assert foretold.training_bytes == program.module.arena_bytes
    assert any(tensor.storage == "bf16" for tensor in program.system.tensors.values())


LAYERS = """
layer Norm(x: [B, n]) -> y: [B, n] {
    z = x |> BatchNorm
    y = z
}
layer Dense1(units)(x: [B, n]) -> total: [B], y: [B, units] {
    y = x |> Dense(units)
    total[b] = sum(j) y[b, j]
}
layer Conv2_(x: [B, n]) -> y: [B, n] { y = x }
model M(x: f32[B, 3]) -> conv1_y: f32[B, 4], norm1_x: f32[B] {
    h = x |> Norm |> Conv2_ |> Dense(5)
    norm1_x, conv1_y = h |> Dense1(4)
    param dense3_w: [7] = 0
    repeat 10 { h = h |> Dense(5) }
    last_1 = h |> Dense(2)
}
"""


def test_shapes_are_those_of_results() -> None:
    """Of the layer's first result, whatever names its tensors, and those around, have."""
    rows = {r.name: r for r in summarize(project_of_text(LAYERS, model="M"), None).rows}
    assert {n: (r.shape, r.parameters) for n, r in rows.items() if not n.startswith("dense")} == {
        "norm1": ((32, 3), 6),
        "conv2_1": ((32, 3), 0),
        "M": ((32, 4), 7),
    }
    # the layer that is called `Dense1` has a name of its own beside eleven of Dense
    assert rows["dense1"].shape == (32, 5) and rows["dense1"].parameters == 20
    (own,) = [r for r in rows.values() if r.shape == (32,)]
    assert own.parameters == 24
    assert sum(r.parameters == 30 for r in rows.values()) == 10
    assert sum(r.parameters == 12 for r in rows.values()) == 1


# --- nested layers, and the work of their gradients -----------------------------------------------

NESTED = """
layer Block(units)(x: [B, n]) -> y: [B, n] {
    h = x |> Dense(units) |> relu
    y = x + Dense(n)(h)
}
layer Twice(x: [B, n]) -> y: [B, n] { y = x |> Block(7) |> Block(5) }
model M(x: f32[B, 6]) -> y: f32[B, 3] {
    y = x |> Dense(4) |> Twice |> Dense(3)
}
train M {
    input target: f32[B, 3]
    loss      = mse(y, target)
    optimizer = sgd(lr = 0.1)
    batch     = 10
}
"""


@pytest.fixture(scope="module")
def nested() -> Summary:
    project = project_of_text(NESTED)
    return summarize(project, setup_of(project, None))


def rows_of(found: Summary) -> dict[str, LayerRow]:
    return {row.name: row for top in found.rows for _, row in top.walk()}


def test_rows_are_nested_as_layers_are(nested: Summary) -> None:
    assert [(d, row.title) for top in nested.rows[:3] for d, row in top.walk()] == [
        (0, "Dense(4)"), (0, "Twice"), (1, "Block(7)"), (2, "Dense(7)"), (2, "Dense(4)"),
        (1, "Block(5)"), (2, "Dense(5)"), (2, "Dense(4)"), (0, "Dense(3)"),
    ]  # fmt: skip
    rows = rows_of(nested)
    assert rows["twice1_block2_dense1"].shape == (10, 5)
    # A layer's figures are those of what is in it.
    for name, inner in (("twice1", "twice1_block"), ("twice1_block1", "twice1_block1_dense")):
        within = [
            r for n, r in rows.items() if n.startswith(inner) and n.count("_") == inner.count("_")
        ]
        for figure in ("parameters", "flops", "backward"):
            assert getattr(rows[name], figure) == sum(getattr(r, figure) for r in within) > 0


def test_operations_by_hand(nested: Summary) -> None:
    """Of `x @ w`, 10 examples: 2·10·n·m forward and for the gradient of each operand that has one:
    the data have none."""
    rows = rows_of(nested)
    for name, n, m, operands in (
        ("dense1", 6, 4, 1), ("twice1_block1_dense1", 4, 7, 2), ("twice1_block1_dense2", 7, 4, 2),
        ("twice1_block2_dense1", 4, 5, 2), ("twice1_block2_dense2", 5, 4, 2), ("dense2", 4, 3, 2),
    ):  # fmt: skip
        assert rows[name].flops == 2 * 10 * n * m, name
        assert rows[name].backward == 2 * 10 * n * m * operands, name
        assert rows[name].parameters == n * m + m


def test_attention_without_parameters_counts_for_its_layer() -> None:
    text = """
    model M(x: f32[B, 4, 8]) -> y: f32[B, 4, 8] { y = x |> Attention(2) }
    train M {
        input target: f32[B, 4, 8]
        loss      = mse(y, target)
        optimizer = sgd(lr = 0.1)
        batch     = 3
    }
    """
    project = project_of_text(text)
    (row,) = (r for r in summarize(project, setup_of(project, None)).rows if r.name == "attention1")
    heads = [inner for inner in row.within if "heads" in inner.name]
    # Two products of [4, 4] by heads of 4 numbers, each with two operands.
    assert row.flops - sum(r.flops for r in row.within) == 2 * 2 * (3 * 2 * 4 * 4 * 4)
    assert row.backward is not None and all(r.backward == r.flops for r in heads)
    assert row.backward - sum(r.backward or 0 for r in row.within) == 4 * 2 * (3 * 2 * 4 * 4 * 4)


def test_a_model_without_training_has_no_backward_operations() -> None:
    project = project_of_text("model M(x: f32[2, 3]) -> y: f32[2, 4] { y = x |> Dense(4) }")
    found = summarize(project, None)
    assert found.rows[0].backward is None and "backward" not in found.text()


# --- as text --------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal(tmp_path, columns: int) -> None:
    write(tmp_path, NESTED)
    lines = at_terminal(["summary", "small.nn"], tmp_path, columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("    den") for line in lines)
    assert any(line.startswith("process itself") for line in lines)


def test_a_pipe_has_whole_numbers(tmp_path, capsys) -> None:
    write(tmp_path, NESTED.replace("Dense(4) |>", "Dense(4000) |> Dense(4) |>"))
    assert cli.run(["summary", str(tmp_path / "small.nn")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "480,000" in out and "[10, 4000]" in out


def test_narrow_text_breaks_no_number(nested: Summary) -> None:
    wide = LayerRow("averyveryverylongname1", (128, 64, 64, 512), 12_345_678, 10**12, 2 * 10**12)
    found = Summary("M", 128, (wide, *nested.rows), 2**30, 2**31, process_bytes=2**26)
    assert "1,000,000,000,000" in found.text() and "averyveryverylongname1" in found.text()
    for width in (80, 40):
        lines = found.text(width).splitlines()
        assert max(map(len, lines)) <= width
        row = next(line for line in lines if line.startswith("avery"))
        assert row.split()[-3:] == ["12.3M", "1.00T", "2.00T"]


def test_short_numbers() -> None:
    numbers = {
        0: "0", 999: "999", 1000: "1.00k", 9_995: "10.0k", 66_048: "66.0k", 999_499: "999k",
        999_500: "1.00M", 1_245_184: "1.25M", 10**15: "1.00P", 5 * 10**21: "5000E",
    }  # fmt: skip
    assert {n: short_number(n) for n in numbers} == numbers


def test_a_table_leaves_columns_out() -> None:
    columns = [Fitting("name", False), Fitting("long", False, needed=False), Fitting("n")]
    rows = [["abcdefghij", "klmnopqrst", "123456"]]
    assert laid_out(columns, rows, 80)[1] == "abcdefghij  klmnopqrst  123456"
    assert laid_out(columns, rows, 24)[1] == "abcdef…  klmnop…  123456"
    assert laid_out(columns, rows, 16)[1] == "abcdefg…  123456"


@pytest.mark.parametrize("width", [100, 80, 40])
def test_tables_of_fixed_columns_break_no_line(width: int, monkeypatch, capsys) -> None:
    monkeypatch.setattr(tables, "screen_width", lambda: width)
    columns = [tables.TableColumn("line", 6), tables.TableColumn("source", 0, right=False)]
    columns += [tables.TableColumn(f"number{n}", 8) for n in range(7)]
    tables.print_table(columns, [(["9:12", "Conv(16, 3)" * 9, *["1234.567"] * 7], "")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= width
    assert lines[1].count("1234.567") == {100: 7, 80: 6, 40: 2}[width]
