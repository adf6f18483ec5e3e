"""Every example as a WebAssembly module: steps of training and predictions in node are those of a
library for x86-64-v2, to the bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import Library, tool
from webassembly import call

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.data import Search
from nnc.runtime.device import DEVICES
from nnc.runtime.device.cpu import elf_linker
from nnc.runtime.project import open_project, planned_setup
from nnc.runtime.training.executor import Executor

pytestmark = [
    pytest.mark.skipif(not elf_linker.supported(), reason="compared on x86-64 Linux"),
    pytest.mark.slow,
]

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.nn"))
STEPS = 2


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_same_bits(name, tmp_path):
    tool("node")
    path = FOLDER / f"{name}.nn"
    own = re.sub(r"(?m)^ *weights *= .*\n", "", path.read_text("utf-8"))
    if own != path.read_text("utf-8"):  # it begins with the weights of a run, which is not there
        path = tmp_path / path.name
        path.write_text(own, "utf-8")
    project = open_project(path)
    try:
        setup = planned_setup(project, Search(None, FOLDER, offline=True))
    except UserError as error:  # the sizes of such a model are those of its data
        if any(d.code != "E0601" for d in error.diagnostics):
            raise
        pytest.skip(f"the data of {name} are not here")
    for target in ("wasm32", "x86-64-v2"):
        command = ["export", str(path), "--to", str(tmp_path / target), "--target", target]
        assert cli.run(command) == 0
    library, rng = Library(tmp_path / "x86-64-v2"), np.random.default_rng(0)
    limits = Executor(setup, DEVICES["cpu"](1), project.settings.seed).system.index_inputs or {}
    if library.values.size > library.weights.size:
        assert library.init() == 0
    else:
        library.values[:] = library.weights
    calls: list[Any] = []
    codes, expected = [], []

    def run(purpose: str, method: str, *more: Any) -> None:
        """In the library now, and in the module later."""
        counts = list(more) if purpose == "predict" else []
        inputs = {}
        for place in library.functions[library.name(purpose)]["inputs"]:
            if place["name"] in ("seed", "step"):
                value = library.about["seed"] if place["name"] == "seed" else 1
                library.array(purpose, place["name"])[...] = value
                continue
            array = library.array(purpose, place["name"])
            if place["type"] in ("f32", "f64", "f16"):
                array[...] = rng.standard_normal(array.shape)
            elif place["type"] != "bf16":
                array[...] = rng.integers(0, limits.get(place["name"], 2), array.shape)
            inputs[place["name"]] = array[: counts[0]].copy() if counts else array.copy()
        calls.append((method, inputs, [] if purpose == "predict" else more))
        codes.append(library.call(purpose, library.values, *counts))
        outputs = library.functions[library.name(purpose)]["outputs"]
        found = {o["name"]: library.array(purpose, o["name"]) for o in outputs}
        expected.append({n: (a[: counts[0]] if counts else a).copy() for n, a in found.items()})

    settings = project.settings
    for step in range(1, STEPS + 1):
        turn = settings.turn(step)
        more = ["_".join(turn)] if len({*settings.turns}) > 1 else []
        run("_".join(["train_step", *more]), "trainStep", *more)
    counts = "size_t examples" in (library.folder / f"{library.prefix}.h").read_text()
    most = library.functions[library.name("predict")]["examples"]
    run("predict", "predict", *([min(5, most)] if counts else []))
    *results, saved = call(tmp_path / "wasm32", [*calls, ("save", None, ())])
    for code, values, found in zip(codes, expected, results, strict=True):
        if code:
            assert found["code"] == code
            continue
        for result, array in values.items():
            shown = np.asarray(found[result], array.dtype).reshape(array.shape)
            assert np.array_equal(shown, array, equal_nan=True), result
    assert saved[""].tobytes() == library.values.tobytes()
