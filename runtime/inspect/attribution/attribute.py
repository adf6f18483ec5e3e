"""Attribution: what each part of an input contributes to one number of a model's results.

In: a trained model, arrays of examples, a method. Out: a map for each example, with the scores of
the example and of the baseline, and what says how far the map can be trusted. The maps are computed
by one compiled program (`program.py`), an example at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

import numpy as np

from ....compiler.elaboration.selection import WHOLE
from ....dsl.diagnostics.diagnostic import did_you_mean, fail
from ...data import Split
from ...data.recorded import Recorded
from ...inference.meanings import Meaning
from ...inference.predict import Given, Inputs, Request, predict
from ...training.executor import Executor
from .features import groups_of
from .methods import BLOCK, Method, Options, find_method
from .program import AttributionProgram, Plan, program_of
from .targets import Subject, Target, choose_subject, choose_target
from .words import token_count

BLUR, BLURRED = "blur", 8  # the share of a side that is the deviation
LARGEST_GAP = 0.01  # of a map that should add up


@dataclass(frozen=True)
class Wish:
    """What is asked for: the method, a class, a tensor, a baseline (a number, an array of one
    example or of all, or "blur"), and the method's options."""

    method: str = "integrated-gradients"
    of: str | int | None = None
    at: str | None = None
    baseline: float | np.ndarray | str = 0.0
    options: Options = field(default_factory=Options)
    result: str | None = None
    position: int | None = None
    groups: np.ndarray | None = None  # the feature that each number of an example belongs to
    seed: int | None = None


@dataclass(frozen=True, eq=False)
class Attribution:
    """The map of one example: `values` have the shape of what is attributed to; of an embedding
    they are added up, so that each token has one. `score` is the number that is explained, and
    `baseline_score` the same of the baseline; `target` is what the number stands for. Where groups
    of elements have one value together, `groups` says to which each belongs."""

    values: np.ndarray
    target: str
    place: tuple[int, ...]
    score: float
    baseline_score: float
    adds_up: bool
    groups: np.ndarray | None = None

    @property
    def features(self) -> np.ndarray:
        """The values, one for each feature."""
        if self.groups is None:
            return self.values.reshape(-1)
        _, first = np.unique(self.groups, return_index=True)
        return np.asarray(self.values.reshape(-1)[first])

    @property
    def sum(self) -> float:
        """Of all features, in double precision."""
        return float(self.features.sum(dtype=np.float64))

    @property
    def gap(self) -> float | None:
        """By how much the map fails to add up to the difference of the scores, as a share of it;
        None if its method does not promise that."""
        if not self.adds_up:
            return None
        change = self.score - self.baseline_score
        missing = abs(self.sum - change)
        return missing / abs(change) if change else (0.0 if not missing else float("inf"))


