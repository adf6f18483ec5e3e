"""A library's functions around the steps of its programs, as LLVM text: what C calls.

    i32 @NAME(ptr arena, size arena_bytes, ptr values, size values_bytes [, size examples])

Each looks at all that it is given before anything is computed, and returns a code of `FAILURES`
instead of a wrong result: memory that is missing, misaligned or too small, weights of another
model, a processor without the instructions, indices out of bounds. Nothing is allocated and nothing
outside is called. The arena begins with the cells of `thread_pool`; the values begin with a head of
`HEAD_BYTES`, which says of which model they are, at which step, and from which seed.
Tests: tests/runtime/test_export.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...ir.dtypes import LINE
from ...ir.equation import System
from ...machines import Machine
from .index_width import narrowed
from .module import ALONE, ATTRIBUTES
from .thread_pool import ARENA_AGAIN, ARENA_BYTES, ARENA_EXAMPLES

# What a function returns, in this order from 0 on: the name in C, and the text for people.
FAILURES = (
    ("OK", "done"),
    ("OTHER_ABI", "the header belongs to another library"),
    ("MISSING", "a pointer is null"),
    ("MISALIGNED", "the arena or the values do not begin at a multiple of the alignment"),
    ("TOO_SMALL", "the arena or the values have too few bytes"),
    ("OTHER_MODEL", "the weights are those of another model, or no weights"),
    ("NO_INSTRUCTIONS", "this processor lacks instructions that the library was made for"),
    ("WRONG_EXAMPLES", "there must be one example at least, and no more than the batch"),
    ("INDEX_OUTSIDE", "an input is an index, and chooses something that is not there"),
    ("NO_RESULT", "an index is outside, or an integer operation has no result"),
    ("NOT_FINITE", "the loss is not finite: the values are of no use any more"),
)
CODES = {name: code for code, (name, _) in enumerate(FAILURES)}

# The head of the values: magic and format, the hash of their layout, how many bytes the weights
# have, the steps taken, the seed, and the hash of the weights that they began with.
HEAD_BYTES, AT_LAYOUT, AT_BYTES, AT_STEP, AT_SEED, AT_CONTENT = LINE, 8, 16, 24, 28, 32
# Beside the arena's cell `again`: of which program its content is, and of which values: where these
# are, what they began with, and their step.
DONE, DONE_ADDRESS, DONE_CONTENT, DONE_STEP = (ARENA_AGAIN + n for n in (4, 8, 16, 24))

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


@dataclass(frozen=True)
class IndexInput:
    """An input each of whose `count` elements must choose one of `limit` places."""

    offset: int
    count: int
    bytes: int  # of an element
    limit: int


@dataclass(frozen=True)
class Entry:
    """A function of a program: what it needs, and where in the arena it finds what.

    Of a program that `trains`, the step is counted in the values. `examples` is how many a run may
    be of, 0 where their number is fixed. `counted`, `seeded` and `left` are where the number of the
    step, the seed, and the batches that are left of a step are put or stand; `check` is where a run
    says that an integer has no result; `losses` must be finite. One with a `number` leaves out what
    the run before has computed of the values alone, if that was its own and they are the same.
    """

    name: str
    arena_bytes: int
    values_bytes: int
    trains: bool = False
    examples: int = 0
    counted: int | None = None
    seeded: int | None = None
    left: int | None = None
    check: int | None = None
    losses: tuple[tuple[int, str], ...] = ()  # offset, f32 or f64
    indices: tuple[IndexInput, ...] = ()
    number: int = 0


@dataclass
class _Body:
    """The lines of a function; values are numbered."""

    machine: Machine
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def op(self, text: str) -> str:
        self.count += 1
        self.lines.append(f"  %v{self.count} = {text}")
        return f"%v{self.count}"

    def do(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def at(self, memory: str, offset: int) -> str:
        return self.op(f"getelementptr i8, ptr {memory}, i64 {offset}")

    def load(self, type: str, memory: str, offset: int) -> str:
        return self.op(f"load {type}, ptr {self.at(memory, offset)}, align 4")

    def store(self, type: str, value: str | int, memory: str, offset: int) -> None:
        self.do(f"store {type} {value}, ptr {self.at(memory, offset)}, align 4")

    def fail(self, condition: str, code: str) -> None:
        """Return the code if the condition holds."""
        self.count += 1
        bad, good = f"bad{self.count}", f"good{self.count}"
        self.do(f"br i1 {condition}, label %{bad}, label %{good}")
        self.lines += [f"{bad}:", f"  ret i32 {code}", f"{good}:"]

    def function(self, head: str) -> str:
        lines = [f"define {head} #0 {{", "entry:", *self.lines, "  ret i32 0", "}", ""]
        return "\n".join(lines)


def size_type(machine: Machine) -> str:
    """C's size_t."""
    return f"i{machine.pointer_bits}"


