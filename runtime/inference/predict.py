"""Arrays given by hand into a model, and its results back.

In: arrays by position or name. Out: arrays for all examples, computed batch by batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...compiler.ir.dtypes import is_float
from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ...dsl.syntax import ast as s
from ...dsl.syntax.printer import format_type
from ..data import Split
from ..training.executor import Executor, Refused
from ..training.integer_guard import refusal


def as_inputs(
    model: s.Definition, given: np.ndarray | Mapping[str, np.ndarray], origin: str
) -> dict[str, np.ndarray]:
    """The arrays by the names of the model's inputs. UserError E0708 if one is missing or does not
    fit what the model says of it; sizes that it leaves open must agree."""
    # one array without a name is clear only if there is one input
    if isinstance(given, np.ndarray):
        if len(model.inputs) != 1:
            names = ", ".join(f"`{p.name}`" for p in model.inputs)
            raise fail(
                "E0708",
                f"`{model.name}` has the inputs {names}: {origin} holds one array",
                help="give them by name, in an .npz",
            )
        given = {model.inputs[0].name: given}
    # symbol → its size, and the input that said so first
    bound: dict[str, tuple[int, str]] = {}
    found = {}
    for parameter in model.inputs:
        if parameter.name not in given:
            raise fail(
                "E0708",
                f"{origin} has no `{parameter.name}`",
                parameter.span,
                help=did_you_mean(parameter.name, given),
            )
        found[parameter.name] = np.asarray(given[parameter.name])
        _check(parameter, found[parameter.name], bound, origin)
    if not len(next(iter(found.values()))):
        raise fail("E0708", f"{origin} holds no examples")
    return found


def _check(
    parameter: s.Parameter, array: np.ndarray, bound: dict[str, tuple[int, str]], origin: str
) -> None:
    assert parameter.type is not None and parameter.type.shape is not None
    pattern, declared = parameter.type.shape, format_type(parameter.type)
    here = f"{origin} holds `{parameter.name}` as {array.dtype}{list(array.shape)}"
    wrong = len(pattern) != array.ndim
    # strict=False: a wrong number of dimensions is reported below, with the declared type
    for item, size in zip(pattern, array.shape, strict=False):
        # `B` is bound by the first input that has it; all others must agree
        if isinstance(item, s.Name):
            first, owner = bound.setdefault(item.id, (size, parameter.name))
            if first != size:
                raise fail(
                    "E0708",
                    f"{here}: `{item.id}` is {size} here and {first} in `{owner}`",
                    parameter.span,
                )
        # a fixed size such as 28
        elif isinstance(item, s.Number):
            wrong |= item.value != size
    if wrong:
        raise fail("E0708", f"{here}, and the model takes {declared}", parameter.span)
    # whole numbers and booleans may become reals; reals must not be cut to whole numbers
    wants_float = is_float(parameter.type.dtype or "f32")
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not wants_float):
        raise fail("E0708", f"{here}, whose values cannot become {declared}", parameter.span)


def predict_batches(executor: Executor, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's results for all examples of checked arrays; [n, …] each."""
    count = len(next(iter(arrays.values())))
    results: dict[str, np.ndarray] = {}
    examples = Split(arrays)
    for size, first, last in executor.prediction_batches(count):
        with executor.prediction(size) as program:
            for begin in range(first, last, size):
                end = begin + size
                for name, place in program.fields:
                    # as training reads its data: no number is changed without a word
                    examples.take(name, np.arange(begin, end), place)
                try:
                    program.compute(np.arange(begin, end), 1)
                except Refused as refused:
                    raise refusal(program, refused, examples, executor.seed) from None
                for name, result in program.results.items():
                    # made at the first batch, when the shapes are known
                    shape = (count, *result.shape[1:])
                    whole = results.setdefault(name, np.empty(shape, result.dtype))
                    # copied: the program's next caller writes over its arrays
                    whole[begin:end] = result
    return results
