"""Elementary functions (codegen/llvm/math.py): accuracy in ulp, special values, lane counts, CPUs;
and random numbers (codegen/llvm/threefry.py).

Every function is emitted into a loop over arrays, compiled for this machine and compared with
NumPy in float64. Floats are sampled by their bits, so every exponent gets its share; the tests
marked night take all of them.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from nnc.compiler.codegen.llvm import math as elementary
from nnc.compiler.codegen.llvm.arithmetic import Arithmetic, type_name
from nnc.compiler.codegen.llvm.threefry import threefry
from nnc.compiler.ir.random import threefry_numpy, threefry_words

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()

INF, NAN = math.inf, math.nan
F32 = np.float32
ERF = np.vectorize(math.erf, otypes=[np.float64])
ERFC = np.vectorize(math.erfc, otypes=[np.float64])
X86 = llvm.get_default_triple().startswith("x86_64")

# name: reference in float64, allowed error in ulp, largest |x| it is allowed for
UNARY: dict[str, tuple[Callable, float, float]] = {
    "exp": (np.exp, 1.1, INF),
    "expm1": (np.expm1, 1.6, INF),
    "log": (np.log, 1.0, INF),
    "log1p": (np.log1p, 1.7, INF),
    "tanh": (np.tanh, 2.1, INF),
    "erf": (ERF, 1.3, INF),
    "erfc": (ERFC, 3.5, INF),
    "sigmoid": (lambda x: np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x))), 2.5, INF),
    "sin": (np.sin, 1.6, 2.0**50),
    "cos": (np.cos, 1.6, 2.0**50),
    "sqrt": (np.sqrt, 0.5, INF),
    "floor": (np.floor, 0.0, INF),
    "ceil": (np.ceil, 0.0, INF),
    "round": (np.rint, 0.0, INF),
    "abs": (np.abs, 0.0, INF),
}
NAMES = [(name, 1) for name in UNARY] + [("pow", 2)]


# ---- compiling -----------------------------------------------------------------------------------


@dataclass
class Text:
    """The smallest writer that `Arithmetic` can write to."""

    lines: list[str] = field(default_factory=list)
    declared: dict[str, None] = field(default_factory=dict)

    def op(self, text: str, *operands: str, type: str) -> str:
        name = f"%v{len(self.lines)}"
        self.lines.append(f"{name} = {text.format(*operands, T=type)}")
        return name

    def declare(self, line: str) -> None:
        self.declared[line] = None


def emitted(
    name: str, arity: int, dtype: str, lanes: int, doubles: bool = True
) -> tuple[Text, str]:
    text, operands = Text(), [f"%x{k}" for k in range(arity)]
    if name == "threefry":
        return text, threefry(Arithmetic(text, lanes), *operands)
    return text, elementary.function(Arithmetic(text, lanes, doubles), name, operands, dtype)


def loop(name: str, arity: int, dtype: str, lanes: int, doubles: bool = True) -> str:
    """A module with `void f(inputs…, output, count)`."""
    text, result = emitted(name, arity, dtype, lanes, doubles)
    source, target = ("i32", "f32") if name == "threefry" else (dtype, dtype)
    element, vector = (type_name(source, n) for n in (1, lanes))
    out_element, out_vector = (type_name(target, n) for n in (1, lanes))
    loads = [
        line
        for k in range(arity)
        for line in (
            f"%a{k} = getelementptr {element}, ptr %p{k}, i64 %i",
            f"%x{k} = load {vector}, ptr %a{k}, align 4",
        )
    ]
    pointers = ", ".join(f"ptr %p{k}" for k in range(arity))
    return "\n".join(
        [
            *(line.replace("#0", "nounwind") for line in text.declared),
            f"define void @f({pointers}, ptr %out, i64 %count) {{",
            "entry:",
            "br label %head",
            "head:",
            "%i = phi i64 [0, %entry], [%next, %head]",
            *loads,
            *text.lines,
            f"%b = getelementptr {out_element}, ptr %out, i64 %i",
            f"store {out_vector} {result}, ptr %b, align 4",
            f"%next = add i64 %i, {lanes}",
            "%more = icmp slt i64 %next, %count",
            "br i1 %more, label %head, label %done",
            "done:",
            "ret void",
            "}",
        ]
    )


@functools.cache
def compiled(
    name: str,
    arity: int,
    dtype: str = "f32",
    lanes: int = 16,
    cpu: str | None = None,
    doubles: bool = True,
) -> Callable[..., np.ndarray]:
    """The function over arrays; any length, the last vector is padded with ones."""
    features = "" if cpu else llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu or llvm.get_host_cpu_name(), features=features, opt=3
    )
    module = llvm.parse_assembly(loop(name, arity, dtype, lanes, doubles))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    pointers = [ctypes.c_void_p] * (arity + 1)
    native = ctypes.CFUNCTYPE(None, *pointers, ctypes.c_int64)(engine.get_function_address("f"))
    output = F32 if dtype == "f32" else np.float64

    def call(*arguments: np.ndarray) -> np.ndarray:
        assert engine, "keeps the code alive"
        count = -(-arguments[0].size // lanes) * lanes
        padded = [np.concatenate([a.ravel(), np.ones(count - a.size, a.dtype)]) for a in arguments]
        out = np.empty(count, output)
        native(*(a.ctypes.data for a in padded), out.ctypes.data, count)
        return out[: arguments[0].size]

    return call


# ---- measuring -----------------------------------------------------------------------------------


def floats(stride: int) -> np.ndarray:
    """One float out of every `stride`, by bits, at a scattered place within its stretch."""
    start = np.arange(0, 2**32, stride, dtype=np.uint64)
    return (start + start // stride * 2654435761 % stride).astype(np.uint32).view(F32)


def ulp(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """|got - exact| in units of the last place of exact as a float32; infinite if NaN differs.

    Overflow is judged as if the next power of two could be represented.
    """
    unit = np.exp2(np.floor(np.log2(np.clip(np.abs(exact), 2.0**-126, 2.0**127))) - 23)
    near = np.where(np.isinf(got) & (np.abs(exact) > 2.0**127), np.copysign(2.0**128, got), got)
    far = np.where(np.abs(exact) > 2.0**128, np.copysign(2.0**128, exact), exact)
    error = np.abs(near - far) / unit
    return np.where(
        np.isnan(exact), np.where(np.isnan(got), 0, INF), np.where(np.isnan(error), INF, error)
    )


def worst(name: str, x: np.ndarray, doubles: bool = True, most: float = INF) -> tuple[float, float]:
    reference, _, limit = UNARY[name]
    limit = min(limit, most)
    x = np.append(x[np.abs(x) <= limit], F32(1))
    with np.errstate(all="ignore"):
        got = compiled(name, 1, doubles=doubles)(x)
        errors = ulp(got.astype(np.float64), reference(x.astype(np.float64)))
    return errors.max(), x[errors.argmax()]


def worst_power(x: np.ndarray, y: np.ndarray, doubles: bool) -> tuple[float, tuple]:
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
        errors = ulp(compiled("pow", 2, doubles=doubles)(x, y).astype(np.float64), exact)
    return errors.max(), (x[errors.argmax()], y[errors.argmax()])


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bitwise, signs of zeros included; every NaN equals every other."""
    words = f"u{a.itemsize}"
    return bool(np.all((a.view(words) == b.view(words)) | (np.isnan(a) & np.isnan(b))))


