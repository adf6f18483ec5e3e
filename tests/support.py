"""What many tests need: programs from text, random values, finite differences."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import replace

import numpy as np
import pytest

from nnc.compiler import pipeline
from nnc.compiler.elaboration.model import forward
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.ir.verify import verify
from nnc.compiler.options import Options
from nnc.compiler.passes.autodiff.differentiate import differentiate
from nnc.compiler.passes.equations.simplify import simplify
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS, GpuTarget
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.ast import Definition
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source
from nnc.runtime.device.cpu import host

TARGET = CPU_TARGETS["generic-avx512"]  # for passes that are called on their own


def mostly_slow(values: Iterable, quick: Container) -> list:
    """The parameters of a test: all but those in `quick` are for `-m slow`."""
    return [v if v in quick else pytest.param(v, marks=pytest.mark.slow) for v in values]


def one_in(count: int, values: Iterable, several: bool = False) -> list:
    """The parameters of a test: every `count`-th is quick, all others are for `-m slow`. With
    `several`, each is a tuple of as many as the test has names."""
    slow = pytest.mark.slow
    return [
        v if n % count == 0 else pytest.param(*(v if several else (v,)), marks=slow)
        for n, v in enumerate(values)
    ]


def definitions(text: str) -> dict[str, Definition]:
    """The definitions in a text, which must be free of syntax errors."""
    report = Report()
    file = parse(Source("test.nn", text), report)
    report.check()
    return {d.name: d for d in file.declarations if isinstance(d, Definition)}


def system(text: str, model: str = "M", float_type: str = "f64", **sizes: int) -> System:
    """The simplified equations of the model in a text."""
    raw = verify(forward(definitions(text), model, sizes, float_type=float_type), "elaborate")
    return verify(simplify(raw), "simplify")


def elaborated(text: str, **sizes: int) -> System:
    """The equations of `M`, which sees the library, with placeholders, in double precision."""
    report = Report()
    checked = load_source(Source("test.nn", text), report)
    report.check()
    found = forward(checked.definitions, "M", sizes, float_type="f64")
    return verify(found, "elaboration")


def values(system: System, seed: int = 0, integers: int = 4) -> dict[str, np.ndarray]:
    """Random values for everything a system is given; integers are below `integers`."""
    generator = np.random.default_rng(seed)
    result = {}
    for tensor in system.tensors.values():
        if tensor.kind == "temp":
            continue
        if tensor.dtype in ("f32", "f64"):
            drawn = generator.normal(size=tensor.shape)
        else:
            drawn = generator.integers(0, integers, tensor.shape)
        result[tensor.name] = np.asarray(drawn, np.float32 if tensor.dtype == "f32" else None)
    return result


def gradients(system: System, output: str, wrt: list[str]) -> tuple[System, dict[str, str]]:
    """The system with gradients among its outputs, and their names."""
    with_gradients, names = add_gradients(system, output, wrt)
    with_gradients = differentiate(with_gradients)
    outputs = (*system.outputs, *names.values())
    with_gradients = verify(with_gradients.replace(outputs=outputs), "differentiate")
    return verify(simplify(with_gradients), "simplify"), names


def round_contractions(system: System) -> System:
    """The system with the operands of contractions rounded to bf16."""
    return pipeline.derive(system.replace(precision="bf16"))


def check_gradients(system: System, wrt: list[str], output: str = "loss", seed: int = 0) -> None:
    """Every gradient against central differences in float64, at every element."""
    with_gradients, names = gradients(system, output, wrt)
    given = values(system, seed)
    found = evaluate(with_gradients, given)
    for name in wrt:
        numeric = finite_differences(system, given, name, output)
        exact = found[names[name]] if name in names else np.zeros_like(numeric)
        scale = max(1.0, float(np.abs(numeric).max(initial=0)))
        np.testing.assert_allclose(exact, numeric, rtol=0, atol=3e-7 * scale, err_msg=name)


def finite_differences(
    system: System, given: dict[str, np.ndarray], name: str, output: str, step: float = 1e-5
) -> np.ndarray:
    """(f(x + h) - f(x - h)) / 2h for every element of one input."""
    result = np.zeros(given[name].shape)
    for place in np.ndindex(*result.shape):
        ends = []
        for sign in (1, -1):
            moved = {**given, name: given[name].astype(np.float64).copy()}
            moved[name][place] += sign * step
            ends.append(float(evaluate(system, moved)[output]))
        result[place] = (ends[0] - ends[1]) / (2 * step)
    return result


NO_ATTENTION = ("row-sums", "flash-attention", "bf16-storage")


# --- the pipeline, with short words for its options ----------------------------------------------


def plan(system, check=None, verified=False, shared=True, without=(), target=None):
    """The plan for this computer's processor, or for another target. `check` is an observer; with
    `verified` what every pass makes is held to the rules of the IR."""
    observers = [each for each in (check, pipeline.verify_each if verified else None) if each]
    options = Options(shared, frozenset(without))
    return pipeline.plan(system, target or host.target(), options, observers)


def gpu_plan(system, check=None, verified=False, shared=True, without=()):
    """The plan for a GPU."""
    return plan(system, check, verified, shared, without, GpuTarget())


def cuda_module(plan, target=None):
    """The CUDA source and launches of a plan for a GPU."""
    return pipeline.generate(plan, target or GpuTarget())


def optimize(system, verified=False, without=(), target=None):
    """The system after the passes over equations."""
    observers = [pipeline.verify_each] if verified else []
    options = Options(without=frozenset(without))
    return pipeline.optimize(system, target or host.target(), options, observers)


def with_pass(name, function, after="simplify"):
    """The CPU's pipeline with one more pass over equations."""
    passes = list(pipeline.CPU.system)
    place = [each.name for each in passes].index(after) + 1
    passes.insert(place, pipeline.Pass(name, function))
    return replace(pipeline.CPU, system=tuple(passes))
