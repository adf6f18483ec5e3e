"""`precision = bf16`: what is rounded, how, and that everything else is not."""

from __future__ import annotations

import numpy as np
import pytest
from attentions import CASES
from attentions import prepared as attention
from gpu_simulator import SimulatedProgram, available
from small_programs import prepared, trained
from support import optimize, plan, round_contractions, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.expr import Apply, expr_text, walk
from nnc.compiler.ir.functions import TABLE
from nnc.compiler.ir.verify import verify
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import step_with_gradients
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.assignments import Assignment
from nnc.runtime.device import DEVICES
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.inspect.code_check import check_code, run_stored
from nnc.runtime.inspect.verification import verify_project
from nnc.runtime.project import project_of_text, setup_of
from nnc.runtime.settings import settings_json
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.loop import INTERRUPTED, train
from nnc.runtime.training.progress import Silent
from nnc.runtime.training.run_folder import create_run

bf16 = TABLE["bf16"].numpy
BF16 = [Assignment("precision", "bf16")]


def rounded(text: str) -> System:
    return verify(round_contractions(system(text, float_type="f32")), "precision")


def has_rounding(found: System) -> dict[str, bool]:
    return {
        eq.target: any(isinstance(n, Apply) and n.fn == "bf16" for n in walk(eq.body))
        for eq in found.equations
    }


# --- the function ---------------------------------------------------------------------------------


def test_rounding_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 100_000, np.uint64).astype(np.uint32)
    ties = rng.integers(0, 2**16, 5_000).astype(np.uint32) << 16 | 0x8000
    some = np.concatenate([bits, ties, ties + 1, ties - 1, np.uint32([0, 1 << 31])])
    x = some.view(np.float32)
    theirs = torch.from_numpy(x.copy()).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(bf16(x), theirs)


def test_ties_to_even_and_what_stays():
    x = np.float32([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, np.inf, -np.inf, 3.4e38, 257.0])
    expected = np.float32([1, 1 + 2**-6, -1, np.inf, -np.inf, np.inf, 256])
    np.testing.assert_array_equal(bf16(x), expected)
    np.testing.assert_array_equal(bf16(x.astype(float))[:5], expected[:5])
    assert np.isnan(bf16(np.uint32([0x7F800001, 0xFFFFFFFF]).view(np.float32))).all()
    assert np.array_equal(bf16(bf16(x)), bf16(x))


def test_it_can_be_written():
    found = system("model M(x: f32[4]) -> y { y = bf16(bf16(x)) * 2 }", float_type="f32")
    assert expr_text(found.equations[-1].body) == "bf16(x[i]) * 2.0"
    x = np.float32([1.001, -3.14159, 1e-3, 7])
    np.testing.assert_array_equal(evaluate(found, {"x": x})["y"], 2 * bf16(x))


# --- what is rounded ------------------------------------------------------------------------------

CONTRACTIONS = {
    "matrix product": "y[i, j] = sum(k) a[i, k]*b[k, j]",
    "of what is computed": "y[i, j] = sum(k) (a[i, k] - 1)*(2*b[k, j])",
    "batched": "y[i, p, q] = sum(k) u[i, p, k]*v[i, k, q]",
    "three factors": "y[i, j] = sum(k) a[i, k]*c[k]*b[k, j]",
    "negative": "y[i, j] = sum(k) (-(a[i, k]*b[k, j]))",
    "windows": "y[i, j < 4, o] = sum(p, k) (u[i, j + p, k] else 0)*w[p, k, o]",
    "of one row": "y[i < 1, j] = sum(k) a[i, k]*b[k, j]",
    "beside a dimension of one": "y[i, l < 1, j] = sum(k) a[i, k]*b[k, j]",
}
OTHERS = {
    "a sum of squares": "y[i] = sum(k) a[i, k]*a[i, k]",
    "a mean": "y[i] = mean(k) a[i, k]",
    "along rows": "y[i] = sum(k) a[i, k]*c[k]",
    "weighted": "y[k] = sum(i) a[i, k]*d[i]",
    "nothing summed": "y[i, j] = a[i, 0]*b[0, j]",
    "two sums": "y[i, j] = sum(k) (a[i, k] + b[k, j])",
    "of parts": "y[i, j] = sum(k, l < 3) a[i, k]*b[l, j]",
}
HEAD = (
    "model M(a: f32[6, 5], b: f32[5, 7], c: f32[5], d: f32[6], u: f32[6, 4, 5], "
    "v: f32[6, 5, 3], w: f32[3, 5, 2]) -> y {\n"
)


