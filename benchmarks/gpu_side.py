"""What the parts of `gpu.py` share: models by name, at full size or small, on a device; time.

In: names. Out: setups, programs, milliseconds. On the device `simulator` (tests/gpu_simulator),
which runs a GPU's threads one by one, every model is small: its figures mean nothing; they only
test this script.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from nnc_side import SEED
from workloads import TRAINING, Workload

from nnc.compiler.elaboration.model import forward
from nnc.compiler.elaboration.train_block import Setup
from nnc.compiler.ir.equation import System
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.dsl.syntax.source import Source
from nnc.runtime.assignments import Assignment
from nnc.runtime.data import Search
from nnc.runtime.device import DEVICES
from nnc.runtime.inspect.bench import fill_random
from nnc.runtime.project import Project, planned_setup, project_of_text
from nnc.runtime.training.bound_program import BoundProgram
from nnc.runtime.training.executor import Executor

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # where gpu_simulator is

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.nn"))
WORKLOADS = {w.name: w for w in TRAINING}
GPT2 = Workload("gpt2", "gpt2", 4)
# one block as wide as GPT-2's: the whole is more than float64 on a CPU goes through
BLOCK = Workload(
    "gpt2_block", "gpt2", 2, edits=(("1024", "128"), ("50257", "2000"), ("repeat 12", "repeat 1"))
)

# sizes at which a model is right or wrong just as at full size, in less time
SHORT = {"64]": "5]", "64, 65]": "5, 65]", "1024]": "5]", "1024, 50257]": "5, 70]", "50257": "70",
         "LearnedPositions(64)": "LearnedPositions(5)", "768": "24", "3072": "48",
         "LearnedPositions(1024)": "LearnedPositions(5)", "repeat 12": "repeat 1",
         "repeat 4": "repeat 1", "LSTM(256)": "LSTM(20)", "RNN(256)": "RNN(20)",
         "Dense(512)": "Dense(24)"}  # fmt: skip
FEW = 3  # examples in a step of a small model
FULL_SIZE = ["cuda"]  # the devices on which models are as they are

Plain = dict[str, object]  # what a part finds: names, and numbers, texts, or more of it


def small(device: str) -> bool:
    return device not in FULL_SIZE


def device_of(name: str):
    """A device of nnc, or the GPU simulator of its tests."""
    if name == "simulator":
        from gpu_simulator import SimulatedProgram

        return SimulatedProgram
    return DEVICES[name](1)


def project_of(name: str, device: str, batch: int | None = None, precision: str = "f32") -> Project:
    """A workload of the benchmarks or of here, or an example."""
    workload = {**WORKLOADS, GPT2.name: GPT2, BLOCK.name: BLOCK}.get(name)
    if workload is not None:
        text, folder, batch = workload.text, None, batch or workload.batch
    else:
        path = next(path for path in EXAMPLES if path.stem == name)
        text, folder = path.read_text(), path.parent
    if small(device):
        batch = FEW
        for long, short in SHORT.items():
            text = text.replace(long, short)
    sets = [Assignment("precision", precision)]
    if batch:
        sets.append(Assignment("batch", str(batch)))
    return project_of_text(text, f"{name}.nn", folder, sets)


def setup_of(project: Project, data: Path | None = None) -> Setup | None:
    """The setup; None if the data is not here."""
    try:
        return planned_setup(project, Search(data, project.path.parent, offline=True))
    except UserError as error:
        if any(d.code.startswith("E06") for d in error.diagnostics):
            return None
        raise


def bound_of(name: str, device: str, precision: str = "f32") -> BoundProgram:
    """The training step of a workload with its first values and random data."""
    setup = setup_of(project_of(name, device, precision=precision))
    assert setup is not None
    bound = Executor(setup, device_of(device), SEED).training(setup.batch)
    fill_random(bound.system, dict(bound.fields), np.random.default_rng(SEED))
    return bound


def resident(text: str, precision: str = "f32") -> System:
    """A model's equations as a system whose inputs and results stay on the device: inputs become
    params, results the next values of states."""
    report = Report()
    checked = load_source(Source("resident.nn", text), report)
    report.check()
    (name,) = (d.name for d in checked.definitions.values() if d.kind == "model")
    system = forward(checked.definitions, name, {})
    tensors = {
        n: replace(t, kind="param") if t.kind == "input" else t for n, t in system.tensors.items()
    }
    updates = {}
    for result in system.outputs:
        tensors[f"{result}_kept"] = replace(tensors[result], name=f"{result}_kept", kind="state")
        updates[f"{result}_kept"] = result
    made = system.replace(tensors=tensors, outputs=(), updates=updates)
    return made.replace(precision=precision)


def filled(system: System, device: str):
    """A program of the system with numbers between 0 and 1."""
    program = device_of(device)(system)
    rng = np.random.default_rng(SEED)
    for tensor in system.of_kind("param"):
        program.arrays[tensor.name][...] = rng.random(tensor.shape, np.float32)
    return program


def timed(step: Callable[[], object], wait: Callable[[], object], count: int) -> float:
    """The median of `count` steps in milliseconds, after three that do not count."""
    times = []
    for number in range(count + 3):
        wait()
        started = time.perf_counter()
        step()
        wait()
        if number >= 3:
            times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e3


def within(names: list[str], seconds: float, left: list[str]) -> Iterator[str]:
    """The names until the time is over; those that it did not come to are put into `left`."""
    end = time.monotonic() + seconds
    for number, name in enumerate(names):
        if time.monotonic() > end:
            left += names[number:]
            return
        yield name
