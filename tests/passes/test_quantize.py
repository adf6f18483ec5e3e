"""Quantisation: what its equations mean, which sums it takes, and how near its results are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support import system as small_system

from nnc.compiler import pipeline
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.printer import system_text
from nnc.compiler.ir.verify import verify
from nnc.compiler.programs import prediction
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.project import project_of_text, untrained_setup, with_batch

EXAMPLES = Path(__file__).parents[2] / "examples"


def system(text: str, batch: int = 4) -> System:
    project = project_of_text(text)
    return prediction(with_batch(untrained_setup(project, None), batch))


def values_of(found: System, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Numbers for what a system is given: whole ones below 5, variances above 0."""
    values = {}
    for tensor in found.tensors.values():
        if tensor.kind == "temp":
            continue
        if tensor.dtype != "f32":
            values[tensor.name] = rng.integers(0, 5, tensor.shape).astype(tensor.array_type)
        else:
            array = rng.standard_normal(tensor.shape).astype(np.float32)
            values[tensor.name] = np.abs(array) + 0.5 if "var" in tensor.name else array
    return values


def bounds_of(found: System, values: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    ranges, operands = pipeline.operands_of_prediction(found)
    verify(ranges, "ranges")
    arrays = evaluate(ranges, {n: v for n, v in values.items() if n in ranges.tensors})
    assert not any(arrays[one.broken] for one in operands.values())
    return {
        n: (float(arrays[one.least]), float(arrays[one.greatest])) for n, one in operands.items()
    }


def quantized(found: System, values: dict[str, np.ndarray]):
    """The prediction in 8 bits, and what it is given."""
    made = pipeline.quantized(found, found.outputs, bounds_of(found, values))
    verify(made.system, "quantize")
    verify(made.preparation, "quantize")
    assert not made.preparation.of_kind("input")
    prepared = evaluate(
        made.preparation, {n: v for n, v in values.items() if n in made.preparation.tensors}
    )
    given = {**values, **{n: prepared[n] for n in made.preparation.outputs}}
    return made, {n: v for n, v in given.items() if n in made.system.tensors}


def results(found: System, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    arrays = evaluate(found, {n: v for n, v in values.items() if n in found.tensors})
    return [arrays[name] for name in found.outputs]


def on_the_cpu(found: System, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    program = CpuProgram(found, 1)
    for name, value in values.items():
        program.arrays[name][...] = value
    program.run()
    return [program.arrays[name].copy() for name in found.outputs]


MODELS = {
    "dense": """model M(x: f32[B, 12]) -> y: f32[B, 5] { y = x |> Dense(8) |> relu |> Dense(5) }
""",
    "convolutions": """
model M(x: f32[B, 6, 6, 3]) -> y: f32[B, 4] {
    y = x |> Conv(8, 3, pad = 1) |> BatchNorm |> relu |> MaxPool(2) |> Conv(4, 2) |> GlobalAvgPool
}
""",
    "residual": """
model M(x: f32[B, 6, 6, 4]) -> y: f32[B, 6, 6, 4] {
    h = x |> Conv(4, 3, pad = 1) |> BatchNorm |> relu
    y = relu(h + (h |> Conv(4, 3, pad = 1) |> BatchNorm))
}
""",
    "depthwise": """
model M(x: f32[B, 6, 6, 4]) -> y: f32[B, 3] {
    y = x |> DepthwiseConv(3) |> gelu |> Flatten |> Dense(3)
}
""",
    "embedding": """
model M(token: i32[B, 6]) -> y: f32[B, 6, 5] {
    h = token |> Embedding(5, 8)
    y = h |> LayerNorm |> Dense(5)
}
""",
    "attention": """
model M(token: i32[B, 6]) -> y: f32[B, 6, 5] {
    h = token |> Embedding(5, 8)
    y = h + (h |> LayerNorm |> Attention(2, causal = true)) |> Dense(5)
}
""",
    "recurrence": """
model M(x: f32[B, 6, 4]) -> y: f32[B, 6, 3] { y = x |> LSTM(5) |> Dense(3) }
""",
}


@pytest.mark.parametrize("name", MODELS)
def test_results_are_near_and_those_of_the_machine_are_the_same(name):
    """Within the steps of 8 bits for random weights; to the bit of what the equations mean."""
    found = system(MODELS[name])
    values = values_of(found, np.random.default_rng(3))
    made, given = quantized(found, values)
    (expected,) = results(pipeline.derive(found), values)
    (result,) = results(made.system, given)
    assert not np.array_equal(result, expected)
    distance = np.sqrt(np.mean((result - expected) ** 2) / np.mean(expected**2))
    assert distance < 0.03, distance
    (machine,) = on_the_cpu(made.system, given)
    if name in ("dense", "convolutions", "residual"):
        assert np.allclose(machine, result, atol=1e-5 * np.abs(result).max())
    else:  # norms and functions are rounded in another order, which may change a code
        assert np.abs(machine - result).max() < 0.05 * np.abs(expected).max()


def test_between_sums_only_exact_operations_are_left():
    """So that every processor, and the evaluator, gives the same bits."""
    found = system(MODELS["dense"])
    values = values_of(found, np.random.default_rng(1))
    made, given = quantized(found, values)
    (result,) = results(made.system, given)
    (machine,) = on_the_cpu(made.system, given)
    assert np.array_equal(machine, result)


def test_the_equations_are_those_of_the_page():
    found = system("model M(x: f32[B, 4]) -> y: f32[B, 2] { y = x |> Dense(2) }\n", 3)
    bounds = {"x": (-0.5, 191 / 128)}  # 255 steps of 1/128
    made = pipeline.quantized(found, found.outputs, bounds)
    text = system_text(made.system)
    assert "u8(max(min(round(x[i0, i1] * 128.0) + 64.0, 255.0), 0.0))" in text
    assert "= sum(i < 4) i32(x_u8[b, i]) * i32(dense1_w_int8[i, o])" in text
    assert "y[b < 3, o < 2] = f32(dense1_y_sum_i32[b, o]) * dense1_y_sum_scale[o] + " in text
    assert [t.name for t in made.system.of_kind("param")] == [
        "dense1_w_int8", "dense1_y_sum_scale", "dense1_y_sum_shift"
    ]  # fmt: skip
    prepared = system_text(made.preparation)
    assert "= sum(i < 4) i32(dense1_w_int8[i, o])" in prepared
    # by hand
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((4, 2)).astype(np.float32), np.float32([0.25, -1])
    w[:, 1] = 0  # a channel without weights is its shift
    arrays = evaluate(made.preparation, {"dense1_w": w, "dense1_b": b})
    scale = np.abs(w[:, 0]).max() / np.float32(127)
    assert np.array_equal(arrays["dense1_w_int8"][:, 0], np.rint(w[:, 0] / scale))
    assert not arrays["dense1_w_int8"][:, 1].any()
    x = np.float32([[-0.5, 191 / 128, 0, 0.25], [9, -9, 1, 0.5], [0, 0, 0, 0]])
    names = ("dense1_w_int8", "dense1_y_sum_scale", "dense1_y_sum_shift")
    out = evaluate(made.system, {"x": x, **{n: arrays[n] for n in names}})
    # beyond the range: its ends; 0 is 0, exactly
    assert out["x_u8"].tolist() == [[0, 255, 64, 96], [255, 0, 192, 128], [64] * 4]
    assert np.allclose(out["y"][0], x[0] @ w + b, atol=0.03)
    assert np.allclose(out["y"][2], b, atol=1e-6)


def test_padding_is_the_code_of_zero():
    found = system(
        "model M(x: f32[B, 4, 4, 2]) -> y: f32[B, 4, 4, 3] { y = x |> Conv(3, 3, pad = 1) }\n"
    )
    values = values_of(found, np.random.default_rng(2))
    made, given = quantized(found, values)
    low, high = bounds_of(found, values)["x"]
    zero = round(-low / ((high - low) / 255))
    assert 0 < zero < 255 and f"else {zero}" in system_text(made.system)
    (expected,), (result,) = results(found, values), results(made.system, given)
    assert np.abs(result - expected).max() < 0.02 * np.abs(expected).max()


def test_what_is_printed_parses_again_and_computes_the_same():
    found = system(MODELS["convolutions"])
    values = values_of(found, np.random.default_rng(4))
    made, given = quantized(found, values)
    for each in (made.system, made.preparation):
        text = re.sub(r"^#.*\n", "", system_text(each))
        if each is made.preparation:  # without inputs a model needs one
            continue
        again = prediction(with_batch(untrained_setup(project_of_text(text), None), 4))
        assert np.array_equal(results(again, given)[0], results(each, given)[0])


def test_which_sums_are_taken():
    """Those with a parameter whose place does not depend on data, and short enough for 32 bits."""
    taken = {
        name: list(pipeline.operands_of_prediction(system(text))[1])
        for name, text in MODELS.items()
    }
    assert taken["dense"] == ["x", "relu"]
    assert taken["attention"] and not any("weight" in name for name in taken["attention"])
    assert "x" in taken["recurrence"] and len(taken["recurrence"]) == 2
    long = "model M(x: f32[B, 70000]) -> y: f32[B, 2] { y = x |> Dense(2) }\n"
    assert not pipeline.operands_of_prediction(system(long))[1]
    wide = """model M(x: [b, n]) -> y: [b, 2] {
        param w: [n, 2] = 1
        y[b, o] = sum(i) x[b, i] * w[i, o]
    }"""
    for float_type, count in (("f32", 1), ("f64", 0)):
        found = small_system(wide, float_type=float_type, b=2, n=3)
        assert len(pipeline.operands_of_prediction(found)[1]) == count
    made, _ = quantized(
        system(MODELS["embedding"]),
        values_of(system(MODELS["embedding"]), np.random.default_rng(5)),
    )
    tables = [t for t in made.system.of_kind("param") if t.shape == (5, 8)]
    assert [t.dtype for t in tables] == ["i8", "i8"] or [t.dtype for t in tables] == ["i8"]


def test_a_normalisation_is_part_of_the_scale():
    made, _ = quantized(
        system(MODELS["residual"]), values_of(system(MODELS["residual"]), np.random.default_rng(6))
    )
    assert not made.system.of_kind("state")
    assert "sqrt" not in system_text(made.system) and "sqrt" in system_text(made.preparation)


def test_numbers_that_are_proven_are_not_checked():
    """Only what follows from inputs can be NaN."""
    found = system(MODELS["dense"])
    made, given = quantized(found, values_of(found, np.random.default_rng(7)))
    checked = pipeline.checked(made.system)
    text = system_text(checked)
    assert text.count("!=") == 1 and "x[i0, i1]" in text
    fine = evaluate(checked, given)
    assert fine["integers!"] == 0
    given["x"] = given["x"].copy()
    given["x"][1, 2] = np.nan
    assert evaluate(checked, given)["integers!"] == 1
    given["x"][1, 2] = np.inf  # the end of the range
    assert evaluate(checked, given)["integers!"] == 0
