"""Contractions of bf16 numbers two terms at a time: the same numbers, by whatever instructions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_programs import DIGITS, prepared, trained
from support import optimize, plan, round_contractions, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.expr import Apply, walk
from nnc.compiler.ir.functions import TABLE, bf16_halves
from nnc.compiler.pipeline import compile
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.compiler.targets import CPU_TARGETS, CpuTarget
from nnc.runtime.device.cpu import features, host
from nnc.runtime.device.cpu.program import CpuProgram

HEAD = (
    "model M(a: f32[20, 34], b: f32[34, 37], c: f32[34, 20], d: f32[37, 34], "
    "u: f32[4, 9, 9, 6], k: f32[3, 3, 6, 21], v: f32[4, 7, 7, 21], "
    "e: f32[34, 34], o: f32[20, 33], n: i32[20], row: f32[1, 34]) -> y {\n"
)
PAIRED = {
    "a b": "y[i, j] = sum(k) a[i, k]*b[k, j]",
    "a^T b": "y[i, j] = sum(k) c[k, i]*b[k, j]",
    "a b^T": "y[i, j] = sum(k) a[i, k]*d[j, k]",
    "a^T b^T": "y[i, j] = sum(k) c[k, i]*d[j, k]",
    "rows of one tensor": "y[i, j] = sum(k) a[i, k]*a[j, k]",
    "convolution": "y[i, p < 7, q < 7, o] = sum(r, s, c) u[i, p + r, q + s, c]*k[r, s, c, o]",
    "with a border":
        "y[i, p < 9, q < 9, o] = sum(r, s, c) (u[i, p + r - 1, q + s - 1, c] else 0)*k[r, s, c, o]",
    "with strides":
        "y[i, p < 4, q < 3, o] = sum(r, s, c) u[i, 2*p + r, 3*q + s, c]*k[r, s, c, o]",
    "its weights": "y[r < 3, s < 3, c, o] = sum(i, p, q) u[i, p + r, q + s, c]*v[i, p, q, o]",
    "a recurrence":
        "y[t < 7, i, j < 34] = tanh(a[i, j] + sum(k) (y[t - 1, i, k] else 0)*e[k, j])",
    "a recurrence backwards":
        "y[i, t < 7, j < 34] = tanh(a[i, j] + sum(k) (y[i, t + 1, k] else 0)*e[j, k])",
    "gathered rows": "y[i, j] = sum(k) b[k, n[i]]*c[k, j]",
}  # fmt: skip
LEFT = {
    "odd": "y[i, j] = sum(k) o[i, k]*o[j, k]",
    "moved": "y[i, j] = sum(k < 32) a[i, k + 1]*a[j, k + 2]",
}
bf16 = TABLE["bf16"].numpy


PAIRS = CpuTarget(bf16_instructions=True, bf16_dot_cycles=0.5)


@pytest.fixture
def free(monkeypatch):
    """Packing costs nothing: pairs wherever they are possible, however little they save, and
    whatever this processor is."""
    made = replace(PAIRS, bf16_instructions=features.bf16_instructions())
    costs = replace(made.layout, pack_element=0, start_kernel=0)
    monkeypatch.setattr(host, "target", lambda: replace(made, layout=costs))


def rounded(line: str) -> System:
    return round_contractions(system(f"{HEAD}{line}\n}}", float_type="f32"))


def functions(found: System) -> set[str]:
    return {n.fn for eq in found.equations for n in walk(eq.body) if isinstance(n, Apply)}


def run(program: CpuProgram, given: dict[str, np.ndarray]) -> np.ndarray:
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    return program.arrays["y"].copy()


def loops(found: System) -> str:
    """The loops for a processor that has the instructions, which this one may not have."""
    code = compile(found, PAIRS)
    return "\n".join(str(code.nest(kernel)) for kernel in code.plan.kernels)


def targets() -> list[CpuTarget]:
    """With the processor's own instructions if it has them, without, and with short vectors."""
    own = [PAIRS] if features.bf16_instructions() else []
    return [*own, CpuTarget(), CpuTarget(lanes=8, registers=16)]


