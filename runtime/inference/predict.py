"""Arrays given by hand into a model, or a part of it, and results back.

In: arrays by position or name. Out: arrays for all examples, computed batch by batch; of what has
no dimension of examples, such as a mean over them, computed from all at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.elaboration.applications import Part
from ...compiler.elaboration.selection import WHOLE, Selection
from ...compiler.elaboration.values import Array, is_static
from ...compiler.ir.dtypes import is_float
from ...dsl.diagnostics.diagnostic import Diagnostic, Note, UserError, did_you_mean, fail
from ...dsl.syntax import ast as s
from ...dsl.syntax.printer import format_type
from ..data import Split
from ..device.data_inputs import fields_of
from ..training.bound_program import Refused
from ..training.executor import EVALUATION_BATCH, Executor, evaluation_batches
from ..training.integer_guard import explained

Given = np.ndarray | Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Request:
    """What is to be computed of a trained model: the results of a `model` or layer in it (empty: of
    itself), or `tensors` by name; `seed` is that of random numbers (None: the program's)."""

    model: str = ""
    tensors: tuple[str, ...] = ()
    seed: int | None = None


def predict(
    executor: Executor,
    given: Given,
    origin: str,
    request: Request,
    scale: Mapping[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """What the request names, for all examples of the arrays that are given, by name; `scale` is
    that of a `Split`.

    UserError E0707 or E0715 if there is no such model or tensor, E0708 if an array is missing or
    does not fit, E0714 if the weights do not.
    """
    part = executor.part(request.model) if request.model else None
    taken = Inputs(executor, part, request.tensors)
    arrays = taken.checked(given, origin)
    selection = taken.selection(arrays)
    _check_weights(executor, selection, request.model)
    outputs = executor.selected(selection).outputs
    results = predict_batches(executor, arrays, selection, request.seed, scale or {})
    return {name: results[tensor] for name, tensor in outputs.items()}


def input_names(executor: Executor, request: Request) -> list[str]:
    """The inputs that arrays without names are taken for, in order: those that are needed first.
    UserError as `predict`."""
    inputs = Inputs(
        executor, executor.part(request.model) if request.model else None, request.tensors
    )
    return [*inputs.needed, *(n for n in inputs.names if n not in inputs.needed)]


def needed_names(executor: Executor, request: Request) -> tuple[str, ...]:
    """The inputs that have to be given. UserError as `predict`."""
    part = executor.part(request.model) if request.model else None
    return tuple(Inputs(executor, part, request.tensors).needed)


# --- inputs ---------------------------------------------------------------------------------------


class Inputs:
    """The inputs of what is computed: of a model, or of a `part`; for `tensors` of the model,
    only those that they depend on."""

    def __init__(self, executor: Executor, part: Part | None, tensors: tuple[str, ...] = ()):
        self.part, self.tensors, self.fields = part, tensors, executor.setup.fields or {}
        self.definition = part.definition if part else executor.definition
        self.limits = {} if part else executor.setup.limits
        self.names = [p.name for p in self.definition.inputs]  # that may be given
        if part:
            self.needed = [n for n in self.names if self._is_needed(n, part)]
        elif tensors:
            system = executor.selected(Selection(None, tensors)).system
            self.needed = [t.name for t in fields_of(system)]
        else:
            self.needed = self.names

    def _is_needed(self, name: str, part: Part) -> bool:
        """Whether an input has no value: neither a number that the model gives it nor a default."""
        default = next(p.default for p in self.definition.inputs if p.name == name)
        return default is None and not is_static(part.inputs.get(name))

    def checked(self, given: Given, origin: str) -> dict[str, np.ndarray]:
        """The arrays by the names of the inputs. UserError E0708 with all that are missing or do
        not fit what the model says of them; sizes that it leaves open must agree."""
        # One array without a name is clear only if there is one input.
        if isinstance(given, np.ndarray):
            if len(self.needed) != 1:
                names = ", ".join(f"`{name}`" for name in self.needed) or "none"
                raise fail(
                    "E0708",
                    f"`{self.definition.name}` has the inputs {names}: {origin} holds one array",
                    help="give them by name, in an .npz",
                )
            given = {self.needed[0]: given}
        # symbol → its size, and the first input that has it
        bound: dict[str, tuple[int, str]] = {}
        found: dict[str, np.ndarray] = {}
        wrong = self._missing(given, origin)
        for parameter in self.definition.inputs:
            if parameter.name not in given:
                continue
            found[parameter.name] = array = np.asarray(given[parameter.name])
            try:
                self._check(parameter, array, bound, origin)
            except UserError as error:
                wrong += error.diagnostics
        wrong += self._beyond(bound, found, origin)
        if wrong:
            raise UserError(wrong)
        counts = {len(array): name for name, array in found.items()}
        if 0 in counts:
            raise fail("E0708", f"{origin} holds no examples")
        if len(counts) > 1:
            listed = " and ".join(f"{count} in `{name}`" for count, name in counts.items())
            raise fail("E0708", f"{origin} holds different numbers of examples: {listed}")
        return found

    def _missing(self, given: Collection[str], origin: str) -> list[Diagnostic]:
        """E0708 for the inputs that are not given."""
        missing = [
            p for p in self.definition.inputs if p.name in self.needed and p.name not in given
        ]
        if not missing:
            return []
        first, *others = missing
        return [
            Diagnostic(
                "E0708",
                f"{origin} has no {' and no '.join(f'`{p.name}`' for p in missing)}",
                first.span,
                notes=tuple(Note(p.span, "nor this") for p in others),
                help=did_you_mean(first.name, given)
                or f"`{self.definition.name}` takes `{first.span.text}`",
            )
        ]

    def _beyond(
        self,
        bound: Mapping[str, tuple[int, str]],
        arrays: Mapping[str, np.ndarray],
        origin: str,
    ) -> Iterator[Diagnostic]:
        """E0708 for sizes beyond their declared maximum."""
        for symbol, (size, name) in bound.items():
            most = self.limits.get(symbol, size)
            if size > most:
                array = arrays[name]
                yield Diagnostic(
                    "E0708",
                    f"{origin} holds `{name}` as {array.dtype}{list(array.shape)}: `{symbol}` is "
                    f"{size:,} here, and its declared maximum is {most:,}",
                    next(p.span for p in self.definition.inputs if p.name == name),
                    help=f"the train block says `{symbol} <= {most}`",
                )

    def _recorded(self, name: str) -> Array | None:
        """What a part was given in the model."""
        found = self.part.inputs.get(name) if self.part else None
        return found if isinstance(found, Array) else None

    def _check(
        self,
        parameter: s.Parameter,
        array: np.ndarray,
        bound: dict[str, tuple[int, str]],
        origin: str,
    ) -> None:
        here = f"{origin} holds `{parameter.name}` as {array.dtype}{list(array.shape)}"
        type, recorded = parameter.type, self._recorded(parameter.name)
        declared = format_type(type) if type else "one entry per example"
        if not array.ndim:
            raise fail("E0708", f"{here}, and the model takes {declared}", parameter.span)
        if self.definition.kind == "model" and type is not None and type.shape is not None:
            wrong = _misfits(parameter, type.shape, array, bound, here)
        elif recorded is not None:
            # A layer may fit any size; its parameters are those of the model's.
            wrong = array.shape[1:] != recorded.shape[1:]
            declared = f"[n, {', '.join(map(str, recorded.shape[1:]))}]".replace(", ]", "]")
        else:
            wrong = False
        if wrong:
            raise fail("E0708", f"{here}, and the model takes {declared}", parameter.span)
        # Whole numbers and booleans may become reals; reals must not be cut to whole numbers.
        wants_float = is_float(self._dtype(parameter))
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not wants_float):
            raise fail("E0708", f"{here}, whose values cannot become {declared}", parameter.span)

    def _declared(self, arrays: Mapping[str, np.ndarray]) -> tuple[tuple[str, int], ...]:
        """The sizes with a declared maximum, if what else the data bind is as it was trained for;
        empty if there are none."""
        found: dict[str, int] = {}
        for parameter in self.definition.inputs:
            pattern = (parameter.type and parameter.type.shape) or ()
            own = self.fields.get(parameter.name)
            given = arrays[parameter.name].shape if parameter.name in arrays else ()
            for axis, (item, size) in enumerate(zip(pattern, given, strict=False)):
                if isinstance(item, s.Name) and item.id in self.limits:
                    found[item.id] = size
                elif axis and own is not None and own.shape[axis - 1] != size:
                    return ()
        # one that nothing gives is as in training
        return tuple((n, found.get(n, m)) for n, m in self.limits.items()) if found else ()

    def _dtype(self, parameter: s.Parameter) -> str:
        if parameter.type is not None and parameter.type.dtype:
            return parameter.type.dtype
        recorded = self._recorded(parameter.name)
        return recorded.tensor.dtype if recorded is not None and recorded.tensor else "f32"

    def selection(self, arrays: Mapping[str, np.ndarray]) -> Selection:
        """What is computed for these arrays."""
        known = {name: arrays[name].shape[1:] for name in arrays.keys() & self.fields.keys()}
        part = self.part
        sizes = self._declared(arrays) if part is None else ()
        if part is None and (
            sizes or all(self.fields[n].shape == shape for n, shape in known.items())
        ):
            return Selection(None, self.tensors, sizes=sizes)
        # For other sizes than those that it was trained for, the model is a part of itself.
        part = part or Part("", self.definition, {}, {})
        examples = tuple(
            (p.name, arrays[p.name].shape[1:], self._dtype(p))
            for p in self.definition.inputs
            if p.name in arrays
        )
        return Selection(part, self.tensors, examples)


def _misfits(
    parameter: s.Parameter,
    pattern: Sequence[s.Expr],
    array: np.ndarray,
    bound: dict[str, tuple[int, str]],
    here: str,
) -> bool:
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
    return wrong


def _check_weights(executor: Executor, selection: Selection, model: str) -> None:
    """UserError E0714 if a model that is no part of the trained one has other parameters."""
    if selection.part.name if selection.part else not selection.sizes:
        return
    known = executor.weight_forms()
    system = executor.selected(selection).system
    wrong = [
        f"`{t.name}` {list(t.shape)}"
        + (f", which is {list(known[t.name].shape)}" * (t.name in known))
        for t in system.tensors.values()
        if t.kind in ("param", "state") and (t.name not in known or known[t.name].shape != t.shape)
    ]
    trained = executor.definition.name
    definition = selection.part.definition if selection.part else executor.definition
    if wrong and definition is executor.definition:
        raise fail(
            "E0714",
            f"for these sizes `{trained}` has other parameters: {', '.join(wrong[:8])}",
            definition.name_span,
            help="give arrays of the sizes that it was trained for",
        )
    if wrong:
        raise fail(
            "E0714",
            f"`{model}` is no part of `{trained}` and has parameters that `{trained}` has not: "
            + ", ".join(wrong[:8]),
            definition.name_span,
            help="layers with the same names in both models have the same parameters: "
            "`decode = Decoder`",
        )


# --- results --------------------------------------------------------------------------------------


def predict_batches(
    executor: Executor,
    arrays: Mapping[str, np.ndarray],
    selection: Selection = WHOLE,
    seed: int | None = None,
    scale: Mapping[str, float] = {},
) -> dict[str, np.ndarray]:
    """What is selected, for all examples of checked arrays; [n, …] each, by tensor."""
    count = len(next(iter(arrays.values()))) if arrays else 1
    examples, drawn = Split(arrays, scale), executor.seed if seed is None else seed
    results: dict[str, np.ndarray] = {}
    found = executor.prediction_batches(count, selection) if arrays else None
    whole = found is None and (count <= EVALUATION_BATCH or not has_examples(executor, selection))
    if whole:
        found = iter([(count, 0, count)])
    batches = found or _batches(executor, selection, count)
    number = 0
    for size, first, last in batches:
        with executor.prediction(size, selection) as program:
            program.seed(drawn)
            for begin in range(first, last, size):
                rows = np.arange(begin, begin + size)
                for name, place in program.fields:
                    # as training reads its data: no number is changed without a word
                    examples.take(name, rows, place)
                number += 1
                program.step[...] = number  # each batch draws numbers of its own
                try:
                    program.compute(rows, number)
                except Refused as refused:
                    system = executor.exact(selection, size) if selection.sizes else program.system
                    raise explained(system, program.values, refused, examples, drawn) from None
                for name, result in program.results.items():
                    # Copied: the program's next caller writes over its arrays.
                    if whole:
                        results[name] = result.copy()
                        continue
                    # made at the first batch, when the shapes are known
                    shape = (count, *result.shape[1:])
                    all_of_them = results.setdefault(name, np.empty(shape, result.dtype))
                    all_of_them[rows] = result
    return results


def _batches(executor: Executor, selection: Selection, count: int) -> list[tuple[int, int, int]]:
    """As `evaluation_batches`; where numbers are drawn, all but the last are of one size for every
    count, so that an example draws the same whatever comes after it."""
    if "seed" not in executor.selected(selection).system.tensors:
        return list(evaluation_batches(count))
    rest = count % EVALUATION_BATCH
    last = [(rest, count - rest, count)] if rest else []
    return [(EVALUATION_BATCH, 0, count - rest), *last]


def has_examples(executor: Executor, selection: Selection) -> bool:
    """Whether every result has examples for its first dimension, so that these can be computed in
    batches."""
    definition = selection.part.definition if selection.part else executor.definition
    if not selection.tensors and definition.kind == "model":
        batch = _first_size(definition.inputs[:1])
        if batch and all(_first_size([r]) == batch for r in definition.results):
            return True
    try:
        one, two = (
            {t: system.tensors[t].shape for t in system.outputs}
            for system in (executor.selected(selection, batch).system for batch in (2, 3))
        )
    except UserError:  # the program is right for some batch sizes only
        return False
    return all(
        one[name][:1] == (2,) and two[name] == (3, *one[name][1:]) for name in one.keys() & two
    )


def _first_size(parameters: Sequence[s.Parameter]) -> str:
    """The symbol of the first dimension of a parameter; empty if it has none."""
    shape = (parameters[0].type and parameters[0].type.shape) if parameters else None
    return shape[0].id if shape and isinstance(shape[0], s.Name) else ""
