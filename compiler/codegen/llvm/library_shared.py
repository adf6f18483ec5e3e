"""The module of a library that all its programs share: what is looked at before anything is
computed, the memory of training at first, and the texts of codes.

    i1 @NAME.able()         whether the processor has the instructions
    i32 @NAME.checked(…)    a code for the memories that a function is given
    i1 @NAME.insideN(…)     whether all elements of an input choose something that is there

Tests: tests/runtime/test_export.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...machines import Machine
from .library_body import AT_LAYOUT, CODES, FAILURES, Body, size_type
from .module import ATTRIBUTES
from .parallel_for import team_parts

# CPUID by level: leaf, register of the answer (eax, ebx, ecx, edx), bits that must be set there
FEATURES = {
    # SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT; LAHF
    "x86-64-v2": (
        (1, 2, 1 << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23),
        (0x80000001, 2, 1 << 0),
    ),
    # FMA, MOVBE, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT
    "x86-64-v3": (
        (1, 2, 1 << 12 | 1 << 22 | 1 << 27 | 1 << 28 | 1 << 29),
        (7, 1, 1 << 3 | 1 << 5 | 1 << 8),
        (0x80000001, 2, 1 << 5),
    ),
    # AVX512 F, DQ, CD, BW, VL
    "x86-64-v4": ((7, 1, 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31),),
    "avx512vnni": ((7, 2, 1 << 11),),
    "avx512bf16": (),  # leaf 7 has a second part
}
# registers that the operating system saves: XMM and YMM, and those of AVX-512
SAVED = {"x86-64-v3": 0x06, "x86-64-v4": 0xE6}
CPUID = (
    'call {{ i32, i32, i32, i32 }} asm sideeffect "cpuid", '
    '"={{ax}},={{bx}},={{cx}},={{dx}},{{ax}},{{cx}},~{{dirflag}},~{{fpsr}},~{{flags}}"'
    "(i32 {leaf}, i32 {part})"
)
XGETBV = 'call { i32, i32 } asm sideeffect "xgetbv", "={ax},={dx},{cx}"(i32 0)'


# What LLVM refers to in code for Windows. A function whose frame is larger than a page calls
# `__chkstk` with its size in RAX, which touches every page of it in turn: the system gives pages to
# a stack as its guard page is touched. As in compiler-rt (chkstk.S).
CHKSTK = r"""
.globl __chkstk
__chkstk:
  pushq %rcx
  pushq %rax
  cmpq $0x1000, %rax
  leaq 24(%rsp), %rcx
  jb 1f
2:
  subq $0x1000, %rcx
  testq %rcx, (%rcx)
  subq $0x1000, %rax
  cmpq $0x1000, %rax
  ja 2b
1:
  subq %rax, %rcx
  testq %rcx, (%rcx)
  popq %rax
  popq %rcx
  retq
