"""Every example as a C library: steps of training and predictions are those of nnc, to the bit, and
no function outside is needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from exported import Library, tool
from support import mostly_slow

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.data import Search
from nnc.runtime.device import DEVICES
from nnc.runtime.device.cpu import elf_linker
from nnc.runtime.project import open_project, planned_setup
from nnc.runtime.training.bound_program import BoundProgram
from nnc.runtime.training.executor import Executor

pytestmark = pytest.mark.skipif(not elf_linker.supported(), reason="for x86-64 Linux")

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.nn"))
STEPS = 3


def fill(library: Library, purpose: str, program: BoundProgram, rng: np.random.Generator) -> None:
    """Random numbers of the right kinds for both."""
    limits = program.system.index_inputs or {}
    for name, array in program.fields:
        if array.dtype.kind == "f":
            array[...] = rng.standard_normal(array.shape)
        else:
            array[...] = rng.integers(0, limits.get(name, 2), array.shape)
        library.array(purpose, name)[: len(array)] = array


@pytest.mark.parametrize("name", mostly_slow(EXAMPLES, {"linear"}))
def test_the_same_bits(name, tmp_path):
    path = FOLDER / f"{name}.nn"
    own = re.sub(r"(?m)^ *weights *= .*\n", "", path.read_text("utf-8"))
    if own != path.read_text("utf-8"):  # it begins with the weights of a run, which is not there
        path = tmp_path / path.name
        path.write_text(own, "utf-8")
    search = Search(None, FOLDER, offline=True)
    project = open_project(path)
    try:
        setup = planned_setup(project, search)
    except UserError as error:
        if all(d.code == "E0601" for d in error.diagnostics):
            pytest.skip(f"the data of {name} are not here")
        raise
    command = ["export", str(path), "--to", str(tmp_path / "c"), "--as", "so,o"]
    assert cli.run(command) == 0
    library, rng = Library(tmp_path / "c"), np.random.default_rng(0)
    undefined = subprocess.run(
        [tool("nm"), "-u", library.folder / f"{library.prefix}.o"], capture_output=True, text=True
    )
    assert undefined.stdout == ""
    executor, settings = Executor(setup, DEVICES["cpu"](1), project.settings.seed), project.settings
    if library.values.size > library.weights.size:
        assert library.init() == 0
    else:
        library.values[:] = library.weights
    for step in range(1, STEPS + 1):
        turn = settings.turn(step)
        purpose = "_".join(["train_step", *(turn if len({*settings.turns}) > 1 else ())])
        program = executor.training(setup.batch, turn)
        fill(library, purpose, program, rng)
        program.step[...] = step
        program.compute(np.arange(setup.batch), step)
        library.call(purpose, library.values)
        loss = program.results[program.losses[0]]
        assert np.array_equal(library.array(purpose, program.losses[0]), loss, equal_nan=True)
    expected = executor.weights()
    for weight, found in library.trained().items():
        assert np.array_equal(found, expected[weight], equal_nan=True), weight
    function = library.functions[library.name("predict")]
    examples = [min(5, function["examples"])] if _counts(library) else []
    with executor.prediction(examples[0] if examples else setup.batch) as program:
        fill(library, "predict", program, rng)
        program.step[...] = 1
        for scalar, value in (("step", 1), ("seed", executor.seed)):
            if any(place["name"] == scalar for place in function["inputs"]):
                library.array("predict", scalar)[...] = value
        program.compute(np.arange(examples[0] if examples else setup.batch), 1)
        assert library.call("predict", library.values, *examples) == 0
        for result, array in program.results.items():
            found = library.array("predict", result)
            assert np.array_equal(found[: len(array)] if examples else found, array, equal_nan=True)


def _counts(library: Library) -> bool:
    """Whether `predict` takes the number of examples."""
    return "size_t examples" in (library.folder / f"{library.prefix}.h").read_text()
