"""Many steps in one launch, on examples that the GPU holds: to the bit what one at a time gives,
and everything between two steps still happens. Through the stand-in for CuPy."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest
from gpu_simulator import available
from small_programs import DIGITS, prepared, trained, write
from support import system

from nnc.compiler.ir.dtypes import HALVES
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.cli import run
from nnc.runtime.data import Dataset, Field, Schema, Split
from nnc.runtime.device import DEVICES
from nnc.runtime.device.cuda import batched_launches as rounds
from nnc.runtime.device.cuda import program as cuda
from nnc.runtime.device.cuda import resident_data as held
from nnc.runtime.device.cuda.nvrtc import NvrtcNotFound, nvrtc
from nnc.runtime.project import project_of_text
from nnc.runtime.training.batch_inputs import next_batches
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.job import prepare
from nnc.runtime.training.loop import INTERRUPTED, measure, train
from nnc.runtime.training.progress import Silent
from nnc.runtime.training.run_folder import create_run

from . import fake_cupy
from .whole_steps import model_step

pytestmark = pytest.mark.skipif(not available(), reason="needs g++")

NOTHING = 1  # byte of free memory


def together(patch, count: int) -> None:
    """A GPU that takes so many steps at a time; none that holds examples for 0."""
    fake_cupy.install(patch, free=1 << 36 if count else NOTHING)
    patch.setattr(cuda, "rule", lambda microseconds: max(count, 1))


def values_of(job) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in job.executor.values.items()}


def launches(call) -> int:
    """How many graphs it launches."""
    before = fake_cupy.Graph.launches
    call()
    return fake_cupy.Graph.launches - before


def wanted(**sets: str) -> dict[str, str]:
    return {"batch": "200", "epochs": "2", **sets}  # 7 batches of 200 and one of 38


# --- the same bits --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("steps", ["", "11"])
def test_training_is_that_of_one_at_a_time(monkeypatch, steps):
    """Weights, the optimizer's state, the loss and the metrics; the short last batch and
    a number of steps that is no multiple included."""
    sets = wanted(steps=steps) if steps else wanted()
    found = []
    for count in (0, 1, 3, 64):
        together(monkeypatch, count)
        job = trained(device="cuda", **sets)
        found.append((values_of(job), [r.values for r in job.records], job.position.step))
    assert all(each == found[0] for each in found[1:])
    assert found[0][2] == (11 if steps else 16)


@pytest.mark.slow
def test_full_launches_are_one_graph(monkeypatch):
    together(monkeypatch, 3)
    sets = wanted(epochs="1")
    tests = launches(lambda: measure_of(prepared(device="cuda", **sets), "test"))
    # 7 steps are two launches of three runs and one of one; then the short one
    assert launches(lambda: trained(device="cuda", **sets)) - tests == 2 + 1 + 1


def measure_of(job, part: str) -> dict[str, float]:
    return measure(job.executor, job.parts[part], 1)


def test_measuring_is_that_of_one_at_a_time(monkeypatch):
    found = []
    for count in (0, 4):
        together(monkeypatch, count)
        found.append(measure_of(prepared(device="cuda"), "train"))
    assert found[0] == found[1]


@pytest.mark.slow
def test_random_numbers_are_those_of_the_step(monkeypatch):
    """Dropout draws from the number of the step and the seed."""
    text = DIGITS.replace("|> relu", "|> relu |> Dropout(0.3)")
    found = []
    for count in (0, 4):
        together(monkeypatch, count)
        found.append(values_of(trained(text, "cuda", epochs="1", seed="3", steps="9")))
    assert found[0] == found[1]


# --- what happens between steps -------------------------------------------------------------------


@pytest.mark.slow
def test_checkpoints_and_resuming(monkeypatch, tmp_path):
    """Places are saved at their steps, an interruption after the launch that is under way, and
    going on ends with the same bits."""
    together(monkeypatch, 4)
    sets = wanted(checkpoint_every="3", keep_checkpoints="9")
    whole = prepared(device="cuda", **sets)
    whole.folder = create_run(tmp_path / "whole", "small", DIGITS, {}, {})
    train(whole, Silent(), never)
    names = sorted(p.stem for p in (tmp_path / "whole" / "checkpoints").iterdir())
    assert [int(n.split("-")[1]) for n in names] == [3, 6, 8, 9, 12, 15, 16]

    asked = []

    def interrupted() -> bool:
        asked.append(part.position.step)
        return len(asked) == 3

    part = prepared(device="cuda", **sets)
    part.folder = create_run(tmp_path / "part", "small", DIGITS, {}, {})
    assert train(part, Silent(), interrupted) == INTERRUPTED
    assert asked == [3, 6, 7]  # up to the next checkpoint, or to the short batch
    again = prepared(device="cuda", **sets)
    again.resume(part.folder)
    assert again.position.step == 7
    train(again, Silent(), never)
    assert values_of(again) == values_of(whole)
    assert [r.values for r in again.records] == [r.values for r in whole.records]


def test_every_step_is_told(monkeypatch):
    class Told(Silent):
        def __init__(self):
            self.steps = []

        def step(self, epoch, step, losses):
            self.steps.append((epoch, step, losses))

    found = []
    for count in (0, 5):
        together(monkeypatch, count)
        told = Told()
        train(prepared(device="cuda", **wanted(epochs="1")), told, never)
        found.append(told.steps)
    assert found[0] == found[1] and [s[1] for s in found[0]] == list(range(1, 9))


EDGE = """
model M(x: f32[B, 3]) -> y: f32[B, 3] {
    param w: [3] = 1
    y[b, i] = log(x[b, i] * w[i])
}

