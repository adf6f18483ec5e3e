"""One system for any length computes what the system of each length does: by the evaluator and in
machine code, whatever stands in memory beyond."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from support import values

from nnc.compiler.elaboration.selection import Selection
from nnc.compiler.ir.dynamic_sizes import (
    DynamicSystem,
    NotDynamic,
    size_input,
    size_value,
)
from nnc.compiler.ir.equation import CHECK, System
from nnc.compiler.ir.expr import is_size_input
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.integer_checks import integer_checks
from nnc.compiler.passes.kernels.kernel import Blocks, Scan
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import any_sizes, dynamic, sized
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import RowBlockLimits
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.project import project_of_text, setup_of

MOST = {"T": 13, "S": 9}
LENGTHS = (1, 2, 3, 5, 8, 12, 13)

ONE, TWO = "x: f32[B, T, 4]", "x: f32[B, T, 4], z: f32[B, S, 4]"
MODELS = {
    "positionwise": (ONE, "y = x |> Dense(5) |> relu |> LayerNorm"),
    "mean": (ONE, "y[b, j] = mean(t) x[b, t, j]"),
    "mean of all": (ONE, "y[b] = mean(t, j) x[b, t, j]"),
    "sum": (ONE, "y[b, j] = sum(t) x[b, t, j]^2 / T"),
    "reductions": (
        ONE,
        """
        u[b, j] = max(t) x[b, t, j]
        v[b, j] = min(t) x[b, t, j]
        w[b, j] = prod(t) x[b, t, j]
        y = u + v + w
        """,
    ),
    "place of the greatest": (ONE, "y[b, j] = argmax(t) x[b, t, j]"),
    "attention": (ONE, "y = x |> Attention(2)"),
    "causal attention": (ONE, "y = x |> LayerNorm |> Attention(2, causal = true)"),
    "recurrences": (ONE, "y = x |> LSTM(3) |> GRU(4)"),
    "backward": (ONE, "y[b, t, j] = tanh(x[b, t, j] + (y[b, t + 1, j] else 0))"),
    "convolution": (ONE, "y[b, t < T, j] = sum(u < 3) (x[b, t + u - 1, j] else 0) * (u + 1)"),
    "valid": (ONE, "y[b, t < T, j] = sum(u < 3) (x[b, t + u, j] else 1) * (u + 1)"),
    "last": (ONE, "y[b, j] = x[b, T - 1, j]"),
    "reversed": (ONE, "y[b, t < T, j] = x[b, T - 1 - t, j] * (t + 1) / T"),
    "joined": (ONE, "y = concat(x, stop(x), axis = T)"),
    "differences": (ONE, "y[b, t, j] = if t > 0 then x[b, t, j] - x[b, t - 1, j] else 0"),
    "other order": ("x: f32[B, 4, T]", "y[b, t] = sum(i) x[b, i, t] * x[b, i, T - 1 - t]"),
    "padded": (
        f"{ONE}, length: i32[B]",
        "u[b, j] = mean(t < length[b]) x[b, t, j]\n y[b, j] = u[b, j] + x[b, length[b] - 1, j]",
    ),
    "tokens": (
        "token: i32[B, T], order: i32[B, T]",
        "e = token |> Embedding(4, 3)\n y[b, t, j] = e[b, order[b, t], j]",
    ),
    "counts": (
        "token: i32[B, T]",
        "y[token[b, t] < 4] += sum(b, t) token[b, t] + 1",
    ),
    "whole numbers": ("k: i32[B, T]", "s[b] = sum(t) k[b, t]\n y[b, t] = s[b] // (k[b, t] + 1)"),
    "two sizes": (
        TWO,
        """
        score[b, t, s] = sum(j) x[b, t, j] * z[b, s, j]
        weight = softmax(score)
        y[b, t, j] = sum(s) weight[b, t, s] * z[b, s, j] / (S + T)
        """,
    ),
    "gradient": (ONE, "e[b] = sum(t, j) tanh(x[b, t, j])^2\n y = grad(e, x)"),
}


@cache
def made(name: str):
    inputs, body = MODELS[name]
    limits = "; ".join(f"{s} <= {n}" for s, n in MOST.items() if f", {s}" in inputs)
    text = f"""
        model M({inputs}) -> y {{
            {body}
        }}
        train M {{
            loss      = mean(f32(y)^2)
            optimizer = sgd()
            float     = f64
            batch     = 3
            {limits}
        }}"""
    return setup_of(project_of_text(text), None)


@cache
def for_any(name: str) -> DynamicSystem:
    found = any_sizes(made(name), Selection())
    verify(found.system, "dynamic sizes")
    return found


def exact(name: str, sizes: dict[str, int]) -> System:
    return sized(made(name), Selection(sizes=tuple(sizes.items())))


def lengths(name: str) -> list[dict[str, int]]:
    greatest = for_any(name).greatest
    return [
        {s: min(n if s == "T" else (3 * n) % most + 1, most) for s, most in greatest.items()}
        for n in LENGTHS
    ]


def given(name: str, system: System, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Values for a system of these sizes."""
    found = values(system, integers=3)
    if "order" in found:
        found["order"] %= sizes["T"]
    if "length" in found:
        found["length"] = 1 + np.arange(3, dtype=np.int32) % sizes["T"]
    return found


