"""A run that was refused for its integers, as a message: E0730 names the equation, the operation
with its operands, the indices and the example. The evaluator repeats the run and looks for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...compiler.elaboration.context import RESERVED_INPUTS
from ...compiler.ir.dtypes import NUMPY
from ...compiler.ir.equation import System
from ...dsl.diagnostics.diagnostic import Note, UserError, fail
from ..data import Split
from .batch_inputs import fill_inputs
from .bound_program import BoundProgram, Refused


def refusal(program: BoundProgram, refused: Refused, split: Split, seed: int) -> UserError:
    """The message about a run that changed no values: an evaluation or a prediction."""
    return explained(program.system, program.values, refused, split, seed)


def explained(
    system: System,
    values: Mapping[str, np.ndarray],
    refused: Refused,
    split: Split,
    seed: int,
    when: str = "",
    after: str = "",
) -> UserError:
    """The message about a run with these values before it. `when` comes first in it, `after` is
    added to its help."""
    from ...compiler.reference.integer_trace import first_refusal  # for messages alone

    inputs: dict[str, np.ndarray] = {
        t.name: np.empty(t.shape, NUMPY[t.dtype]) for t in system.of_kind("input")
    }
    scalars = dict.fromkeys(RESERVED_INPUTS, 0)  # gradients have no integers
    scalars |= {"step": refused.step, "seed": seed, "microbatches_left": refused.left}
    # A run of fewer examples than the batch has is filled up with its last one.
    missing = max(0, system.batch - len(refused.rows))
    rows = np.pad(refused.rows, (0, missing), "edge")
    fill_inputs([(n, a) for n, a in inputs.items() if n not in scalars], split, rows)
    for name, number in scalars.items():
        if name in inputs:
            inputs[name][...] = number
    # Nothing is taken for granted of the inputs: those given by hand are compared here.
    found = first_refusal(system.replace(index_inputs={}), {**values, **inputs})
    if found is None:  # a float near the end of an integer's range, rounded otherwise here
        return fail("E0730", f"{when}an index or an integer is out of range", help=after)
    span = found.equation.span
    notes: tuple[Note, ...] = ()
    if span is not None and span.source.library and span.call_site is not None:
        notes, span = (Note(span, "computed here"),), span.call_site
    places = [f"at {found.where}"] if found.where else []
    if found.example is not None:
        places.append(f"example {int(rows[found.example]):,}, counted from 0")
    return fail(
        "E0730",
        f"{when}{found.what}",
        span,
        label=f"`{found.equation.target}`, " + ": ".join(places) if places else "",
        notes=notes,
        help="; ".join(part for part in (_cause(inputs, found.example), found.help, after) if part),
    )


def _cause(inputs: Mapping[str, np.ndarray], example: int | None) -> str:
    """NaN among the inputs, of one example if it is known: it is neither less nor greater than any
    number, so that an order has no places then."""
    rows = slice(None) if example is None else example
    absent = [n for n, a in inputs.items() if a.ndim and np.isnan(a[rows]).any()]
    return f"NaN is in {' and in '.join(f'`{name}`' for name in absent)}" if absent else ""
