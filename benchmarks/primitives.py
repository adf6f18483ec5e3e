"""What the CUDA prelude's names do, on fixed numbers: recorded on a GPU, compared under g++.

In: a device, `cuda` or `simulator`. Out: the result of every primitive, by name. What a GPU gave is
kept in `tests/backends/goldens/*.npz`, and a test holds the stand-in for the GPU to it: a mistake
that the stand-in and the kernels share is seen nowhere else. A name carries a hash of its kernel
and its numbers, so what was recorded for another kernel is not compared.

A new primitive of the prelude is one line in `PRIMITIVES`.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from dataclasses import dataclass

import numpy as np

from nnc.compiler.codegen.cuda.module import Module, prelude
from nnc.compiler.ir.build import call
from nnc.compiler.ir.equation import Equation, Index, System, Tensor
from nnc.compiler.ir.expr import Idx, Read
from nnc.compiler.ir.functions import CASTS, TABLE
from nnc.compiler.passes.gpu.launch_ir import Launch
from nnc.compiler.reference.evaluator import evaluate

COUNT = 256  # threads, and numbers of every operand
TYPES = {"i32": np.int32, "i64": np.int64, "f32": np.float32, "f64": np.float64}


@dataclass(frozen=True)
class Primitive:
    """`text` computes `y[at]` from `a[at]` and `b[at]`, of thread `at` of a block of 256. `kinds`
    are the types of y, a and b."""

    name: str
    kinds: str
    text: str
    shared: int = 0  # bytes

    @property
    def key(self) -> str:
        """The name, and a hash of everything that decides the result."""
        digest = hashlib.sha256(self.kernel.encode())
        for operand in self.operands:
            digest.update(operand.tobytes())
        return f"{self.name}.{digest.hexdigest()[:12]}"

    @property
    def kernel(self) -> str:
        y, *given = self.kinds.split()
        named = list(zip(given, "ab", strict=False))
        operands = "".join(f", const {kind}* {name}" for kind, name in named)
        reads = "".join(
            f"  const {kind} {name}_ = AT({name}, at, {COUNT});\n" for kind, name in named
        )
        return (
            f"KERNEL({COUNT}, 1) p_{self.name}({y}* y{operands}) {{\n  using namespace nn;\n"
            f"  const i32 at = THREAD;\n{reads}  {y} r;\n  {self.text}\n"
            f"  AT(y, at, {COUNT}) = r;\n}}\n"
        )

    @property
    def operands(self) -> list[np.ndarray]:
        """Numbers of all sizes and both signs, and those that are special."""
        return [_numbers(kind, seed) for seed, kind in enumerate(self.kinds.split()[1:])]


def _numbers(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 11])
    if kind[0] == "i":
        limits = np.iinfo(TYPES[kind])
        special = [0, 1, -1, 2, -2, 31, limits.max, limits.min, limits.min + 1]
        drawn = rng.integers(-1000, 1000, COUNT - len(special))
    else:
        tiny = float(np.finfo(TYPES[kind]).tiny)
        special = [0.0, -0.0, np.inf, -np.inf, np.nan, tiny, tiny / 4, 3e9, -3e9, 1e19, 65535.5]
        count = COUNT - len(special)
        drawn = rng.normal(size=count) * 10.0 ** rng.integers(-6, 7, count)
    return rng.permutation(np.concatenate([drawn, special])).astype(TYPES[kind])


def _joined(how: str, kind: str = "f32", shape: str = "warp_reduce(mine)") -> str:
    """One number of each thread joined; in sums none that hides all others."""
    value = f"nn::abs(a_) < ({kind})10000000 ? a_ : ({kind})1" if how == "Sum" else "a_"
    return f"{how}<{kind}> mine; mine.value = 0; mine.take({value}, at); r = {shape}.result();"


WARPS = "SHARED({0}<f32>, held, 0, 8); "
BLOCK = "SHARED({0}<f32>, held, 0, 256); "

# small whole numbers, so that sums are exact in any order
SMALL = "const auto small = [](u32 n) { return (f32)((i32)(n % 16) - 7); }; const u32 n = (u32)a_; "
MMA = SMALL + (
    "u32 left[4], right[2]; f32 sum[4] = {1, 2, 3, 4}; "
    "for (u32 q = 0; q < 4; ++q) left[q] = PAIR(small(n + q), small(n * 3 + q)); "
    "for (u32 q = 0; q < 2; ++q) right[q] = PAIR(small(n * 5 + q), small(n * 7 + q)); "
    "MMA(sum, left, right); r = sum[{0}];"
)
MATRICES = (
    "SHARED(u32, rows, 0, 1024); u32 held[4]; "
    "for (i32 q = 0; q < 4; ++q) AT(rows, at * 4 + q, 1024) = (u32)a_ * 4 + q; BARRIER(); "
    "MATRICES({0}, held, rows, at * 4, 1024); r = (i32)held[{1}];"
)
COPIED = (
    "SHARED(f32, held, 0, 256); COPY(1, held, at, 256, a, at, 256, at % 3 != 0); COMMIT(); "
    "WAIT(0); BARRIER(); r = AT(held, 255 - at, 256);"
)
COPIED_WIDE = (
    "SHARED(f32, held, 0, 256); f32 four[4]; const i32 first = at / 4 * 4; "
    "if (at % 4 == 0) COPY(4, held, at, 256, a, at, 256, at % 12 != 0); COMMIT(); WAIT(0); "
    "BARRIER(); GET(4, four, held, first, 256); r = four[3 - at % 4];"
)
# eight numbers of bf16, none to all of them, into four words
COPIED_SOME = (
    "SHARED(u32, held, 0, 256); const u16* halves = (const u16*)a; "
    "if (at < 64) COPY_SOME(8, held, at * 4, 256, halves, at * 8, 512, at % 9); COMMIT(); "
    "WAIT(0); BARRIER(); r = (i32)AT(held, 255 - at, 256);"
)

PRIMITIVES = (
    *(Primitive(f"shuffle{mask}", "f32 f32", f"r = SHUFFLE(a_, {mask});")
      for mask in (1, 2, 4, 8, 16)),
    Primitive("shuffled_bool", "i32 i32", "r = shuffled(a_ > 0, 4);"),
    Primitive("warp_sum", "f32 f32", _joined("Sum")),
    Primitive("warp_sum_f64", "f64 f64", _joined("Sum", "f64")),
    Primitive("warp_sum_i32", "i32 i32", _joined("Sum", "i32")),
    Primitive("warp_max", "f32 f32", _joined("Max")),
    Primitive("warp_min", "f32 f32", _joined("Min")),
    Primitive("warp_argmax", "i32 f32", _joined("ArgMax")),
    Primitive("warp_argmin", "i32 f32", _joined("ArgMin")),
    Primitive("warps_sum", "f32 f32", WARPS.format("Sum") + _joined(
        "Sum", shape="multi_warp_reduce<128, 256>(mine, held)"), 32),
    Primitive("warps_argmax", "i32 f32", WARPS.format("ArgMax") + _joined(
        "ArgMax", shape="multi_warp_reduce<256, 256>(mine, held)"), 64),
    Primitive("block_sum", "f32 f32", BLOCK.format("Sum") + _joined(
        "Sum", shape="block_reduce<8, 32, 256>(mine, held)"), 1024),
    *(Primitive(f"mma{q}", "f32 i32", MMA.replace("{0}", str(q))) for q in range(4)),
    *(Primitive(f"matrices{q}{'_turned' * turned}", "i32 i32",
                MATRICES.format(str(bool(turned)).lower(), q), 4096)
      for turned in (0, 1) for q in range(4)),
    Primitive("copy", "f32 f32", COPIED, 1024),
    Primitive("copy_wide", "f32 f32", COPIED_WIDE, 1024),
    Primitive("copy_some", "i32 f32", COPIED_SOME, 1024),
    Primitive("swizzled", "i32 i32", "r = swizzled<16>(at / 16, at % 16) + 0 * a_;"),
    Primitive("random", "f32 i32 i32", "r = nn::random(a_, b_, 3, at);"),
    Primitive("bf16_f32", "f32 f32", "r = bf16(a_);"),
    Primitive("bf16_f64", "f64 f64", "r = bf16(a_);"),
    Primitive("bf16_narrow", "i32 f32", "r = narrow_bf16(bf16(a_));"),
    Primitive("bf16_wide", "f32 f32", "r = wide_bf16(narrow_bf16(bf16(a_)));"),
    Primitive("f16_f32", "f32 f32", "r = f16(a_);"),
    Primitive("f16_f64", "f64 f64", "r = f16(a_);"),
    Primitive("f16_narrow", "i32 f32", "r = narrow_f16(f16(a_));"),
    Primitive("f16_wide", "f32 f32", "r = wide_f16(narrow_f16(f16(a_)));"),
    Primitive("bf16_pairs", "i32 f32 f32", "r = bf16_pair(a_, b_);"),
    Primitive("bf16_dots", "f32 f32", "const f32 x = nn::abs(a_) < 1e-9f ? 3 : a_;"
              " r = bf16_dot(bf16_pair(x, 1 + x), bf16_pair(1 - x, x));"),
    Primitive("as_i32", "i32 f32", "r = to_i32(a_);"),
    Primitive("as_i64", "i64 f64", "r = to_i64(a_);"),
    Primitive("floordiv_i32", "i32 i32 i32", "r = floordiv(a_, b_);"),
    Primitive("floordiv_i64", "i64 i64 i64", "r = floordiv(a_, b_);"),
    Primitive("mod_i32", "i32 i32 i32", "r = mod(a_, b_);"),
    Primitive("mod_i64", "i64 i64 i64", "r = mod(a_, b_);"),
    Primitive("mul_i32", "i32 i32 i32", "r = mul(a_, b_);"),
    Primitive("pow_i32", "i32 i32 i32", "r = nn::pow(a_, b_ & 15);"),
    Primitive("max_f32", "f32 f32 f32", "r = nn::max(a_, b_);"),
    Primitive("min_f32", "f32 f32 f32", "r = nn::min(a_, b_);"),
    Primitive("add_f32", "f32 f32 f32", "r = add(a_, b_);"),
    Primitive("mul_f32", "f32 f32 f32", "r = mul(a_, b_);"),
    Primitive("div_f32", "f32 f32 f32", "r = a_ / b_;"),
    Primitive("sqrt_f32", "f32 f32", "r = sqrtf(nn::abs(a_));"),
)  # fmt: skip


def not_covered() -> list[str]:
    """What the prelude defines and no primitive uses, the scalar functions left out."""
    texts = " ".join(primitive.text for primitive in PRIMITIVES).lower()
    defined = re.findall(r"\bDEVICE \w+ (\w+)\(", prelude())
    return sorted({n for n in defined if n not in TABLE and n.lower() not in texts})


# --- running --------------------------------------------------------------------------------------


def results(device: str) -> dict[str, np.ndarray]:
    """What every primitive gives, by its key."""
    launches, given, places, size = [], [], {}, 0
    for primitive in PRIMITIVES:
        arrays = [np.zeros(COUNT, TYPES[primitive.kinds.split()[0]]), *primitive.operands]
        offsets = []
        for array in arrays:
            offsets.append(size)
            given.append((size, array))
            size += array.nbytes
        places[primitive.key] = offsets[0], arrays[0].dtype
        launches.append(
            Launch(f"p_{primitive.name}", 1, 1, COUNT, primitive.shared, tuple(offsets))
        )
    arena = np.zeros(size + 64, np.uint8)
    for start, array in given:
        arena[start : start + array.nbytes] = array.view(np.uint8)
    text = "\n".join(primitive.kernel for primitive in PRIMITIVES)
    made = Module(text, tuple(launches), len(arena))
    (_run_on_gpu if device == "cuda" else _run_under_gpp)(made, arena)
    return {
        key: arena[start : start + COUNT * kind.itemsize].view(kind).copy()
        for key, (start, kind) in places.items()
    }


def _run_under_gpp(made: Module, arena: np.ndarray) -> None:
    from gpu_simulator import library

    loaded = library(made)
    loaded.nnc_begin(1, True)
    loaded.run(ctypes.c_void_p(arena.ctypes.data))
    assert not loaded.nnc_error(), loaded.nnc_error()


def _run_on_gpu(made: Module, arena: np.ndarray) -> None:
    import cupy

    from nnc.runtime.device.cuda import program as cuda

    code = cupy.cuda.function.Module()
    code.load(cuda.machine_code(made, cuda.ready().architecture))
    memory = cupy.cuda.Memory(len(arena))
    cupy.cuda.runtime.memcpy(memory.ptr, arena.ctypes.data, len(arena), 1)
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    for launch in made.launches:
        assert isinstance(launch, Launch)
        places = tuple(np.uint64(memory.ptr + offset) for offset in launch.offsets)
        code.get_function(launch.function)((1, 1, 1), (COUNT, 1, 1), places, launch.shared, stream)
    stream.end_capture().launch(stream)
    stream.synchronize()
    cupy.cuda.runtime.memcpy(arena.ctypes.data, memory.ptr, len(arena), 2)


def differences(recorded: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, int]:
    """How many numbers differ, of the primitives that both know and that differ; NaN is NaN."""
    counts = {}
    for key in recorded.keys() & found.keys():
        one, two = recorded[key], found[key]
        bits = np.dtype(f"u{one.itemsize}")
        same = (one.view(bits) == two.view(bits)) | ((one != one) & (two != two))
        if not same.all():
            counts[key] = int((~same).sum())
    return counts


# --- scalar functions -----------------------------------------------------------------------------


def functions(device) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Every scalar function of f32 numbers on a program of the device: its results, and their
    largest distance from float64 in units of the last place. A remainder is left out: it is as
    exact as the quotient's last place; and so is what takes pairs of bf16 numbers."""
    size = 4096
    values = {"a": np.linspace(-9, 9, size), "b": np.linspace(0.01, 5, size)[::-1]}
    exact = evaluate(_functions("f64", size), {n: v.astype(np.float32) for n, v in values.items()})
    system = _functions("f32", size)
    program = device(system)
    for name, value in values.items():
        program.arrays[name][...] = value
    program.run()
    found = {name: program.arrays[name].copy() for name in system.outputs}
    worst = {}
    for name, array in found.items():
        wanted = np.asarray(exact[name])
        fine = np.isfinite(wanted)
        unit = np.spacing(np.abs(wanted[fine]).astype(np.float32)).astype(float)
        off = np.abs(array[fine] - wanted[fine]) / unit
        worst[name[2:]] = round(float(off.max(initial=0)), 2)
    return found, worst


def _functions(dtype: str, size: int) -> System:
    operands = [Read(n, (Idx("i"),), None, dtype) for n in "ab"]
    tensors = {n: Tensor(n, (size,), dtype, "input") for n in "ab"}
    equations = []
    for name, row in TABLE.items():
        left_out = row.arity > 2 or name in (*CASTS, "mod", "bf16_dot", "int8_dot")
        if left_out or row.type(*[dtype] * row.arity) != dtype:
            continue
        body = call(name, *operands[: row.arity])
        tensors[f"y_{name}"] = Tensor(f"y_{name}", (size,), body.dtype)
        equations.append(Equation(f"y_{name}", (Index("i", size),), body))
    return System("functions", tensors, tuple(equations), tuple(e.target for e in equations))