def enlarged(
    found: DynamicSystem, small: dict[str, np.ndarray], sizes: dict[str, int], beyond: float
) -> dict[str, np.ndarray]:
    """The same with `beyond` after the end of each float."""
    result = {size_input(s): np.asarray(n, np.int32) for s, n in sizes.items()}
    for tensor in found.system.tensors.values():
        if tensor.kind == "temp" or is_size_input(tensor.name):
            continue
        array = small[tensor.name]
        width = [(0, n - m) for n, m in zip(tensor.shape, array.shape, strict=True)]
        floats = array.dtype.kind == "f"
        options = {"constant_values": beyond} if floats else {}
        result[tensor.name] = np.pad(array, width, "constant" if floats else "edge", **options)
    return result


def part(found: DynamicSystem, name: str, array: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
    for axis, form in found.system.sized.get(name, {}).items():
        array = np.take(array, range(size_value(form, sizes)), axis)
    return array


@pytest.mark.parametrize("name", MODELS)
def test_the_evaluator_gives_the_values_of_each_length(name: str) -> None:
    found = for_any(name)
    for sizes in lengths(name):
        system = exact(name, sizes)
        assert found.matches(system, sizes)
        small = given(name, system, sizes)
        meant = evaluate(system, small)["y"]
        # NaN beyond the end would show in any number that depends on it.
        large = enlarged(found, small, sizes, np.nan)
        y = part(found, "y", evaluate(found.system, large)["y"], sizes)
        assert y.shape == meant.shape
        np.testing.assert_allclose(y, meant, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_machine_code_gives_the_values_of_each_length(name: str) -> None:
    found = for_any(name)
    program = CpuProgram(derive(found.system), 1)
    for sizes in lengths(name):
        system = exact(name, sizes)
        small = given(name, system, sizes)
        # Whatever else has stood in memory: here NaN.
        program.arena[:] = 255
        for field, array in enlarged(found, small, sizes, 0.5).items():
            if field in program.arrays:
                program.arrays[field][...] = array
        program.run()
        y = part(found, "y", program.arrays["y"], sizes)
        np.testing.assert_allclose(y, evaluate(system, small)["y"], rtol=1e-9, atol=1e-12)
        assert CHECK not in program.arrays or not program.arrays[CHECK]


@pytest.mark.parametrize(
    ("name", "field", "wrong"),
    [("padded", "length", 8), ("tokens", "order", 7), ("whole numbers", "k", -1)],
)
def test_a_place_beyond_the_length_is_refused(name: str, field: str, wrong: int) -> None:
    found, sizes = for_any(name), {"T": 7}
    small = given(name, exact(name, sizes), sizes)
    small[field].flat[1] = wrong
    system = integer_checks(found.system)
    assert evaluate(system, enlarged(found, small, sizes, 0.5))[CHECK]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("param p: [T, 4] = 0\n y = x + p", "p"),
        ("y[b, t < T // 2, j] = x[b, 2 * t, j]", "y"),
        ("h = 2 * x\n y[b, j] = sum(t) h[b, t, j] / T^2", "y"),
        ("y[b] = argmax(j, t) x[b, t, j]", "y"),
        ("h = x\n repeat T { h = tanh(h) }\n y = h", ""),
    ],
)
def test_other_uses_of_a_size(body: str, name: str, monkeypatch) -> None:
    monkeypatch.setitem(MODELS, body, (ONE, body))
    with pytest.raises(NotDynamic) as caught:
        any_sizes(made(body), Selection())
    assert caught.value.name == name


