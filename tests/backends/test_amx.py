"""Products of AMX tiles against the evaluator, by a simulator of the instructions; and the real
instructions in assembly for a processor that has them."""

from __future__ import annotations

import platform
import re
from dataclasses import replace

import numpy as np
import pytest
from support import one_in, round_contractions, system, values

from backends.amx_simulator import Simulated
from nnc.compiler import pipeline
from nnc.compiler.codegen.llvm import amx
from nnc.compiler.ir.equation import System
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.compiler.targets import CPU_TARGETS, CpuTarget
from nnc.runtime import cache
from nnc.runtime.device import DEVICES
from nnc.runtime.device.cpu import amx as usable
from nnc.runtime.device.cpu import features, host
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.project import project_of_text, setup_of
from nnc.runtime.training.executor import Executor

REAL = CPU_TARGETS["emerald-rapids-amx"]
# Operands cost nothing: tiles wherever they are possible. Without AVX512_BF16, for any processor.
FREE = replace(
    REAL,
    bf16_instructions=features.bf16_instructions(),
    layout=replace(REAL.layout, pack_element=0, start_kernel=0),
)

HEAD = (
    "model M(a: f32[40, 70], b: f32[70, 37], c: f32[70, 40], d: f32[37, 70], "
    "u: f32[5, 11, 11, 34], k: f32[3, 3, 34, 33], v: f32[5, 9, 9, 33], "
    "q: f32[2, 3, 33, 20], s: f32[2, 3, 50, 20], big: f32[64, 128], wide: f32[128, 96], "
    "thin: f32[128, 16], "
    "n: i32[40], bias: f32[37]) -> y {\n"
)
TILED = {
    "a b": "y[i, j] = sum(k) a[i, k]*b[k, j]",
    "a^T b": "y[i, j] = sum(k) c[k, i]*b[k, j]",
    "a b^T": "y[i, j] = sum(k) a[i, k]*d[j, k]",
    "a^T b^T": "y[i, j] = sum(k) c[k, i]*d[j, k]",
    "whole tiles": "y[i, j] = sum(k) big[i, k]*wide[k, j]",
    "one tile of columns": "y[i, j] = sum(k) big[i, k]*thin[k, j]",
    "rows of one tensor": "y[i, j] = sum(k) a[i, k]*a[j, k]",
    "an epilogue": "y[i, j] = tanh(bias[j] + sum(k) a[i, k]*b[k, j])",
    "convolution": "y[i, p < 9, q < 9, o] = sum(r, s, c) u[i, p + r, q + s, c]*k[r, s, c, o]",
    "with strides":
        "y[i, p < 5, q < 4, o] = sum(r, s, c) u[i, 2*p + r, 2*q + s, c]*k[r, s, c, o]",
    "a border":
        "y[i, p < 11, q < 11, o] = sum(r, s, c) "
        "(u[i, p + r - 1, q + s - 1, c] else 0)*k[r, s, c, o]",
    "its weights with a border":
        "y[r < 3, s < 3, c, o] = sum(i, p, q) (u[i, p + r - 2, q + s, c] else 0)*v[i, p, q, o]",
    "its image":
        "y[i, p < 11, q < 11, c] = sum(r, s, o) (v[i, p - r, q - s, o] else 0)*k[r, s, c, o]",
    "its weights": "y[r < 3, s < 3, c, o] = sum(i, p, q) u[i, p + r, q + s, c]*v[i, p, q, o]",
    "scores": "y[b, h, i, j] = sum(d) q[b, h, i, d]*s[b, h, j, d]",
}  # fmt: skip
LEFT = {
    "another border":
        "y[i, p < 11, q < 11, o] = sum(r, s, c) "
        "(u[i, p + r - 1, q + s - 1, c] else 1)*k[r, s, c, o]",
    "a recurrence":
        "y[t < 2, i, j < 70] = c[j, i] + sum(k) (y[t - 1, i, k] else 0)*b[k, j % 37]",
    "a vector": "y[j] = sum(k) bf16(a[0, k])*bf16(b[k, j])",
}  # fmt: skip


def rounded(line: str) -> System:
    return round_contractions(system(f"{HEAD}{line}\n}}", float_type="f32"))


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.setattr(amx, "INSTRUCTIONS", Simulated)


def planned(found: System, target: CpuTarget = FREE, check: bool = True) -> Plan:
    given = values(found, integers=37)
    observers = [PassCheck(found, given)] if check else []
    return pipeline.plan(found, target, observers=observers)


def run(found: System, threads: int, target: CpuTarget = FREE, check: bool = False) -> np.ndarray:
    program = CpuProgram(planned(found, target, check), threads, target)
    for name, value in values(found, integers=37).items():
        program.arrays[name][...] = value
    program.run()
    return program.arrays["y"].copy()


