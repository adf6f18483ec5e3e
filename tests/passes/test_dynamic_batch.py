"""A program for a batch computes fewer examples: the same bits as in a full one, and no more."""

from __future__ import annotations

import numpy as np
import pytest
from support import plan, values

from nnc.compiler.elaboration.model import forward
from nnc.compiler.ir.equation import CHECK, System
from nnc.compiler.passes.kernels.dynamic_batch import example_dimensions
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.source import Source
from nnc.runtime.device.cpu.program import CpuProgram

BATCH = 13
COUNTS = (1, 2, 3, 4, 7, 12)

MODELS = {
    "dense": "model M(x: f32[B, 20]) -> y: f32[B, 7] { y = x |> Dense(40) |> relu |> Dense(7) }",
    "numbers": "model M(x: f32[B, 9]) -> y: f32[B] { y[b] = sum(i) x[b, i]^2 }",
    "pixels": "model M(x: f32[B, 9, 8, 3]) -> y: f32[B, 9, 8, 3] { y = relu(x) * 2 + x }",
    "convolutions": """
        model M(x: f32[B, 8, 8, 3]) -> y: f32[B, 5] {
            y = x |> Conv(8, 3, pad = "same") |> BatchNorm |> relu |> MaxPool(2) |> Conv(16, 3)
                |> Flatten |> Dense(5)
        }""",
    "recurrence": """
        model M(x: f32[B, 6, 5]) -> y: f32[B, 4] {
            h = x |> LSTM(8) |> GRU(8)
            last[b, j] = h[b, 5, j]
            y = last |> Dense(4)
        }""",
    "attention": """
        model M(x: f32[B, 10, 8]) -> y: f32[B, 10, 8] {
            y = x |> LayerNorm |> Attention(2, causal = true)
        }""",
    "embedding": """
        model M(token: i32[B, 6], length: i32[B]) -> y: f32[B, 4] {
            e = token |> Embedding(4, 4)
            y[b, j] = (e[b, length[b] - 1, j] else 0)
        }""",
    "positions": "model M(x: f32[B, 9]) -> y: i32[B] { y[b] = argmax(i) x[b, i] }",
    "two inputs": """
        model M(x: f32[B, 4], z: f32[B, 6]) -> y: f32[B, 4, 6], s: f32[B] {
            y[b, i, j] = x[b, i] * z[b, j]
            s[b] = sum(i, j) y[b, i, j]
        }""",
    "gradient": """
        model M(x: f32[B, 4]) -> y: f32[B, 4] {
            param w: [4, 4] = 0.5
            u[b] = sum(i) tanh(sum(j) w[i, j] * x[b, j])
            y = grad(u, x)
        }""",
}


def dynamic(text: str) -> System:
    """The prediction of `M` in double precision."""
    report = Report()
    found = load_source(Source("test.nn", text), report)
    report.check()
    made = forward(found.definitions, "M", {"B": BATCH}, training=False, float_type="f64")
    return derive(made).replace(updates={}, batch=BATCH, index_inputs={"token": 4})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_fewer_examples(name: str, threads: int) -> None:
    system = dynamic(MODELS[name])
    assert example_dimensions(system) is not None
    program = CpuProgram(system, threads)
    given = values(system)
    # Every state, a variance among them, is one that a model may have.
    given |= {t.name: np.abs(given[t.name]) for t in system.of_kind("state")}
    if "length" in given:
        given["length"] = 1 + np.arange(BATCH, dtype=np.int32) % 6
    for field, array in given.items():
        program.arrays[field][...] = array
    program.run()
    outputs = [output for output in system.outputs if output != CHECK]
    full = {output: program.arrays[output].copy() for output in outputs}
    meant = evaluate(system, given)
    for output in outputs:
        np.testing.assert_allclose(full[output], meant[output], rtol=1e-9, atol=1e-12)
    for count in COUNTS:
        program.shorten(count)
        for output in outputs:
            program.arrays[output][...] = 77
        program.run()
        for output in outputs:
            assert np.array_equal(program.arrays[output][:count], full[output][:count])
        assert CHECK not in program.arrays or not program.arrays[CHECK]


@pytest.mark.parametrize("name", ["dense", "pixels", "convolutions", "recurrence", "attention"])
def test_no_loop_takes_all_examples(name: str) -> None:
    """But for kernels that depend on no example."""
    made = plan(dynamic(MODELS[name]))
    dimensions = example_dimensions(made.system)
    assert dimensions is not None
    program = CpuProgram(made)
    for kernel in made.kernels:
        if kernel.stored[0] in dimensions and kernel.examples not in kernel.fixed:
            assert any(loop.per_example for loop in program.source.nest(kernel).loops), kernel.name
    assert "* examples" in program.loops


@pytest.mark.parametrize(
    "body",
    [
        "y[b, i] = x[b, i] - (mean(c) x[c, i])",
        "y[b, i] = x[(b + 1) % 13, i]",
        "y[b, i] = x[12 - b, i]",
        "y[b, i] = (x[b - 1, i] else 0)",
        "y[b, i] = x[b, i] / (max(...) x[..., i])",
        "y[b, i] = (y[b - 1, i] else 0) + x[b, i]",
        "y[b, i] = x[0, i] + x[b, i]",
        "y[b, i] = sum(c) x[b, i] * x[c, i]",
    ],
)
def test_examples_that_depend_on_each_other(body: str) -> None:
    system = dynamic(f"model M(x: f32[B, 4]) -> y: f32[B, 4] {{ {body} }}")
    assert example_dimensions(system) is None


def test_statistics_that_nothing_reads_join_no_examples() -> None:
    text = "model M(x: f32[B, 4]) -> y: f32[B, 4] { m[i] = mean(b) x[b, i]\n y = 2 * x }"
    assert example_dimensions(dynamic(text)) is not None


def test_a_parameter_as_long_as_the_batch_is_computed_whole() -> None:
    text = f"""
        model M(x: f32[B, 4]) -> y: f32[B, {BATCH}] {{
            param w: [{BATCH}, 4] ~ normal(1)
            v = tanh(w)
            u = tanh(x)
            y[b, k] = sum(i) u[b, i] * v[k, i]
        }}"""
    system = dynamic(text)
    given = values(system)
    program = CpuProgram(plan(system, without=("inline",)))
    for field, array in given.items():
        program.arrays[field][...] = array
    program.shorten(2)
    program.run()
    meant = evaluate(system, given)["y"][:2]
    np.testing.assert_allclose(program.arrays["y"][:2], meant, rtol=1e-12)
