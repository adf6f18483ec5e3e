"""What the results of a model stand for: classes with probabilities, a yes or no, numbers of
columns.

In: a program and what its run keeps of its data. Out: a `Meaning` for each result that has one. It
follows from what the loss and the metrics compare a result with: `cross_entropy(logits, label)`
says that `logits` are unnormalized logarithms of the probabilities of the classes of `label`, since
that is what the inputs of this function of the library are called. Functions of the program are
looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...dsl.check.names import seen_from
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..project import Project

SOFTMAX, SIGMOID, PROBABILITY, NUMBERS, SCORES, TOKENS, OBJECTS = (
    "softmax", "sigmoid", "probability", "numbers", "scores", "tokens", "objects"
)  # fmt: skip
# what a function calls the result and what it is compared with → what the result is
COMPARED: dict[tuple[str, str], str] = {
    ("logits", "label"): SOFTMAX,
    ("logits", "target"): SOFTMAX,
    ("logit", "target"): SIGMOID,
    ("probability", "target"): PROBABILITY,
    ("prediction", "target"): NUMBERS,
}
# `edit_distance` and `error_rate` compare tokens with tokens
DISTANCE = ("x", "y", "x_length", "y_length")
# the average precisions compare tables of boxes, with their scores and classes
BOXES = ("box", "score", "class", "truth", "truth_class", "truth_count")
MAX_DEPTH = 8  # of functions that apply each other


@dataclass(frozen=True)
class Meaning:
    """What a result is (`SOFTMAX` to `OBJECTS`), and the field of the data that it was compared
    with; empty if that is an expression. `others` are results that belong to it: the number of its
    tokens, if there is one; the scores and classes of its boxes."""

    kind: str
    field: str
    others: tuple[str, ...] = ()


def meanings(project: Project) -> dict[str, Meaning]:
    """The meanings of the model's results, by name; none without a train block."""
    if project.train is None:
        return {}
    results = [p.name for p in project.model.results]
    found: dict[str, Meaning] = {}
    values = [
        item.value
        for item in project.train.body
        if isinstance(item, s.Loss | s.Metric)
        or (isinstance(item, s.Field) and item.name.id == "loss")
    ]
    names = {name: name for name in (*results, *_fields(values))}
    compared = [one for value in values for one in _compared(value, project, names, 0)]
    # The loss says most; scores are what is only known to be largest for the right class.
    for scores in (False, True):
        for result, meaning in compared:
            if result in results and (meaning.kind == SCORES) == scores:
                found.setdefault(result, meaning)
    return found


def _fields(values: list[s.Expr]) -> set[str]:
    return {node.id for value in values for node in walk(value) if isinstance(node, s.Name)}


def _compared(
    value: object, project: Project, names: Mapping[str, str], depth: int
) -> Iterator[tuple[str, Meaning]]:
    """What an expression compares with what; `names` are those of the train block, by the names
    that they have here."""
    for node in walk(value):
        match node:
            case s.Pipe(value=first, stage=s.Call(function=s.Name() as function, arguments=rest)):
                yield from _of_call(
                    function, (s.Argument(first.span, None, first), *rest), project, names, depth
                )
            case s.Call(function=s.Name() as function, arguments=arguments):
                yield from _of_call(function, arguments, project, names, depth)
            case s.Binary(op="==", left=s.Call(function=s.Name(id="argmax"), arguments=(one,))):
                if (result := _name(one.value, names)) and (field := _name(node.right, names)):
                    yield result, Meaning(SCORES, field)


def _of_call(
    function: s.Name,
    arguments: tuple[s.Argument, ...],
    project: Project,
    names: Mapping[str, str],
    depth: int,
) -> Iterator[tuple[str, Meaning]]:
    definitions = seen_from(project.checked.definitions, function.span.source)
    definition = definitions.get(function.id)
    if definition is None or definition.kind != "fn" or depth == MAX_DEPTH:
        return
    places = [p.name for p in definition.inputs]
    positional = [a.value for a in arguments if a.name is None]
    given = dict(zip(places, positional, strict=False))
    given |= {a.name: a.value for a in arguments if a.name}
    for (left, right), kind in COMPARED.items():
        if left in given and right in given and (result := _name(given[left], names)):
            yield result, Meaning(kind, _name(given[right], names))
            return
    if all(name in given for name in DISTANCE):
        tokens, field, length, _ = (_name(given[name], names) for name in DISTANCE)
        if tokens:
            yield tokens, Meaning(TOKENS, field, (length,) if length else ())
        return
    if all(name in given for name in BOXES):
        boxes, score, of, _, field, _ = (_name(given[name], names) for name in BOXES)
        if boxes and score and of:
            yield boxes, Meaning(OBJECTS, field, (score, of))
        return
    inner = {place: name for place, v in given.items() if (name := _name(v, names))}
    for part in (definition.body, definition.value):
        yield from _compared(part, project, inner, depth + 1)


def _name(value: s.Expr, names: Mapping[str, str]) -> str:
    """The name in the train block of what stands here; empty if it is no name."""
    return names.get(value.id, "") if isinstance(value, s.Name) else ""
