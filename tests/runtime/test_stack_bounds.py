"""Bounds of the stack, read from assembly: of frames of all sizes that LLVM writes."""

from __future__ import annotations

import pytest

from nnc.runtime.export.building import assembly_of
from nnc.runtime.export.machine_choice import machine_of
from nnc.runtime.export.stack_bounds import stack_bounds

# `outer` calls `big`, which has an array on its stack, and another one; so does `small`.
CALLS = """
define void @big() {{
  %a = alloca [{0} x i8], align {1}
  call void @use(ptr %a)
  ret void
}}
define void @small() {{
  %a = alloca [8 x i8], align 8
  call void @use(ptr %a)
  ret void
}}
define i32 @outer(i32 %n) {{
  call void @big()
  call void @small()
  ret i32 %n
}}
define i32 @alone(i32 %n) {{
  %m = add i32 %n, 1
  ret i32 %m
}}
declare void @use(ptr)
"""


@pytest.mark.parametrize("target", ["cortex-m4", "rv32imc", "rv64gc"])
@pytest.mark.parametrize("size,alignment", [(40, 8), (300, 8), (5000, 8), (70000, 8), (9000, 64)])
def test_the_longest_chain_of_calls(target, size, alignment):
    machine = machine_of(target)
    found = stack_bounds(assembly_of([CALLS.format(size, alignment)], "x", machine))
    # saved registers, and what aligning skips
    most = size + 2 * 64 * (alignment > 8) + (512 if target.startswith("rv") else 64)
    assert size < found["big"] <= most
    assert 8 < found["small"] <= 64
    assert found["big"] < found["outer"] <= found["big"] + 64
    assert found["alone"] == 0


def test_what_is_not_understood_is_no_bound():
    text = "\t.type\tf,%function\nf:\n\tpush\t{r4, lr}\n\tsub\tsp, sp, r4\n\tbx lr\n"
    assert stack_bounds(text) == {}
    assert stack_bounds(text.replace("\tsub\tsp, sp, r4\n", "")) == {"f": 8}
    stored = text.replace("sub\tsp, sp, r4", "stm.w\tsp, {r5, r6, r7}")
    assert stored != text and stack_bounds(stored) == {"f": 8}