class Attributor:
    """Attributions of the examples of one call: what is attributed to what is settled here.

    UserError E0750 for what cannot be attributed, E0715 for a tensor that does not exist, and as
    `predict` for arrays that do not fit."""

    def __init__(
        self,
        executor: Executor,
        given: Given,
        origin: str,
        wish: Wish,
        meanings: Mapping[str, Meaning],
        recorded: Recorded | None = None,
        scale: Mapping[str, float] | None = None,
        lengths: np.ndarray | None = None,
    ):
        self.executor, self.wish, self.method = executor, wish, find_method(wish.method)
        self.recorded = recorded
        wish.options.check()
        self.arrays = Inputs(executor, None).checked(given, origin)
        self.lengths = lengths
        self._scale = scale or {}
        self._origin = origin
        self.count = len(next(iter(self.arrays.values())))
        results = predict(executor, self.arrays, origin, Request(), self._scale)
        lengths = self._lengths(lengths)
        self.target: Target = choose_target(
            results, meanings, recorded, wish.of, wish.result, wish.position, lengths
        )
        self.subject: Subject = choose_subject(
            executor, wish.at, self.target.result, self.method.is_inside
        )
        self.inputs = self._inputs()
        self.x = self._tensor(executor, self.arrays)
        self.baseline = self._baseline()
        self.plan = self._plan()
        self.program = program_of(executor, self.plan)

    def maps(self) -> Iterator[Attribution]:
        """The attribution of each example."""
        for row in range(self.count):
            yield self._one(self.program, row, self.x[row])

    def maps_of(self, other: Executor, program: AttributionProgram) -> Iterator[Attribution]:
        """The same by a `program` of this plan, under the weights of an `other` executor of the
        model."""
        program.take(other.weights())
        x = self._tensor(other, self.arrays)
        for row in range(self.count):
            yield self._one(program, row, x[row])

    def warnings(self, found: Sequence[Attribution]) -> list[str]:
        """What is to be said of maps that do not add up as they should."""
        broken = sum(not isfinite(one.sum) for one in found)
        if broken:
            return [f"{broken} of {len(found)} maps have numbers that are not finite"]
        wide = [one.gap for one in found if one.gap is not None and one.gap > LARGEST_GAP]
        if not wide:
            return []
        some = f" of {len(wide)} of {len(found)} examples" if len(found) > 1 else ""
        return [
            f"the map{some} does not add up to the change of the score: {100 * max(wide):.2g} % of "
            "it is missing; more steps come closer"
        ]

    def inputs_of(self, row: int) -> dict[str, np.ndarray]:
        """What an example gives to the model's inputs."""
        return {name: array[row] for name, array in self.inputs.items()}

    def token_count(self, row: int) -> int | None:
        """How many tokens an example has, padding left out; None where it is no text."""
        tokens = self.subject.tokens
        return token_count(self.arrays, tokens, row, self.lengths) if tokens else None

    def _one(self, program: AttributionProgram, row: int, x: np.ndarray) -> Attribution:
        place = self.target.places[row]
        values = {"x": x, "baseline": self.baseline[row], "group": self._group()}
        seed = self.executor.seed if self.wish.seed is None else self.wish.seed
        found, scores = program.run(values, self.inputs_of(row), place, seed)
        if found.size == x.size:
            found = found.reshape(x.shape)
        groups = self._group() if self.method.features else None
        # An attribution to a token is that to its vector: to all of its numbers together.
        if self.subject.tokens and found.ndim == 2 and not self.method.is_inside:
            if groups is None:
                found = found.sum(axis=-1)
            elif (groups == groups[:, :1]).all():
                found, groups = found[:, 0], groups[:, 0]
        return Attribution(
            found,
            self.target.titles[row],
            place,
            float(scores[-2]),
            float(scores[-1]),
            self.method.adds_up,
            groups,
        )

    # --- what is computed with -------------------------------------------------------------------

    def _lengths(self, lengths: np.ndarray | None) -> np.ndarray | None:
        """The lengths of sequences in the data, where the model is told them."""
        given = self.arrays.get("length")
        return given if lengths is None and given is not None and given.ndim == 1 else lengths

    def _inputs(self) -> dict[str, np.ndarray]:
        """The model's inputs in the types that it computes with."""
        tensors = self.executor.selected(WHOLE).system.tensors
        split = Split(self.arrays, self._scale)
        found: dict[str, np.ndarray] = {}
        for name, array in self.arrays.items():
            place: np.ndarray = np.empty(array.shape, tensors[name].array_type)
            split.take(name, np.arange(self.count), place)
            found[name] = place
        return found

    def _tensor(self, executor: Executor, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """What is attributed to, for each example, [n, …]."""
        name = self.subject.name
        if not self.subject.is_inside:
            return self.inputs[name]
        request = Request(tensors=(name,))
        found = predict(executor, arrays, self._origin, request, self._scale)[name]
        if not found.ndim or len(found) != self.count or found.dtype.kind != "f":
            raise fail(
                "E0750",
                f"`{name}` is {found.dtype}{list(found.shape)}, and not real numbers for each "
                "example",
                help="choose a tensor [B, …] with `at`",
            )
        return found

    def _baseline(self) -> np.ndarray:
        """The baseline of each example, in the shape of x; that of tokens is embedded."""
        if isinstance(self.wish.baseline, str):
            return self._blurred(self.wish.baseline)
        given = np.asarray(self.wish.baseline)
        if given.dtype.kind == "f" and not np.isfinite(given).all():
            raise fail("E0750", "the baseline has numbers that are not finite")
        tokens = self.subject.tokens
        # A number is that of a token, as are those of an array of the tokens' type.
        if tokens and (given.dtype.kind in "iu" or (not given.ndim and float(given).is_integer())):
            given = given.astype(self.arrays[tokens].dtype)
            own = np.broadcast_to(given, self.arrays[tokens].shape)
            tokens_of = {**self.arrays, tokens: np.ascontiguousarray(own)}
            return self._tensor(self.executor, tokens_of)
        try:
            return np.broadcast_to(given.astype(self.x.dtype), self.x.shape)
        except (ValueError, TypeError):
            raise fail(
                "E0750",
                f"the baseline is {given.dtype}{list(given.shape)}, and `{self.subject.name}` of "
                f"an example {self.x.dtype}{list(self.x.shape[1:])}",
                help="it has the shape of one example, or of all",
            ) from None

    def _blurred(self, name: str) -> np.ndarray:
        """The examples blurred along all dimensions but that of the channels."""
        if name != BLUR:
            help = f"{did_you_mean(name, [BLUR])} it is a number, an array, or {BLUR}".strip()
            raise fail("E0750", f"there is no baseline `{name}`", help=help)
        if self.x.ndim < 3:
            raise fail("E0750", f"`{self.subject.name}` has no places to blur")
        return blurred(self.x)

    def _plan(self) -> Plan:
        shape = self.x.shape[1:]
        inputs = tuple(
            (p.name, (p.type and p.type.dtype) or "f32", self.inputs[p.name].shape[1:])
            for p in self.executor.definition.inputs
        )
        return Plan(
            self.method,
            _options(self.method, self.wish.options, shape),
            shape,
            inputs,
            self.subject.name,
            self.subject.name if self.subject.is_inside else "",
            self.target.result,
            len(self.target.places[0]),
            int(self._group().max()) + 1 if self.method.features else 0,
        )

    def _group(self) -> np.ndarray:
        """The feature that each number of x belongs to, where the method has features."""
        if not self.method.features:
            return np.zeros((), np.int32)
        shape = self.x.shape[1:]
        given = self.wish.groups
        if given is None:
            return groups_of(self.recorded, self.subject.name, shape, self.wish.options.window)
        if given.shape != shape or given.dtype.kind not in "iu" or given.min() < 0:
            raise fail(
                "E0750",
                f"the features are {given.dtype}{list(given.shape)}, and an example is "
                f"{list(shape)}",
                help="each number of an example has the number of its feature, from 0",
            )
        return given.astype(np.int32)


def blurred(x: np.ndarray) -> np.ndarray:
    """Examples [n, …, c] convolved with a normal density along all dimensions between, whose
    deviation is an eighth of each."""
    found = x.astype(np.float64)
    for axis in range(1, x.ndim - 1):
        size = x.shape[axis]
        distance = np.arange(size)[:, None] - np.arange(size)
        kernel = np.exp(-(distance**2) / (2 * max(size / BLURRED, 0.5) ** 2))
        kernel /= kernel.sum(axis=1, keepdims=True)
        found = np.moveaxis(np.tensordot(kernel, found, axes=(1, axis)), 0, axis)
    return found.astype(x.dtype)


def _options(method: Method, options: Options, shape: tuple[int, ...]) -> Options:
    """The options with windows for every dimension. UserError E0750 for windows that fit no
    example."""
    if not method.windows:
        return options
    if len(shape) > BLOCK:
        message = f"windows move along {BLOCK} dimensions, and an example has {len(shape)}"
        raise fail("E0750", message, help="shapley has features of any shape")
    window = _along(options.window, shape, _window(shape), shape, "the window")
    half = tuple(max(1, side // 2) for side in window)
    stride = _along(options.stride, shape, half, window, "the stride")
    stride = tuple(min(a, b) for a, b in zip(stride, window, strict=True))
    return replace(options, window=window, stride=stride)


def _window(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A window where none is asked for: an eighth of an image, one number or position."""
    if len(shape) == 3:
        return (*(max(1, size // 8) for size in shape[:2]), shape[2])
    return (
        (1, *shape[1:]) if len(shape) < 3 else (1, *(max(1, n // 8) for n in shape[1:3]), shape[3])
    )


def _along(
    given: tuple[int, ...] | None,
    shape: tuple[int, ...],
    usual: tuple[int, ...],
    most: tuple[int, ...],
    what: str,
) -> tuple[int, ...]:
    """A size for each dimension: one number is that of all but the channels."""
    if given is None:
        return usual
    places = max(1, len(shape) - 1)
    full = given * places if len(given) == 1 else given
    if len(full) < len(shape):
        full = (*full, *most[len(full) :])
    if len(full) != len(shape) or any(not 0 < n <= m for n, m in zip(full, most, strict=True)):
        raise fail(
            "E0750",
            f"{what} {'×'.join(map(str, given))} does not fit {'×'.join(map(str, most))}",
            help="it has a number for each dimension, or one for all but the channels",
        )
    return full