def entry(prefix: str, program: Entry, machine: Machine) -> str:
    """The public function of a program, for the end of the module that has its `@step`."""
    size, body = size_type(machine), _Body(machine)
    needs = f"ptr %arena, {size} %arena_bytes, {size} {program.arena_bytes}"
    needs += f", ptr %values, {size} %values_bytes, {size} {program.values_bytes}"
    code = body.op(f"call i32 @{prefix}.checked({needs})")
    body.fail(body.op(f"icmp ne i32 {code}, 0"), code)
    inner = body.at("%arena", ARENA_BYTES)
    if program.examples:
        less = body.op(f"sub {size} %examples, 1")
        wrong = body.op(f"icmp uge {size} {less}, {program.examples}")
        body.fail(wrong, str(CODES["WRONG_EXAMPLES"]))
        is_wide = machine.pointer_bits > 32
        number = body.op(f"trunc {size} %examples to i32") if is_wide else "%examples"
        body.store("i32", number, inner, ARENA_EXAMPLES)
    for one in program.indices:
        first = body.at(inner, one.offset)
        given = f"ptr {first}, i64 {one.count}, i64 {one.limit}"
        inside = body.op(f"call i1 @{prefix}.inside{8 * one.bytes}({given})")
        outside = body.op(f"xor i1 {inside}, true")
        body.fail(outside, str(CODES["INDEX_OUTSIDE"]))
    _set_scalars(body, program, inner)
    if program.number:
        _look_back(body, program.number, inner)
    else:
        body.store("i32", 0, inner, ARENA_AGAIN)
        body.store("i32", 0, inner, DONE)
    body.do(f"call void @step(ptr {inner}, ptr %values)")
    if program.check is not None:
        refused = body.op(f"icmp ne i32 {body.load('i32', inner, program.check)}, 0")
        body.fail(refused, str(CODES["NO_RESULT"]))
    if program.trains:
        _count_step(body, program, inner)
    for offset, dtype in program.losses:
        _check_finite(body, inner, offset, dtype)
    taken = f"ptr %arena, {size} %arena_bytes, ptr %values, {size} %values_bytes"
    if program.examples:
        taken += f", {size} %examples"
    helpers = _helpers(prefix, program.indices, size)
    return helpers + body.function(f"i32 @{program.name}({taken})")


def _set_scalars(body: _Body, program: Entry, inner: str) -> None:
    """The number of the step and the seed, from the head of the values."""
    if program.counted is not None:
        step = body.load("i32", "%values", AT_STEP)
        # Programs count steps from 1, also before the first.
        if program.trains:
            step = body.op(f"add i32 {step}, 1")
        else:
            none = body.op(f"icmp slt i32 {step}, 1")
            step = body.op(f"select i1 {none}, i32 1, i32 {step}")
        body.store("i32", step, inner, program.counted)
    if program.seeded is not None:
        body.store("i32", body.load("i32", "%values", AT_SEED), inner, program.seeded)


def _look_back(body: _Body, number: int, inner: str) -> None:
    """Set the cell `again`: whether the prologue of the run before is still good."""
    address = body.op("ptrtoint ptr %values to i64")  # with zeros above where it is shorter
    now = {
        DONE_ADDRESS: ("i64", address),
        DONE_CONTENT: ("i64", body.load("i64", "%values", AT_CONTENT)),
        DONE_STEP: ("i32", body.load("i32", "%values", AT_STEP)),
        DONE: ("i32", str(number)),
    }
    same = "true"
    for place, (type, value) in now.items():
        equal = body.op(f"icmp eq {type} {body.load(type, inner, place)}, {value}")
        same = body.op(f"and i1 {same}, {equal}")
        body.store(type, value, inner, place)
    body.store("i32", body.op(f"zext i1 {same} to i32"), inner, ARENA_AGAIN)


def _count_step(body: _Body, program: Entry, inner: str) -> None:
    """One more step, unless batches of it are left."""
    before = body.load("i32", "%values", AT_STEP)
    after = body.op(f"add i32 {before}, 1")
    if program.left is not None:
        more = body.op(f"icmp ne i32 {body.load('i32', inner, program.left)}, 0")
        after = body.op(f"select i1 {more}, i32 {before}, i32 {after}")
    body.store("i32", after, "%values", AT_STEP)


def _check_finite(body: _Body, inner: str, offset: int, dtype: str) -> None:
    """A number is finite exactly if its difference from itself is 0."""
    type = {"f32": "float", "f64": "double"}[dtype]
    loss = body.load(type, inner, offset)
    none = body.op(f"fsub {type} {loss}, {loss}")
    body.fail(body.op(f"fcmp une {type} {none}, 0.0"), str(CODES["NOT_FINITE"]))