"""
WINDOWS = "@_fltused = constant i32 0\n" + "".join(
    f'module asm "{line}"\n' for line in CHKSTK.strip().splitlines()
)


@dataclass(frozen=True)
class Fill:
    """A part of the values that begins with other than zeros: `copied` from another place, or with
    these `data`."""

    offset: int
    size: int
    copied: int | None = None
    data: bytes = b""


@dataclass(frozen=True)
class Values:
    """The memory of params and states: the numbers that its head begins with, how many bytes of it
    are weights (the head included), and how many there are with the states of optimizers. `begun`
    is what `init` writes there, where the library trains."""

    abi: int
    magic: int
    layout: int
    weights_bytes: int
    total_bytes: int
    begun: Sequence[Fill] = ()


def shared(prefix: str, values: Values, machine: Machine) -> str:
    """The module of what the programs share, and of the functions `PREFIX_check`, `PREFIX_message`
    and, for training, `PREFIX_init`."""
    parts = [
        _able(prefix, machine),
        _checked(prefix, values, machine),
        *(_inside(prefix, bits) for bits in INDEX_BITS),
        _check(prefix, values),
        _message(prefix),
        _words(prefix),
    ]
    if values.total_bytes > values.weights_bytes:
        parts.append(_init(prefix, values, machine))
    if machine.threads > 1:
        parts.append(team_parts(f"{prefix}.parts", machine.threads))
    if machine.is_windows:
        parts.append(WINDOWS)
    if machine.is_wasm:
        parts.append("declare i32 @llvm.wasm.memory.size.i32(i32)\n")
    return "\n".join([*parts, ATTRIBUTES, ""])


def helpers(prefix: str, machine: Machine) -> tuple[str, ...]:
    """What the module of a program calls in that of `shared`."""
    words = [f"{prefix}.copy", f"{prefix}.clear"]
    words += [f"{prefix}.parts"] * (machine.threads > 1)
    return (f"{prefix}.checked", *words, *(f"{prefix}.inside{bits}" for bits in INDEX_BITS))


INDEX_BITS = (8, 32, 64)  # of an index in memory


def embedded(prefix: str, weights: bytes, machine: Machine) -> str:
    """The module that has the file of weights as a constant."""
    kind = f"[{len(weights)} x i8]"
    place = f"align {machine.alignment}"
    return f'@{prefix}_weights = constant {kind} c"{_escaped(weights)}", {place}\n'


def _escaped(data: bytes) -> str:
    return "".join(f"\\{byte:02X}" for byte in data)


def _able(prefix: str, machine: Machine) -> str:
    """Whether the processor has the instructions; asked once, as CPUID may take microseconds."""
    head = f"define hidden i1 @{prefix}.able() #0 {{\nentry:\n"
    if not machine.required:
        return f"{head}  ret i1 true\n}}\n"
    body = Body(machine)
    state = f"@{prefix}.known"
    known = body.op(f"load atomic i32, ptr {state} monotonic, align 4")
    body.do(f"switch i32 {known}, label %ask [ i32 1, label %yes i32 2, label %no ]")
    body.lines += ["yes:", "  ret i1 true", "no:", "  ret i1 false", "ask:"]
    wanted = "true"

    def need(value: str, mask: int) -> None:
        nonlocal wanted
        bits = body.op(f"and i32 {value}, {mask}")
        wanted = body.op(f"and i1 {wanted}, {body.op(f'icmp eq i32 {bits}, {mask}')}")

    def cpuid(leaf: int, part: int, register: int) -> str:
        answer = body.op(CPUID.format(leaf=leaf, part=part))
        return body.op(f"extractvalue {{ i32, i32, i32, i32 }} {answer}, {register}")

    # A leaf beyond the last one is answered with another one's bits.
    last = body.op(f"icmp uge i32 {cpuid(0, 0, 0)}, 7")
    wanted = body.op(f"and i1 {wanted}, {last}")
    for level in machine.required:
        for leaf, register, mask in FEATURES[level]:
            need(cpuid(leaf, 0, register), mask)
    if "avx512bf16" in machine.required:
        need(cpuid(7, 1, 0), 1 << 5)
    saved = max(SAVED.get(level, 0) for level in machine.required)
    if saved:
        # XGETBV is itself an instruction that may be missing.
        body.do(f"br i1 {wanted}, label %saved, label %lacking")
        body.lines += ["lacking:", f"  store atomic i32 2, ptr {state} monotonic, align 4",
                       "  ret i1 false", "saved:"]  # fmt: skip
        registers = body.op(XGETBV)
        need(body.op(f"extractvalue {{ i32, i32 }} {registers}, 0"), saved)
    answer = body.op(f"select i1 {wanted}, i32 1, i32 2")
    body.do(f"store atomic i32 {answer}, ptr {state} monotonic, align 4")
    body.do(f"ret i1 {wanted}")
    return "\n".join([f"{state} = internal global i32 0\n{head.rstrip()}", *body.lines, "}", ""])


def _checked(prefix: str, values: Values, machine: Machine) -> str:
    """The code for the memories that a function is given."""
    size, body = size_type(machine), Body(machine)
    able = body.op(f"call i1 @{prefix}.able()")
    body.fail(body.op(f"xor i1 {able}, true"), str(CODES["NO_INSTRUCTIONS"]))
    for memory in ("%arena", "%values"):
        body.fail(body.op(f"icmp eq ptr {memory}, null"), str(CODES["MISSING"]))
    for memory in ("%arena", "%values"):
        bits = body.op(f"ptrtoint ptr {memory} to {size}")
        over = body.op(f"and {size} {bits}, {machine.alignment - 1}")
        body.fail(body.op(f"icmp ne {size} {over}, 0"), str(CODES["MISALIGNED"]))
    for has, needs in (("%arena_bytes", "%needed"), ("%values_bytes", "%wanted")):
        body.fail(body.op(f"icmp ult {size} {has}, {needs}"), str(CODES["TOO_SMALL"]))
    if machine.is_wasm:
        _check_ends(body, {"%arena": "%arena_bytes", "%values": "%values_bytes"}, size)
    _check_head(body, values, "%values")
    taken = f"ptr %arena, {size} %arena_bytes, {size} %needed, ptr %values, {size} %values_bytes"
    return body.function(f"hidden i32 @{prefix}.checked({taken}, {size} %wanted)")


def _check_ends(body: Body, memories: Mapping[str, str], size: str) -> None:
    """Whether memories, with their bytes, end where that of the module does: beyond is a trap."""
    pages = body.op("call i32 @llvm.wasm.memory.size.i32(i32 0)")
    end = body.op(f"shl i64 {body.op(f'zext i32 {pages} to i64')}, 16")
    for memory, count in memories.items():
        first = body.op(f"ptrtoint ptr {memory} to i64")
        last = body.op(f"add i64 {first}, {body.op(f'zext {size} {count} to i64')}")
        body.fail(body.op(f"icmp ugt i64 {last}, {end}"), str(CODES["TOO_SMALL"]))


def _check_head(body: Body, values: Values, memory: str) -> None:
    for offset, number in ((0, values.magic), (AT_LAYOUT, values.layout)):
        found = body.op(f"load i64, ptr {body.at(memory, offset)}, align 8")
        body.fail(body.op(f"icmp ne i64 {found}, {number}"), str(CODES["OTHER_MODEL"]))


def _inside(prefix: str, bits: int) -> str:
    """Whether all elements are below the limit; as unsigned numbers, negative ones are not."""
    wide = "add i64 %element, 0" if bits == 64 else f"zext i{bits} %element to i64"
    return f"""
