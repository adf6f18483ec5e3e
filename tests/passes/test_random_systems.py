"""Random systems and their gradients: the evaluator computes the same after every pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support import TARGET, plan

from nnc.compiler.ir.dtypes import is_float
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.autodiff.differentiate import differentiate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.compiler.targets import GPU_TARGETS, Target

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))
from systems import systems, values
from test_random_gradients import widened, with_loss

FEW, MANY = (
    settings(max_examples=n, deadline=None, suppress_health_check=list(HealthCheck))
    for n in (15, 1000)
)
ON_EACH = pytest.mark.parametrize("target", [TARGET, GPU_TARGETS["h100"]], ids=["cpu", "gpu"])


def every_pass_keeps_the_values(system: System, target: Target, seed: int) -> None:
    """Each pass is compared with the system before any of them."""
    plan(system, PassCheck(system, values(system, seed)), target=target)


def with_gradients(system: System) -> System:
    whole = with_loss(widened(system))
    assume(whole is not None)
    assert whole is not None
    floats = [t.name for t in whole.of_kind("input") if is_float(t.dtype)]
    whole, names = add_gradients(whole, "loss", floats)
    assume(names)
    outputs = (*whole.outputs, *names.values())
    return verify(differentiate(whole).replace(outputs=outputs), "differentiate")


@ON_EACH
@FEW
@given(systems(), st.integers(0, 1000))
def test_forward(target: Target, system: System, seed: int) -> None:
    every_pass_keeps_the_values(system, target, seed)


@ON_EACH
@FEW
@given(systems(), st.integers(0, 1000))
def test_gradient(target: Target, system: System, seed: int) -> None:
    every_pass_keeps_the_values(with_gradients(system), target, seed)


@pytest.mark.night
@ON_EACH
@MANY
@given(systems(), st.integers(0, 1000))
def test_a_thousand_forward(target: Target, system: System, seed: int) -> None:
    every_pass_keeps_the_values(system, target, seed)


@pytest.mark.night
@ON_EACH
@MANY
@given(systems(), st.integers(0, 1000))
def test_a_thousand_gradients(target: Target, system: System, seed: int) -> None:
    every_pass_keeps_the_values(with_gradients(system), target, seed)
