"""How far a map can be trusted: whether it depends on what the model has learnt, and whether what
it marks matters to the model.

    randomised       the weights are drawn anew, layer by layer from the result to the input, and
                     the map is made again: a method whose maps hardly change shows the input and
                     not the model. Adebayo et al. 2018, arXiv:1810.03292
    deletion         the area under the score's curve while the baseline takes the place of the
    insertion        marked elements, strongest first, and while these come back into the baseline.
                     Petsiuk et al. 2018, arXiv:1806.07421
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...inference.meanings import SIGMOID, SOFTMAX, Meaning
from ...inference.values import softmax
from ...training.executor import Executor
from .attribute import Attribution, Attributor
from .methods import CURVE, CURVES, Options
from .program import AttributionProgram, program_of

OTHER_SEED = 0x5EED  # of the weights that take the place of the learnt ones


@dataclass(frozen=True)
class Randomised:
    """The rank correlation of the maps with those of the trained model, when the weights from the
    result down to this layer were drawn anew; None where a map has equal values throughout."""

    layer: str
    correlation: float | None


def randomised(attributor: Attributor, found: Sequence[Attribution]) -> list[Randomised]:
    """The maps under weights that are drawn anew, cascading from the last layer to the first."""
    executor = attributor.executor
    other = Executor(executor.setup, executor.device, executor.seed)
    program = AttributionProgram(executor, attributor.plan)
    drawn = executor.first_weights(executor.seed ^ OTHER_SEED)
    weights, rows = dict(executor.weights()), []
    for layer, names in reversed(_by_layer(attributor).items()):
        weights |= {name: drawn[name] for name in names}
        other.take(dict(weights))
        pairs = zip(attributor.maps_of(other, program), found, strict=True)
        values = [rank_correlation(new.values, old.values) for new, old in pairs]
        known = [value for value in values if value is not None]
        rows.append(Randomised(layer, sum(known) / len(known) if known else None))
    return rows


def _by_layer(attributor: Attributor) -> dict[str, list[str]]:
    """The weights by the layer of the model that has them, in the model's order; one of the model's
    own is a layer by itself."""
    layers = list(attributor.executor.layers)
    found: dict[str, list[str]] = {}
    for name in attributor.executor.weight_names:
        owner = next((layer for layer in layers if name.startswith(f"{layer}_")), name)
        found.setdefault(owner, []).append(name)
    return found


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's coefficient of the values at the same places; None if either has no order."""
    first, second = _ranks(a.reshape(-1)), _ranks(b.reshape(-1))
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / norm) if norm else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value in their order; equal ones have the mean of their places."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place], np.float64)


# --- curves ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """The areas under the curves of the probability, or of the score where there is none: small of
    deletion and large of insertion where the map is right."""

    deletion: float
    insertion: float


def curves(
    attributor: Attributor, row: int, found: Attribution, meaning: Meaning | None
) -> Curves | None:
    """The curves of an example's map; None where it is no map of the elements of an input or of a
    tensor inside, nor of tokens, nor of the places of an image."""
    subject, plan = attributor.subject, replace(attributor.plan, method=CURVES, options=Options())
    x, baseline = attributor.x[row], attributor.baseline[row]
    values, tokens = found.values, None
    if subject.tokens and values.ndim == 1:
        # A token is deleted with all numbers of its vector.
        tokens, values = attributor.token_count(row), np.broadcast_to(values[:, None], x.shape)
    elif subject.is_inside and values.shape != x.shape:
        name = _image(attributor) if values.ndim == 2 and not subject.tokens else None
        if name is None:
            return None
        x = attributor.inputs[name][row]
        values, baseline = enlarged(values, x.shape), np.zeros_like(x)
        plan = replace(plan, shape=x.shape, subject=name, patched="")
    if values.shape != x.shape:
        return None
    given = {"x": x, "baseline": baseline, "group": _turns(values, tokens)}
    program = program_of(attributor.executor, plan)
    results, _ = program.run(given, attributor.inputs_of(row), found.place, 0)
    chances = _chances(results[:-2], found.place, meaning).reshape(2, -1)
    return Curves(*map(float, ((chances[:, 1:] + chances[:, :-1]) / 2).mean(axis=1)))


def _turns(values: np.ndarray, tokens: int | None) -> np.ndarray:
    """The step, from 1 to CURVE, at which each element is deleted, the largest value first. Of
    `tokens` the numbers of one have their turn together, and padding never has."""
    order = values[:, 0][:tokens] if tokens is not None else values.reshape(-1)
    rank = np.empty(len(order), np.int32)
    rank[np.argsort(-order, kind="stable")] = np.arange(len(order))
    turns = rank * CURVE // max(1, len(order)) + 1
    if tokens is None:
        return turns.reshape(values.shape)
    whole = np.full(len(values), CURVE + 1, np.int32)
    whole[:tokens] = turns
    return np.broadcast_to(whole[:, None], values.shape)


def _image(attributor: Attributor) -> str | None:
    """The one input of real numbers, if its examples are images."""
    real = [name for name, array in attributor.inputs.items() if array.dtype.kind == "f"]
    return real[0] if len(real) == 1 and attributor.inputs[real[0]].ndim == 4 else None


def enlarged(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A map [h, w] of the places of an image [H, W, c], at each of the image's elements."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(shape, values.shape, strict=False))
    return np.broadcast_to(values[rows][:, columns, None], shape)


def _chances(result: np.ndarray, place: tuple[int, ...], meaning: Meaning | None) -> np.ndarray:
    values = result.astype(np.float64)
    if meaning is not None and meaning.kind == SOFTMAX:
        values = softmax(values)
    elif meaning is not None and meaning.kind == SIGMOID:
        values = 1 / (1 + np.exp(-values))
    return np.asarray([one[place] for one in values])