define hidden i1 @{prefix}.inside{bits}(ptr %first, i64 %count, i64 %limit) #0 {{
entry:
  br label %loop
loop:
  %n = phi i64 [ 0, %entry ], [ %next, %good ]
  %more = icmp ult i64 %n, %count
  br i1 %more, label %look, label %yes
look:
  %place = getelementptr i{bits}, ptr %first, i64 %n
  %element = load i{bits}, ptr %place, align {bits // 8}
  %number = {wide}
  %below = icmp ult i64 %number, %limit
  br i1 %below, label %good, label %no
good:
  %next = add i64 %n, 1
  br label %loop
yes:
  ret i1 true
no:
  ret i1 false
}}
"""


def _check(prefix: str, values: Values) -> str:
    """`PREFIX_check(abi)`: whether header, library and processor belong together."""
    return f"""
define i32 @{prefix}_check(i64 %abi) #0 {{
entry:
  %same = icmp eq i64 %abi, {values.abi}
  br i1 %same, label %ours, label %other
other:
  ret i32 {CODES["OTHER_ABI"]}
ours:
  %able = call i1 @{prefix}.able()
  %code = select i1 %able, i32 0, i32 {CODES["NO_INSTRUCTIONS"]}
  ret i32 %code
}}
"""


def _message(prefix: str) -> str:
    """`PREFIX_message(code)`: the text of a code. All texts have one length, so that no table of
    addresses is needed, which a loader would have to fill in."""
    texts = [*(text for _, text in FAILURES), "no code of this library"]
    width = max(map(len, texts)) + 1
    data = b"".join(text.encode().ljust(width, b"\0") for text in texts)
    last = len(FAILURES)
    return f"""
