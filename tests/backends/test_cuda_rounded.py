"""Operands of tensor cores that lie in memory as bf16: the bits are those of operands that are
rounded as they are loaded, and copies are asynchronous, of 16 bytes where that can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram, SimulatorError, available, library
from support import NO_ATTENTION, cuda_module, gpu_plan, mostly_slow, round_contractions

from nnc.compiler.ir.equation import System
from nnc.compiler.passes.gpu.grid_ir import MatmulTile
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.reference.evaluator import evaluate

from .gates import check_usage, nvrtc_or_skip
from .systems import values
from .test_cuda_tiles import LONE, PRODUCTS, SIZES, product, tiles
from .whole_steps import LARGE, model_step, run_steps, step_of_text

needs_gpp = pytest.mark.skipif(not available(), reason="needs g++")

COPIES = {  # elements that are copied at once, of the operand with `down` and of that with `across`
    ("left deep", "even"): (8, 8), ("left deep", "odd"): (8, 8),
    ("both wide", "even"): (8, 8), ("both wide", "odd"): (8, 8),
    ("both deep", "even"): (8, 8), ("both deep", "odd"): (8, 8),
    ("right deep", "even"): (8, 8), ("right deep", "odd"): (8, 8),
    ("computed", "even"): (0, 0), ("computed", "odd"): (0, 0),
    ("guarded", "even"): (8, 8), ("guarded", "odd"): (8, 8),
    ("elsewhere 1", "even"): (0, 8), ("elsewhere 1", "odd"): (0, 8),
    ("moved", "even"): (8, 0), ("moved", "odd"): (8, 0),
    ("gathered", "even"): (8, 0), ("gathered", "odd"): (8, 0),
    ("batched", "even"): (8, 8), ("batched", "odd"): (8, 8),
    ("continued", "even"): (8, 8), ("continued", "odd"): (8, 8),
    ("windows", "even"): (8, 8), ("windows", "odd"): (0, 8),
    ("of windows", "even"): (8, 8), ("of windows", "odd"): (0, 2),
}  # fmt: skip


def rounding(name: str, size: str) -> System:
    return round_contractions(product(name, size))


def loaded(system: System) -> Plan:
    """Without copies: operands are rounded as they are loaded."""
    return gpu_plan(system, without=NO_ATTENTION)


def results(source: Plan, schedules: tuple[int, ...] = (0,)) -> dict[str, np.ndarray]:
    """The outputs on values of our own."""
    system = source.system
    program = SimulatedProgram(source, schedules, LONE)
    for name, value in values(system, 0).items():
        program.arrays[name][...] = abs(value) if value.dtype.kind == "i" else value
    program.run()
    return {name: program.arrays[name].copy() for name in system.outputs}


@pytest.mark.parametrize(("name", "size"), COPIES)
def test_what_is_copied_how(name: str, size: str):
    """Rows are filled up, so odd sizes are copied as even ones: the last copy of a row takes fewer
    elements. That needs one index along the row; of two, the inner one must fit."""
    made = cuda_module(gpu_plan(rounding(name, size)), LONE)
    (grid,) = tiles(made)
    assert isinstance(grid.how, MatmulTile) and grid.how.tensor_cores
    found = grid.how.left.copy_width, grid.how.rights[0].copy_width
    assert found == COPIES[name, size]
    words = [f"copied by {n}" if n else "rounded as it is loaded" for n in found]
    assert f"left {words[0]}, right {words[1]}" in made.source
    assert grid.how.stages == (3 if any(found) else 2)
    assert ("COPY_SOME(" in made.kernels) == (size == "odd" and 8 in found)


def test_every_product_is_here():
    assert set(COPIES) == {(name, size) for name in PRODUCTS for size in SIZES}


@needs_gpp
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", mostly_slow(PRODUCTS, [*PRODUCTS][::4]))
def test_the_same_bits_as_rounding_while_loading(name: str, size: str):
    """In every order of threads, with copies as early and as late as can be."""
    system = rounding(name, size)
    found, expected = results(gpu_plan(system), (0, 1, 2)), results(loaded(system))
    assert np.array_equal(found["y"], expected["y"]) and np.isfinite(found["y"]).all()


@needs_gpp
def test_what_is_not_finite_is_rounded_alike():
    """NaN stays NaN, whatever its bits; what is too large becomes infinite."""
    system = rounding("left deep", "even")
    odd = np.array([0x7F800001, 0xFF812345, 0x7FFFFFFF, 0x7F7FFFFF, 0x7F800000], np.uint32)
    found = []
    for source in (gpu_plan(system), loaded(system)):
        program = SimulatedProgram(source, (0,), LONE)
        for name, value in values(system, 0).items():
            program.arrays[name][...] = value
        program.arrays["a"][:5, 3] = odd.view(np.float32)
        program.run()
        found.append(program.arrays["y"].copy())
    np.testing.assert_array_equal(found[0], found[1])
    assert np.isnan(found[0][:3]).all() and np.isinf(found[0][3:5]).all()


MODEL = """
model M(image: f32[B, 10, 10, 16]) -> logits: f32[B, 40] {
    x = image |> Conv(24, 3, pad = "same") |> relu |> Conv(36, 3, stride = 2) |> gelu
    logits = x |> Flatten |> Dense(72) |> tanh |> Dense(40)
}
train M {
    input label: i32[B]
    loss      = cross_entropy(logits, label)
    optimizer = momentum(lr = 0.05)
    batch     = 48
    steps     = 20
}
"""


@pytest.mark.slow
@needs_gpp
def test_training_steps_have_the_same_bits():
    """Convolutions, products and their gradients, some copied and some not."""
    system, start = step_of_text(MODEL, precision="bf16")
    programs = [SimulatedProgram(source, (0,)) for source in (gpu_plan(system), loaded(system))]
    copied = [g.how for g in tiles(programs[0])]
    assert sum("copied by 8" in str(how) for how in copied) > 6
    losses = [run_steps(program, system, start, 2) for program in programs]
    assert losses[0] == losses[1]
    for tensor in system.of_kind("param"):
        here, there = (program.arrays[tensor.name] for program in programs)
        assert np.array_equal(here, there), tensor.name


@needs_gpp
def test_what_is_stored_can_be_looked_at():
    """Rounded tensors are f32 arrays to those who ask, without what fills up their rows."""
    system = rounding("both wide", "odd")
    program = SimulatedProgram(gpu_plan(system, shared=False), (0,), LONE)
    given = values(system, 0)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    expected = evaluate(program.system, given, wide=False)
    names = [t.name for t in program.system.tensors.values() if t.storage]
    assert names == ["at_bf16", "b_bf16"]
    for name in names:
        assert program.system.tensors[name].bytes == 37 * -(-expected[name].shape[1] // 8) * 16
        np.testing.assert_array_equal(program.view(name), expected[name])


# --- tests of the test ----------------------------------------------------------------------------


@needs_gpp
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("WAIT(1);", "", "a thread ends before its copies"),
        ("WAIT(1);", "WAIT(k0 ? 0 : 2);", r"schedules 0 \(eager\) and 0 \(lazy\) differ"),
        ("    BARRIER();\n", "", "differ"),
        ("t1, j_", "t1, 8 + j_", "element 47.. of an array of 4736"),
        ("t1, j_", "t1, 2 + j_", "8 elements at .* are not aligned"),
    ],
    ids=["no wait", "a wait too late", "no barrier", "bounds", "alignment"],
)
def test_mistakes_are_caught(old: str, new: str, message: str):
    program = ready(rounding("left deep", "odd"))
    spoilt(program, old, new)
    with pytest.raises(SimulatorError, match=message):
        program.run()


@needs_gpp
def test_what_fills_up_rows_is_no_number():
    """A sum that took it would not be one either."""
    program = ready(rounding("left deep", "odd"))
    spoilt(program, "nn::min(8, 37 - k0 - k)", "8")
    program.run()
    assert np.isnan(program.arrays["y"]).any()


def ready(system: System) -> SimulatedProgram:
    program = SimulatedProgram(gpu_plan(system), (0, 1, 2), LONE)
    for name, value in values(system, 0).items():
        program.arrays[name][...] = value
    return program


def spoilt(program: SimulatedProgram, old: str, new: str) -> None:
    """Plants a mistake in its source."""
    made = program.module
    assert old in made.kernels
    text = made.kernels.replace(old, new, 1)
    program._library = library(replace(made, kernels=text))


# --- NVRTC ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", mostly_slow(["right deep", "batched", "windows", "of windows"], ["batched"])
)
def test_copies_are_instructions(name: str):
    """Of as many bytes as the source says, into three steps of shared memory."""
    nvrtc_or_skip()
    for size in SIZES:
        check_usage(cuda_module(gpu_plan(rounding(name, size)), LONE))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_tiles_that_copy_do_not_spill(name: str):
    """Where both operands are copied, two blocks have room on a processor."""
    nvrtc_or_skip()
    made = cuda_module(gpu_plan(model_step(name, precision="bf16")[0]))
    large = [g for g in tiles(made) if isinstance(g.how, MatmulTile) and g.how.height == 128]
    assert any("left copied by 8" in str(g.how) for g in large)
    assert all((g.resident == 2) == ("rounded as" not in str(g.how)) for g in large)
    assert name == "large lstm" or all("rounded as" not in str(g.how) for g in large)
    check_usage(made)
