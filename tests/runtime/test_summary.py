"""The memory that `nnc summary` foretells is the memory that a run takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_simulator import SimulatedProgram, available

from nnc.runtime.device import DEVICES
from nnc.runtime.inspect.summary import summarize
from nnc.runtime.project import project_of_text, setup_of
from nnc.runtime.settings import Assignment
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
