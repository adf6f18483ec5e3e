"""Clipped gradients of single examples: against those of batches of one, taken one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram, available
from support import gpu_plan

from nnc.compiler.elaboration.context import DRAWN
from nnc.compiler.elaboration.train_block import Private, Setup
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.verify import InternalError
from nnc.compiler.pipeline import derive, plan, verify_each
from nnc.compiler.programs import step_with_gradients
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.inspect.sample_inputs import random_values
from nnc.runtime.project import project_of_text, setup_of, with_batch

BATCH, COUNTED = 5, 4  # the last example does not count

TRAIN = """
train M {{
    input t: {target}
    loss = {loss}
    optimizer = sgd(lr = 0.1)
    batch = 5
}}
"""


def program(body: str, inputs: str, output: str, loss: str, target: str) -> str:
    train = TRAIN.format(loss=loss, target=target)
    return f"model M({inputs}) -> {output} {{\n{body}\n}}\n{train}"


LABELS = "cross_entropy(y, t)"
MODELS = {
    "dense": program(
        "y = x |> Dense(7) |> tanh |> Dense(4)", "x: f32[B, 6]", "y: f32[B, 4]", LABELS, "i32[B]"
    ),
    "convolutions": program(
        "y = x |> Conv(3, 3, stride = 2, pad = 1) |> relu |> MaxPool(2, 1) |> Conv(40, 2, pad = 1)"
        " |> relu |> GlobalAvgPool |> Dense(4)",
        "x: f32[B, 7, 7, 2]", "y: f32[B, 4]", LABELS, "i32[B]",
    ),
    "groups of channels": program(
        "y = x |> Conv(8, 2, groups = 2) |> GroupNorm(2) |> relu |> DepthwiseConv(2) "
        "|> ConvTranspose(3, 2, stride = 2) |> GlobalAvgPool |> Dense(4)",
        "x: f32[B, 5, 5, 4]", "y: f32[B, 4]", LABELS, "i32[B]",
    ),
    "few rows of a large table": program(
        "y = x |> Embedding(50, 8) |> LayerNorm |> Dense(3)",
        "x: i32[B, 3]", "y: f32[B, 3, 3]", LABELS, "i32[B, 3]",
    ),
    "many rows of a small table": program(
        "y = x |> Embedding(3, 2) |> Dense(3)",
        "x: i32[B, 9]", "y: f32[B, 9, 3]", LABELS, "i32[B, 9]",
    ),
    "a table read twice": program(
        "param table: [11, 4] ~ normal(0, 1)\n"
        "h[b, s, j] = table[x[b, s], j] * table[x[b, 0], j]\n"
        "y[b, s, v] = sum(j) h[b, s, j] * table[v, j]",
        "x: i32[B, 3]", "y: f32[B, 3, 11]", LABELS, "i32[B, 3]",
    ),
    "attention": program(
        "y = x |> Embedding(9, 8) |> Attention(2, causal = true) |> Dense(9)",
        "x: i32[B, 4]", "y: f32[B, 4, 9]", LABELS, "i32[B, 4]",
    ),
    "a recurrence": program(
        "y = x |> LSTM(5) |> Dense(2)", "x: f32[B, 4, 3]", "y: f32[B, 4, 2]",
        "mse(y, t)", "f32[B, 4, 2]",
    ),
    "a weight made of others": program(
        "param v: [6, 4] ~ glorot_uniform\nparam g: [4] = 1.5\n"
        "w[i, o] = g[o] * v[i, o] / sqrt(1 + sum(k) v[k, o]^2)\n"
        "y[b, o] = sum(i) x[b, i] * w[i, o] + g[o]",
        "x: f32[B, 6]", "y: f32[B, 4]", "sum((y - t)^2)", "f32[B, 4]",
    ),
    "two losses added up": program(
        "y = x |> Dense(7) |> tanh |> Dense(4)", "x: f32[B, 6]", "y: f32[B, 4]",
        "mse(y, t) + 0.5 * mean(y^2)", "f32[B, 4]",
    ),
    "examples last": program(
        "param w: [3, 2] ~ glorot_uniform\nz[o, n] = tanh(sum(b) x[n, b] * w[b, o])\n"
        "y[n, o] = z[o, n]",
        "x: f32[B, 3]", "y: f32[B, 2]", "mse(y, t)", "f32[B, 2]",
    ),
}  # fmt: skip


def setup_for(text: str, private: Private | None) -> Setup:
    return replace(setup_of(project_of_text(text), None), private=private)


def derived(setup: Setup) -> tuple[System, dict[str, str]]:
    step, _, names = step_with_gradients(setup)
    return derive(step, observers=[verify_each]), names


def gradients(system: System, names: dict[str, str], values: dict) -> dict[str, np.ndarray]:
    found = evaluate(system, values, wide=True)
    return {name: found[gradient] for name, gradient in names.items()}


def examples_of(setup: Setup, values: dict) -> list[dict[str, np.ndarray]]:
    """The gradient of every example, as that of a batch of it alone."""
    one, names = derived(replace(with_batch(setup, 1), private=None))
    inputs = [t.name for t in one.of_kind("input") if t.shape]
    found = []
    for example in range(BATCH):
        alone = {n: v[example : example + 1] if n in inputs else v for n, v in values.items()}
        alone = {t.name: alone[t.name] for t in one.tensors.values() if t.kind != "temp"}
        found.append(gradients(one, names, alone))
    return found


@pytest.mark.parametrize("text", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("limit", [0.01, 1e3])
def test_gradients_are_sums_of_clipped_gradients_of_examples(text: str, limit: float) -> None:
    setup = setup_for(text, Private(limit, 1.0, 2.0))
    system, names = derived(setup)
    values = random_values(system, 3)
    values[DRAWN] = np.array(COUNTED, np.int32)
    mean = "loss = sum" not in text
    each = examples_of(setup, values)
    norms = [np.sqrt(sum((g**2).sum() for g in own.values())) for own in each]
    factors = [min(1.0, limit / norm) / (2.0 if mean else 1.0) for norm in norms]
    assert limit > 1 or min(factors) < 0.4  # some are clipped
    counted = [*zip(factors, each, strict=True)][:COUNTED]
    for name, found in gradients(system, names, values).items():
        expected = sum(f * own[name] for f, own in counted)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=name)


def small_step(name: str) -> tuple[System, dict[str, np.ndarray]]:
    step = step_with_gradients(setup_for(MODELS[name], Private(0.02, 1.0, 2.0)))[0]
    values = random_values(step, 3)
    return step, {**values, DRAWN: np.array(COUNTED, np.int32)}


@pytest.mark.parametrize("name", ["convolutions", "few rows of a large table"])
def test_all_passes_and_machine_code_agree(name: str) -> None:
    step, values = small_step(name)
    check_updates(
        CpuProgram(plan(step, host.target(), observers=[PassCheck(step, values)]), 1), step, values
    )


@pytest.mark.slow  # CUDA code is compiled for its simulator
@pytest.mark.skipif(not available(), reason="needs g++")
@pytest.mark.parametrize("name", ["dense", "convolutions", "few rows of a large table"])
def test_cuda_code_agrees(name: str) -> None:
    step, values = small_step(name)
    check_updates(SimulatedProgram(gpu_plan(step)), step, values)


def check_updates(running, step: System, values: dict[str, np.ndarray]) -> None:
    """With noise, which is the same but for the rounding of logarithms and cosines."""
    expected = evaluate(derive(step), values)
    for tensor, value in values.items():
        running.arrays[tensor][...] = value
    running.run()
    for parameter, following in step.updates.items():
        found = running.arrays[parameter]
        np.testing.assert_allclose(found, expected[following], rtol=2e-5, atol=2e-6)


def test_the_pass_checker_takes_examples_one_by_one() -> None:
    """It notices a factor that is slightly wrong."""
    step, values = small_step("dense")
    check = PassCheck(step, values)
    wrong = replace(step.clipping, limit=step.clipping.limit * 1.01)

    def observe(name, before, after, seconds) -> None:
        check(name, before, after, seconds)
        if name == "differentiate":
            check.before = check.before.replace(clipping=wrong)

    with pytest.raises(InternalError, match="clip-examples"):
        derive(step, observers=[observe])


def test_a_norm_of_nothing_is_no_number_below_zero() -> None:
    """The gradient of three equal rows with weights that add up to 0 is 0, but for rounding."""
    text = program(
        "s = x |> Dense(9) |> tanh |> Dense(1)\n"
        "y[b] = 0.7 * s[b, 0, 0] - 0.2 * s[b, 1, 0] - 0.5 * s[b, 2, 0]",
        "x: f32[B, 3, 8]", "y: f32[B]", "mse(y, t)", "f32[B]",
    )  # fmt: skip
    step = step_with_gradients(setup_for(text, Private(1.0, 0.0, 2.0)))[0]
    running = CpuProgram(plan(step, host.target()), 1)
    for seed in range(4):
        values = {**random_values(step, seed), DRAWN: np.array(BATCH, np.int32)}
        values["x"][:] = values["x"][:, :1]
        for tensor, value in values.items():
            running.arrays[tensor][...] = value
        running.run()
        for parameter in step.updates:
            np.testing.assert_allclose(running.arrays[parameter], values[parameter], atol=1e-6)


def test_ghost_norms_are_chosen_by_sizes() -> None:
    """2 T^2 < p d: the gradients of single examples are not stored then."""
    tensors = derive(small_step("convolutions")[0]).tensors
    # the first has 4 * 4 places and 18 * 3 elements, the second 4 * 4 places and 12 * 40
    assert {n for n in tensors if n.endswith("_k_each")} == {"d_conv1_k_each", "d_conv2_k_each"}
    large = MODELS["convolutions"].replace("Conv(40, 2, pad = 1)", "Conv(60, 2, pad = 1)")
    step = step_with_gradients(setup_for(large, Private(0.02, 1.0, 2.0)))[0]
    tensors = derive(step).tensors
    assert "d_conv2_k_each" not in tensors and tensors["d_conv2_k_gram"].shape == (5, 4, 4, 4, 4)
    tensors = derive(small_step("few rows of a large table")[0]).tensors
    assert "d_embedding1_w_each" not in tensors
