"""The CPU backend against the reference evaluator: every function, reduction, form of equation."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import mostly_slow, plan

from nnc.compiler.codegen.llvm.instructions import SPELLING
from nnc.compiler.ir.build import call, literal
from nnc.compiler.ir.dtypes import DTYPES, NUMPY, is_float
from nnc.compiler.ir.equation import REDUCTIONS, Equation, Index, System, Tensor
from nnc.compiler.ir.expr import Expr, Idx, Read, walk
from nnc.compiler.ir.functions import TABLE
from nnc.compiler.passes.kernels.kernel import Kernel, Plan, Scan
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CpuTarget
from nnc.runtime.device.cpu.program import CpuProgram

from .systems import systems, values
from .unfused import place, schedule

EXAMPLES = int(os.environ.get("NNC_EXAMPLES", "40"))
TOLERANCE = {"f32": 1e-5, "f64": 1e-12}
NARROW = CpuTarget(lanes=8, registers=16)


def check(
    system: System,
    plan: Plan | None = None,
    target: CpuTarget | None = None,
    seed: int = 0,
    given: dict | None = None,
) -> CpuProgram:
    """Runs the system and compares every output."""
    inputs = {**values(system, seed), **(given or {})}
    program = CpuProgram(plan or schedule(system), target=target)
    for name, value in inputs.items():
        program.arrays[name][...] = value
    program.run()
    expected = evaluate(system, inputs)
    coarse = any(e.dtype == "f32" for eq in system.equations for e in walk(eq.body))
    for name in system.outputs:
        dtype = system.tensors[name].dtype
        kind = "f32" if coarse and is_float(dtype) else dtype  # an f64 made of an f32 is no finer
        same(program.arrays[name], expected[name], kind, program.loops)
    return program


def same(found: np.ndarray, expected: np.ndarray, dtype: str, context: str = "") -> None:
    """Equal integers; floats equal to a part in 10^5 (10^12) of the largest, NaN and all."""
    if not is_float(dtype):
        np.testing.assert_array_equal(found, expected, err_msg=context)
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(found), finite, err_msg=context)
    np.testing.assert_array_equal(found[~finite], expected[~finite], err_msg=context)
    if finite.any():
        scale = max(1.0, np.abs(expected[finite]).max())
        error = np.abs(found[finite].astype(float) - expected[finite]).max() / scale
        assert error <= TOLERANCE[dtype], f"{error}\n{context}"


def system_of(tensors: list[Tensor], *equations: Equation, updates=None) -> System:
    outputs = tuple(e.target for e in equations)
    return System("test", {t.name: t for t in tensors}, equations, outputs, updates or {})


def read(tensor: Tensor, *index: str | int | Expr, other: Expr | None = None) -> Read:
    return Read(tensor.name, tuple(expr(i) for i in index), other, tensor.dtype)


def expr(index: str | int | Expr) -> Expr:
    if isinstance(index, Expr):
        return index
    return Idx(index) if isinstance(index, str) else literal(index)


def over(**sizes: int) -> tuple[Index, ...]:
    return tuple(Index(name, size) for name, size in sizes.items())


# --- scalar functions ----------------------------------------------------------------------------

INTERESTING = {
    "f32": [0.0, 1.0, -1.0, 0.5, -2.5, 3.5, 7.25, -0.001, 11.0, np.nan, np.inf, -np.inf, 2.0, -3.0],
    "i32": [0, 1, -1, 2, -2, 3, 7, -7, 100, -100, 12345, 5, -3, 8],
    "u8": [0, 1, 2, 3, 7, 9, 100, 127, 128, 200, 255, 254, 5, 8],
    "i8": [0, 1, -1, 2, -2, 3, 7, -7, 100, -100, 127, -128, -127, 8],
    "bool": [False, True] * 7,
}
INTERESTING |= {"f64": INTERESTING["f32"], "i64": INTERESTING["i32"]}


def test_every_scalar_function_is_spelled():
    assert set(SPELLING) == set(TABLE)


@pytest.mark.parametrize("fn", sorted(set(TABLE) - {"random"}))
def test_scalar_function(fn: str):
    """Of every type; of one element, of fewer than a vector has lanes, and of a vector and one."""
    rng = np.random.default_rng(1)
    tensors, equations, inputs = [], [], {}
    for dtype in DTYPES:
        if (fn, dtype) == ("stop", "bool"):
            continue  # nothing to differentiate
        pool = np.array(INTERESTING[dtype], NUMPY[dtype])
        for size in (1, 14, 17):
            name = f"{dtype}_{size}"
            args = [Tensor(f"x{n}_{name}", (size,), dtype, "input") for n in range(TABLE[fn].arity)]
            body = call(fn, *(read(t, "i") for t in args))
            tensors += [*args, Tensor(f"y_{name}", (size,), body.dtype)]
            equations.append(Equation(f"y_{name}", over(i=size), body))
            inputs |= {t.name: _suitable(fn, n, rng.choice(pool, size)) for n, t in enumerate(args)}
    check(system_of(tensors, *equations), given=inputs)


def _suitable(fn: str, position: int, x: np.ndarray) -> np.ndarray:
    """What C and NumPy leave undefined or round differently is not compared."""
    if fn == "pow" and not is_float(x.dtype.name.replace("float", "f")):
        return np.abs(x) % 5 if x.dtype != bool else x
    if fn in ("floordiv", "mod", "i32", "i64", "u8", "i8", "bf16_dot") and x.dtype.kind == "f":
        x = np.where(np.isfinite(x), x, 3)
        return np.where(x == 0, 2, x).astype(x.dtype) if position else np.abs(x)
    return x


def test_random_numbers_are_those_of_the_evaluator():
    seed, step = (Tensor(n, (), "i32", "input") for n in ("seed", "step"))
    element = call("add", call("mul", Idx("i"), 33), Idx("j"))
    body = call("random", read(seed), read(step), 3, element)
    system = system_of(
        [seed, step, Tensor("y", (5, 33), "f32")], Equation("y", over(i=5, j=33), body)
    )
    program = check(system)
    expected = evaluate(system, values(system, 0))["y"]
    np.testing.assert_array_equal(program.arrays["y"], expected)


# --- reductions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", mostly_slow(DTYPES, ["f32", "f64", "i32", "u8", "bool"]))
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_reduction(reduce: str, dtype: str):
    """Over the last axis (lanes are joined), the first (lanes are results), and everything."""
    if reduce in ("sum", "prod") and dtype == "bool":
        pytest.skip("a truth value is not added")
    kind = "i32" if reduce.startswith("arg") else dtype
    equations, tensors = [], []
    for size in (1, 3, 10, 17, 33):
        x = Tensor(f"x{size}", (3, size), dtype, "input")
        tensors.append(x)
        for name, kept, gone in (("last", "i", "j"), ("first", "j", "i"), ("all", "", "ij")):
            sizes = {"i": 3, "j": size}
            outputs = over(**{n: sizes[n] for n in kept})
            inner = over(**{n: sizes[n] for n in gone})
            target = f"{name}{size}"
            equations.append(Equation(target, outputs, read(x, "i", "j"), reduce, inner))
            tensors.append(Tensor(target, tuple(i.size for i in outputs), kind))
    system = system_of(tensors, *equations)
    check(system)
    check(system, target=NARROW)


@pytest.mark.parametrize("reduce", ["max", "min", "argmax", "argmin"])
@pytest.mark.parametrize("shape", [(4, 5), (3, 40), (40, 3)])
def test_nan_and_ties(reduce: str, shape: tuple[int, int]):
    x = Tensor("x", shape, "f32", "input")
    kind = "i32" if reduce.startswith("arg") else "f32"
    data = np.random.default_rng(0).integers(0, 3, shape).astype(np.float32)
    data[1, 2] = np.nan
    data[2, :] = -np.inf if "max" in reduce else np.inf
    rows = Equation("rows", over(i=shape[0]), read(x, "i", "j"), reduce, over(j=shape[1]))
    columns = Equation("columns", over(j=shape[1]), read(x, "i", "j"), reduce, over(i=shape[0]))
    system = system_of(
        [x, Tensor("rows", shape[:1], kind), Tensor("columns", shape[1:], kind)], rows, columns
    )
    check(system, given={"x": data})


# --- contractions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "m,k,n", [(1, 1, 1), (3, 10, 17), (33, 17, 10), (11, 300, 70), (64, 5, 64)]
)
@pytest.mark.parametrize("which", ["ab", "aTb", "abT"])
@pytest.mark.parametrize("dtype", ["f32", "f64", "i32"])
def test_matrix_product(which: str, m: int, k: int, n: int, dtype: str):
    a = Tensor("a", (k, m) if which == "aTb" else (m, k), dtype, "input")
    b = Tensor("b", (n, k) if which == "abT" else (k, n), dtype, "input")
    left = read(a, "k", "i") if which == "aTb" else read(a, "i", "k")
    right = read(b, "j", "k") if which == "abT" else read(b, "k", "j")
    body = call("mul", left, right)
    system = system_of(
        [a, b, Tensor("c", (m, n), dtype)], Equation("c", over(i=m, j=n), body, "sum", over(k=k))
    )
    check(system)
    check(system, target=NARROW)


@pytest.mark.parametrize(
    "stride,dilation,pad,channels",
    [
        (1, 1, 0, (3, 20)),
        (2, 1, 1, (5, 16)),
        (1, 2, 2, (1, 33)),
        (2, 2, 1, (4, 3)),
    ],
)
def test_convolution(stride: int, dilation: int, pad: int, channels: tuple[int, int]):
    """Forward, and both gradients as the equations that differentiation writes."""
    batch, size, kernel, (c, o) = 2, 9, 3, channels
    out = (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
    x = Tensor("x", (batch, size, size, c), "f32", "input")
    w = Tensor("w", (kernel, kernel, c, o), "f32", "param")
    g = Tensor("g", (batch, out, out, o), "f32", "input")
    zero = literal(0.0)

    def window(i: str, u: str) -> Expr:
        far = call("mul", Idx(u), dilation)
        return call("sub", call("add", call("mul", Idx(i), stride), far), pad)

    def back(p: str, u: str) -> Expr:
        shifted = call("add", call("sub", Idx(p), call("mul", Idx(u), dilation)), pad)
        return call("floordiv", shifted, stride)

    def fits(p: str, u: str) -> Expr:
        shifted = call("add", call("sub", Idx(p), call("mul", Idx(u), dilation)), pad)
        return call("eq", call("mod", shifted, stride), 0)

    patch = read(x, "b", window("i", "u"), window("j", "v"), "c", other=zero)
    from_out = read(g, "b", back("p", "u"), back("q", "v"), "o", other=zero)
    both = call("and", fits("p", "u"), fits("q", "v"))
    from_out = call("select", both, from_out, 0.0)
    taps = {"u": kernel, "v": kernel}
    forward = Equation(
        "y",
        over(b=batch, i=out, j=out, o=o),
        call("mul", patch, read(w, "u", "v", "c", "o")),
        "sum",
        over(**taps, c=c),
    )
    spread = call("mul", patch, read(g, "b", "i", "j", "o"))
    weights = Equation("dw", over(**taps, c=c, o=o), spread, "sum", over(b=batch, i=out, j=out))
    data = Equation(
        "dx",
        over(b=batch, p=size, q=size, c=c),
        call("mul", from_out, read(w, "u", "v", "c", "o")),
        "sum",
        over(**taps, o=o),
    )
    tensors = [
        x,
        w,
        g,
        Tensor("y", g.shape, "f32"),
        Tensor("dw", w.shape, "f32"),
        Tensor("dx", x.shape, "f32"),
    ]
    system = system_of(tensors, forward, weights, data)
    check(system)
    check(system, target=NARROW)


def test_pooling_and_its_position():
    x = Tensor("x", (2, 11, 11, 20), "f32", "input")

    def window(i: str, u: str) -> Expr:
        return call("add", call("mul", Idx(i), 2), Idx(u))

    patch = read(x, "b", window("i", "u"), window("j", "v"), "c")
    outputs, taps = over(b=2, i=5, j=5, c=20), over(u=2, v=2)
    system = system_of(
        [x, Tensor("y", (2, 5, 5, 20), "f32"), Tensor("at", (2, 5, 5, 20), "i32")],
        Equation("y", outputs, patch, "max", taps),
        Equation("at", outputs, patch, "argmax", taps),
    )
    check(system)


# --- addressing ----------------------------------------------------------------------------------


def test_a_flattened_index_is_read_in_place():
    x = Tensor("x", (4, 3, 5, 6), "f32", "input")
    f = Idx("f")
    body = read(
        x, "b", call("floordiv", f, 30), call("mod", call("floordiv", f, 6), 5), call("mod", f, 6)
    )
    system = system_of([x, Tensor("y", (4, 90), "f32")], Equation("y", over(b=4, f=90), body))
    program = check(system)
    assert "//" not in program.loops


def test_transposed_and_reversed():
    x = Tensor("x", (17, 33), "f32", "input")
    back = call("sub", literal(32), Idx("j"))
    system = system_of(
        [
            x,
            Tensor("t", (33, 17), "f32"),
            Tensor("r", (17, 33), "f32"),
            Tensor("y", (5, 40, 33), "f64", "input"),
            Tensor("u", (40, 33, 5), "f64"),
        ],
        Equation("t", over(j=33, i=17), read(x, "i", "j")),
        Equation("u", over(i=40, j=33, b=5), read(Tensor("y", (5, 40, 33), "f64"), "b", "i", "j")),
        Equation("r", over(i=17, j=33), read(x, "i", back)),
    )
    check(system)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather(dtype: str):
    """Rows by a tensor, elements by a tensor, and out of range: NaN, zero or false."""
    table = Tensor("table", (9, 20), dtype, "input")
    token = Tensor("token", (5, 7), "i32", "input")
    at = Read("token", (Idx("b"), Idx("t")), None, "i32")
    system = system_of(
        [
            table,
            token,
            Tensor("rows", (5, 7, 20), dtype),
            Tensor("one", (5, 7), dtype),
            Tensor("safe", (5, 7, 20), dtype),
        ],
        Equation("rows", over(b=5, t=7, j=20), read(table, at, "j")),
        Equation("one", over(b=5, t=7), read(table, 3, at)),
        Equation("safe", over(b=5, t=7, j=20), read(table, at, "j", other=literal(1, dtype))),
    )
    tokens = np.random.default_rng(0).integers(-2, 12, (5, 7))
    tokens[0, 0], tokens[1, 1] = 2**31 - 1, -(2**31)
    check(system, given={"token": tokens})


@pytest.mark.parametrize("dtype", ["f32", "f64", "i32"])
@pytest.mark.parametrize("width", [1, 20, 32])
def test_accumulation(dtype: str, width: int):
    grad = Tensor("grad", (6, 7, width), dtype, "input")
    token = Tensor("token", (6, 7), "i32", "input")
    at = Read("token", (Idx("b"), Idx("t")), None, "i32")
    body = read(grad, "b", "t", "j")
    domain = over(b=6, t=7, j=width)
    system = system_of(
        [grad, token, Tensor("rows", (9, width), dtype), Tensor("flat", (9,), dtype)],
        Equation("rows", (), body, "sum", domain, (at, Idx("j"))),
        Equation("flat", (), body, "sum", domain, (at,)),
    )
    tokens = np.random.default_rng(0).integers(-1, 11, (6, 7))
    check(system, given={"token": tokens})


def test_index_values_as_data():
    i, j = Idx("i"), Idx("j")
    body = call("add", call("mul", i, 100), call("mod", call("sub", j, 5), 4))
    causal = call("select", call("gt", j, i), float("-inf"), 0.0)
    system = system_of(
        [Tensor("n", (5, 33), "i32"), Tensor("c", (5, 33), "f32")],
        Equation("n", over(i=5, j=33), body),
        Equation("c", over(i=5, j=33), causal),
    )
    check(system)


# --- kernels -------------------------------------------------------------------------------------


def test_epilogue_and_locals():
    """bias, relu and a product with another tensor on a matrix product's tile; one local."""
    a, b = Tensor("a", (13, 24), "f32", "input"), Tensor("b", (24, 40), "f32", "param")
    bias, other = Tensor("bias", (40,), "f32", "param"), Tensor("other", (13, 40), "f32", "input")
    names = ("c", "z", "y", "positive")
    kinds = ("f32", "f32", "f32", "bool")
    tensors = [a, b, bias, other]
    tensors += [Tensor(n, (13, 40), k) for n, k in zip(names, kinds, strict=True)]
    c, z = tensors[4:6]
    domain = over(i=13, j=40)
    anchor = Equation(
        "c", domain, call("mul", read(a, "i", "k"), read(b, "k", "j")), "sum", over(k=24)
    )
    shifted = Equation("z", over(p=13, q=40), call("add", read(c, "p", "q"), read(bias, "q")))
    relu = Equation(
        "y", domain, call("mul", call("max", read(z, "i", "j"), 0.0), read(other, "i", "j"))
    )
    mask = Equation("positive", domain, call("gt", read(z, "i", "j"), 0.0))
    system = system_of(tensors, anchor, shifted, relu, mask).replace(outputs=("y", "positive"))
    kernel = Kernel("fused", anchor, (shifted, relu, mask), frozenset({"c", "z"}), reason="test")
    offsets, total = place(system, [t for t in system.tensors if t not in ("c", "z")])
    check(system, Plan(system, (kernel,), offsets, total))
    check(system, Plan(system, (kernel,), offsets, total), target=NARROW)


