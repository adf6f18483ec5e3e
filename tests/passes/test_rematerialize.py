"""`remat`: what is computed again is what was computed, once the gradient is there, and memory
falls by what is not kept."""

from __future__ import annotations

import numpy as np
import pytest
from support import mostly_slow, plan

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.initial_values import initial_values
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.project import project_of_text, setup_of

LAYERS = """
layer Block(x: [..., n]) -> y: [..., n] {
    REMAT
        h = x |> Dense(n) |> tanh |> Dropout(0.3) |> Dense(n) |> gelu
        y = x + h
    END
}
"""
FLAT, IMAGE, SERIES = "f32[B, 16]", "f32[B, 8, 8, 4]", "f32[B, 9, 16]"
BODIES = {  # the model `h` goes through three times
    "layers": (FLAT, "REMAT h = h |> Dense(16) |> tanh |> Dense(16) |> gelu END"),
    "dropout in a layer": (FLAT, "h = h |> Block"),
    "state": (FLAT, "REMAT h = h |> BatchNorm |> Dense(16) |> relu END"),
    "convolutions": (IMAGE, "REMAT h = h |> Conv(4, 3, pad = 1) |> BatchNorm |> relu "
                            "|> Conv(4, 3, pad = 1) END"),
    "the place of a maximum": (IMAGE, "REMAT h = h |> Conv(4, 3, pad = 1) |> MaxPool(2) |> relu "
                                      "|> ConvTranspose(4, 2, stride = 2) END"),
    "attention": ("f32[B, 6, 16]", "REMAT h = h |> TransformerBlock(2, 32, causal = true) END"),
    "a recurrence": (SERIES, "REMAT h, _c = h |> LSTM(16) END"),
    "a recurrence and more": (SERIES, "REMAT h = h |> GRU(16) |> LayerNorm END"),
    "blocks in a block": (FLAT, "REMAT h = h |> Block |> Block |> LayerNorm END"),
    "two results": (FLAT, "REMAT a = h |> Dense(16) |> tanh; b = a |> Dense(16) |> gelu "
                          "|> Dense(16); g = a*b END h = g + a"),
}  # fmt: skip


def program(shape: str, body: str, remat: bool, times: int = 3, batch: int = 8) -> str:
    text = f"""{LAYERS}
model M(x: {shape}) -> y: {shape} {{
    h = x
    repeat {times} {{ {body} }}
    y = h
}}
train M {{
    input target: {shape}
    loss      = mse(y, target)
    optimizer = sgd(lr = 0.1)
    batch     = {batch}
}}
"""
    opening, end = ("remat {", "};") if remat else ("", ";")
    return text.replace("REMAT", opening).replace("END", end)


def step_of(text: str, float_type: str = "f32") -> tuple[System, dict[str, np.ndarray]]:
    """The training step, and values for all that it is given."""
    project = project_of_text(text)
    setup = setup_of(project, None)
    step, drawn = training_step(setup)
    generator = np.random.default_rng(1)
    given = {  # a bias whose gradient is zero would otherwise be compared with its own rounding
        name: value + generator.normal(0, 0.1, value.shape).astype(value.dtype)
        if step.tensors[name].kind == "param"
        else value
        for name, value in initial_values(step, drawn, seed=3).items()
    }
    for tensor in step.of_kind("input"):
        drawn_now = generator.normal(size=tensor.shape).astype("f4")
        given[tensor.name] = drawn_now if tensor.dtype == "f32" else np.asarray(1, "i4")
    return verify(derive(step), "training"), given


def results(step: System) -> list[str]:
    return [*step.outputs, *step.updates.values()]


@pytest.mark.parametrize("body", BODIES)
def test_the_evaluator_gets_the_same_values(body: str) -> None:
    """In double precision, for NumPy adds up in another order where a step is a whole sequence."""
    plain, given = step_of(program(*BODIES[body], remat=False))
    again, _ = step_of(program(*BODIES[body], remat=True))
    assert any(name.endswith("_again") for name in again.tensors)
    expected, found = evaluate(plain, given, wide=True), evaluate(again, given, wide=True)
    assert results(plain) == results(again)
    for name in results(plain):
        np.testing.assert_allclose(found[name], expected[name], 1e-12, 1e-14, err_msg=name)


@pytest.mark.parametrize("body", mostly_slow(BODIES, ["convolutions", "dropout in a layer"]))
def test_machine_code_agrees_and_takes_less_memory(body: str) -> None:
    """Every pass keeps every value, too."""
    step, given = step_of(program(*BODIES[body], remat=True))
    made = plan(step, check=PassCheck(step, given))
    expected = evaluate(step, given)
    running = CpuProgram(made, threads=2)
    for name, value in given.items():
        running.arrays[name][...] = value
    running.run()
    for name in step.outputs:
        np.testing.assert_allclose(running.arrays[name], expected[name], rtol=2e-5)
    for kept, following in step.updates.items():
        np.testing.assert_allclose(running.arrays[kept], expected[following], rtol=2e-4, atol=2e-6)
    plain, _ = step_of(program(*BODIES[body], remat=False))
    assert made.arena_bytes < plan(plain).arena_bytes


