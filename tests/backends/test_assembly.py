"""What the code generator makes of the loops: registers that suffice, and other processors."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from support import mostly_slow, plan, system

from nnc.compiler.ir.equation import System
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.pipeline import LlvmCode
from nnc.compiler.programs import training_step
from nnc.compiler.targets import CpuTarget
from nnc.runtime.assignments import Assignment
from nnc.runtime.device.cpu import features
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.project import project_of_text, setup_of

from .assembly import inner_loops

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NARROW = CpuTarget(lanes=8, registers=16)
NEON = CpuTarget(lanes=4, registers=32, mxcsr=False)
on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86 only")


def step(name: str, batch: int) -> System:
    project = project_of_text(
        (BENCHMARKS / f"{name}.nn").read_text(),
        f"{name}.nn",
        None,
        [Assignment("batch", str(batch))],
    )
    return training_step(setup_of(project, None))[0]


def text_of(plan: Plan, target: CpuTarget) -> str:
    return LlvmCode(plan, target).text


@on_x86
@pytest.mark.parametrize("name", mostly_slow(["mlp", "cnn", "rnn", "lstm", "gpt"], ["mlp", "rnn"]))
def test_inner_loops_of_products_keep_everything_in_registers(name: str) -> None:
    assembly = CpuProgram(plan(step(name, 32))).assembly
    products = [
        x for x in inner_loops(assembly) if x.products >= 8 and 5 * x.products >= 2 * len(x.lines)
    ]
    assert len(products) >= 6
    spilled = {f"{x.function}: {x.spills}" for x in products if x.spills}
    assert not spilled


@on_x86
def test_spills_would_be_seen() -> None:
    """Tiles for 32 registers of 64 bytes do not fit into 16 of 32."""
    import llvmlite.binding as llvm

    made = plan(
        system(
            """model M(x: f32[64, 300], w: f32[300, 256]) -> y: f32[64, 256] {
        y[b, o] = sum(i) x[b, i]*w[i, o]
    }""",
            float_type="f32",
        )
    )
    spilled = {}
    for lanes, registers in ((8, 16), (16, 32)):
        text = text_of(made, CpuTarget(lanes=lanes, registers=registers))
        machine = machine_for(llvm, "x86_64-unknown-linux-gnu", "haswell")
        assembly = machine.emit_assembly(llvm.parse_assembly(text))
        loops = [x for x in inner_loops(assembly) if x.products >= 8]
        spilled[lanes] = sum(len(x.spills) for x in loops)
    assert spilled[8] == 0 and spilled[16] > 8


def machine_for(llvm, triple: str, cpu: str):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(triple)
    return target.create_target_machine(cpu=cpu, opt=1, reloc="pic", codemodel="small")


def test_the_same_equations_assemble_for_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step as AArch64 code with NEON vectors: fused products, no calls for them."""
    import llvmlite.binding as llvm

    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    text = text_of(plan(step("cnn", 4)), NEON)
    machine = machine_for(llvm, "aarch64-unknown-linux-gnu", "cortex-a76")
    checked = llvm.parse_assembly(text)
    checked.verify()
    assembly = machine.emit_assembly(checked)
    assert assembly.count("fmla") > 100
    assert machine.emit_object(checked)[:4] == b"\x7fELF"


def test_vectors_are_as_wide_as_the_processor_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(machine: str, flags: str) -> tuple[int, int]:
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(features, "first_core", lambda: {"flags": flags})
        return features.vectors()

    assert seen("x86_64", "sse4_2 avx2 f16c fma avx512f avx512bw avx512vl") == (16, 32)
    assert seen("x86_64", "sse4_2 avx2 f16c fma") == (8, 16)
    assert seen("x86_64", "sse4_2") == (4, 16)
    assert seen("arm64", "") == (4, 32)
    monkeypatch.setenv("NNC_ISA", "avx2")
    assert seen("x86_64", "avx2 f16c avx512f avx512bw avx512_bf16") == (8, 16)
    assert features.flags() == {"avx2", "f16c"}


@on_x86
def test_a_processor_without_avx512_gets_a_step_of_its_own(tmp_path: Path) -> None:
    """The digits' network learns under NNC_ISA=avx2, and no 64-byte register is touched."""
    import os
    import subprocess
    import sys

    text = """model M(x: f32[32, 40], w: f32[40, 24]) -> y: f32[32, 24] {
        y[b, o] = tanh(sum(i) x[b, i]*w[i, o])
    }"""
    code = f"""
import numpy as np
from support import system, values
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram
whole = system({text!r}, float_type="f32")
program = CpuProgram(whole)
given = values(whole)
for name, value in given.items():
    program.arrays[name][...] = value
program.run()
np.testing.assert_allclose(program.arrays["y"], evaluate(whole, given)["y"], rtol=2e-6, atol=2e-6)
assert "zmm" not in program.assembly and "ymm" in program.assembly
"""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths, "NNC_ISA": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
