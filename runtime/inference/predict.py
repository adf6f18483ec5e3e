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
from ..training.executor import Executor, evaluation_batch


def as_inputs(
    model: s.Definition, given: np.ndarray | Mapping[str, np.ndarray], origin: str
) -> dict[str, np.ndarray]:
    """The arrays by the names of the model's inputs. UserError E0708 if one is missing or does not
    fit what the model says of it; sizes that it leaves open must agree."""
    if isinstance(given, np.ndarray):
        if len(model.inputs) != 1:
            names = ", ".join(f"`{p.name}`" for p in model.inputs)
            raise fail(
                "E0708",
                f"`{model.name}` has the inputs {names}: {origin} holds one array",
                help="give them by name, in an .npz",
            )
        given = {model.inputs[0].name: given}
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
    for item, size in zip(pattern, array.shape, strict=False):
        if isinstance(item, s.Name):
            first, owner = bound.setdefault(item.id, (size, parameter.name))
            if first != size:
                raise fail(
                    "E0708",
                    f"{here}: `{item.id}` is {size} here and {first} in `{owner}`",
                    parameter.span,
                )
        elif isinstance(item, s.Number):
            wrong |= item.value != size
    if wrong:
        raise fail("E0708", f"{here}, and the model takes {declared}", parameter.span)
    wants_float = is_float(parameter.type.dtype or "f32")
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not wants_float):
        raise fail("E0708", f"{here}, whose values cannot become {declared}", parameter.span)


def predict_batches(executor: Executor, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's results for all examples of checked arrays; [n, …] each."""
    count = len(next(iter(arrays.values())))
    size = evaluation_batch(count)
    results: dict[str, np.ndarray] = {}
    program = None
    for begin in range(0, count, size):
        end = min(begin + size, count)
        if program is None or end - begin != size:
            program = executor.prediction(end - begin)
        for name, place in program.fields:
            place[...] = arrays[name][begin:end].astype(place.dtype)
        program.program.run()
        for name, result in program.results.items():
            whole = results.setdefault(name, np.empty((count, *result.shape[1:]), result.dtype))
            whole[begin:end] = result
    return results