def test_a_condition_on_the_length(monkeypatch) -> None:
    body = "let far = T > 5\n y = if far then 2 * x else x"
    monkeypatch.setitem(MODELS, body, (ONE, body))
    found = for_any(body)
    assert [found.matches(exact(body, {"T": n}), {"T": n}) for n in (4, 5, 6, 13)] == [
        False,
        False,
        True,
        True,
    ]
    assert not found.matches(exact(body, {"T": 13}), {"T": 14})


# --- what is computed -----------------------------------------------------------------------------

LARGE = """
model M(x: f32[B, T, 24]) -> y: f32[B, T, 24], m: f32[B, 24] {
    h = x |> Dense(48) |> relu |> Dense(24) |> Attention(2, causal = true)
    y[b, t, j] = tanh(h[b, t, j] + (y[b, t + 1, j] else 0))
    m[b, j] = mean(t) y[b, t, j]
}
train M {
    loss      = mean(y^2)
    optimizer = sgd()
    float     = f64
    batch     = 3
    T <= 60
}"""


@pytest.mark.parametrize("threads", [1, 2])
def test_loops_end_at_the_length(threads: int) -> None:
    """Of examples and of places: on any number of threads, in blocks of rows, in a recurrence."""
    setup = setup_of(project_of_text(LARGE), None)
    found = any_sizes(setup, Selection())
    system = dynamic(setup, found.system)
    assert system is not None
    # on which every matrix is worth blocks of 8 rows, and every loop worth several threads
    target = replace(host.target(), row_blocks=RowBlockLimits(1, 1, 0.0, 8))
    target = replace(target, tiling=replace(target.tiling, parallel_cycles=1))
    program = CpuProgram(system, threads, target)
    for item in program.plan.items:
        if isinstance(item, Scan):
            assert str(item.steps) == "T!"
        elif isinstance(item, Blocks):
            assert str(item.extent) == "T!"
        elif any(i.size == 60 for i in item.anchor.indices):
            assert item.unread_where, item.name
    kinds = {type(item) for item in program.plan.items}
    assert {Scan, Blocks} < kinds
    assert "parallel for t < 60 until T!" in program.loops
    weights = values(system)
    for length, count in ((1, 3), (7, 2), (41, 1), (60, 3)):
        exact_system = sized(setup, Selection(sizes=(("T", length),)))
        small = {**weights, "x": weights["x"][:, :length]}
        program.arena[:] = 255
        program.shorten(count)
        for field, array in enlarged(found, small, {"T": length}, 0.5).items():
            program.arrays[field][...] = array
        program.run()
        meant = evaluate(exact_system, small)
        for name in ("y", "m"):
            y = part(found, name, program.arrays[name], {"T": length})[:count]
            np.testing.assert_allclose(y, meant[name][:count], rtol=1e-9, atol=1e-12)