def arena(times: int, remat: bool) -> int:
    """Of a residual block of width 64 with 256 inside, for 256 examples."""
    body = "REMAT h = h + (h |> Dense(256) |> tanh |> Dense(64)) END"
    step, _ = step_of(program("f32[B, 64]", body, remat, times, 256))
    return plan(step).arena_bytes


def test_a_block_more_costs_what_it_is_given_and_its_parameters() -> None:
    parameters = 4 * (64 * 256 + 256 + 256 * 64 + 64)
    given, inside = 4 * 256 * 64, 4 * 256 * 256
    assert arena(12, remat=True) - arena(6, remat=True) == 6 * (given + parameters)
    assert arena(12, remat=False) - arena(6, remat=False) >= 6 * (inside + given + parameters)


def order(made: Plan) -> dict[str, int]:
    return {eq.target: n for n, kernel in enumerate(made.kernels) for eq in kernel.equations}


def test_blocks_are_computed_again_one_after_the_other() -> None:
    """Last to first, each when the gradient has come to it."""
    text = program("f32[B, 64]", "REMAT h = h + (h |> Dense(256) |> tanh |> Dense(64)) END", True)
    at = order(plan(step_of(text)[0]))
    again = [at[name] for name in ("tanh_3_again", "tanh_2_again", "tanh_again")]
    first, second = at["d_dense5_y"], at["d_dense3_y"]  # may share a kernel with what they read
    assert at["tanh_3"] < again[0] <= first < again[1] <= second < again[2]


def test_what_is_read_after_the_block_is_not_computed_again() -> None:
    step, _ = step_of(program(*BODIES["two results"], remat=True, times=1))
    assert step.definition["a_again"].sources[0] == "a"  # a view of what is kept
    assert "dense1_y_again" not in step.tensors


def test_a_recurrence_comes_back_from_its_result_as_one_product() -> None:
    """The gates of an LSTM read the `h` that is kept: no loop computes them again."""
    made = plan(step_of(program(*BODIES["a recurrence"], remat=True, times=1))[0])
    outside = [item.anchor.target for item in made.items if hasattr(item, "anchor")]
    assert any(name.startswith("lstm1_") and "again" in name for name in outside)


def test_after_is_its_first_argument_and_waits_for_the_second() -> None:
    text = """
model M(x: f32[4, 32]) -> y: f32[4, 32], z: f32[4, 32] {
    a[b, i] = sum(j) x[b, j] * x[b, i]
    later[b, i] = after(a[b, i], y[0, 0])
    z[b, i] = sum(j) later[b, j] * later[b, i]
    y[b, i] = sum(j) a[b, j] * x[b, i]
}
"""
    from support import system, values

    whole = system(text, float_type="f32")
    made = plan(whole)
    at = order(made)
    assert at["y"] < at["z"] and "later" not in at  # a view
    given = values(whole)
    running = CpuProgram(made)
    running.arrays["x"][...] = given["x"]
    running.run()
    expected = evaluate(whole, given)
    np.testing.assert_allclose(running.arrays["z"], expected["z"], rtol=1e-4)


SEGMENTS = """
layer Segment(x: [b, s, n], before: [b, n], W: [n, n], U: [n, n]) -> last: [b, n], total: [b] {
    h[i, t, j] = tanh(sum(k) x[i, t, k]*W[k, j] + sum(k) (h[i, t-1, k] else before[i, k])*U[k, j])
    last[i, j] = h[i, s - 1, j]
    total[i] = sum(t, j) h[i, t, j]^2
}

model M(x: f32[B, 144, 16]) -> y: f32[B] {
    param W: [16, 16] ~ glorot_normal
    param U: [16, 16] ~ orthogonal
    first = 0
    before[i < B, j < 16] = 0.0
    y[i < B] = 0.0
    repeat SEGMENTS {
        REMAT
            part[i, t < 144 // SEGMENTS, k] = x[i, first + t, k]
            before, total = Segment(part, before, W, U)
            y = y + total
        END
        first = first + 144 // SEGMENTS
    }
}

train M {
    loss      = mean(y^2)
    optimizer = sgd(lr = 0.1)
    batch     = 8
}
"""


def segmented(segments: int, remat: bool) -> str:
    opening, end = ("remat {", "}") if remat else ("", "")
    text = SEGMENTS.replace("REMAT", opening).replace("END", end)
    return text.replace("SEGMENTS", str(segments))


def test_a_recurrence_in_segments_takes_the_memory_of_one() -> None:
    """Of 144 steps in 12 segments about 2 * 12 are kept (Chen et al. 2016, section 4.1)."""
    state = 4 * 8 * 16  # of one step, in bytes
    given = state * 144  # the input is there all the time
    whole, parts = (plan(step_of(segmented(n, n > 1))[0]).arena_bytes - given for n in (1, 12))
    kept_by_all = 12 * 2 * 4 * 16 * 16 + 4 * 4 * 16 * 16  # what each adds to W and U; W, U and next
    assert whole > 144 * state
    assert parts < 5 * 12 * state + kept_by_all


def test_a_recurrence_in_segments_is_the_recurrence() -> None:
    expected, given = step_of(segmented(1, False))
    found, _ = step_of(segmented(12, True))
    before, after = evaluate(expected, given), evaluate(found, given)
    for old, new in ("W", "W'"), ("U", "U'"):
        np.testing.assert_allclose(
            after[new] - given[old], before[new] - given[old], rtol=2e-4, atol=1e-7
        )
