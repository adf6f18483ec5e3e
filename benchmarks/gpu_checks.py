"""The parts of `gpu.py` that say whether a GPU computes what it should.

In: the device, a folder, data. Out: plain figures. `note` keeps what was found so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import primitives as names_of_the_prelude
from gpu_side import (
    BLOCK,
    EXAMPLES,
    WORKLOADS,
    Plain,
    bound_of,
    device_of,
    project_of,
    setup_of,
    small,
    within,
)

from nnc.compiler.elaboration.model import forward
from nnc.compiler.options import Options
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.pipeline import compile, plan
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import EVALUABLE
from nnc.compiler.targets import GpuTarget
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.assignments import Assignment
from nnc.runtime.data import Search
from nnc.runtime.inspect.code_check import check_code, run_stored
from nnc.runtime.inspect.sample_inputs import sample
from nnc.runtime.inspect.sample_sizes import fit_sizes
from nnc.runtime.inspect.verification import TOLERANCE
from nnc.runtime.project import Project, load_dataset, project_of_text, with_assignments
from nnc.runtime.training.job import prepare
from nnc.runtime.training.loop import train
from nnc.runtime.training.progress import Silent

Note = Callable[[Plain], None]

LOSSES = 1e-3  # relative difference of the losses of the first steps, each from the last's weights
STEPS = 6
POINTS = 12 * EVALUABLE  # of a model: tiles depend on sizes, and most of them keep their own
FEW_EXAMPLES = ("linear", "xor", "cnn_digits")  # where a GPU's threads run one by one


def machine(device: str, out: Path, data: Path | None, note: Note) -> None:
    """Versions, and what is missing."""
    from nnc.runtime.device.cuda.discovery import look

    found = asdict(look())
    if device != "cuda":
        found |= {"problem": "", "remedy": ""}
    note(
        {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    )


def primitives(device: str, out: Path, data: Path | None, note: Note) -> None:
    """What the prelude's names give, kept in `primitives.npz`; how far scalar functions are from
    float64; and where the stand-in for the GPU gives something else, which g++ is needed for."""
    from gpu_simulator import available

    found = names_of_the_prelude.results(device)
    values, worst = names_of_the_prelude.functions(device_of(device))
    np.savez_compressed(out / "primitives.npz", **found, **values)
    note(
        {
            "recorded": len(found),
            "not covered": names_of_the_prelude.not_covered(),
            "units in the last place": worst,
        }
    )
    if available():
        other = names_of_the_prelude.results("simulator")
        wrong = names_of_the_prelude.differences(found, other)
        note({"the stand-in differs": wrong})
        assert not wrong, wrong


# --- every kernel ---------------------------------------------------------------------------------


def kernels(device: str, out: Path, data: Path | None, note: Note) -> None:
    """Every result that a kernel stores, of every benchmark and example, beside float64 from what
    the kernels before it had computed."""
    models = [*WORKLOADS, BLOCK.name, *(path.stem for path in EXAMPLES)]
    names = [*models, "mlp128 bf16", "cnn128 bf16", "lstm bf16", "gpt bf16", f"{BLOCK.name} bf16"]
    if small(device):
        names = ["mlp32", "gpt2 bf16", *FEW_EXAMPLES]
    left: list[str] = []
    figures: Plain = {}
    wrong: Plain = {}
    for name in within(names, 270, left):
        model, _, precision = name.partition(" ")
        project = project_of(model, device, precision=precision or "f32")
        setup = setup_of(project, data)
        if setup is None:
            figures[name] = "no data"
            continue
        chosen = fit_sizes(project, setup, EVALUABLE // 100 if small(device) else POINTS)
        subject = sample(chosen.project, chosen.setup, 0)
        apart = plan(subject.system, GpuTarget(), Options(share_memory=False))
        found = check_code(apart, run_stored(program_of(device, apart), subject.values), TOLERANCE)
        bad = [value for value in found if not value.right]
        figures[name] = {
            "results": len(found),
            "largest error": max(v.error for v in found),
            "sizes": chosen.text,
        }
        for value in bad[:5]:
            place = f"{name}: {value.equation.target}{list(value.index)}"
            wrong[place] = f"{value.found} for {value.expected}"
        note({"models": figures, "wrong": wrong, "left out for time": left})
    note({"left out for time": left})
    assert not wrong, wrong


def program_of(device: str, source: Plan):
    """A program of a plan rather than a system."""
    if device == "cuda":
        from nnc.runtime.device.cuda.program import CudaProgram

        return CudaProgram(source)
    from gpu_simulator import SimulatedProgram

    return SimulatedProgram(source, (0,))


# --- whole steps ----------------------------------------------------------------------------------


def repeat(device: str, out: Path, data: Path | None, note: Note) -> None:
    """Five steps twice from the same start: the same bits; and once more by as many steps in a
    launch as there are."""
    names = ["mlp32", "gpt"] if small(device) else [*WORKLOADS, "gpt bf16"]
    same: list[str] = []
    for name in names:
        model, _, precision = name.partition(" ")
        ways = [_one_by_one, _one_by_one, *([_at_once] if device == "cuda" else [])]
        runs = []
        for way in ways:
            step = bound_of(model, device, precision or "f32")
            way(step)
            runs.append({n: a.tobytes() for n, a in step.values.items()})
        assert all(run == runs[0] for run in runs), name
        same.append(name)
        note({"the same bits": same})


def meetings(device: str, out: Path, data: Path | None, note: Note) -> None:
    """A recurrence whose blocks wait for each other, against the evaluator, and 2,000 runs to the
    same bits. A meeting that does not hold shows here, or never ends."""
    steps, runs = (3, 2) if small(device) else (64, 2000)
    text = f"model M(x: f32[B, {steps}, 8]) -> h: f32[B, {steps}, 256] {{ h, _ = LSTM(256)(x) }}"
    project = project_of_text(text, "meetings.nn")
    system = forward(project.checked.definitions, "M", {"B": 8}, training=False)
    loops = compile(system, GpuTarget()).loops.values()
    assert any(loop.group_blocks > 1 for loop in loops)
    rng = np.random.default_rng(0)
    given = {
        t.name: rng.normal(0, 0.1, t.shape).astype(np.float32)
        for t in system.tensors.values()
        if t.kind != "temp"
    }
    program = device_of(device)(system)
    for name, value in given.items():
        program.arrays[name][...] = value
    (output,) = system.outputs
    found = set()
    for _ in range(runs):
        program.run()
        found.add(program.arrays[output].tobytes())
    apart = float(np.abs(program.arrays[output] - evaluate(system, given)[output]).max())
    note({"runs": runs, "different results": len(found), "largest difference": apart})
    assert len(found) == 1 and apart < 1e-5, (len(found), apart)


def _one_by_one(step) -> None:
    for number in range(1, 6):
        step.step[...] = number
        step.program.run()


def _at_once(step) -> None:
    from nnc.runtime.data import Split
    from nnc.runtime.training.batch_inputs import all_examples

    examples = all_examples(Split({name: array.copy() for name, array in step.fields}))
    assert step.together(examples) >= 1
    count = len(examples)
    for _ in step.run_many(examples, np.tile(np.arange(count), (5, 1)), range(1, 6)):
        pass


class Losses(Silent):
    """The loss of every step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def step(self, epoch: int, step: int, losses: Sequence[float]) -> None:
        self.found.extend(losses)