def notes(found: System, target: CpuTarget = FREE) -> str:
    code = pipeline.generate(planned(found, target, check=False), target)
    return "".join(str(code.nest(kernel)) for kernel in code.plan.kernels)


@pytest.mark.parametrize("line", one_in(4, TILED.values()), ids=TILED)
def test_the_numbers_of_the_evaluator(simulated, line: str):
    found = rounded(line)
    assert "AMX: tiles along" in notes(found)
    expected = evaluate(found, values(found, integers=37), wide=True)["y"]
    got = run(found, 2, check=True)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(got, run(found, 1))
    np.testing.assert_array_equal(got, run(found, 3))


@pytest.mark.parametrize("line", LEFT.values(), ids=LEFT)
def test_what_has_no_tiles(simulated, line: str):
    found = rounded(line)
    assert "AMX" not in notes(found)
    expected = evaluate(found, values(found, integers=37), wide=True)["y"]
    np.testing.assert_allclose(run(found, 2), expected, rtol=1e-4, atol=1e-4)


SIZES = [1, 2, 7, 8, 15, 16, 17, 24, 31, 32, 33, 47, 48, 63, 65, 100, 127]


@pytest.mark.parametrize("seed", one_in(3, range(24)))
def test_any_sizes(simulated, seed: int):
    rng = np.random.default_rng(seed)
    m, n, k = (int(size) for size in rng.choice(SIZES, 3))
    left = f"a: f32[{m}, {k}]" if seed % 2 else f"a: f32[{k}, {m}]"
    right = f"b: f32[{k}, {n}]" if seed // 2 % 2 else f"b: f32[{n}, {k}]"
    ij = f"{'a[i, k]' if seed % 2 else 'a[k, i]'}*{'b[k, j]' if seed // 2 % 2 else 'b[j, k]'}"
    text = f"model M({left}, {right}) -> y {{\ny[i, j] = sum(k) {ij}\n}}"
    found = round_contractions(system(text, float_type="f32"))
    expected = evaluate(found, values(found, integers=37), wide=True)["y"]
    np.testing.assert_allclose(run(found, 2), expected, rtol=1e-5, atol=2e-5)


def test_infinities_and_what_is_no_number(simulated):
    """In rows and columns of their own: what is beyond the ends of a tile is not stored."""
    found = rounded(TILED["a b"])
    given = values(found, integers=37)
    given["a"][2, 5], given["b"][7, 9], given["a"][39, 69] = np.inf, -np.inf, np.nan
    program = CpuProgram(planned(found, check=False), 1, FREE)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    expected = evaluate(found, given)["y"]
    assert not np.isfinite(expected).all() and np.isfinite(expected[3, 3])
    np.testing.assert_array_equal(np.isfinite(program.arrays["y"]), np.isfinite(expected))


def test_small_ones_are_left():
    assert "AMX" not in notes(rounded(TILED["a b"]), REAL)
    wide = "model M(x: f32[128, 784], w: f32[784, 512]) -> y {\ny[i, j] = sum(k) x[i, k]*w[k, j]\n}"
    assert "AMX" in notes(round_contractions(system(wide, float_type="f32")), REAL)


def test_long_sums_are_left():
    """A tile register adds up in f32 alone."""
    text = (
        "model M(x: f32[70000, 64], w: f32[70000, 64]) -> y {\ny[i, j] = sum(k) x[k, i]*w[k, j]\n}"
    )
    assert "AMX" not in notes(round_contractions(system(text, float_type="f32")), REAL)


@pytest.mark.parametrize("line", ["a b", "an epilogue", "scores", "with strides"])
def test_the_real_instructions(line: str):
    """Assembled for a processor that has them: each kernel configures and releases its registers,
    and none of them is spilled."""
    llvm = pytest.importorskip("llvmlite.binding")
    if "x86" not in llvm.get_default_triple():
        pytest.skip("LLVM writes code for another kind of processor")
    found = rounded(TILED[line])
    code = pipeline.generate(planned(found, check=False), FREE)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu="sapphirerapids", features="", opt=1, reloc="pic", codemodel="small"
    )
    text = f'target triple = "{llvm.get_default_triple()}"\n{code.text}'
    assembly = machine.emit_assembly(llvm.parse_assembly(text, llvm.create_context()))
    count = {n: len(re.findall(rf"\b{n}\b", assembly)) for n in (
        "tdpbf16ps", "tileloadd", "tilestored", "tilerelease", "ldtilecfg", "tilezero"
    )}  # fmt: skip
    written = {n: code.text.count(f"call void @llvm.x86.{n}") for n in (
        "tdpbf16ps", "tileloadd64", "tilestored64", "tilerelease", "ldtilecfg", "tilezero"
    )}  # fmt: skip
    assert count["tdpbf16ps"] == written["tdpbf16ps"] > 0
    assert count["tileloadd"] == written["tileloadd64"] > 0
    # A spilled register would be stored and loaded once more.
    assert count["tilestored"] == written["tilestored64"] > 0
    assert count["tilezero"] == written["tilezero"] > 0
    assert count["ldtilecfg"] == written["ldtilecfg"] >= count["tilerelease"] > 0


