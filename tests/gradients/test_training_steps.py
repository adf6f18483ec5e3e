"""Whole training steps beside PyTorch: the same start, the same batches, twenty steps of Adam."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support import one_in, plan

from nnc.compiler.elaboration.train_block import FieldType, Setup
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.verify import verify
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import advance
from nnc.compiler.reference.initial_values import initial_values
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.source import Source
from nnc.runtime.device.cpu.program import CpuProgram

torch = pytest.importorskip("torch", reason="PyTorch is the second opinion here")
F = torch.nn.functional

STEPS, BATCH = 20, 8
TRAIN = """
train Net {
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 1e-3)
}
"""
MLP = """
model Net(image: f32[B, 12]) -> logits: f32[B, 10] {
    logits = image |> Dense(16) |> relu |> Dense(16) |> relu |> Dense(10)
}
"""
CNN = """
model Net(image: f32[B, 14, 14, 1]) -> logits: f32[B, 10] {
    logits = image
        |> Conv(4, 3) |> relu |> MaxPool(2)
        |> Conv(6, 3) |> relu |> MaxPool(2)
        |> Flatten |> Dense(8) |> relu |> Dense(10)
}
"""


def mlp(p, image):
    for layer in (1, 2):
        image = F.relu(image @ p[f"dense{layer}_w"] + p[f"dense{layer}_b"])
    return image @ p["dense3_w"] + p["dense3_b"]


def cnn(p, image):
    x = image.permute(0, 3, 1, 2)
    for layer in (1, 2):
        kernel = p[f"conv{layer}_k"].permute(3, 2, 0, 1)
        x = F.max_pool2d(F.relu(F.conv2d(x, kernel, p[f"conv{layer}_b"])), 2)
    x = x.permute(0, 2, 3, 1).reshape(len(image), -1)
    return F.relu(x @ p["dense1_w"] + p["dense1_b"]) @ p["dense2_w"] + p["dense2_b"]


NETS: dict[str, tuple[str, tuple[int, ...], Callable]] = {
    "mlp": (MLP, (12,), mlp),
    "cnn": (CNN, (14, 14, 1), cnn),
}


def compiled(text: str, shape: tuple[int, ...], float_type: str) -> tuple[System, dict]:
    report = Report()
    checked = load_source(Source("net.nn", text + TRAIN), report)
    report.check()
    fields = {"image": FieldType("f32", shape), "label": FieldType("i32", ())}
    setup = Setup(checked.definitions, checked.trains[0], {}, fields, BATCH, float_type=float_type)
    system, drawn = training_step(setup)
    verify(system, "elaboration")
    return verify(derive(system), "training"), initial_values(system, drawn, seed=3)


def batches(shape: tuple[int, ...], dtype: type) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(5)
    return [
        (
            generator.normal(size=(BATCH, *shape)).astype(dtype),
            generator.integers(0, 10, BATCH).astype(np.int32),
        )
        for _ in range(STEPS)
    ]


def by_torch(net: Callable, start: dict, data: list, names: list[str]) -> dict[str, np.ndarray]:
    p = {n: torch.tensor(start[n], requires_grad=True) for n in names}
    optimizer = torch.optim.Adam(p.values(), lr=1e-3)
    for image, label in data:
        optimizer.zero_grad()
        F.cross_entropy(net(p, torch.tensor(image)), torch.tensor(label).long()).backward()
        optimizer.step()
    return {n: v.detach().numpy() for n, v in p.items()}


def by_evaluator(system: System, start: dict, data: list) -> dict[str, np.ndarray]:
    now = dict(start)
    for step, (image, label) in enumerate(data, 1):
        _, now = advance(system, {**now, "image": image, "label": label, "step": step})
    return now


def by_cpu(system: System, start: dict, data: list) -> dict[str, np.ndarray]:
    program = CpuProgram(plan(system, verified=True))
    for name, value in start.items():
        program.arrays[name][...] = value
    for step, (image, label) in enumerate(data, 1):
        program.arrays["image"][...] = image
        program.arrays["label"][...] = label
        program.arrays["step"][...] = step
        program.run()
    return program.arrays


@pytest.mark.parametrize("float_type, tolerance", one_in(2, [("f64", 1e-8), ("f32", 1e-4)], True))
@pytest.mark.parametrize("device", [by_evaluator, by_cpu])
@pytest.mark.parametrize("name", NETS)
def test_twenty_steps_of_adam(
    name: str, device: Callable, float_type: str, tolerance: float
) -> None:
    text, shape, net = NETS[name]
    system, start = compiled(text, shape, float_type)
    data = batches(shape, np.float64 if float_type == "f64" else np.float32)
    parameters = [t.name for t in system.of_kind("param")]
    expected = by_torch(net, start, data, parameters)
    found = device(system, start, data)
    for parameter in parameters:
        worst = np.abs(found[parameter] - expected[parameter]).max()
        assert worst <= tolerance * np.abs(expected[parameter]).max(), parameter