# ---- accuracy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNARY)
def test_error_of_every_2_to_the_13th_float(name: str) -> None:
    error, where = worst(name, floats(2**13))
    assert error <= UNARY[name][1], f"{error} ulp at {where!r}"


@pytest.mark.night
@pytest.mark.parametrize("name", ["exp", "log", "tanh"])
@pytest.mark.parametrize("exponent", [-3, 0])
def test_error_of_every_float_of_a_binade(name: str, exponent: int) -> None:
    first = int(F32(2.0**exponent).view(np.uint32))
    error, where = worst(name, np.arange(first, first + 2**23, dtype=np.uint32).view(F32))
    assert error <= UNARY[name][1], f"{error} ulp at {where!r}"


@pytest.mark.night
@pytest.mark.parametrize("name", UNARY)
def test_error_of_every_64th_float(name: str) -> None:
    for part in np.array_split(floats(64), 64):
        error, where = worst(name, part)
        assert error <= UNARY[name][1], f"{error} ulp at {where!r}"


@pytest.mark.parametrize("name", ["sin", "cos", "floor", "ceil", "round"])
def test_error_without_f64(name: str) -> None:
    """On processors that have none; larger angles count as 0 there."""
    most = 2.0**22 if name in ("sin", "cos") else INF
    error, where = worst(name, floats(2**13), doubles=False, most=most)
    assert error <= UNARY[name][1], f"{error} ulp at {where!r}"