@{prefix}.messages = internal constant [{len(data)} x i8] c"{_escaped(data)}", align 1
define ptr @{prefix}_message(i32 %code) #0 {{
entry:
  %known = icmp ult i32 %code, {last}
  %row = select i1 %known, i32 %code, i32 {last}
  %offset = mul i32 %row, {width}
  %wide = zext i32 %offset to i64
  %text = getelementptr i8, ptr @{prefix}.messages, i64 %wide
  ret ptr %text
}}
"""


def _init(prefix: str, values: Values, machine: Machine) -> str:
    """`PREFIX_init(values, values_bytes, weights, weights_bytes)`: the values that training begins
    with, from those of the weights."""
    size, body = size_type(machine), Body(machine)
    for memory in ("%values", "%weights"):
        body.fail(body.op(f"icmp eq ptr {memory}, null"), str(CODES["MISSING"]))
        bits = body.op(f"ptrtoint ptr {memory} to {size}")
        over = body.op(f"and {size} {bits}, {machine.alignment - 1}")
        body.fail(body.op(f"icmp ne {size} {over}, 0"), str(CODES["MISALIGNED"]))
    for has, needs in (("values", values.total_bytes), ("weights", values.weights_bytes)):
        less = body.op(f"icmp ult {size} %{has}_bytes, {needs}")
        body.fail(less, str(CODES["TOO_SMALL"]))
    if machine.is_wasm:
        _check_ends(body, {"%values": "%values_bytes", "%weights": "%weights_bytes"}, size)
    _check_head(body, values, "%weights")
    copy = f"call void @{prefix}.copy"
    body.do(f"{copy}(ptr %values, ptr %weights, i64 {values.weights_bytes})")
    rest = body.at("%values", values.weights_bytes)
    body.do(
        f"call void @{prefix}.clear(ptr {rest}, i64 {values.total_bytes - values.weights_bytes})"
    )
    constants = []
    for number, fill in enumerate(values.begun):
        to = body.at("%values", fill.offset)
        if fill.copied is None:
            name = f"@{prefix}.begun{number}"
            text = _escaped(fill.data)
            kind = f"[{len(fill.data)} x i8]"
            constants.append(f'{name} = internal constant {kind} c"{text}", align 64\n')
        else:
            name = body.at("%values", fill.copied)
        body.do(f"{copy}(ptr {to}, ptr {name}, i64 {fill.size})")
    taken = f"ptr %values, {size} %values_bytes, ptr %weights, {size} %weights_bytes"
    init = body.function(f"i32 @{prefix}_init({taken})")
    return "".join(constants) + init


def _words(prefix: str) -> str:
    """Copying and clearing whole numbers of 8 bytes: no function of C's library is called."""
    loop = """
define hidden void @{name}(ptr %to, {taken}i64 %bytes) #0 {{
entry:
  br label %loop
loop:
  %n = phi i64 [ 0, %entry ], [ %next, %word ]
  %more = icmp ult i64 %n, %bytes
  br i1 %more, label %word, label %end
word:
  %target = getelementptr i8, ptr %to, i64 %n
{value}
  store i64 {stored}, ptr %target, align 8
  %next = add i64 %n, 8
  br label %loop
end:
  ret void
}}
"""
    read = "  %source = getelementptr i8, ptr %from, i64 %n\n"
    read += "  %value = load i64, ptr %source, align 8"
    copy = loop.format(name=f"{prefix}.copy", taken="ptr %from, ", value=read, stored="%value")
    return copy + loop.format(name=f"{prefix}.clear", taken="", value="", stored="0")