# --- whether it can be used -----------------------------------------------------------------------


@pytest.fixture
def emerald(monkeypatch):
    """A processor with AMX that permits it; nothing is compiled for it."""
    core = {"vendor_id": "GenuineIntel", "cpu family": "6", "model": str(0xCF)}
    vectors = "avx2 f16c avx512f avx512bw avx512vl avx512_vnni avx512_bf16"
    core["flags"] = f"{vectors} amx_tile amx_bf16 amx_int8"
    monkeypatch.setattr(features, "first_core", lambda: core)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(usable, "_permitted", lambda: True)
    monkeypatch.setattr(usable, "agrees", lambda target: True)
    monkeypatch.delenv("NNC_ISA", raising=False)
    monkeypatch.delenv("NNC_TARGET", raising=False)
    usable.obstacle.cache_clear()
    yield monkeypatch
    usable.obstacle.cache_clear()


def test_the_record_with_tiles_where_they_can_be_used(emerald):
    assert host.target().name == "emerald-rapids-amx"
    assert "used for products" in "\n".join(host.lines())


@pytest.mark.parametrize(
    ("name", "answer", "why"),
    [
        ("_permitted", lambda: False, "not permit"),
        ("agrees", lambda target: False, "small product"),
    ],
)
def test_the_record_without_them_elsewhere(emerald, name: str, answer, why: str):
    emerald.setattr(usable, name, answer)
    assert host.target().name == "emerald-rapids"
    assert why in "\n".join(host.lines())


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_taken_for_a_processor_without(emerald, isa: str):
    emerald.setenv("NNC_ISA", isa)
    assert not host.target().amx_cycles
    assert not any(flag.startswith("amx") for flag in features.flags())
    emerald.setenv("NNC_TARGET", "emerald-rapids-amx")
    assert host.target().name == "emerald-rapids"


def test_one_small_product_is_compared(simulated, monkeypatch):
    monkeypatch.setattr(cache, "kernel_cache", lambda: None)
    target = replace(REAL, bf16_instructions=features.bf16_instructions())
    assert usable.agrees(target)
    monkeypatch.setattr(Simulated, "multiply", staticmethod(lambda e, into, left, right: None))
    assert not usable.agrees(target)


BLOCK = """model Block(token: i32[B, 24]) -> logits: f32[B, 24, 40] {
    logits = token |> Embedding(40, 48) |> Attention(3) |> LayerNorm |> Dense(96) |> gelu
        |> Dense(40)
}
train Block {
    input label: i32[B, 24]
    loss = cross_entropy(logits, label)
    optimizer = sgd(lr = 0.1)
    precision = bf16
    batch = 4
    steps = 1
}
"""


@pytest.mark.slow
def test_a_training_step(simulated):
    """Every contraction of a transformer's block and its gradients, beside the same numbers
    multiplied in f32."""
    setup = setup_of(project_of_text(BLOCK, "block.nn", None, []), None)
    found = Executor(setup, DEVICES["cpu"](1), 1).training(4).system
    results: list[dict[str, np.ndarray]] = []
    for target in (FREE, replace(FREE, amx_cycles=0.0)):
        made = pipeline.plan(found, target)
        code = pipeline.generate(made, target)
        tiled = [kernel for kernel in made.kernels if code.nest(kernel).tiles is not None]
        assert len(tiled) > 15 or (results and not tiled)
        program = CpuProgram(made, 2, target)
        rng = np.random.default_rng(0)
        for name, array in program.arrays.items():
            kind = found.tensors[name].kind if name in found.tensors else ""
            if kind == "param":
                array[...] = rng.normal(size=array.shape) * 0.2
            elif kind == "input" and array.dtype == np.int32:
                array[...] = rng.integers(0, 40, array.shape)
        program.run()
        kept = [*found.of_kind("param"), *(found.tensors[name] for name in found.outputs)]
        results.append({tensor.name: program.arrays[tensor.name].copy() for tensor in kept})
    ours, theirs = results
    for name, value in theirs.items():
        # An activation beside a tie is rounded the other way.
        np.testing.assert_allclose(ours[name], value, rtol=1e-2, atol=2e-4, err_msg=name)
