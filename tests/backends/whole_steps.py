"""Training steps of the examples and of four small models as systems, and how they are run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nnc.compiler.ir.dtypes import is_float
from nnc.compiler.ir.equation import System
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.compiler.reference.initial_values import initial_values
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.assignments import Assignment
from nnc.runtime.data import Search
from nnc.runtime.device import Program
from nnc.runtime.project import planned_setup, project_of_text

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.nn"))

# sizes at which a step is right or wrong just as at full size, in less time
SMALLER = {"LSTM(256)": "LSTM(24)", "RNN(256)": "RNN(24)", "GRU(96)": "GRU(16)",
           "LSTM(64": "LSTM(16", "Conv1D(96": "Conv1D(32", "repeat 4": "repeat 1"}  # fmt: skip

TRAIN = """
train M {
    %s
    optimizer = momentum(lr = 0.05)
    batch     = 6
    steps     = 20
}
"""
IMAGES = TRAIN % "input label: i32[B]\n    loss = cross_entropy(logits, label)"
TEXT = TRAIN % "input target: i32[B, 12]\n    loss = cross_entropy(logits, target)"

MODELS = {
    "mlp": """
model M(image: f32[B, 8, 8, 1]) -> logits: f32[B, 10] {
    logits = image |> Flatten |> Dense(40) |> relu |> Dense(33) |> tanh |> Dense(10)
}
""" + IMAGES,
    "cnn": """
model M(image: f32[B, 8, 8, 1]) -> logits: f32[B, 10] {
    x = image |> Conv(8, 3) |> BatchNorm |> relu |> MaxPool(2) |> Conv(12, 3, pad = "same")
    logits = x |> relu |> Flatten |> Dropout(0.1) |> Dense(10)
}
""" + IMAGES,
    "lstm": """
model M(token: i32[B, 12]) -> logits: f32[B, 12, 17] {
    logits = token |> Embedding(17, 12) |> LSTM(20) |> Dense(17)
}
""" + TEXT,
    "gpt": """
model M(token: i32[B, 12]) -> logits: f32[B, 12, 17] {
    x = token |> Embedding(17, 16) |> LearnedPositions(12)
    repeat 2 { x = x |> TransformerBlock(2, 32, causal = true) }
    logits = x |> LayerNorm |> Dense(17)
}
""" + TEXT,
}  # fmt: skip


LARGE = {  # of sizes that fill tiles of 128 by 128
    "large mlp": """
model M(image: f32[B, 32, 32, 1]) -> logits: f32[B, 10] {
    logits = image |> Flatten |> Dense(1024) |> relu |> Dense(1024) |> gelu |> Dense(10)
}
""" + IMAGES.replace("= 6", "= 1024"),
    "large cnn": """
model M(image: f32[B, 32, 32, 3]) -> logits: f32[B, 10] {
    x = image |> Conv(64, 3, pad = "same") |> BatchNorm |> relu
    y = x |> Conv(128, 3, pad = "same", stride = 2) |> relu |> MaxPool(2)
    logits = y |> Conv(128, 3, pad = "same") |> relu |> Flatten |> Dropout(0.1) |> Dense(10)
}
""" + IMAGES.replace("= 6", "= 128"),
    "large lstm": """
model M(token: i32[B, 64]) -> logits: f32[B, 64, 128] {
    logits = token |> Embedding(128, 128) |> LSTM(256) |> Dense(128)
}
""" + TEXT.replace("= 6", "= 64").replace("12", "64"),
    "large gpt": """
model M(token: i32[B, 256]) -> logits: f32[B, 256, 512] {
    x = token |> Embedding(512, 384) |> LearnedPositions(256)
    repeat 2 { x = x |> TransformerBlock(6, 1536, causal = true) }
    logits = x |> LayerNorm |> Dense(512)
}
""" + TEXT.replace("= 6", "= 16").replace("12", "256"),
}  # fmt: skip


def model_step(name: str, **sets: str) -> tuple[System, dict[str, np.ndarray]]:
    return step_of_text({**MODELS, **LARGE}[name], **sets)


def step_of_text(text: str, **sets: str) -> tuple[System, dict[str, np.ndarray]]:
    return _step(text, Path(), [Assignment(*s) for s in sets.items()])


def example_step(path: Path, batch: int | None = None) -> tuple[System, dict[str, np.ndarray]]:
    """The example's training step, small if no batch is given, under plain gradient descent:
    optimizers that divide by the size of a gradient blow up rounding. Skips without its data."""
    text = re.sub(r"optimizer\s*=.*", "optimizer = sgd(lr = 0.01)", path.read_text())
    for large, small in () if batch else SMALLER.items():
        text = text.replace(large, small)
    batch = batch or 2
    return _step(text, path.parent, [Assignment("batch", str(batch))])


def _step(text: str, base: Path, sets: list) -> tuple[System, dict[str, np.ndarray]]:
    import pytest

    try:
        project = project_of_text(text, "test.nn", None, sets)
        setup = planned_setup(project, Search(None, base, offline=True))
        system, drawn = training_step(setup)
    except UserError as error:
        if any(d.code.startswith("E06") for d in error.diagnostics):
            pytest.skip("the data is not here")
        raise
    return derive(system), dict(initial_values(system, drawn, 3))


def run_steps(
    program: Program, system: System, start: Mapping[str, np.ndarray], steps: int
) -> list[float]:
    """The loss of every step on data of our own. The program's arrays hold what was learnt."""
    for name, value in start.items():
        program.arrays[name][...] = value
    rng = np.random.default_rng(0)
    losses = []
    for step in range(1, steps + 1):
        for tensor in system.of_kind("input"):
            if tensor.name in ("step", "seed"):
                value = step if tensor.name == "step" else 7
            elif is_float(tensor.dtype):
                value = rng.normal(size=tensor.shape)
            else:
                value = rng.integers(0, 2, tensor.shape)
            program.arrays[tensor.name][...] = value
        program.run()
        losses.append(float(program.arrays[system.outputs[0]]))
    return losses