@pytest.mark.parametrize("line", PAIRED.values(), ids=PAIRED)
def test_the_numbers_of_the_evaluator(free, line: str):
    found = rounded(line)
    given = values(found, integers=20)
    expected = evaluate(found, given, wide=True)["y"]
    paired = plan(found, check=PassCheck(found, given))
    assert "bf16_dot" in functions(paired.system) and "bf16" not in functions(paired.system)
    apart = plan(found, without=("pack-bf16-pairs",))
    assert "bf16_dot" not in functions(apart.system)
    for target in targets():
        for each in (paired, apart):
            np.testing.assert_allclose(
                run(CpuProgram(each, 2, target), given), expected, rtol=1e-5, atol=2e-5
            )


@pytest.mark.parametrize("line", LEFT.values(), ids=LEFT)
def test_what_cannot_be_paired_is_rounded_once(free, line: str):
    found = rounded(line)
    after = optimize(found)
    assert "bf16_dot" not in functions(after)
    assert all(
        not isinstance(n, Apply) or n.fn != "bf16"
        for eq in after.equations
        if eq.reduce
        for n in walk(eq.body)
    )
    given = values(found)
    np.testing.assert_allclose(
        run(CpuProgram(found, 1), given), evaluate(found, given)["y"], rtol=1e-5, atol=1e-5
    )
    assert "no bf16 pairs" in loops(found)


def test_small_ones_are_left_and_the_reason_is_told():
    text = loops(rounded(PAIRED["a b"]))
    assert "no bf16 pairs along k: they would cost" in text and "bf16_dot" not in text


def test_what_is_read_once_is_rounded_as_it_is_read():
    """A row times a matrix: the matrix is not copied, the row is."""
    found = optimize(rounded("y[i, j] = sum(k) row[i, k]*b[k, j]"), without=("pack-bf16-pairs",))
    assert "b_bf16" not in found.tensors and "row_bf16" in found.tensors
    given = values(found)
    np.testing.assert_allclose(
        run(CpuProgram(plan(found), 1), given), evaluate(found, given)["y"], rtol=1e-5, atol=1e-5
    )


def test_what_is_written_so_by_hand(free):
    """bf16(…) in a sum of one's own, in f32 and in f64."""
    for dtype in ("f32", "f64"):
        text = f"""model M(a: {dtype}[20, 34], b: {dtype}[34, 37]) -> y, z {{
            y[i, j] = sum(k) bf16(a[i, k])*bf16(b[k, j])
            z[i] = max(k) bf16(a[i, k]) + bf16(a[i, 0])
        }}"""
        found = system(text, float_type=dtype)
        given = values(found)
        program = CpuProgram(found, 1)
        got, expected = run(program, given), evaluate(found, given)
        assert got.dtype == program.arrays["z"].dtype == np.dtype(dtype.replace("f", "float"))
        np.testing.assert_allclose(got, expected["y"], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(program.arrays["z"], expected["z"])


def test_each_operand_is_paired_once(free):
    """x is read along its rows by two products, and along its columns by a third."""
    found = rounded("""x[i, k] = tanh(a[i, k])
        p[i, j] = sum(k) x[i, k]*b[k, j]
        q[i, j] = sum(k) x[i, k]*d[j, k]
        r[k, j] = sum(i) x[i, k]*p[i, j]
        y[i, j] = p[i, j] + q[i, j] + (sum(k) a[i, k]*r[k, j])""")
    made = [
        eq
        for eq in optimize(found).equations
        if isinstance(eq.body, Apply) and eq.body.fn == "bf16_pair"
    ]
    assert len(made) == 7  # x twice, b, d, p, a, r


def test_infinities_and_what_is_no_number(free):
    found = rounded(PAIRED["a b"])
    given = values(found)
    given["a"][2, 5], given["a"][3, 6], given["b"][7, 9] = np.inf, np.nan, -np.inf
    given["a"][4, :], given["a"][5, 8] = 0, 3.4e38
    expected = evaluate(found, given)["y"]
    assert not np.isfinite(expected).all()
    for target in targets():
        got = run(CpuProgram(plan(found), 1, target), given)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        infinite = np.isinf(expected)
        np.testing.assert_array_equal(got[infinite], expected[infinite])


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 70])
def test_every_second_element(size: int):
    text = f"model M(x: f32[3, {2 * size}]) -> y {{\n"
    found = system(f"{text}y[j, i < {size}] = x[j, 2*i] - 3*x[j, 2*i + 1]\n}}", float_type="f32")
    given = values(found)
    x = given["x"]
    for target in targets():
        got = run(CpuProgram(plan(found), 1, target), given)
        np.testing.assert_allclose(got, x[:, ::2] - 3 * x[:, 1::2], rtol=1e-6, atol=1e-6)


