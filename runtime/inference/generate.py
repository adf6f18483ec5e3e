"""Text from a trained model, one token's work per token.

In: a model that maps tokens to logits, its weights, a prompt or a source. Out: tokens, one after
the other. The step for one position is derived by the compiler (`compiler/programs.py`), as is what
can be computed before the first, such as an encoder; this file feeds it, draws from its logits, and
begins anew with the last quarter of the window when that is full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...compiler.elaboration.train_block import Setup, with_sizes
from ...compiler.ir.equation import System, Tensor
from ...compiler.ir.expr import Read, walk
from ...compiler.passes.equations.incremental_decoding import POSITION, NotIncremental
from ...compiler.pipeline import derive
from ...compiler.programs import decoding, prediction
from ...dsl.diagnostics.diagnostic import UserError, fail
from ...dsl.syntax import ast as s
from ..device import Device, Prepared, Program


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. `temperature` divides the logits (0: always the likeliest); then only
    the `top_k` likeliest are kept, then the fewest whose chances add up to `top_p`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def draw(self, logits: np.ndarray, generator: np.random.Generator) -> int:
        """One token number from logits [n]."""
        # in double precision: sums over a large vocabulary decide which token a draw hits
        wide = logits.astype(np.float64).reshape(-1)
        if self.temperature == 0:
            # greedy decoding: no random number is used at all
            return int(wide.argmax())
        # softmax's exponent: with the maximum at 0, exp cannot overflow; the sum need not be 1
        wide -= np.maximum.reduce(wide)
        if self.temperature != 1:
            wide /= self.temperature
        if self.top_k is None and self.top_p is None:
            return sample_index(np.exp(wide, wide), generator)
        # stable: of equal logits the token with the smaller number comes first, on every machine
        order = np.argsort(-wide, kind="stable")[: self.top_k]
        chances = np.exp(wide[order])
        # Nucleus sampling: up to and with the token at which the sum reaches `top_p` of the whole.
        if self.top_p is not None:
            up_to = np.cumsum(chances)
            chances = chances[: int(np.searchsorted(up_to, self.top_p * up_to[-1])) + 1]
        return int(order[sample_index(chances, generator)])


def sample_index(chances: np.ndarray, generator: np.random.Generator) -> int:
    """A place drawn with these chances, which add up to any number."""
    # inverse transform sampling: a uniform number, looked up in the cumulative sums
    up_to = np.add.accumulate(chances)
    return int(up_to.searchsorted(generator.random() * up_to.item(-1), "right"))


@dataclass(frozen=True)
class TextRoles:
    """What generation needs of a model: tokens [1, T] in, logits [1, T, n] out, and what else it is
    `given`."""

    source: Tensor
    output: Tensor
    given: tuple[Tensor, ...]

    @property
    def window(self) -> int:
        return self.source.shape[1]


def text_roles(system: System) -> list[TextRoles]:
    """Which input may hold the tokens and which result the logits for the token after each of them;
    one at least. UserError E0712 if no input and result of the model are such two."""
    # `step` and `seed` are set by whoever runs the program and are no data
    inputs = [t for t in system.of_kind("input") if t.name not in ("step", "seed")]
    tokens = [t for t in inputs if len(t.shape) == 2 and t.dtype in ("i32", "i64", "u8", "i8")]
    if not tokens:
        raise fail(
            "E0712",
            f"`{system.name}` does not generate text",
            help="an input must be tokens, like `token: i32[B, T]`",
        )
    results = [system.tensors[n] for n in system.outputs]
    # Which input feeds which result is not known by name: every pair whose positions agree.
    found = [
        TextRoles(source, output, tuple(t for t in inputs if t is not source))
        for source in tokens
        for output in results
        if len(output.shape) == 3 and output.shape[1] == source.shape[1]
    ]
    if not found:
        raise fail(
            "E0712",
            f"`{system.name}` does not generate text",
            help="a result must be logits for every position, as `f32[B, T, n]`",
        )
    return found


def longest_window(setup: Setup) -> System:
    """The prediction with which texts are written: the tokens, and the texts that the model is
    given, are as long as the declared maximum of their size (`T <= 512`), if there is one and no
    parameter depends on it."""
    system = prediction(setup)
    roles = text_roles(system)[0]
    texts = [roles.source, *(t for t in roles.given if len(t.shape) == 2)]
    symbols = {_symbol_of(setup, text.name) for text in texts} & setup.limits.keys()
    if not symbols:
        return system
    try:
        longest = prediction(with_sizes(setup, {name: setup.limits[name] for name in symbols}))
    except UserError:  # the program is right for some sizes only
        return system
    kept = [t for t in longest.tensors.values() if t.kind in ("param", "state")]
    same = all(t.shape == system.tensors[t.name].shape for t in kept)
    return longest if same else system


def _symbol_of(setup: Setup, name: str) -> str:
    """The symbol of the second dimension of an input; empty if that has none."""
    inputs = setup.definitions[setup.train.model.id].inputs
    type = next(p.type for p in inputs if p.name == name)
    pattern = (type and type.shape) or ()
    return pattern[1].id if len(pattern) > 1 and isinstance(pattern[1], s.Name) else ""


class Snapshot(NamedTuple):
    """Where a model is in a text: its memory, the tokens that it has read, and their number since
    the window began."""

    memory: tuple[np.ndarray, ...]
    past: tuple[int, ...]
    position: int


class Generator:
    """A model ready to write. Feed tokens with `feed`; it gives the next logits. A model that is
    given more than these tokens, such as a sentence to translate, gets it first, with `give`."""

    def __init__(self, system: System, weights: Mapping[str, np.ndarray], device: Device):
        """`system` is the model's prediction for one example.

        UserError E0712 if it maps no tokens to logits, or if a result depends on later tokens.
        """
        # `first` is, for example, the encoder of a translator: computed once, not for every token
        self.roles, first, step = decoding_step(system, weights, device)
        self.handed = first.outputs
        # a plain language model has nothing to compute before the first token
        self.first = device(first) if first.equations else None
        self.program: Program = device(step)
        # The weights stay: what follows from them alone is computed in the first run only.
        program = self.program
        self._run, self._again = program.run, program.run
        if isinstance(program, Prepared):
            self._again = program.run_again
        if self.first is not None:
            load_weights(weights, self.first, first)
        load_weights(weights, self.program, step)
        arrays = self.program.arrays
        # states of the step that the model itself has not: kept keys and values, hidden states
        self.memory = [arrays[t.name] for t in step.of_kind("state") if t.name not in weights]
        # only models that read their position have that input
        self._token, self._at = arrays[self.roles.source.name], arrays.get(POSITION)
        self._logits = arrays[self.roles.output.name].reshape(-1)
        self._window = self.roles.window
        self.bounded = is_bounded(step)
        self.past: list[int] = []
        self.position = 0
        # all zeros until the caller gives something: what follows from zeros must be right, too
        self.give({})

    @property
    def programs(self) -> tuple[Program, ...]:
        return (self.program,) if self.first is None else (self.first, self.program)

    def give(self, values: Mapping[str, np.ndarray]) -> None:
        """Inputs other than the tokens, by name; what follows from them alone is computed here,
        once for all tokens. Begins anew."""
        # either program may read an input, or both
        for program in self.programs:
            for name in values.keys() & program.arrays.keys():
                program.arrays[name][...] = values[name]
        if self.first is not None:
            self.first.run()
            # the results of the first program are inputs of the step
            for name in self.handed:
                self.program.arrays[name][...] = self.first.arrays[name]
        self.restart()
        self.past.clear()

    def feed(self, token: int) -> np.ndarray:
        """One more token; the logits [n] for the one after it."""
        # The window is full: begin anew with its last quarter, which is read again. So reading
        # again happens once in 3/4 of a window, and a quarter of the context survives.
        if self.bounded and self.position == self._window:
            recent = self.past[len(self.past) - self._window // 4 :]
            self.restart()
            for old in recent:
                self._advance(old)
        self._advance(token)
        self.past.append(token)
        return self._logits

    def restart(self) -> None:
        """Forget all that was read."""
        for array in self.memory:
            array[...] = 0
        self.position = 0

    def snapshot(self) -> Snapshot:
        """What the model remembers now, to go on from here again."""
        return Snapshot(tuple(a.copy() for a in self.memory), tuple(self.past), self.position)

    def restore(self, state: Snapshot) -> None:
        """Go back to where a snapshot was made; the source must be the same."""
        for array, kept in zip(self.memory, state.memory, strict=True):
            array[...] = kept
        self.past[:] = state.past
        self.position = state.position

    def _advance(self, token: int) -> None:
        self._token[...] = token
        if self._at is not None:
            self._at[...] = self.position
        self._run()
        self._run = self._again
        self.position += 1

    def tokens(
        self,
        prompt: Sequence[int],
        count: int,
        sampling: Sampling,
        seed: int,
        known: int | None = None,
        end: int | None = None,
    ) -> Iterator[int]:
        """`count` tokens that continue the prompt, which holds at least one, or fewer, if `end` is
        drawn, which is not among them. Only the first `known` are drawn, if the model has more than
        its vocabulary."""
        # its own generator: the same seed writes the same text whatever ran before
        generator = np.random.default_rng(seed)
        *before, token = prompt
        # the prompt's tokens fill the memory; only the logits after the last one are drawn from
        for earlier in before:
            self.feed(earlier)
        for _ in range(count):
            token = sampling.draw(self.feed(token)[:known], generator)
            if token == end:
                return
            yield token


def is_bounded(step: System) -> bool:
    """Whether positions end with the window: something is kept for each of them, or read at
    them (a table of positions). A recurrence goes on for ever."""
    # What is kept for every position takes its next value where the position is; the hidden state
    # of a recurrence takes it whole.
    if any(POSITION in step.definition[name].sources for name in step.updates.values()):
        return True
    return any(
        isinstance(node, Read) and node.tensor == POSITION
        for eq in step.equations
        for read in eq.reads
        for place in read.index
        for node in walk(place)
    )


def decoding_step(
    system: System, weights: Mapping[str, np.ndarray], device: Device
) -> tuple[TextRoles, System, System]:
    """The first roles in which the model can be evaluated position by position, and the programs
    that do so: what is computed once, and one position's step. UserError E0712 if there are none,
    or if a result depends on later tokens."""
    found, reasons = text_roles(system), []
    # rounded as the precision says, which is how the model was trained
    system = derive(system)
    # The first pair that can be taken apart wins; the reasons of the others are dropped.
    for each in found:
        try:
            first, step = decoding(system, each.source.name, each.output.name)
        except NotIncremental as error:
            reasons.append(str(error))
            continue
        # numbers decide what the analysis of indices cannot see, such as a mask that is data
        check_causal(system, each, weights, device)
        return each, first, step
    # if the model looks ahead, that explains better why it cannot be taken apart
    check_causal(system, found[0], weights, device)
    raise fail("E0712", f"`{system.name}` cannot be evaluated token by token: {reasons[0]}")


def check_causal(
    system: System, found: TextRoles, weights: Mapping[str, np.ndarray], device: Device
) -> None:
    """UserError E0712 if changing later tokens changes what comes before them."""
    program = device(system)
    load_weights(weights, program, system)
    source, logits = (program.arrays[t.name] for t in (found.source, found.output))
    # The logits for the first half may depend only on the first half of the tokens.
    half, vocabulary = found.window // 2, found.output.shape[2]
    source[...] = np.random.default_rng(0).integers(0, vocabulary, found.source.shape)
    program.run()
    first = logits[:, :half].copy()
    # every later token becomes another one
    source[:, half:] = (source[:, half:] + 1) % vocabulary
    program.run()
    if not np.allclose(first, logits[:, :half], rtol=1e-5, atol=1e-6):
        raise fail(
            "E0712",
            f"`{system.name}` looks ahead: its results depend on later tokens",
            help="attention must be causal, and recurrences run forward",
        )


def load_weights(weights: Mapping[str, np.ndarray], program: Program, system: System) -> None:
    """Give a program the params and states of the model, those that it has."""
    # a program has only those that it reads
    for tensor in system.tensors.values():
        if tensor.kind in ("param", "state") and tensor.name in weights:
            program.arrays[tensor.name][...] = weights[tensor.name]