@pytest.mark.parametrize("rows", [6, 13, 31])
@pytest.mark.parametrize("target", [None, NARROW])
def test_long_statements_after_a_sum_go_through_rows_in_a_loop(rows: int, target: CpuTarget | None):
    a, b = Tensor("a", (rows, 24), "f32", "input"), Tensor("b", (24, 70), "f32", "param")
    other = Tensor("other", (rows, 70), "f32", "input")
    c, y = Tensor("c", (rows, 70), "f32"), Tensor("y", (rows, 70), "f32")
    domain = over(i=rows, j=70)
    anchor = Equation(
        "c", domain, call("mul", read(a, "i", "k"), read(b, "k", "j")), "sum", over(k=24)
    )
    value: Expr = read(c, "i", "j")
    for _ in range(25):
        value = call("add", call("mul", value, 0.5), read(other, "i", "j"))
    system = system_of([a, b, other, c, y], anchor, Equation("y", domain, value))
    program = check(system, plan(system), target)
    (kernel,) = program.plan.kernels
    nest = program.source.nest(kernel)
    assert nest.row_loop == "i"
    assert "for the tile's rows of i" in program.loops


def test_scan():
    """h[t] = tanh(x[t] + h[t-1] U), as a loop over t around one kernel."""
    x = Tensor("x", (4, 9, 20), "f32", "input")
    u = Tensor("u", (20, 20), "f32", "param")
    h, s = Tensor("h", (4, 9, 20), "f32"), Tensor("s", (4, 9, 20), "f32")
    before = read(h, "b", call("sub", Idx("t"), 1), "k", other=literal(0.0))
    domain = over(b=4, t=9, j=20)
    product = Equation("s", domain, call("mul", before, read(u, "k", "j")), "sum", over(k=20))
    cell = Equation(
        "h", domain, call("tanh", call("add", read(x, "b", "t", "j"), read(s, "b", "t", "j")))
    )
    system = system_of([x, u, h, s], product, cell).replace(outputs=("h",))
    kernel = Kernel("step", product, (cell,), frozenset({"s"}), fixed=("t",))
    offsets, total = place(system, ["x", "u", "h"])
    scan = Scan(Index("t", 9), False, (kernel,))
    small = np.random.default_rng(0).uniform(-0.2, 0.2, u.shape)
    check(system, Plan(system, (scan,), offsets, total), given={"u": small})


