"""The CUDA backend without a GPU: its source, run by g++ thread by thread, beside the evaluator.

Every run is made in an ascending and a descending order of threads, which must agree to the bit.
The parts of the CPU's suite that take long are in `test_cuda_suite.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram, SimulatorError, available
from support import cuda_module, round_contractions

from nnc.compiler.codegen.cuda.instructions import SPELLING
from nnc.compiler.ir.build import call, cast
from nnc.compiler.ir.dtypes import DTYPES, NUMPY
from nnc.compiler.ir.equation import REDUCTIONS, Equation, System, Tensor
from nnc.compiler.ir.expr import Expr, Idx, Read
from nnc.compiler.ir.functions import TABLE

from . import test_cpu as suite
from .simulated import SMALL, check, on_the_simulator
from .systems import values
from .test_cpu import (  # noqa: F401
    test_a_flattened_index_is_read_in_place,
    test_epilogue_and_locals,
    test_index_values_as_data,
    test_nan_and_ties,
    test_pooling_and_its_position,
    test_random_numbers_are_those_of_the_evaluator,
    test_scan,
    test_transposed_and_reversed,
)
from .unfused import schedule

pytestmark = pytest.mark.skipif(not available(), reason="needs g++")


@pytest.fixture(autouse=True, scope="module")
def simulator():
    with on_the_simulator():
        yield


def test_every_scalar_function_is_spelled():
    assert set(SPELLING) == set(TABLE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalar_functions(dtype: str):
    """All functions of one type as one program."""
    size, pool = 37, np.array(suite.INTERESTING[dtype], NUMPY[dtype])
    rng = np.random.default_rng(1)
    tensors, equations, given = [], [], {}
    for fn in sorted(set(TABLE) - {"random"}):
        if (fn, dtype) == ("stop", "bool"):
            continue
        args = [Tensor(f"{fn}_{n}", (size,), dtype, "input") for n in range(TABLE[fn].arity)]
        for n, t in enumerate(args):
            given[t.name] = suite._suitable(fn, n, rng.choice(pool, size))
        body = call(fn, *(suite.read(t, "i") for t in args))
        tensors += [*args, Tensor(f"{fn}_result", (size,), body.dtype)]
        equations.append(Equation(f"{fn}_result", suite.over(i=size), body))
    check(suite.system_of(tensors, *equations), given=given)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions(dtype: str):
    """All reductions of one type, along memory and across it, short and long."""
    tensors, equations = [], []
    for size in (5, 300, 2000):
        x = Tensor(f"x{size}", (3, size), dtype, "input")
        y = Tensor(f"y{size}", (size, 35), dtype, "input")
        tensors += [x, y]
        for reduce in REDUCTIONS:
            if reduce in ("sum", "prod") and dtype == "bool":
                continue
            kind = "i32" if reduce.startswith("arg") else dtype
            for t, kept, gone in ((x, 0, "j"), (y, 1, "i")):
                name = f"{reduce}_{t.name}"
                body = suite.read(t, "i", "j")
                if reduce == "prod":
                    body = call("select", call("gt", body, 0), call("sub", body, body), body)
                    body = call("add", body, 1)
                outputs = suite.over(**{"ij"[kept]: t.shape[kept]})
                inner = suite.over(**{gone: size})
                body = cast(body, dtype)
                equations.append(Equation(name, outputs, body, reduce, inner))
                tensors.append(Tensor(name, (t.shape[kept],), kind))
    given = (
        {
            t.name: np.random.default_rng(0).uniform(-0.01, 0.01, t.shape)
            for t in tensors
            if t.kind == "input"
        }
        if dtype in ("f32", "f64")
        else {}
    )
    check(suite.system_of(tensors, *equations), given=given)


def _product(size: int, left: Expr | None = None) -> System:
    """A matrix product, of what is computed if `left` is given."""
    system = suite._product_system(size)
    if left is None:
        return system
    (equation,) = system.equations
    right = Read("b", (Idx("k"), Idx("j")), None, "f32")
    return system.replace(equations=(equation.with_body(call("mul", left, right)),))


def test_every_way_of_dividing_work_is_taken():
    """The plans of these tests have every form of grid, with and without layers."""
    found = set()
    program = check(_product(50), target=suite.NARROW)
    x = Tensor("x", (3, 5000), "f32", "input")
    rows = Equation("rows", suite.over(i=3), suite.read(x, "i", "j"), "sum", suite.over(j=5000))
    long = check(suite.system_of([x, Tensor("rows", (3,), "f32")], rows), target=suite.NARROW)
    for grid in (*program.module.grids.values(), *long.module.grids.values()):
        found.add((type(grid.how).__name__, grid.part is not None))
    assert {("MatmulTile", False), ("TreeReduction", True), ("ThreadPerElement", False)} <= found


# --- tests of the test: what a GPU would not forgive is caught -----------------------------------


def _spoilt(program: SimulatedProgram, old: str, new: str) -> SimulatedProgram:
    """The program with a mistake planted in its source."""
    from gpu_simulator import library

    module = program.module
    assert old in module.kernels
    text = module.kernels.replace(old, new, 1)
    program._library = library(replace(module, kernels=text))
    return program


def _ready(system: System, schedules=(0, 1, 2)) -> SimulatedProgram:
    program = SimulatedProgram(schedule(system), schedules, SMALL)
    for name, value in values(system, 0).items():
        program.arrays[name][...] = value
    return program


def test_a_missing_barrier_is_caught():
    """It stands before a step is used, and before the one that has been used is overwritten."""
    computed = _product(40, call("tanh", Read("a", (Idx("i"), Idx("k")), None, "f32")))
    for system in (_product(40), computed):
        program = _spoilt(_ready(system), "    BARRIER();\n", "")
        with pytest.raises(SimulatorError, match="differ"):
            program.run()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("WAIT(1);", "", "a thread ends before its copies"),
        ("WAIT(1);", "WAIT(2);", "a thread ends before its copies"),
        ("WAIT(1);", "WAIT(k0 ? 0 : 2);", r"schedules 0 \(eager\) and 0 \(lazy\) differ"),
        ("COMMIT();", "", r"schedules 0 \(eager\) and 0 \(lazy\) differ"),
    ],
    ids=["no wait", "waits too late", "a wait too late", "no commit"],
)
def test_a_copy_that_is_not_waited_for_is_caught(old: str, new: str, message: str):
    """Whatever is wrong with eager copies is wrong with late ones, but not the other way round."""
    program = _spoilt(_ready(_product(40)), old, new)
    with pytest.raises(SimulatorError, match=message):
        program.run()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    BARRIER();\n", "", "differ"),
        (
            "MATRICES(false, a[i], left, slot * 512",
            "MATRICES(false, a[i], left, 1022 + slot * 512",
            "element 1025 of an array of 1024",
        ),
        (
            "(row + i * 16 + lane % 16, k / 2",
            "(row + i * 16 + lane % 16, 2 + k / 2",
            "4 elements at .* are not aligned",
        ),
        ("MMA(sum", "if (lane) MMA(sum", "not every thread reaches the barrier"),
    ],
    ids=["barrier", "bounds", "alignment", "lanes"],
)
def test_mistakes_with_tensor_cores_are_caught(old: str, new: str, message: str):
    program = _spoilt(_ready(round_contractions(_product(40))), old, new)
    with pytest.raises(SimulatorError, match=message):
        program.run()


def test_a_copy_out_of_bounds_is_caught():
    """In memory, in shared memory, and where neighbours are not aligned."""
    copy = "COPY(4, right0, slot * 320 + k * 20 + x, 960, t1, j_7 + k_9 * 40, 1600, "
    for old, new, message in (
        ("t1, j", "t1, 4 + j", "element 1603 of an array of 1600"),
        ("+ x, 960", "+ x + 300, 960", "element 9.. of an array of 960"),
        ("t1, j", "t1, 1 + j", "4 elements at 1 are not aligned"),
    ):
        program = _ready(_product(40))
        assert copy in program.module.kernels
        _spoilt(program, copy, copy.replace(old, new))
        with pytest.raises(SimulatorError, match=message):
            program.run()


def test_a_store_out_of_bounds_is_caught():
    program = _ready(_product(40))
    line = next(x for x in program.module.kernels.splitlines() if "AT(t2" in x)
    _spoilt(program, line, line.replace("AT(t2, ", "AT(t2, 1 + "))
    with pytest.raises(SimulatorError, match="element 1600 of an array of 1600"):
        program.run()


def test_a_barrier_that_some_threads_miss_is_caught():
    program = _spoilt(_ready(_product(40)), "BARRIER();", "if (THREAD > 3) BARRIER();")
    with pytest.raises(SimulatorError, match="not every thread reaches the barrier"):
        program.run()


def test_an_element_that_is_never_written_is_caught():
    """Outputs are full of NaN before."""
    program = _ready(_product(40))
    line = next(x for x in program.module.kernels.splitlines() if "AT(t2" in x)
    _spoilt(program, line, f"if (THREAD != 5) {line}").run()
    assert np.isnan(program.arrays["c"]).any()


def test_the_same_text_every_time():
    texts = {cuda_module(schedule(_product(64))).kernels for _ in range(3)}
    assert len(texts) == 1


def test_equal_kernels_share_a_function():
    a = Tensor("a", (64,), "f32", "input")
    tensors = [a, *(Tensor(n, (64,), "f32") for n in "bc")]
    system = suite.system_of(
        tensors,
        *(
            Equation(n, suite.over(i=64), call("tanh", Read(s, (Idx("i"),), None, "f32")))
            for n, s in ("ba", "cb")
        ),
    )
    made = cuda_module(schedule(system))
    assert len(made.grids) == 1
    assert [x.offsets for x in made.launches] == [(0, 256), (256, 512)]


def test_what_needs_nothing_of_each_other_is_one_launch():
    """Maps of different tensors run side by side; one that reads another's result comes after."""
    a = Tensor("a", (300,), "f32", "input")
    tensors = [a, *(Tensor(n, (300,), "f32") for n in "bcd")]
    pairs = (("b", "a", "tanh"), ("c", "a", "exp"), ("d", "c", "sin"))
    system = suite.system_of(
        tensors,
        *(
            Equation(n, suite.over(i=300), call(fn, Read(s, (Idx("i"),), None, "f32")))
            for n, s, fn in pairs
        ),
    )
    program = check(system)
    assert [x.blocks for x in program.module.launches] == [4, 2]
