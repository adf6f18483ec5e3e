"""What is declared f16 or bf16 is stored in 16 bits and rounded once, where it is stored; whole
numbers become what a result is declared to be."""

from __future__ import annotations

import numpy as np
import pytest
from support import elaborated

from nnc.compiler.elaboration.model import forward
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.functions import TABLE
from nnc.compiler.ir.printer import system_text
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.simplify import simplify
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.source import Source

X = np.linspace(-3, 3, 24).reshape(4, 6).astype(np.float32)
K = np.array([0, 2, 2, 1], np.int32)


def f16(values) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


def bf16(values) -> np.ndarray:
    return TABLE["bf16"].numpy(np.asarray(values, np.float32))


def read(text: str) -> System:
    report = Report()
    found = load_source(Source("m.nn", text), report)
    report.check()
    return verify(simplify(forward(found.definitions, "M", {}, float_type="f32")), "elaboration")


def recurrence() -> np.ndarray:
    h = np.zeros((4, 6), np.float32)
    for t in range(6):
        before = h[:, t - 1] if t else np.zeros(4, np.float32)
        h[:, t] = f16(before * np.float32(0.5) + X[:, t])
    return h


CASES = {
    # body, the type of the result `y`, its value
    "a sum": ("y: f16[4]", "y[b] = sum(i) x[b, i] * 0.3", f16((X * np.float32(0.3)).sum(1))),
    "a maximum": ("y: bf16[4]", "y[b] = max(i) x[b, i]", bf16(X.max(1))),
    "a mean": ("y: f16[4]", "y[b] = mean(i) x[b, i]^2", f16((X**2).mean(1))),
    "a position": ("y: f16[4]", "y[b] = argmax(i) x[b, i]", X.argmax(1)),
    "whole numbers": ("y: bf16[4]", "y[b] = 1001 * k[b]", bf16(1001 * K)),
    "counts": ("y: f32[3]", "y[k[b] < 3] += 1", [1, 1, 2]),
    "what is added up": ("y: f16[3]", "y[k[b] < 3] += x[b, 0]",
                         f16([X[0, 0], X[3, 0], X[1, 0] + X[2, 0]])),
    "the greatest": ("y: bf16[3]", "y[k[b] < 3] max= x[b, 0]", bf16(X[[0, 3, 2], 0])),
    "all of a tensor": ("y: f16[4, 6]", "y = x / 3", f16(X / np.float32(3))),
    "a number": ("y: bf16[4]", "y[b < 4] = 0.1", bf16([0.1] * 4)),
    "a list": ("y: f16[3]", "let l = [0.1, 0.2, 0.3]\n y = l", f16([0.1, 0.2, 0.3])),
    "a copy": ("y: f16[4, 6]", "y = h", f16(X)),
    "a wider copy": ("y: f32[4, 6]", "y = h", f16(X)),
    "another format": ("y: bf16[4, 6]", "y = h", bf16(f16(X))),
    "a conversion": ("y: f32[4, 6]", "y = f16(x) * 3", f16(X) * 3),
    "a rounded f32": ("y: f32[4, 6]", "y[b, i] = bf16(x[b, i])", bf16(X)),
    "a branch": ("y: f16[4, 6]", "y[b, i] = if x[b, i] > 0 then h[b, i] else 0.1",
                 f16(np.where(X > 0, f16(X), 0.1))),
    "outside": ("y: f16[4, 6]", "y[b, i] = (h[b, i - 6] else 0.1)", f16(np.full((4, 6), 0.1))),
    "a repetition": ("y: f16[4, 6]", "y = x\n repeat 2 { y = y * 1.1 }",
                     f16(f16(f16(X) * np.float32(1.1)) * np.float32(1.1))),
    "a recurrence": ("y: f16[4, 6]", "y[b, t] = 0.5*(y[b, t - 1] else 0) + x[b, t]", recurrence()),
    "joined": ("y: bf16[8, 6]", "y = concat(h, x, axis = 0)", bf16(np.concatenate([f16(X), X]))),
    "too large": ("y: f16[4, 6]", "y = x * 1e5", f16(X * np.float32(1e5))),
    "a layer": ("y: f32[4, 6]", "y = Narrow(x)", bf16(f16(X) * np.float32(1.01))),
    "at the end of a pipe": ("y: f32[4, 6]", "y = x |> tanh |> f16", f16(np.tanh(X))),
}  # fmt: skip
LAYER = """
layer Narrow(a: f16[..., n]) -> y: bf16[..., n] {
    y = a * 1.01
}
"""


@pytest.mark.parametrize("name", CASES)
def test_a_result_is_rounded_once_and_stored_as_declared(name: str) -> None:
    result, body, expected = CASES[name]
    inputs = "x: f32[4, 6], h: f16[4, 6], k: i32[4]"
    system = read(f"{LAYER}model M({inputs}) -> {result} {{\n {body}\n}}\n")
    found = evaluate(system, {"x": X, "h": X, "k": K})["y"]
    np.testing.assert_array_equal(found, np.asarray(expected, np.float32))
    declared = result.split()[1].split("[")[0]
    assert system.tensors["y"].storage_dtype == declared
    # what is printed means the same
    again = read(system_text(system))
    assert system_text(again) == system_text(system)
    assert again.tensors["y"].storage_dtype == declared


def test_what_is_rounded_at_last_is_stored_so() -> None:
    system = read("model M(x: f32[4, 6]) -> y {\n h = f16(x * 2)\n y = h + 1\n}\n")
    assert [system.tensors[n].storage_dtype for n in ("h", "y")] == ["f16", "f32"]
    assert system.tensors["h"].bytes == 4 * 6 * 2


def test_rounding_has_derivative_1() -> None:
    system = elaborated(
        "model M(x: bf16[3], z: i8[3]) -> y: f16[], dx: f64[3] {\n"
        " s = sum(i) f16(x[i]^2) * i8(z[i])\n y = s\n dx = grad(s, x)\n}"
    )
    values = {"x": np.array([0.5, 1.5, -2.0]), "z": np.array([1, 2, -3], np.int8)}
    found = evaluate(derive(system), values)
    assert found["dx"].tolist() == [1.0, 6.0, 12.0] and found["dx"].dtype == np.float64