def test_updates_take_effect_between_runs():
    p, lr = Tensor("p", (37,), "f32", "param"), Tensor("lr", (), "f32", "input")
    after = Tensor("p'", (37,), "f32")
    step = Equation("p'", over(i=37), call("sub", read(p, "i"), call("mul", read(lr), 0.5)))
    system = system_of([p, lr, after], step, updates={"p": "p'"})
    program = CpuProgram(schedule(system))
    program.arrays["lr"][...] = 2.0
    for _ in range(3):
        program.run()
    np.testing.assert_array_equal(program.arrays["p"], np.full(37, -3, np.float32))


def test_code_of_a_contraction_does_not_spill():
    program = check(_product_system(64))
    on_stack = [line for line in program.assembly.splitlines() if "mm" in line and "(%rsp" in line]
    assert not on_stack


def test_threads_do_not_change_a_bit():
    results = []
    for threads in (1, 2, 3):
        program = CpuProgram(schedule(_product_system(150)), threads=threads)
        for name, value in values(program.plan.system, 0).items():
            program.arrays[name][...] = value
        for _ in range(20):
            program.run()
        results.append(program.arrays["c"].copy())
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_a_window_at_the_border_is_clipped():
    """The gradient of a convolution visits only the taps that exist."""
    g = Tensor("g", (4, 5, 5, 32), "f32", "input")
    w = Tensor("w", (3, 3, 20, 32), "f32", "param")
    p, q = (call("sub", Idx(a), Idx(b)) for a, b in ("pu", "qv"))
    body = call("mul", read(g, "b", p, q, "o", other=literal(0.0)), read(w, "u", "v", "c", "o"))
    domain = over(b=4, p=7, q=7, c=20)
    system = system_of(
        [g, w, Tensor("dx", (4, 7, 7, 20), "f32")],
        Equation("dx", domain, body, "sum", over(u=3, v=3, o=32)),
    )
    program = check(system)
    assert "where 0 <= p - u < 5" in program.loops