train M {
    loss      = mean(y)
    optimizer = sgd(lr = 0.01)
    batch     = 4
    epochs    = 1
    shuffle   = false
}
"""


def test_a_loss_that_is_not_finite_stops_at_its_step(monkeypatch):
    """The fourth step is in the midst of a launch of five: its weights are those before it."""
    rows = np.ones((40, 3), np.float32)
    rows[13, 1] = -1
    dataset = Dataset("rows", Schema((Field("x", "f32", (3,)),), None), Split({"x": rows}))
    found = []
    for count in (0, 5):
        together(monkeypatch, count)
        job = prepare(project_of_text(EDGE), dataset, DEVICES["cuda"](1))
        with pytest.raises(UserError) as caught:
            train(job, Silent(), never)
        (told,) = caught.value.diagnostics
        assert told.code == "E0701" and "in step 4 " in told.message
        found.append((told.message, told.label, values_of(job), job.position.step))
        assert job.position.done == 12
    assert found[0] == found[1]


# --- what is held ---------------------------------------------------------------------------------


def stored() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, 60).astype(np.int32)
    windows = np.lib.stride_tricks.sliding_window_view
    return {
        "plain": rng.normal(size=(11, 2, 3)).astype(np.float32),
        "pixels": rng.integers(0, 256, (11, 5)).astype(np.uint8),
        "windows": windows(tokens, 7)[::3],
        "apart": windows(tokens, 3)[::5],
        "turned": rng.normal(size=(4, 11)).T,
        "column": rng.integers(0, 5, (11, 3)).astype(np.int64)[:, 1],
        "backward": rng.normal(size=(11, 3)).astype(np.float32)[::-1],
    }


NARROW = [("plain", "f16"), ("plain", "bf16"), ("pixels", "bf16"), ("backward", "f16"),
          ("column", "i8"), ("windows", "u8")]  # fmt: skip


@pytest.mark.parametrize(("name", "dtype"), [*((name, "") for name in stored()), *NARROW])
def test_what_is_gathered_is_what_the_cpu_takes(name, dtype, monkeypatch):
    """Whatever the array's type, order and overlaps: every element of every run."""
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(cuda, "rule", lambda microseconds: 2)
    array = stored()[name]
    real = array.dtype.kind == "f" or name == "pixels"
    kind, result = dtype or ("f32" if real else "i32"), dtype if dtype in HALVES else "f32"
    text = f"""model M(x: {kind}[4{"".join(f", {n}" for n in array.shape[1:])}])
        -> y: {result}[] {{ y = {"sum(x * x)" if real else "sum(x) * 1.0"} }}"""
    program = cuda.CudaProgram(system(text))
    split = Split({"x": array}, {"x": 1 / 255} if name == "pixels" else {})
    rows = np.array([[3, 0, 9, 9], [1, 10, 2, 5]])
    assert program.hold(split) == 2
    found = program.run_many(rows, [1, 1])["y"]
    for value, batch in zip(found, rows, strict=True):
        split.take("x", batch, program.arrays["x"])
        program.run()
        assert value == program.arrays["y"]