@pytest.mark.parametrize("line", CONTRACTIONS.values(), ids=CONTRACTIONS)
def test_both_operands_of_a_contraction(line: str):
    found = rounded(f"{HEAD}{line}\n}}")
    body = next(eq for eq in found.equations if eq.reduce == "sum").body
    assert isinstance(body, Apply) and body.fn == "mul"
    assert [isinstance(a, Apply) and a.fn for a in body.args] == ["bf16", "bf16"]
    given = values(found)
    exact = evaluate(system(f"{HEAD}{line}\n}}", float_type="f32"), given)["y"]
    off = np.abs(evaluate(found, given)["y"] - exact)
    assert 0 < off.max() < 2**-7 * 40


@pytest.mark.parametrize("line", OTHERS.values(), ids=OTHERS)
def test_everything_else_stays(line: str):
    assert not any(has_rounding(rounded(f"{HEAD}{line}\n}}")).values())


def test_a_training_step():
    """Products forwards and backwards; not the softmax, the optimizer, norms or biases."""
    found = derive(prepared(precision="bf16").executor.system)
    assert {name for name, some in has_rounding(found).items() if some} == {
        "dense1_y_sum",
        "dense2_y_sum",
        "d_dense1_w",
        "d_dense2_w",
        "d_relu",
    }
    assert all(t.dtype != "f64" for t in found.tensors.values())
    assert not any(has_rounding(derive(prepared().executor.system)).values())


def test_sums_of_weights_are_products_with_results_before_anything_is_rounded():
    """The gradient of a softmax's sum is as long as a head, not as a row, and no contraction."""
    given, numbers = attention(CASES[1])
    found = verify(round_contractions(given), "precision")
    total = found.definition["d_attention1_attend1_softmax1_y_sum"]
    assert [i.size for i in total.over] == [8] and not has_rounding(found)[total.target]
    assert "attention1_attend1_y" in total.sources
    exact = evaluate(given, numbers, wide=True)["d_x"]
    off = np.abs(evaluate(found, numbers, wide=True)["d_x"] - exact)
    assert 0 < off.max() < 2**-7 * np.abs(exact).max()