def _product_system(size: int) -> System:
    a, b = (Tensor(n, (size, size), "f32", "input") for n in "ab")
    body = call("mul", read(a, "i", "k"), read(b, "k", "j"))
    domain = over(i=size, j=size)
    return system_of(
        [a, b, Tensor("c", (size, size), "f32")], Equation("c", domain, body, "sum", over(k=size))
    )


# --- anything ------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems(), st.integers(0, 1000), st.sampled_from([None, NARROW]))
def test_random_systems(system: System, seed: int, target: CpuTarget | None):
    check(system, target=target, seed=seed)


@pytest.mark.parametrize("gates", [2, 3, 4])
def test_gates_and_what_is_made_of_them_are_one_kernel(gates: int):
    """A product with a small index, a map of its values at numbers, and a map that puts values back
    together by that index."""
    tensors = [
        Tensor("x", (9, 20), "f32", "input"),
        Tensor("w", (20, gates, 33), "f32", "input"),
        Tensor("z", (9, gates, 33), "f32"),
        Tensor("c", (9, 33), "f32"),
        Tensor("d", (9, gates, 33), "f32"),
    ]
    z = [Read("z", (Idx("b"), literal(q), Idx("j")), None, "f32") for q in (0, gates - 1)]
    chain: Expr = literal(0.0, "f32")
    for q in range(gates):
        here = call("mul", read(tensors[3], "b", "j"), literal(q + 1.5, "f32"))
        chain = call("select", call("eq", Idx("q"), literal(q)), here, chain)
    product = call("mul", read(tensors[0], "b", "k"), read(tensors[1], "k", "q", "j"))
    system = system_of(
        tensors,
        Equation("z", over(b=9, q=gates, j=33), product, "sum", over(k=20)),
        Equation("c", over(b=9, j=33), call("mul", call("tanh", z[0]), z[1])),
        Equation("d", over(b=9, q=gates, j=33), chain),
    )
    for target in (None, NARROW):
        program = check(system, plan(system), target)
        assert [k.name for k in program.plan.kernels] == ["z"]
        assert "if" not in program.loops


@pytest.mark.parametrize("seed", range(20))
def test_the_first_of_equal_values_wins_however_loops_are_ordered(seed: int) -> None:
    """Vectors along the outer of two reduced indices interchange the loops; ties do not move."""
    zero = literal(0.0, "f32")
    row, column = (Read("at", (Idx(name),), None, "i32") for name in ("u", "v"))
    read = Read("x", (Idx("i"), row, column), zero, "f32")
    body = call("select", call("lt", zero, call("neg", read)), literal(0), literal(1))
    tensors = {
        "x": Tensor("x", (1, 4, 10), "f32", "input"),
        "at": Tensor("at", (17,), "i32", "input"),
        "y": Tensor("y", (2,), "i32"),
    }
    over = (Index("u", 17), Index("v", 2))
    equation = Equation("y", (Index("i", 2),), body, "argmax", over)
    check(System("ties", tensors, (equation,), ("y",)), seed=seed)


def test_more_threads_than_a_team_can_have_are_as_many_as_it_can() -> None:
    """256 would be a team of none, which never ends; no thread is started for it here."""
    program = CpuProgram(schedule(_product_system(64)), threads=5000)
    assert program.threads == 255