@pytest.mark.parametrize("doubles", [True, False])
def test_error_of_pow(doubles: bool) -> None:
    random = np.random.default_rng(1)
    count = 2**18
    result = random.uniform(-149, 128, count)  # log2 of what the power will be
    near_one = 1 + random.normal(0, 1e-3, count)
    bases = {
        "near one": near_one[near_one != 1].astype(F32),
        "anywhere": np.exp2(random.uniform(-148, 127, count)).astype(F32),
    }
    for kind, base in bases.items():
        wide = base.astype(np.float64)
        with np.errstate(all="ignore"):
            y = (result[: base.size] / np.log2(wide)).astype(F32)
        error, where = worst_power(base, y, doubles)
        assert error <= 1.2, f"{kind}: {error} ulp at {where}"
    base, y = random.normal(0, 3, count).astype(F32), random.integers(-20, 20, count).astype(F32)
    error, where = worst_power(base, y, doubles)
    assert error <= 1.2, f"whole powers: {error} ulp at {where}"


@pytest.mark.parametrize("name,arity", NAMES)
@pytest.mark.parametrize("lanes", [1, 4])
def test_f64_is_libm(name: str, arity: int, lanes: int) -> None:
    x = np.random.default_rng(2).uniform(0.1, 20, 1003)
    y = np.full_like(x, 1.7)
    reference = np.power if name == "pow" else UNARY[name][0]
    exact = reference(*(x, y)[:arity])
    got = compiled(name, arity, "f64", lanes)(*(x, y)[:arity])
    assert np.all(np.abs(got - exact) <= 2 * np.spacing(np.abs(exact)))


# ---- special values ------------------------------------------------------------------------------

# Zeros, the smallest denormal, the ends of the range; every pair is (argument, result).
Z, D = (-0.0, -0.0), (1e-45, 1e-45)
SPECIAL: dict[str, list[tuple[float, float]]] = {
    "exp": [(0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (88.72284, INF), (-104, 0), (-103.97, 1e-45)],
    "expm1": [(0, 0), Z, D, (1e-40, 1e-40), (INF, INF), (-INF, -1), (89, INF), (-100, -1)],
    "log": [
        (0, -INF),
        (-0.0, -INF),
        (1, 0),
        (INF, INF),
        (-INF, NAN),
        (-1e-45, NAN),
        (1e-45, -103.27893),
    ],
    "log1p": [
        (0, 0),
        Z,
        D,
        (-1, -INF),
        (INF, INF),
        (-2, NAN),
        (-INF, NAN),
        (3.4028235e38, 88.72284),
    ],
    "tanh": [(0, 0), Z, D, (1e-40, 1e-40), (INF, 1), (-INF, -1), (50, 1), (-50, -1)],
    "erf": [(0, 0), Z, D, (INF, 1), (-INF, -1), (50, 1), (-50, -1), (4, 1)],
    "erfc": [(0, 1), (INF, 0), (-INF, 2), (11, 0), (-5, 2)],
    "sigmoid": [(0, 0.5), (INF, 1), (-INF, 0), (20, 1), (-104, 0), (-100, 3.8e-44)],
    "sin": [(0, 0), Z, D, (1e-40, 1e-40), (INF, NAN), (-INF, NAN)],
    "cos": [(0, 1), (-0.0, 1), (1e-40, 1), (INF, NAN), (-INF, NAN)],
    "sqrt": [(0, 0), Z, (4, 2), (INF, INF), (-1, NAN), (-INF, NAN)],
    "floor": [(0, 0), Z, (-0.5, -1), (2.5, 2), (1e30, 1e30), (-INF, -INF)],
    "ceil": [(0, 0), Z, (-0.5, -0.0), (2.5, 3), (1e30, 1e30), (-INF, -INF)],
    "round": [(0, 0), Z, (0.5, 0), (1.5, 2), (2.5, 2), (-0.5, -0.0), (-1.5, -2), (-INF, -INF)],
    "abs": [(0, 0), (-0.0, 0), (-2, 2), (-INF, INF)],
}
NANS = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32).view(F32)


