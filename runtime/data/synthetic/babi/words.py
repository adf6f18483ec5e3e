"""The words of the twenty tasks, and the draws that stories are made by."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations, permutations
from typing import NamedTuple, TypeVar

import numpy as np

from ...core.vocabulary import PAD, Vocabulary

T = TypeVar("T")

PEOPLE = ("ann", "ben", "cleo", "dan")
PRONOUNS = {"ann": "she", "ben": "he", "cleo": "she", "dan": "he"}
PLACES = ("attic", "cellar", "garage", "garden", "kitchen", "library")
ROOMS = (*PLACES, "bathroom", "bedroom")
THINGS = ("ball", "bottle", "lamp")
WENT = ("went to", "walked to", "hurried to", "ran to")
TOOK = ("took", "grabbed", "picked up")
DROPPED = ("dropped", "put down", "threw away")
GAVE = ("gave", "handed", "passed")
THEN = ("then", "afterwards", "next")
TIMES = ("yesterday", "this morning", "this afternoon", "this evening")
NUMBERS = ("none", "one", "two", "three")
# one and several of a kind
ANIMALS = {"cat": "cats", "dog": "dogs", "mouse": "mice", "fox": "foxes", "goose": "geese"}
NAMES = ("greta", "hugo", "ida", "jack", "kim", "leo")
COLOURS = ("black", "brown", "grey", "white")
SHAPES = tuple(
    f"{colour} {shape}" for colour in ("red", "blue", "green") for shape in ("square", "circle")
)
SIDES = {
    "above": (0, 1), "below": (0, -1), "to the left of": (-1, 0), "to the right of": (1, 0),
}  # fmt: skip
VESSELS = ("tin", "jar", "bag", "box", "basket", "drawer", "suitcase", "chest")  # mostly in order
DIRECTIONS = {"north": (0, 1), "south": (0, -1), "west": (-1, 0), "east": (1, 0)}
# how somebody feels, where they go for it, and what they take there
MOTIVES = {
    "hungry": ("kitchen", "bread"), "thirsty": ("cellar", "bottle"),
    "tired": ("attic", "pillow"), "bored": ("garden", "ball"),
}  # fmt: skip
SMALL_WORDS = (
    "a afraid and are before bigger carrying colour did do does either fit fits from give go how",
    "in inside is longer many no of or than the they things to was what where who why will you",
    "received take",
)


def _separate(*texts: str) -> list[str]:
    return [word for text in texts for word in text.split()]


VOCABULARY = Vocabulary(
    "words",
    tuple(
        sorted(
            {
                *_separate(
                    *PEOPLE, *PRONOUNS.values(), *ROOMS, *THINGS, *WENT, *TOOK, *DROPPED, *GAVE,
                    *THEN, *TIMES, *ANIMALS, *ANIMALS.values(), *NAMES, *COLOURS, *SHAPES, *SIDES,
                    *VESSELS, *DIRECTIONS, *MOTIVES, *chain(*MOTIVES.values()),
                    *SMALL_WORDS,
                )
            }
        )
    ),
    (PAD,),
)  # fmt: skip

_CARRIED = [",".join(some) for size in (2, 3) for some in combinations(THINGS, size)]
_ROUTES = [
    f"{first},{second}"
    for first, second in permutations(DIRECTIONS, 2)
    if any(a + b for a, b in zip(DIRECTIONS[first], DIRECTIONS[second], strict=True))
]
_STRAIGHT = [f"{way},{way}" for way in DIRECTIONS]
# What a question may be answered with; lists and routes are one answer each.
ANSWERS = tuple(
    dict.fromkeys(
        (
            *ROOMS, *PEOPLE, *THINGS, "yes", "no", "maybe", *NUMBERS, "nothing", *_CARRIED,
            *ANIMALS, *COLOURS, *_ROUTES, *_STRAIGHT, *MOTIVES,
        )
    )
)  # fmt: skip


class Story(NamedTuple):
    """Statements in their order, what is asked after the last one, and the answer."""

    statements: list[str]
    question: str
    answer: str


class Draws:
    """Random choices, the same for a seed on every machine and with every version of NumPy."""

    def __init__(self, *seed: int) -> None:
        self._random = np.random.RandomState(seed)
        self._drawn: list[float] = []

    def below(self, count: int) -> int:
        """A whole number from 0 up to `count`, without it."""
        if not self._drawn:  # many at a time, as single draws are slow
            self._drawn = self._random.random_sample(4096).tolist()
        return int(self._drawn.pop() * count)

    def between(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        return least + self.below(most - least + 1)

    def one(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def some(self, choices: Sequence[T], count: int) -> list[T]:
        """Different ones, in any order."""
        left = list(choices)
        return [left.pop(self.below(len(left))) for _ in range(count)]

    def shuffled(self, choices: Sequence[T]) -> list[T]:
        return self.some(choices, len(choices))

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent
