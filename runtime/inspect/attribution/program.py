"""The program of an attribution: the trained model, one number of its results, and a method of the
library, composed in the language.

    model Attribution(x: f32[8, 8, 1], baseline: f32[8, 8, 1], place: i32[1]) -> map, scores {
        net = Digits
        points = straight_path(x, baseline, 64)
        tried = concat(points, stack(x, baseline), axis = 0)
        logits = net(tried)
        scores[s] = logits[s, place[0]]
        score[s < 64] = scores[s]
        map = integrated_gradients(score, points, x, baseline)
    }

The layer `net` has the weights of the model. Where the example is not an input but a tensor inside
the model, such as an embedding or a feature map, the model is given its own inputs, repeated, and
`tried` is patched into it in the place of that tensor. The last two scores are those of x and of
the baseline. Tests: tests/runtime/test_attribution.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np

from ....compiler.elaboration.selection import tensor_within
from ....compiler.elaboration.train_block import Setup
from ....dsl.check.library import standard_library
from ....dsl.check.names import Definitions
from ....dsl.diagnostics.diagnostic import Report, UserError, fail
from ....dsl.syntax import ast as s
from ....dsl.syntax.parser import parse
from ....dsl.syntax.source import Source
from ...compiling import compiling
from ...project import empty_block
from ...training.executor import Executor
from .methods import BLOCK, Method, Options

NAME, LAYER, TRIED = "Attribution", "net", "tried"
INDICES = ("i", "j", "k", "l", "m", "n", "p", "q")
KEPT = 4  # programs of one model
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What is composed: `shape` is that of what is attributed to, `inputs` the types and shapes of
    one example of the model's inputs, `patched` the name of the tensor inside the model that stands
    for x, or empty where x is the input `subject`; `result` is read at as many places as it has
    dimensions, `rank`."""

    method: Method
    options: Options
    shape: Shape
    inputs: tuple[tuple[str, str, Shape], ...]
    subject: str
    patched: str
    result: str
    rank: int
    features: int = 0


class AttributionProgram:
    """The compiled program of a plan, for one example at a time."""

    @compiling()
    def __init__(self, executor: Executor, plan: Plan):
        self.plan = plan
        setup = _setup(executor, program_text(executor.definition, plan))
        try:
            if plan.patched:
                alone = _setup(executor, _applied_text(executor.definition, plan))
                tensor = tensor_within(alone, LAYER, plan.patched)
                if tensor is None:
                    raise _not_stored(plan.patched)
                setup = replace(setup, patch=(tensor, TRIED))
            self._executor = Executor(setup, executor.device, executor.seed)
            self._executor.weight_names  # noqa: B018 - elaborates
        except UserError as error:
            raise _explained(error, executor.definition, plan) from error

    def take(self, weights: Mapping[str, np.ndarray]) -> None:
        """Compute with these weights of the model, in its order: a name that something else has in
        the model may be free in the layer."""
        self._executor.take(dict(zip(self._executor.weight_names, weights.values(), strict=True)))

    def run(
        self,
        values: Mapping[str, np.ndarray],
        inputs: Mapping[str, np.ndarray],
        place: Sequence[int],
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The map of an example, and the scores of all points. `values` are x, the baseline, and
        the groups of features; `inputs` the model's own, by name."""
        given = {"place": np.array(place, np.int32), **values}
        given |= {_other(n): inputs[name] for n, (name, *_) in enumerate(self.plan.inputs)}
        try:
            with self._executor.prediction(1) as program:
                program.seed(seed)
                program.step[...] = 1
                for name, array in program.fields:
                    array[...] = given[name].reshape(array.shape)
                program.compute(np.zeros(1, np.int64), 1)
                results = {name: array.copy() for name, array in program.results.items()}
        except UserError as error:
            raise _too_large(error) from error
        return results["map"], results["scores"]


_PROGRAMS: WeakKeyDictionary[Executor, dict[Plan, AttributionProgram]] = WeakKeyDictionary()


@compiling()
def program_of(executor: Executor, plan: Plan) -> AttributionProgram:
    """The program of a plan with the executor's weights, made when it is first needed; the last few
    are kept, for further calls."""
    known = _PROGRAMS.setdefault(executor, {})
    found = known.pop(plan, None)
    if found is None:
        found = AttributionProgram(executor, plan)
        found.take(executor.weights())
    known[plan] = found
    for old in list(known)[:-KEPT]:
        del known[old]
    return found


def program_text(model: s.Definition, plan: Plan) -> str:
    """The text of the program."""
    shape = (*(1,) * (BLOCK - len(plan.shape)), *plan.shape) if plan.method.windows else plan.shape
    lines = plan.method.lines(shape, blocked(plan.options), plan.features)
    types = {"x": _type("f32", shape), "baseline": _type("f32", shape)}
    if plan.rank:
        types["place"] = _type("i32", (plan.rank,))
    if plan.method.features:
        types["group"] = _type("i32", shape)
    given = []
    for number, (name, dtype, own) in enumerate(plan.inputs):
        if name == plan.subject and not plan.patched:
            given.append(f"{name} = {TRIED}")
            continue
        types[_other(number)] = _type(dtype, own)
        given.append(f"{name} = repeated({_other(number)}, {lines.count + 2})")
    results = ", ".join("out" if r.name == plan.result else "_" for r in model.results)
    places = "".join(f", place[{n}]" for n in range(plan.rank))
    body = [
        f"{LAYER} = {model.name}",
        lines.points,
        *_tried(plan, shape),
        f"{results} = {LAYER}({', '.join(given)})",
        f"scores[s] = out[s{places}]",
        f"score[s < {lines.count}] = scores[s]",
        lines.map,
    ]
    head = ", ".join(f"{name}: {type}" for name, type in types.items())
    return f"model {NAME}({head}) -> map, scores {{\n    " + "\n    ".join(body) + "\n}\n"


def _applied_text(model: s.Definition, plan: Plan) -> str:
    """The model applied as the layer alone, to see what it calls its tensors there."""
    types = {name: _type(dtype, (1, *own)) for name, dtype, own in plan.inputs}
    head = ", ".join(f"{name}: {type}" for name, type in types.items())
    results = ", ".join("out" if r.name == plan.result else "_" for r in model.results)
    body = [f"{LAYER} = {model.name}", f"{results} = {LAYER}({', '.join(types)})"]
    return f"model {NAME}({head}) -> out {{\n    " + "\n    ".join(body) + "\n}\n"


def _tried(plan: Plan, shape: Shape) -> list[str]:
    """The points, with x and the baseline after them, in the shape that the model takes."""
    if len(shape) == len(plan.shape):
        return [f"{TRIED} = concat(points, stack(x, baseline), axis = 0)"]
    own = list(INDICES[: len(plan.shape)])
    zeros = ["0"] * (len(shape) - len(plan.shape))
    return [
        "all = concat(points, stack(x, baseline), axis = 0)",
        f"{TRIED}[{', '.join(['s', *own])}] = all[{', '.join(['s', *zeros, *own])}]",
    ]


def blocked(options: Options) -> Options:
    """Windows along as many dimensions as the library's functions have."""
    if options.window is None or options.stride is None:
        return options
    ones = (1,) * (BLOCK - len(options.window))
    return replace(options, window=(*ones, *options.window), stride=(*ones, *options.stride))


def _type(dtype: str, shape: Shape) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"


def _other(number: int) -> str:
    """The name here of the model's input of this number."""
    return f"given{number + 1}"


def _setup(executor: Executor, text: str) -> Setup:
    source = Source("attribution.nn", text)
    report = Report()
    definition = next(d for d in parse(source, report).declarations if isinstance(d, s.Definition))
    report.check()
    known, model = executor.setup.definitions, executor.definition
    scopes = dict(known.scopes) if isinstance(known, Definitions) else {}
    # The functions are the library's own, whatever the program calls its definitions.
    scopes[source] = {**standard_library(), model.name: model}
    definitions = Definitions({**known, definition.name: definition}, scopes)
    return replace(
        executor.setup,
        definitions=definitions,
        train=empty_block(definition),
        sizes={},
        fields=None,
        batch=1,
        whole=None,
        steps=None,
        limits={},
        turn=(),
        accumulate=1,
        private=None,
    )


# --- mistakes -------------------------------------------------------------------------------------


def _not_stored(name: str) -> UserError:
    return fail(
        "E0750",
        f"`{name}` is no tensor that the model computes by an equation of its own",
        help="name a layer, or what an equation of the model computes: `h = …`",
    )


def _explained(error: UserError, model: s.Definition, plan: Plan) -> UserError:
    """What the composed program's mistakes say of the user's model."""
    codes = {d.code for d in error.diagnostics}
    what = plan.patched or plan.subject
    fixed = [p for p in model.inputs if p.type and p.type.shape and _is_number(p.type.shape[0])]
    if fixed:
        return fail(
            "E0750",
            f"`{model.name}` takes a fixed number of examples",
            fixed[0].span,
            help="attribution evaluates it at many points at once: let its first size have a name, "
            "such as `B`",
        )
    if "E0321" in codes:
        return fail(
            "E0750",
            f"`{plan.result}` does not depend on `{what}` through real numbers",
            model.name_span,
            help="choose another tensor with `at`, or another result with `result`",
        )
    return error


def _is_number(size: s.Expr) -> bool:
    return isinstance(size, s.Number)


def _too_large(error: UserError) -> UserError:
    """Fewer points are what helps where memory is short."""
    help = "fewer steps or samples, or a larger stride, take less"
    return UserError(replace(d, help=help) if d.code == "E0713" else d for d in error.diagnostics)