@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name: str) -> None:
    x, expected = np.ascontiguousarray(np.array(SPECIAL[name], F32).T)
    got = compiled(name, 1)(x)
    assert same(got, expected), f"{x}\n{got}\n{expected}"
    if name in ("sin", "cos", "floor", "ceil", "round"):  # without f64
        got = compiled(name, 1, doubles=False)(x)
    assert same(got, expected), f"{x}\n{got}\n{expected}"


@pytest.mark.parametrize("name", UNARY)
def test_nan_goes_through_and_stays_in_its_lane(name: str) -> None:
    mixed = np.ones((4, 4), F32)
    mixed[:, 2] = NANS
    for lanes in (1, 16):
        got = compiled(name, 1, lanes=lanes)(mixed.ravel()).reshape(4, 4)
        assert np.array_equal(np.isnan(got), np.isnan(mixed))


@pytest.mark.parametrize("doubles", [True, False])
def test_pow_at_the_edges(doubles: bool) -> None:
    """All pairs of awkward values against C's pow, the sign of zero included."""
    values = [0.0, 0.5, 1, 1.5, 2, 3, 1e-45, 1e-40, 16777216, 33554433, 3e38, INF]
    values = np.array([sign * value for value in values for sign in (1, -1)] + [NAN], F32)
    x, y = (part.ravel() for part in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        expected = np.power(x, y, dtype=np.float64).astype(F32)
    got = compiled("pow", 2, doubles=doubles)(x, y)
    exact = ~np.isfinite(expected) | (expected == 0) | (np.abs(expected) == 1)
    assert same(got[exact], expected[exact])
    assert np.allclose(got[~exact], expected[~exact], rtol=2e-7, atol=1e-45)


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_huge_angles_count_as_zero(name: str) -> None:
    for first, doubles in ((2.0**51, True), (2.0**23, False)):
        got = compiled(name, 1, doubles=doubles)(np.array([first, -1e30, 3.4e38], F32))
        assert np.all(got == (name == "cos"))


# ---- one emission for all ------------------------------------------------------------------------

AWKWARD = np.array([0, -0.0, INF, -INF, NAN, 1e-45, -1e-40, 1, -1, 88.7, -103, 0.625], F32)


@pytest.mark.parametrize("name,arity", NAMES)
def test_lanes_do_not_change_the_bits(name: str, arity: int) -> None:
    x = np.concatenate([AWKWARD, floats(2**18)])
    arguments = (x, np.roll(x, 5))[:arity]
    wide = compiled(name, arity, lanes=16)(*arguments)
    for lanes in (1, 4, 8):
        assert same(compiled(name, arity, lanes=lanes)(*arguments), wide), f"{lanes} lanes"


@pytest.mark.skipif(not X86, reason="names x86 processors")
@pytest.mark.parametrize("cpu", ["x86-64", "haswell"])
@pytest.mark.parametrize("name,arity", NAMES)
def test_older_processors_give_the_same_bits(name: str, arity: int, cpu: str) -> None:
    if cpu == "haswell" and not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("this machine has no AVX2")
    x = np.concatenate([AWKWARD, floats(2**20)])
    arguments = (x, np.roll(x, 5))[:arity]
    assert same(compiled(name, arity, cpu=cpu)(*arguments), compiled(name, arity)(*arguments))


@pytest.mark.parametrize("name,arity", NAMES)
def test_text_is_target_independent(name: str, arity: int) -> None:
    text, _ = emitted(name, arity, "f32", 16)
    assert not [line for line in text.declared if "@llvm." not in line or "@llvm.x86" in line]
    flags = {"fast", "nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"}
    assert not flags & set(itertools.chain.from_iterable(line.split() for line in text.lines))


@pytest.mark.parametrize("name,arity", [("pow", 2), ("sin", 1), ("cos", 1)])
def test_long_functions_of_one_number_are_called(name: str, arity: int) -> None:
    for lanes in (1, 16):
        text, result = emitted(name, arity, "f32", lanes)
        again, _ = emitted(name, arity, "f32", lanes)
        defined = [line for line in text.declared if line.startswith("define")]
        if lanes == 1:
            assert len(text.lines) == len(defined) == 1
            assert f"{result} = call float @nnc.{name}.1(" in text.lines[0]
        else:  # many numbers are computed in place, as in a loop they are the work
            assert not defined
        assert (text.lines, text.declared) == (again.lines, again.declared)


def test_unknown_names_are_an_error() -> None:
    with pytest.raises(KeyError):
        elementary.function(Arithmetic(Text(), 16), "gamma", ["%x"], "f32")


@pytest.mark.night
def test_tables_are_the_derived_ones() -> None:
    tool = Path(__file__).resolve().parents[2] / "tools" / "minimax.py"
    pytest.importorskip("mpmath")
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- random --------------------------------------------------------------------------------------

# Published with Random123 (tests/kat_vectors): counter, key, output of threefry2x32 with 20 rounds.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize("counter,key,expected", KNOWN)
def test_threefry_known_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    assert tuple(int(word[0]) for word in threefry_words(counter, key)) == expected
    uniform = (expected[0] >> 8) * 2.0**-24
    operands = [np.array([word], np.uint32) for word in (*key, counter[1], counter[0])]
    assert threefry_numpy(key[0], key[1], counter[1], counter[0]) == uniform
    assert compiled("threefry", 4)(*operands)[0] == uniform


@pytest.mark.parametrize("lanes", [1, 4, 8, 16])
def test_threefry_is_the_same_in_numpy(lanes: int) -> None:
    words = np.random.default_rng(3).integers(0, 2**32, (4, 5000), dtype=np.uint32)
    got = compiled("threefry", 4, lanes=lanes)(*words)
    assert same(got, threefry_numpy(*words))
    assert got.min() >= 0 and got.max() < 1


def test_threefry_operands() -> None:
    """Broadcasting, integers of any width and sign, and scalars."""
    table = threefry_numpy(7, 1, np.array([[0], [1]]), np.arange(6))
    assert table.shape == (2, 6) and table.dtype == F32
    assert threefry_numpy(7, 1, 1, 4) == table[1, 4]
    assert threefry_numpy(7 + 2**32, 1, 1, 4) == table[1, 4]
    assert threefry_numpy(-1, 1, 1, 4) == threefry_numpy(2**32 - 1, 1, 1, 4)
    assert threefry_numpy(7, 1, 0, np.arange(0)).shape == (0,)


def test_threefry_is_uniform() -> None:
    uniform = threefry_numpy(0, 0, 0, np.arange(2**18))
    counts, _ = np.histogram(uniform, 64, (0, 1))
    assert ((counts - 4096) ** 2 / 4096).sum() < 120  # chi squared, 63 degrees: p < 1e-5