def _helpers(prefix: str, indices: Sequence[IndexInput], size: str) -> str:
    checked = f"i32 @{prefix}.checked(ptr, {size}, {size}, ptr, {size}, {size})"
    lines = [f"declare hidden {checked}"]
    for bits in sorted({8 * one.bytes for one in indices}):
        lines.append(f"declare hidden i1 @{prefix}.inside{bits}(ptr, i64, i64)")
    return "\n".join([*lines, ""])


# --- what all programs share ----------------------------------------------------------------------


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
    ]
    if values.total_bytes > values.weights_bytes:
        parts.append(_init(prefix, values, machine))
    return "\n".join([*parts, ATTRIBUTES, ""])


def helpers(prefix: str) -> tuple[str, ...]:
    """What the module of a program calls in that of `shared`."""
    return (f"{prefix}.checked", *(f"{prefix}.inside{bits}" for bits in INDEX_BITS))


BITS = 64  # of an index in the code generator's text
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
    body = _Body(machine)
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
    size, body = size_type(machine), _Body(machine)
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
    _check_head(body, values, "%values")
    taken = f"ptr %arena, {size} %arena_bytes, {size} %needed, ptr %values, {size} %values_bytes"
    return body.function(f"hidden i32 @{prefix}.checked({taken}, {size} %wanted)")


def _check_head(body: _Body, values: Values, memory: str) -> None:
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
    size, body = size_type(machine), _Body(machine)
    for memory in ("%values", "%weights"):
        body.fail(body.op(f"icmp eq ptr {memory}, null"), str(CODES["MISSING"]))
        bits = body.op(f"ptrtoint ptr {memory} to {size}")
        over = body.op(f"and {size} {bits}, {machine.alignment - 1}")
        body.fail(body.op(f"icmp ne {size} {over}, 0"), str(CODES["MISALIGNED"]))
    for has, needs in (("values", values.total_bytes), ("weights", values.weights_bytes)):
        less = body.op(f"icmp ult {size} %{has}_bytes, {needs}")
        body.fail(less, str(CODES["TOO_SMALL"]))
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
    return "".join(constants) + _words(prefix) + init


def _words(prefix: str) -> str:
    """Copying and clearing whole numbers of 8 bytes: no function of C's library is called."""
    loop = """
define internal void @{name}(ptr %to, {taken}i64 %bytes) #0 {{
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


def memset(machine: Machine) -> str:
    """What LLVM calls to fill memory, as a function of the library's own: by 8 bytes as long as
    there are so many."""
    size = size_type(machine)
    return f"""
define weak_odr hidden ptr @memset(ptr %to, i32 %value, {size} %bytes) #0 {{
entry:
  %one = trunc i32 %value to i8
  %low = zext i8 %one to i64
  %eight = mul i64 %low, 72340172838076673 ; the byte in all places
  %words = and {size} %bytes, -8
  br label %loop
loop:
  %n = phi {size} [ 0, %entry ], [ %next, %word ]
  %more = icmp ult {size} %n, %words
  br i1 %more, label %word, label %rest
word:
  %there = getelementptr i8, ptr %to, {size} %n
  store i64 %eight, ptr %there, align 1
  %next = add {size} %n, 8
  br label %loop
rest:
  %m = phi {size} [ %n, %loop ], [ %following, %byte ]
  %some = icmp ult {size} %m, %bytes
  br i1 %some, label %byte, label %end
byte:
  %here = getelementptr i8, ptr %to, {size} %m
  store i8 %one, ptr %here, align 1
  %following = add {size} %m, 1
  br label %rest
end:
  ret ptr %to
}}
"""


def program_module(
    alone: str, system: System, prefix: str, program: Entry, machine: Machine
) -> str:
    """The module of a program: its step, `alone`, and the function that C calls. `system` is what
    the step computes."""
    assert f"void @step({ALONE})" in alone
    # Modules share one page of zeros.
    text = alone.replace("@zeros = internal", "@zeros = linkonce_odr hidden")
    for dtype in {"f32", "f64"}.difference(machine.fma):
        text = re.sub(rf"@llvm\.fma\.(v\d+)?{dtype}\b", rf"@llvm.fmuladd.\1{dtype}", text)
    if machine.pointer_bits < BITS:
        text = narrowed(text, system)
    if machine.small:
        text = text.replace(ATTRIBUTES, ATTRIBUTES.replace("nounwind", "nounwind minsize optsize"))
    clears = memset(machine) if "@llvm.memset." in text else ""
    return text + clears + entry(prefix, program, machine)
