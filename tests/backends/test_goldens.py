"""The stand-in for a GPU does what GPUs did: recorded results of the prelude's primitives."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram, available

from nnc.compiler.codegen.cuda.module import Module
from nnc.runtime.device.cuda.nvrtc import NvrtcNotFound, nvrtc

GOLDENS = sorted((Path(__file__).parent / "goldens").glob("*.npz"))
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FAR = 8  # units in the last place between the library of a GPU and that of a CPU

needs_gpp = pytest.mark.skipif(not available(), reason="needs g++")


@pytest.fixture(scope="module")
def primitives():
    spec = importlib.util.spec_from_file_location("primitives", BENCHMARKS / "primitives.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["primitives"] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return module


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def wrong(primitives, recorded: dict[str, np.ndarray]) -> dict[str, float]:
    """Which of the recorded results the stand-in does not give, and how many or how far."""
    found: dict[str, float] = primitives.differences(recorded, primitives.results("simulator"))
    near, _ = primitives.functions(SimulatedProgram)
    for name in near.keys() & recorded.keys():
        off = distance(recorded[name], near[name])
        if not off <= FAR:
            found[name] = off
    return found


def distance(one: np.ndarray, two: np.ndarray) -> float:
    """The largest, in units of the last place; truths and whole numbers are equal or not."""
    if one.dtype.kind != "f":
        return 0.0 if np.array_equal(one, two) else np.inf
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    wide, unit = one[~same].astype(float), np.spacing(np.abs(one[~same]))
    return float(np.max(np.abs(wide - two[~same]) / unit, initial=0))


@needs_gpp
@pytest.mark.skipif(not GOLDENS, reason="no GPU has recorded any yet: see goldens/README.md")
@pytest.mark.parametrize("path", GOLDENS or [None], ids=lambda p: p and p.stem)
def test_the_stand_in_does_what_a_gpu_did(path, primitives):
    recorded = load(path)
    assert not wrong(primitives, recorded)
    known = {primitive.key for primitive in primitives.PRIMITIVES}
    if not known & recorded.keys():
        pytest.skip("every kernel has changed since: record them anew")


@needs_gpp
def test_a_difference_is_seen(primitives):
    """What the stand-in itself gives is right; with one bit of it changed it is not."""
    recorded = primitives.results("simulator")
    near, worst = primitives.functions(SimulatedProgram)
    assert max(worst.values()) < 16
    recorded |= near
    assert not wrong(primitives, recorded)
    changed = {name: array.copy() for name, array in recorded.items()}
    key = next(name for name in changed if name.startswith("warp_sum."))
    changed[key].view(np.uint32)[7] ^= 1
    changed["y_exp"][5] *= np.float32(1.00001)
    changed["warp_sum.older"] = changed[key]
    assert set(wrong(primitives, changed)) == {key, "y_exp"}


def test_every_primitive_compiles_for_a_gpu(primitives):
    try:
        library = nvrtc()
    except NvrtcNotFound as error:
        pytest.skip(str(error))
    text = "\n".join(primitive.kernel for primitive in primitives.PRIMITIVES)
    for architecture in ("sm_80", "sm_90a"):
        usage = library.cubin(Module(text, (), 0).source, architecture).usage
        assert len(usage) == len(primitives.PRIMITIVES)


@needs_gpp
def test_the_way_to_a_gpu(primitives, monkeypatch):
    """The same results through CuPy's stand-in: arrays there and back, arguments, shared memory."""
    from . import fake_cupy

    fake_cupy.install(monkeypatch)
    assert not primitives.differences(primitives.results("cuda"), primitives.results("simulator"))
