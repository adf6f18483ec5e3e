"""Debug information: instructions know their equations, and are the same as without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnc.compiler.pipeline import LlvmCode
from nnc.runtime.data import Search
from nnc.runtime.device.cpu.jit import assembly
from nnc.runtime.inspect.emit import Stages
from nnc.runtime.project import planned_setup, project_of_text

# Kernels that are fused and equal ones, a recurrence, an accumulation, blocks of rows, all threads.
PROGRAM = """
model M(x: f32[B, 6, 16], token: i32[B]) -> logits: f32[B, 10] {
    h = x |> Dense(16) |> tanh |> Dense(16) |> tanh
    r = h |> RNN(16)
    e = token |> Embedding(50, 16)
    z[b, j] = r[b, 5, j] + e[b, j]
    logits = z |> Dense(10)
}

train M {
    input label: i32[B]
    loss      = cross_entropy(logits, label)
    optimizer = sgd(lr = 0.1)
    batch     = 32
}
"""
COMMENT = re.compile(r"(  ;|\t#) [\w']+: ")


@pytest.fixture(scope="module")
def stages() -> Stages:
    project = project_of_text(PROGRAM, "model.nn")
    return Stages(project, planned_setup(project, Search(None, Path(), True)))


def without_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if not COMMENT.match(line)]


def test_the_machine_code_is_the_same_as_without(stages: Stages) -> None:
    code: LlvmCode = stages.code
    assert without_comments(stages.llvm) == code.text.rstrip("\n").splitlines()
    assert without_comments(stages.asm) == assembly(code.text).splitlines()
    assert "!dbg" not in code.text and "!dbg" not in stages.llvm and ".loc" not in stages.asm


@pytest.mark.parametrize("stage", ["llvm_lines", "asm_lines"])
def test_every_instruction_of_a_kernel_has_equations_of_that_kernel(
    stages: Stages, stage: str
) -> None:
    head = re.compile(r'define .*@"(k\d+\..+?)"\(|"?(k\d+\..+?)"?:$')
    known = {eq.target: kernel for kernel in stages.code.plan.kernels for eq in kernel.equations}
    name, seen = "", set()
    for line in getattr(stages, stage):
        if found := head.match(line.text):
            name = found[1] or found[2]
        if line.text == "}" or line.text.startswith("\t.size"):
            name = ""
        if name and re.match(r"  %|\t[a-z]", line.text):
            assert line.equations, line.text
            # Those of all kernels that share the function: the first one's name is the function's.
            kernels = {known[eq.target] for eq in line.equations}
            assert name.partition(".")[2] in {kernel.name for kernel in kernels}, line.text
            seen.update(eq.target for eq in line.equations)
    # Nothing is left out but what is no kernel's.
    assert seen == set(known)


def test_a_comment_says_what_is_computed_and_for_which_line(stages: Stages) -> None:
    comments = {line.strip() for line in stages.llvm.splitlines() if COMMENT.match(line)}
    places = {re.sub(r"stdlib/(\w+).nn:\d+", r"\1", text) for text in comments}
    assert "; dense1_y_sum: layers, for model.nn:3" in places
    assert "; tanh: model.nn:3" in places
    assert "; z: model.nn:6" in places
    assert "; d_rnn1_h_sum: recurrent, for model.nn:4" in places
    assert "; dense3_w': optimizers, for model.nn:13" in places


def test_equal_kernels_name_the_places_of_all(stages: Stages) -> None:
    """Three weights of the recurrence are transposed by one function."""
    comments = [line.text for line in stages.llvm_lines if "rnn1_U_transposed: " in line.text]
    assert comments and all(text.count("for model.nn:4") > 1 for text in comments)
    heads = [line for line in stages.llvm_lines if '.rnn1_U_transposed"' in line.text]
    assert len({eq.target for eq in heads[0].equations}) > 1
