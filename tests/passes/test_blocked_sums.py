"""Long sums in blocks: the error of a sum does not grow with its length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram, available
from support import TARGET, gradients, one_in, plan, system, values

from nnc.compiler import pipeline
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS, GpuTarget
from nnc.runtime.device.cpu.program import CpuProgram

# name: a program, and y of its inputs in float64. None of the sums is split among threads first.
SUMS: dict[str, tuple[str, Callable]] = {
    "total": ("model M(x: f32[999983]) -> y { y = sum(i) x[i] }", lambda x: x.sum()),
    "mean of images": (
        "model M(x: f32[401, 28, 89]) -> y { y = mean(...) x[...]^2 }",
        lambda x: (x * x).mean(),
    ),
    "rows": ("model M(x: f32[3, 100003]) -> y { y[b] = sum(i) x[b, i] }", lambda x: x.sum(1)),
    "columns": ("model M(x: f32[100003, 7]) -> y { y[j] = mean(i) x[i, j] }", lambda x: x.mean(0)),
    "many columns": (
        "model M(x: f32[20011, 130]) -> y { y[j] = sum(i) x[i, j] }",
        lambda x: x.sum(0),
    ),
    "product": (
        "model M(x: f32[5003, 40]) -> y { y[i, j] = sum(k) x[k, i] * x[k, j] }",
        lambda x: x.T @ x,
    ),
    "row products": (
        "model M(x: f32[20, 50021]) -> y { y[i, j] = sum(k) x[i, k] * x[j, k] }",
        lambda x: x @ x.T,
    ),
    "short inner loops": (
        "model M(x: f32[997, 3, 101]) -> y { y[c] = sum(b, t) x[b, t, c] }",
        lambda x: x.sum((0, 1)),
    ),
    "window": (
        "model M(x: f32[9001]) -> y { y[i < 40] = sum(k < 8990) (x[i + k - 20] else 0) }",
        lambda x: np.array([x[max(i - 20, 0) : i - 20 + 8990].sum() for i in range(40)]),
    ),
    "masked": (
        "model M(x: f32[6007]) -> y { y[i < 6007] = sum(k < 6007) if k <= i then x[k] else 0 }",
        np.cumsum,
    ),
    "gathered": (
        "model M(x: f32[50021]) -> y { y = sum(i < 50021) x[(7 * i) % 50021] }",
        lambda x: x.sum(),
    ),
    "bool": ("model M(x: f32[70001]) -> y { y = mean(...) f32(x[...] > 0) }", lambda x: 1.0),
}


def _run(source, given: dict, threads: int = 1, target=None) -> dict[str, np.ndarray]:
    program = CpuProgram(plan(source, target=target), threads=threads, target=target)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    return {name: np.array(program.arrays[name]) for name in source.outputs}


@pytest.mark.parametrize("value", [0.1, 1 / 3])
@pytest.mark.parametrize("name", SUMS)
def test_equal_numbers(name: str, value: float) -> None:
    text, right = SUMS[name]
    whole = system(text, float_type="f32")
    x = np.full(whole.tensors["x"].shape, value, np.float32)
    expected = right(x.astype(np.float64))
    # A block of products has 256 terms, of which each may be off in the last place.
    bound = 5e-6 if "product" in name else 1e-6
    np.testing.assert_allclose(evaluate(whole, {"x": x})["y"], expected, rtol=1.2e-7)
    np.testing.assert_allclose(_run(whole, {"x": x})["y"], expected, rtol=bound)


@pytest.mark.parametrize("name", one_in(4, SUMS))
def test_processors_without_f64_add_in_pairs(name: str) -> None:
    text, right = SUMS[name]
    whole = system(text, float_type="f32")
    x = np.full(whole.tensors["x"].shape, 0.1, np.float32)
    expected = right(x.astype(np.float64))
    found = _run(whole, {"x": x}, target=CPU_TARGETS["generic-single"])["y"]
    # One accumulator takes the 256 terms of a block.
    bound = 5e-6 if "product" in name or name == "masked" else 1e-6
    np.testing.assert_allclose(found, expected, rtol=bound)


@pytest.mark.parametrize("name", SUMS)
def test_random_numbers_of_either_type(name: str) -> None:
    for dtype, unit in (("f32", 2.0**-23), ("f64", 2.0**-52)):
        text, right = SUMS[name]
        whole = system(text, float_type=dtype)
        given = values(whole)
        if name == "bool":
            given["x"] = abs(given["x"])
        found, terms = _run(whole, given)["y"], abs(given["x"]).max() ** 2 * given["x"].size
        exact = right(given["x"].astype(np.float64))
        np.testing.assert_allclose(found, exact, rtol=8 * unit, atol=unit * terms / 10)


def test_an_infinite_term_makes_the_sum_infinite_and_a_nan_makes_it_nan() -> None:
    whole = system("model M(x: f32[99991]) -> y { y = sum(i) x[i] }", float_type="f32")
    x = np.ones(99991, np.float32)
    x[5] = np.inf
    assert _run(whole, {"x": x})["y"] == np.inf
    x[70000] = -np.inf
    assert np.isnan(_run(whole, {"x": x})["y"])


def test_gradients_of_a_layer_over_a_long_batch() -> None:
    text = """model M(x: f32[30011, 24], w: f32[24, 8], b: f32[8], t: f32[30011, 8]) -> loss {
        y[n, o] = sum(i) x[n, i] * w[i, o] + b[o]
        loss = mean(...) (y[...] - t[...])^2
    }"""
    whole = system(text, float_type="f32")
    with_gradients, names = gradients(whole, "loss", ["w", "b"])
    given = {"x": 0.1, "w": 0.3, "b": 0.7, "t": 0.1}
    given = {n: np.full(whole.tensors[n].shape, v, np.float32) for n, v in given.items()}
    exact = evaluate(with_gradients, given, wide=True)
    found = _run(with_gradients, given)
    for name in ("loss", *names.values()):
        np.testing.assert_allclose(found[name], exact[name], rtol=5e-6, err_msg=name)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    whole = system(SUMS["many columns"][0], float_type="f32")
    given = values(whole)
    first, *others = (_run(whole, given, threads)["y"].tobytes() for threads in (1, 2, 3))
    assert all(other == first for other in others)


@pytest.mark.parametrize("block", [1, 2, 5])
@pytest.mark.parametrize("name", SUMS)
def test_blocks_of_any_length_keep_every_term(name: str, block: int) -> None:
    tiling = replace(TARGET.tiling, short_block=block, long_block=block, whole_blocks=1)
    text, right = SUMS[name]
    whole = system(text, float_type="f64")
    given = values(whole)
    if name == "bool":
        given["x"] = abs(given["x"])
    target = replace(TARGET, tiling=tiling)
    program = CpuProgram(plan(whole, target=target), threads=1, target=target)
    program.arrays["x"][...] = given["x"]
    program.run()
    np.testing.assert_allclose(program.arrays["y"], right(given["x"]), rtol=1e-12, atol=1e-9)


FEW = GpuTarget(processors=2)  # so few that no sum is split among blocks


@pytest.mark.skipif(not available(), reason="needs g++")
@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("model M(x: f32[200003]) -> y { y = sum(i) x[i] }", "BlockedSum<f32, 32>"),
        ("model M(x: f32[90001, 3]) -> y { y[j] = mean(i) x[i, j] }", "BlockedSum<f32, 32>"),
        ("model M(x: f32[900]) -> y { y = sum(i) x[i] }", ""),
    ],
)
def test_on_a_gpu_a_thread_adds_up_blocks(text: str, has: str) -> None:
    whole = system(text, float_type="f32")
    program = SimulatedProgram(whole, target=FEW)
    kernels = program.module.kernels
    assert has in kernels if has else "BlockedSum" not in kernels
    for x in (np.float32(0.1), values(whole)["x"]):
        program.arrays["x"][...] = x
        program.run()
        given = {"x": np.array(program.arrays["x"])}
        expected = evaluate(whole, given, wide=True)["y"]
        found = np.asarray(program.arrays["y"])
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7 * given["x"].shape[0])


def test_short_sums_are_not_divided() -> None:
    for size, blocks in ((16000, False), (17000, True)):
        made = plan(system(f"model M(x: f32[{size}]) -> y {{ y = sum(i) x[i] }}"), target=TARGET)
        code = pipeline.generate(made, TARGET)
        (nest,) = (code.nest(kernel) for kernel in made.kernels)
        assert any(loop.block for loop in nest.inner) == blocks
        assert ("in f64" in str(nest)) == blocks