def test_a_step_of_pytorch():
    """Gradients of a layer whose products are of bfloat16 numbers, summed in f32."""
    torch = pytest.importorskip("torch")
    text = """
    model M(x: f32[B, 9], z: f32[B, 5]) -> y { param w: [9, 5] = 0
        y[b, o] = sum(i) x[b, i] * w[i, o] }
    train M { loss = mse(y, z)
        optimizer = sgd(lr = 1)
        input x: f32[B, 9]
        batch = 16 }
    """
    project = project_of_text(text, assignments=BF16)
    step, _, names = step_with_gradients(setup_of(project, None))
    step = derive(step)
    given = {**values(step), "step": np.int32(1)}
    found = evaluate(step, given)
    x, w, z = (torch.from_numpy(given[n]) for n in "xwz")

    def round(t):
        return t.to(torch.bfloat16).float()

    y = round(x) @ round(w)
    slope = 2 * (y - z) / y.numel()
    expected = round(x).T @ round(slope)
    np.testing.assert_allclose(found["loss"], ((y - z) ** 2).mean(), rtol=1e-6)
    np.testing.assert_allclose(found[names["w"]], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("line", ["matrix product", "batched"])
def test_autocast_of_pytorch(line: str):
    """It gives its products in bfloat16: ours, which are f32, rounded, but for ties."""
    torch = pytest.importorskip("torch")
    found = rounded(f"{HEAD}{CONTRACTIONS[line]}\n}}")
    given = values(found)
    a, b = (torch.from_numpy(given[n]) for n in (["a", "b"] if line != "batched" else ["u", "v"]))
    with torch.autocast("cpu", torch.bfloat16):
        theirs = (a @ b).float().numpy()
    ours = evaluate(found, given)["y"]
    np.testing.assert_allclose(bf16(ours), theirs, rtol=2**-7, atol=1e-6)
    assert np.mean(bf16(ours) == theirs) > 0.9


# --- backends and the rest of the compiler --------------------------------------------------------

MODEL = """
model M(a: f32[6, 5], b: f32[5, 7], u: f32[6, 4, 5], v: f32[6, 5, 3]) -> y, z {
    param w: [3, 5, 3] ~ normal(0, 1)
    x[i, j] = tanh(sum(k) a[i, k]*b[k, j])
    s[i, j] = sum(k) x[i, k]*x[j, k]
    h[i, p, q] = sum(k) u[i, p, k]*v[i, k, q] + sum(k < 3) (h[i, p - 1, k] else 0)*v[i, k, q]
    y[i, j] = sum(k) exp(s[i, k])*x[k, j]
    z[i, j < 4, o] = max(sum(p, k) (u[i, j + p - 1, k] else 0)*w[p, k, o], 0) + h[i, j, o]
}
"""
TRAIN = """
train M {
    input a: f32[6, 5]
    input b: f32[5, 7]
    input u: f32[6, 4, 5]
    input v: f32[6, 5, 3]
    precision = bf16
    loss = mean(y*y) + mean(z*z)
    optimizer = sgd(lr = 1)
}
"""


def test_machine_code_is_the_evaluators():
    found = rounded(MODEL)
    given = values(found)
    apart = plan(found, check=PassCheck(found, given), shared=False)
    results = check_code(apart, run_stored(CpuProgram(apart, 1), given), 1e-5)
    assert all(r.right for r in results) and results


@pytest.mark.parametrize("device", ["cpu", "reference", "simulator"])
def test_devices_agree(device: str):
    if device == "simulator" and not available():
        pytest.skip("needs g++")
    found = rounded(MODEL)
    given = values(found)
    program = (SimulatedProgram if device == "simulator" else DEVICES[device](2))(found)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    expected = evaluate(found, given, wide=True)
    for name in found.outputs:  # a number that falls on the other side of a tie is 2^-8 off
        np.testing.assert_allclose(program.arrays[name], expected[name], rtol=2e-2, atol=2e-2)


def test_the_rounding_outlives_the_passes():
    assert any(has_rounding(optimize(rounded(MODEL))).values())


def test_nnc_verify():
    """Gradients are compared where nothing is rounded: what is rounded has no differences."""
    project = project_of_text(MODEL + TRAIN)
    found = verify_project(project, setup_of(project, None), (1, 2))
    assert not found.mistakes
    assert any(s.tensor == "w" for s in found.slopes)


# --- the field ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_going_on_gives_the_bits_of_never_stopping(tmp_path):
    whole = trained(precision="bf16")
    job = prepared(precision="bf16")
    job.folder = create_run(tmp_path / "run", "small", "", {})
    assert train(job, Silent(), lambda: job.position.step == 20) == INTERRUPTED
    later = prepared(precision="bf16")
    later.resume(job.folder)
    train(later, Silent(), never)
    assert [r.values for r in later.records] == [r.values for r in whole.records]
    for name, value in whole.executor.values.items():
        np.testing.assert_array_equal(later.executor.values[name], value)


def test_it_trains():
    exact, job = trained(epochs="1"), trained(epochs="1", precision="bf16")
    assert settings_json(job.settings)["precision"] == "bf16"
    assert settings_json(exact.settings)["precision"] == "f32"
    ours, theirs = (j.records[-1].values["loss"] for j in (job, exact))
    assert ours != theirs and ours == pytest.approx(theirs, rel=0.02)
    again = trained(epochs="1", precision='"bf16"', threads=2)
    for name, value in again.executor.values.items():
        np.testing.assert_array_equal(job.executor.values[name], value)
        assert value.dtype == np.float32


@pytest.mark.parametrize(
    ("sets", "message", "help"),
    [
        ({"precision": "bf61"}, '"f32" or "bf16"', "did you mean `bf16`?"),
        ({"precision": "16"}, '"f32" or "bf16"', ""),
        ({"precision": "7"}, '"f32" or "bf16"', ""),
        ({"precision": "bf16", "float": "f64"}, "`float` is f64", "leave out one of them"),
    ],
)
def test_mistakes(sets, message, help):
    with pytest.raises(UserError) as caught:
        prepared(**sets)
    (found,) = caught.value.diagnostics
    assert found.code == "E0703" and message in found.message and found.help == help
