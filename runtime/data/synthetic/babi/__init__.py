"""`babi()`: stories, a question about each, and the answer: the twenty tasks of Weston et al. 2015.

Fields: `story` i32[statements, words], `question` i32[words], `answer` i32, `task` i32, 0 for the
first. Words are padded behind with 0 and stories before, so that the last statement always stands
in the last row. The paper (arXiv:1502.05698) describes the tasks and publishes stories; these are
drawn anew from its description, in other words. Each question has a story of its own, and no story
occurs twice with the same question, so no test question is among the training questions. Lists and
routes are answers of one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .....dsl.diagnostics.diagnostic import fail
from ...core.dataset import Dataset, Field, Schema, split_dataset
from ...core.source import DataSource, Request, Setting
from . import house, relations
from .words import ANSWERS, VOCABULARY, Draws, Story

MOST_TRIES = 10  # for every question that is wanted: of more, too many have occurred before


class Task(NamedTuple):
    """One of the twenty: its name in the paper, what makes a story of it (None: try again), and its
    largest numbers of statements, of words in one, and of words in the question."""

    name: str
    make: Callable[[Draws], Story | None]
    statements: int
    words: int
    asked: int


TASKS = (
    Task("single supporting fact", house.one_fact, 10, 5, 3),
    Task("two supporting facts", house.two_facts, 24, 5, 4),
    Task("three supporting facts", house.three_facts, 40, 5, 7),
    Task("two argument relations", relations.two_arguments, 2, 7, 6),
    Task("three argument relations", house.three_arguments, 20, 6, 7),
    Task("yes/no questions", house.yes_or_no, 10, 5, 5),
    Task("counting", house.counting, 20, 6, 6),
    Task("lists/sets", house.lists, 20, 6, 4),
    Task("simple negation", house.negation, 10, 7, 5),
    Task("indefinite knowledge", house.indefinite, 10, 9, 5),
    Task("basic coreference", house.coreference, 10, 6, 3),
    Task("conjunction", house.conjunction, 10, 7, 3),
    Task("compound coreference", house.compound_coreference, 10, 7, 3),
    Task("time reasoning", house.time, 12, 7, 6),
    Task("basic deduction", relations.deduction, 8, 5, 5),
    Task("basic induction", relations.induction, 9, 4, 4),
    Task("positional reasoning", relations.position, 2, 11, 11),
    Task("size reasoning", relations.size, 4, 7, 7),
    Task("path finding", relations.path, 5, 7, 10),
    Task("agent's motivations", relations.motives, 12, 5, 7),
)


def _chosen(request: Request) -> range:
    """The numbers of the tasks, from 0."""
    one = request["task"]
    return range(len(TASKS)) if one is None else range(one - 1, one)


def describe(request: Request) -> Schema:
    """Known without drawing anything."""
    tasks = [TASKS[number] for number in _chosen(request)]
    shape = (max(task.statements for task in tasks), max(task.words for task in tasks))
    fields = (
        Field("story", "i32", shape, len(VOCABULARY)),
        Field("question", "i32", (max(task.asked for task in tasks),), len(VOCABULARY)),
        Field("answer", "i32", (), len(ANSWERS)),
        Field("task", "i32", (), len(TASKS)),
    )
    return Schema(fields, len(tasks) * request["count"])


def stories(number: int, count: int, seed: int) -> list[Story]:
    """So many stories of a task, counted from 0, of which no two are equal; fewer if there are not
    so many."""
    draws, found = Draws(seed, number), dict[tuple[str, ...], Story]()
    make = TASKS[number].make
    for _ in range(MOST_TRIES * count):
        story = make(draws)
        if story is not None:
            found.setdefault((*story.statements, story.question), story)
            if len(found) == count:
                break
    return list(found.values())


def load(request: Request) -> Dataset:
    """Both splits. E0615 if a task has not so many different stories."""
    count, test = request["count"], request["test"]
    schema = describe(request)
    shapes = {field.name: field.shape for field in schema.fields}
    story_rows, asked = _Rows(shapes["story"][1]), _Rows(shapes["question"][0])
    answers = {answer: number for number, answer in enumerate(ANSWERS)}
    chosen = _chosen(request)
    total = len(chosen) * (count + test)
    story = np.zeros((total, shapes["story"][0]), np.int32)
    question, answer = np.zeros(total, np.int32), np.zeros(total, np.int32)
    row = 0
    for number in chosen:
        made = stories(number, count + test, request["seed"])
        if len(made) < count + test:
            raise fail(
                "E0615",
                f"task {number + 1}, {TASKS[number].name}, has no {count + test} different stories",
                request.span,
                help=f"choose fewer: {len(made)} were found",
            )
        for one in made:
            story[row, -len(one.statements) :] = [story_rows[text] for text in one.statements]
            question[row], answer[row] = asked[one.question], answers[one.answer]
            row += 1
    arrays = {
        "story": story_rows.table()[story],
        "question": asked.table()[question],
        "answer": answer,
        "task": np.repeat(np.array(chosen, np.int32), count + test),
    }
    every = np.arange(total)
    learns = every % (count + test) < count
    return split_dataset(
        "babi",
        schema.fields,
        arrays,
        (every[learns], every[~learns]),
        class_names={"answer": ANSWERS, "task": tuple(task.name for task in TASKS)},
        vocabularies={"story": VOCABULARY, "question": VOCABULARY},
    )


class _Rows(dict[str, int]):
    """The rows of a table in which every text stands once, as tokens; the first row is padding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._rows = [np.zeros(width, VOCABULARY.dtype)]

    def __missing__(self, text: str) -> int:
        row = np.zeros_like(self._rows[0])
        tokens = VOCABULARY.encode(text)
        row[: len(tokens)] = tokens
        self._rows.append(row)
        self[text] = len(self._rows) - 1
        return self[text]

    def table(self) -> np.ndarray:
        return np.stack(self._rows)


BABI = DataSource(
    "babi",
    "stories, questions and answers, the twenty tasks of Weston et al.: story i32[statements, "
    "words], question i32[words], answer i32, task i32",
    (
        Setting(
            "task", "count", "one of the tasks 1 to 20; without it, all", None, tuple(range(1, 21))
        ),
        Setting("count", "count", "questions of each task to learn from", 10_000),
        Setting("test", "count", "questions of each task to test on", 1_000),
        Setting("seed", "seed", "of the stories", 0),
    ),
    describe,
    load,
)