def examples(device: str, out: Path, data: Path | None, note: Note) -> None:
    """The first steps of every example whose data is here, as `nnc train` takes them, beside the
    CPU's."""
    names = list(FEW_EXAMPLES) if small(device) else [path.stem for path in EXAMPLES]
    left: list[str] = []
    figures: Plain = {}
    wrong: list[str] = []
    for name in within(names, 100, left):
        project = project_of(name, device)
        found = losses(project, device, data)
        if found is None:
            figures[name] = "no data"
            continue
        expected = losses(project, "cpu", data)
        assert expected is not None
        off = max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(found, expected, strict=True))
        figures[name] = off
        if not off <= LOSSES:
            wrong.append(name)
        note({"relative difference of losses": figures, "wrong": wrong})
    note({"left out for time": left})
    assert not wrong, wrong


def losses(project: Project, device: str, data: Path | None) -> list[float] | None:
    """Of the first steps of training; None without the data."""
    project = with_assignments(project, [Assignment("steps", str(STEPS))])
    try:
        dataset = load_dataset(project, Search(data, project.path.parent, offline=True))
    except UserError as error:
        if any(d.code.startswith("E06") for d in error.diagnostics):
            return None
        raise
    job = prepare(project, dataset, device_of(device))
    told = Losses()
    train(job, told, lambda: len(told.found) >= STEPS)  # ends before anything is measured
    return told.found