def test_pairs_in_numpy():
    rng = np.random.default_rng(0)
    x, y, p, q = rng.normal(size=(4, 50)).astype(np.float32)
    pair, dot = TABLE["bf16_pair"].numpy, TABLE["bf16_dot"].numpy
    low, high = bf16_halves(pair(x, y))
    np.testing.assert_array_equal(low, bf16(x))
    np.testing.assert_array_equal(high, bf16(y))
    exact = bf16(x).astype(float) * bf16(p) + bf16(y).astype(float) * bf16(q)
    np.testing.assert_array_equal(dot(pair(x, y), pair(p, q)), exact)


@pytest.mark.slow
def test_training_without_the_instructions(monkeypatch):
    """NNC_ISA=avx2 learns the same to f32 rounding, and rounding of ties."""
    wide = DIGITS.replace("Dense(12)", "Dense(256)").replace("= 100", "= 128")
    sets = {"precision": "bf16", "epochs": "1", "steps": "8", "optimizer": "sgd(lr = 0.05)"}
    job = trained(wide, **sets)
    monkeypatch.setenv("NNC_ISA", "avx2")
    assert not features.bf16_instructions()
    other = trained(wide, **sets)
    for name, value in job.executor.values.items():
        np.testing.assert_allclose(value, other.executor.values[name], rtol=2e-2, atol=2e-3)
    ours, theirs = (j.records[-1].values["loss"] for j in (job, other))
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("name", CPU_TARGETS)
def test_the_instruction_only_where_it_is_faster(name: str):
    """Of Intel's processors none: their dot product takes as long as four multiply-adds."""
    wide = "model M(x: f32[128, 784], w: f32[784, 512]) -> y {\ny[i, j] = sum(k) x[i, k]*w[k, j]\n}"
    target = CPU_TARGETS[name]
    code = compile(round_contractions(system(wide, float_type="f32")), target)
    assert ("bf16.dpbf16ps" in code.text) == (name in ("zen4", "zen5"))
    assert ("bf16.cvtne" in code.text) == target.bf16_instructions
    if name.endswith("rapids"):
        notes = "".join(str(code.nest(kernel)) for kernel in code.plan.kernels)
        assert "no bf16 pairs: multiply-adds in f32 are as fast" in notes


def test_what_pairs_save_follows_from_the_throughputs():
    zen5, zen4, intel = (CPU_TARGETS[n].saved_by_pairs for n in ("zen5", "zen4", "emerald-rapids"))
    assert zen5 == 1 / 64 and zen4 == 1 / 32 and intel < 0
    assert CpuTarget().saved_by_pairs == CPU_TARGETS["generic-avx512-bf16"].saved_by_pairs == 0


def test_the_instruction_is_there():
    if host.target().saved_by_pairs <= 0:
        pytest.skip("this processor multiplies bf16 numbers no faster than f32")
    wide = DIGITS.replace("Dense(12)", "Dense(256)").replace("= 100", "= 128")
    program = prepared(wide, precision="bf16").executor.training(128).program
    assert "vdpbf16ps" in program.assembly and "vcvtne2ps2bf16" in program.assembly
