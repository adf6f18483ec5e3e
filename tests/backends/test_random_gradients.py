"""Random systems and their gradients through the whole pipeline, beside the evaluator."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support import plan

from nnc.compiler.ir.build import call, cast, literal
from nnc.compiler.ir.dtypes import is_float
from nnc.compiler.ir.equation import CHECK, Equation, System, Tensor
from nnc.compiler.ir.expr import Apply, Const, Expr, Idx, Read
from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.ir.integer_ranges import input_limits
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.autodiff.differentiate import differentiate
from nnc.compiler.passes.equations.integer_checks import integer_checks
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

sys.path.insert(0, str(Path(__file__).parent))
from systems import systems, values

EXAMPLES = int(os.environ.get("NNC_EXAMPLES", "12"))


def widened(system: System) -> System:
    """The system with every f32 in f64, so that rounding cannot hide a mistake or look like one."""

    def wide(expr: Expr) -> Expr:
        children = tuple(wide(c) for c in expr.children)
        dtype = "f64" if expr.dtype == "f32" else expr.dtype
        if isinstance(expr, Const):
            return Const(expr.value, dtype)
        if isinstance(expr, Read):
            other = None if expr.other is None else children[-1]
            return Read(expr.tensor, children[: len(expr.index)], other, dtype)
        if isinstance(expr, Apply):
            return Apply("f64" if expr.fn == "f32" else expr.fn, children, dtype)
        return expr

    tensors = {
        name: replace(t, dtype="f64" if t.dtype == "f32" else t.dtype)
        for name, t in system.tensors.items()
    }
    equations = tuple(
        replace(e, body=wide(e.body), at=e.at and tuple(map(wide, e.at))) for e in system.equations
    )
    return system.replace(tensors=tensors, equations=equations)


def with_loss(system: System) -> System | None:
    """The system with a loss that every element of its last result enters with another weight."""
    last = system.equations[-1]
    tensor = system.tensors[last.target]
    if not is_float(tensor.dtype):
        return None
    if last.at is not None or not last.indices:
        return None
    places = tuple(Idx(i.name) for i in last.indices)
    read = Read(tensor.name, places, None, tensor.dtype)
    weight: Expr = literal(1.0, tensor.dtype)
    for number, place in enumerate(places, 1):
        weight = call("mul", weight, call("cos", cast(call("mul", place, number), tensor.dtype)))
    loss = Equation("loss", (), call("mul", read, weight), "sum", last.indices)
    tensors = {**system.tensors, "loss": Tensor("loss", (), tensor.dtype)}
    return system.replace(
        tensors=tensors,
        equations=(*system.equations, loss),
        outputs=(*system.outputs, "loss"),
    )


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems(), st.integers(0, 1000))
def test_gradients_agree_with_the_evaluator(system: System, seed: int) -> None:
    whole = with_loss(widened(system))
    assume(whole is not None)
    assert whole is not None
    wrt = [t.name for t in whole.of_kind("input") if is_float(t.dtype)]
    whole, names = add_gradients(whole, "loss", wrt)
    whole = differentiate(whole)
    assume(names)
    whole = verify(whole.replace(outputs=(*whole.outputs, *names.values())), "differentiate")
    inputs = values(whole, seed)
    # An index outside has no value (E0730): nothing is promised of what is computed from it.
    for name, places in input_limits(whole).items():
        inputs[name] = inputs[name] % places
    checked = integer_checks(whole.replace(index_inputs={}))
    assume(not evaluate(checked, inputs).get(CHECK, 0))
    expected = evaluate(whole, inputs)
    program = CpuProgram(plan(whole, verified=True))
    for name, value in inputs.items():
        program.arrays[name][...] = value
    program.run()
    for output in whole.outputs:
        found, wanted = program.arrays[output], expected[output]
        scale = max(1.0, float(np.abs(np.nan_to_num(wanted)).max(initial=0)))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9 * scale, err_msg=output)
