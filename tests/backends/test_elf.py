"""The ELF writer: what it links is loaded by the system and computes the right thing."""

from __future__ import annotations

import ctypes
import math
import subprocess
from pathlib import Path

import pytest

from nnc.runtime.device.cpu import elf_linker as elf
from nnc.runtime.device.cpu.jit import Machine

pytestmark = pytest.mark.skipif(not elf.supported(), reason="for x86-64 Linux")

ATTRIBUTES = "attributes #0 = { nounwind }\n"


def load(text: str, folder: Path, *names: str) -> ctypes.CDLL:
    path = folder / "library.so"
    path.write_bytes(elf.link(Machine([text + ATTRIBUTES]).objects, names) + b"more after the end")
    return ctypes.CDLL(str(path))


def test_constants_of_vectors(tmp_path):
    numbers = [1.5 * n for n in range(16)]
    constant = ", ".join(f"float {number}" for number in numbers)
    library = load(
        f"""
define void @add(ptr %x) #0 {{
  %old = load <16 x float>, ptr %x, align 4
  %new = fadd <16 x float> %old, <{constant}>
  store <16 x float> %new, ptr %x, align 4
  ret void
}}
""",
        tmp_path,
        "add",
    )
    x = (ctypes.c_float * 16)(*range(16))
    library.add(x)
    assert list(x) == [n + number for n, number in enumerate(numbers)]


def test_calls_into_the_mathematical_library(tmp_path):
    library = load(
        """
declare double @erf(double)
declare double @fmod(double, double)
define double @f(double %x) #0 {
  %a = call double @erf(double %x)
  %b = call double @fmod(double %a, double 0.25)
  %c = call double @erf(double %b)
  ret double %c
}
""",
        tmp_path,
        "f",
    )
    library.f.restype, library.f.argtypes = ctypes.c_double, [ctypes.c_double]
    assert library.f(0.7) == math.erf(math.fmod(math.erf(0.7), 0.25))


def test_threads_zeroed_memory_and_pointers_in_data(tmp_path):
    """Calls of another library with the address of an own function, .bss, and .data.rel.ro."""
    library = load(
        """
@total = internal global i64 0, align 64
@start = internal global i64 40, align 8
@table = global [2 x ptr] [ptr @one, ptr @start]
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
define ptr @one(ptr %x) #0 {
  %old = atomicrmw add ptr @total, i64 1 seq_cst
  ret ptr null
}
define i64 @run() #0 {
  %thread = alloca i64
  %function = load ptr, ptr @table
  %a = call i32 @pthread_create(ptr %thread, ptr null, ptr %function, ptr null)
  %id = load i64, ptr %thread
  %b = call i32 @pthread_join(i64 %id, ptr null)
  %c = call ptr @one(ptr null)
  %place = getelementptr ptr, ptr @table, i64 1
  %where = load ptr, ptr %place
  %first = load i64, ptr %where
  %total = load i64, ptr @total
  %sum = add i64 %first, %total
  ret i64 %sum
}
""",
        tmp_path,
        "run",
        "table",
    )
    library.run.restype = ctypes.c_int64
    assert library.run() == 42
    assert ctypes.c_void_p.in_dll(library, "table").value


def test_objects_that_call_each_other(tmp_path):
    """Both have a constant and a function of their own under one name."""
    texts = [
        f"""
@number = internal constant i64 {number}
declare hidden i64 @f{1 - number}(i64)
define internal i64 @own(i64 %x) #0 {{
  %a = load volatile i64, ptr @number
  %b = sub i64 %x, %a
  ret i64 %b
}}
define {"hidden" if number else ""} i64 @f{number}(i64 %x) #0 {{
  %done = icmp sle i64 %x, 1
  br i1 %done, label %yes, label %no
yes:
  ret i64 {number}
no:
  %b = call i64 @own(i64 %x)
  %c = sub i64 %b, 1
  %d = call i64 @f{1 - number}(i64 %c)
  %e = add i64 %d, %x
  ret i64 %e
}}
{ATTRIBUTES}"""
        for number in (0, 1)
    ]
    path = tmp_path / "library.so"
    path.write_bytes(elf.link(Machine(texts).objects, ["f0"]))
    f = ctypes.CDLL(str(path)).f0
    f.restype, f.argtypes = ctypes.c_int64, [ctypes.c_int64]
    assert f(10) == 10 + 9 + 7 + 6 + 4 + 3 + 0  # f0 goes on with x - 1, f1 with x - 2


def test_modules_compiled_beside_each_other_are_what_each_is_alone():
    body = "  %y = mul i64 %x, {0}\n  ret i64 %y"
    texts = [
        f"define i64 @f{n}(i64 %x) #0 {{\n{body.format(n)}\n}}\n{ATTRIBUTES}" for n in range(40)
    ]
    alone = [Machine([text]).objects[0] for text in texts]
    assert Machine(iter(texts)).objects == alone
    assert len(set(alone)) == len(texts)


def test_what_is_wrong_with_a_module_is_told():
    with pytest.raises(RuntimeError, match="parsing"):
        _ = Machine(["define void @f() {\n  ret void\n}\n", "nonsense"]).objects


def test_segments_are_never_writable_and_executable(tmp_path):
    load("@x = global i64 1\ndefine void @f() #0 {\n  ret void\n}\n", tmp_path, "f", "x")
    data = (tmp_path / "library.so").read_bytes()
    flags = [int.from_bytes(data[64 + 56 * n + 4 : 64 + 56 * n + 8], "little") for n in range(5)]
    assert not any(f & 1 and f & 2 for f in flags)


def test_what_it_cannot_link_is_refused():
    text = "@x = thread_local global i64 7\ndefine ptr @f() #0 {\n  ret ptr @x\n}\n"
    with pytest.raises(elf.Unlinkable):
        elf.link(Machine([text + ATTRIBUTES]).objects, ["f"])
    with pytest.raises(elf.Unlinkable):
        elf.link(Machine(["define void @f() #0 {\n  ret void\n}\n" + ATTRIBUTES]).objects, ["g"])
    with pytest.raises(elf.Unlinkable):
        elf.link([b"MZ" + bytes(100)], ["f"])


def test_other_tools_can_read_it(tmp_path):
    load(
        "declare double @sin(double)\ndefine double @f(double %x) #0 {\n"
        "  %y = call double @sin(double %x)\n  ret double %y\n}\n",
        tmp_path,
        "f",
    )
    try:
        shown = subprocess.run(
            ["readelf", "-W", "-d", "-l", "-D", "-s", "library.so"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("no readelf")
    assert all(word in shown.stdout for word in ("sin", "libm.so.6", "BIND_NOW"))
    assert not shown.stderr