def test_overlapping_windows_are_not_unfolded():
    array = stored()["windows"]
    flat, step = held.flat(array)
    assert step == 3 and flat.base is not None and flat.size == (len(array) - 1) * 3 + 7
    assert held.flat(stored()["apart"])[1] == 3  # gaps are left out


def test_examples_are_copied_once_and_go_with_their_split(monkeypatch):
    together(monkeypatch, 3)
    job = prepared(device="cuda")
    split = job.training.split
    for size in (100, 38):
        assert job.executor.training(size).together(job.training) == 3
    assert len(held._columns[split]) == 2  # image and label, though two programs read them


def test_memory_goes_with_its_program_at_once(monkeypatch):
    """Not when somebody collects garbage: a GPU's memory is needed for the next program."""
    together(monkeypatch, 3)
    program = cuda.CudaProgram(_sum())
    split = Split({"x": np.array([[1], [2]])})
    program.hold(split)
    program.run_many(np.array([[0, 1]]), [1])
    gone = weakref.ref(program)
    gc.disable()
    try:
        del program
        assert gone() is None and held._columns[split]
    finally:
        gc.enable()


def test_too_large_a_split_stays_where_it_is(monkeypatch):
    together(monkeypatch, 0)
    job = prepared(device="cuda")
    bound = job.executor.training(100)
    assert bound.together(job.training) == 1
    assert "more than a quarter of the 1 bytes" in bound.program.not_held


def test_a_number_that_does_not_fit_is_an_error_of_its_batch(monkeypatch):
    together(monkeypatch, 2)
    program = cuda.CudaProgram(_sum())
    split = Split({"x": np.array([[1], [1 << 40]])})
    assert program.hold(split) == 0 and "does not fit" in program.not_held


def _sum():
    return system("model M(x: i32[2, 1]) -> y: f32[] { y = sum(x) * 1.0 }")


# --- how many -------------------------------------------------------------------------------------


def test_as_many_as_take_a_millisecond():
    assert [rounds.rule(us) for us in (1, 150, 600, 5000)] == [rounds.MOST, 6, 1, 1]
    step, _ = model_step("mlp")  # 64-40-33-10 with a batch of 6
    gflop = 2 * 6 * (2 * (40 * 33 + 33 * 10) + 64 * 40 + 64 * 40) / 1e9
    assert rounds.estimate(20, step) == pytest.approx(60 + 50 * gflop, rel=0.1)


def test_batches_of_one_size():
    order = np.arange(10)
    assert next_batches(order, 3, 0, 9).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert next_batches(order, 3, 3, 1).tolist() == [[3, 4, 5]]
    assert next_batches(order, 1, 9, 9).tolist() == [[9]]


def test_the_kernel_compiles_without_spills():
    try:
        library = nvrtc()
    except NvrtcNotFound as error:
        pytest.skip(str(error))
    job = prepared()
    names = [
        held.Column("image", "f32", None, 64000, 64, 64),
        held.Column("label", "i32", None, 1000, 1, 1),
    ]
    made = rounds.feed(names, 100, job.executor.system, job.executor.system.outputs)
    for architecture in ("sm_80", "sm_90a"):
        (used,) = library.cubin(made.source, architecture).usage.values()
        assert used.spilled == used.stack == 0 and used.registers <= 32


@pytest.mark.parametrize("free", [1 << 36, NOTHING])
def test_bench_says_how_many_and_why(free, monkeypatch, tmp_path, capsys):
    fake_cupy.install(monkeypatch, free=free)
    path = str(write(tmp_path))
    assert run(["bench", path, "--device", "cuda", "--steps", "3"]) == 0
    out = capsys.readouterr().out
    assert "kernels in a step" in out and "MB on the GPU" in out and "compiled in" in out
    if free == NOTHING:
        assert "1 step in one graph: the examples take" in out
    else:
        assert " steps in one graph: a step is estimated at " in out
    assert run(["bench", path, "--device", "cuda", "--steps", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["launches"] > 3 and (found["together"] > 1) == (free != NOTHING)


@pytest.mark.slow
def test_rows_are_handed_over(monkeypatch):
    """A metric that compares examples with each other takes the steps one by one."""
    together(monkeypatch, 3)
    metric = "    metric spread = mean((logits - mean(logits))^2)\n    optimizer"
    text = DIGITS.replace("    optimizer", metric)
    on_gpu, right = (
        trained(text, device, **wanted(epochs="1")) for device in ("cuda", "reference")
    )
    assert on_gpu.records[0].values == pytest.approx(right.records[0].values, rel=1e-4)
