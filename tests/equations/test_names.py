"""Names of the user's are the user's: a program means the same whatever they are.

A program with every kind of name (inputs, sizes, indices, parameters, states, results, `let`s,
fields, metrics, settings, functions, layers, optimizers) is renamed at random, with names that the
compiler makes itself, words of the language, functions, and keywords of C++ among them. It computes
the same bits, and what is printed of it parses again.
"""

from __future__ import annotations

import os
import random
import re

import numpy as np
import pytest
from language.front import checked

from nnc.compiler.elaboration.train_block import Setup
from nnc.compiler.ir.dtypes import NUMPY
from nnc.compiler.ir.equation import System
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import evaluation, prediction, training_step
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.initial_values import initial_values
from nnc.dsl.check.library import standard_library
from nnc.dsl.check.train_block import TRAIN_FIELDS
from nnc.dsl.syntax.lexer_rules import KEYWORDS

from .test_round_trip import same

TEXT = """
fn «fn»(«given», «factor» = 2) = «factor» * tanh(«given»)

layer «layer»(«units»)(«inner»: [..., «n»]) -> «outer»: [..., «units»] {
    param «weight»: [«n», «units»] ~ glorot_uniform
    param «shift»: [] = 0.5
    state «seen»: [] = 1
    «seen»' = 0.9 * «seen» + 0.1
    «sum»[..., «o»] = sum(«i») «inner»[..., «i»] * «weight»[«i», «o»]
    «outer» = «sum» * «shift» + 0.01 * «seen»
}

optimizer «optimizer»(«rate» = 0.1, «decay» = 0.9) {
    state «moment» = 0
    «moment»' = «decay» * «moment» + g
    p' = p - «rate» * «moment»'
}

model M(«x»: f32[«B», «T», 3], «e»: f32[«B»]) -> «y»: f32[«B»], «q»: f32[«B», 4] {
    let «two» = 2
    param «w»: [4] ~ normal
    param «v»: [] = 0.3
    «h»[«b», «t», «j» < 4] = tanh(«x»[«b», «t», 0]*«w»[«j»] + («h»[«b», «t» - 1, «j»] else 0)*«v»)
    «d» = «h» |> «layer»(4) |> tanh |> Dense(4)
    «k»[«b», «j»] = max(«t») «d»[«b», «t», «j»]
    repeat 2 { «k» = «k» + («k» |> Dense(4) |> «fn») }
    «_unused», _ = LSTM(3)(«x»)
    «q» = «k» * «v»
    «y»[«b»] = sum(«j») «q»[«b», «j»] * «e»[«b»] / «two»
}

train M {
    input «target»: f32[«B»]
    let «scale» = 0.5
    loss      = mse(«y», «target») * «scale» + 0.001 * mean(«h»^2)
    metric «error» = mean(abs(«y» - «target»))
    metric «twice» = 2 * «error»
    optimizer = «optimizer»(«rate» = 0.1 * min(1, t / steps))
    clip      = clip_norm(1.0)
    penalty   = l2(0.01)
}
"""

KINDS = list(dict.fromkeys(re.findall("«(\\w+)»", TEXT)))
DEFINITIONS = ("fn", "layer", "optimizer")  # which are looked up among the library's
INPUTS, LOG = {"step", "seed"}, {"epoch", "step", "seconds", "loss"}
OPTIMIZER = {"p", "g", "t", "norm"}
RESERVED = {
    **{kind: INPUTS for kind in ("x", "e", "y", "q", "w", "v", "target")},
    **{kind: OPTIMIZER for kind in ("rate", "decay", "moment")},
    # a `let` of the block comes before `t` and `steps`, which the program reads
    "scale": {*TRAIN_FIELDS, "t"},
    **{kind: LOG for kind in ("error", "twice")},
}
WORDS = (
    *("t", "steps", "epochs", "training", "step", "seed", "position", "p", "g", "norm", "lr"),
    *("pi", "inf", "nan", "fan_in", "fan_out", "loss", "batch", "share", "epoch", "seconds"),
    *("optimizer", "metric", "until", "input", "f32", "i32", "bool", "e", "d", "m", "x_length"),
    *("tanh", "exp", "abs", "after", "rank", "random", "bf16", "stop", "relu", "Dense", "mse"),
    *("int", "float", "double", "for", "while", "struct", "auto", "const", "threadIdx", "AT"),
    *("b", "i", "j", "k", "l", "n", "o", "i0", "i2", "j2", "p0", "b2", "k_", "c", "u", "r"),
    *("i64", "main", "entry", "label", "ret", "B_", "_x", "_1", "__", "h_kept", "x_again"),
)


def renamed(names: dict[str, str]) -> str:
    return re.sub("«(\\w+)»", lambda found: names[found[1]], TEXT)


def setup_of(text: str) -> Setup:
    program = checked(text)
    (train,) = program.trains
    sizes = dict(zip(symbols(program), (4, 3), strict=True))
    return Setup(program.definitions, train, sizes, None, 4, 50, 5)


def symbols(program) -> list[str]:
    (model,) = program.models
    items = [item for p in model.inputs for item in p.type.shape]
    return list(dict.fromkeys(i.id for i in items if hasattr(i, "id")))


def given(system: System, drawn: System) -> dict[str, np.ndarray]:
    """Values by the position of what is given, whatever its name."""
    generator = np.random.default_rng(3)
    found = dict(initial_values(system, drawn, 1))
    for tensor in system.of_kind("input"):
        value = generator.uniform(0.1, 1, tensor.shape) if tensor.shape else np.array(7)
        found[tensor.name] = np.asarray(value, NUMPY[tensor.dtype])
    return found


def computed(text: str) -> tuple[list[np.ndarray], System]:
    """All that a training step, an evaluation and a prediction compute, by position."""
    setup = setup_of(text)
    step, drawn = training_step(setup)
    step = derive(step)
    values = given(step, drawn)
    found = evaluate(step, values)
    results = [values[t.name] for t in step.of_kind("param")]
    results += [found[name] for name in step.outputs]
    results += [found[step.updates[kept]] for kept in step.updates]
    for other in (evaluation(setup), prediction(setup)):
        # as a run has them: by name, out of the same values
        own = evaluate(
            other, {t.name: values[t.name] for t in other.tensors.values() if t.kind != "temp"}
        )
        results += [own[name] for name in other.outputs]
    return results, step


PLAIN = {kind: f"{kind}_0" if kind in KEYWORDS else kind for kind in KINDS}
EXPECTED, STEP = computed(renamed(PLAIN))
# what the compiler calls its own tensors, in this program
GENERATED = sorted(n for n in STEP.tensors if n.isidentifier())


def names(seed: int) -> dict[str, str]:
    """Names for all kinds, each once."""
    generator = random.Random(seed)
    pool = [*GENERATED, *WORDS, *(f"{n}_2" for n in PLAIN.values())]
    called = {"tanh", "Dense", "mse", "l2", "clip_norm", "LSTM", "glorot_uniform", "normal"}
    called |= {"mean", "abs", "min", "max", "sum", *standard_library(), "f32", "i32", "bool"}
    found: dict[str, str] = {}
    for kind in generator.sample(KINDS, len(KINDS)):
        wrong = {*found.values(), *RESERVED.get(kind, ())}
        if kind in DEFINITIONS:
            wrong |= called
        found[kind] = generator.choice([n for n in dict.fromkeys(pool) if n not in wrong])
    return found


@pytest.mark.parametrize("seed", range(int(os.environ.get("NNC_EXAMPLES", "12"))))
def test_renamed(seed: int) -> None:
    text = renamed(names(seed))
    results, step = computed(text)
    for number, (found, expected) in enumerate(zip(results, EXPECTED, strict=True)):
        np.testing.assert_array_equal(found, expected, err_msg=f"{number} of\n{text}")
    same(step)


def test_the_models_own_names_stand_in_the_step() -> None:
    """Whatever the compiler makes, it is what gives way."""
    for seed in range(8):
        chosen = names(seed)
        _, step = computed(renamed(chosen))
        for kind in ("x", "e", "w", "v", "target"):
            assert step.tensors[chosen[kind]].kind in ("input", "param"), chosen
