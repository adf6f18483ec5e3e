"""`retrieval()`: short passages on who is where, and a question: question answering in miniature.

Fields: `passage` i32[5 · facts], statements like `ann is in kitchen .`; `question` i32[4], `where
is ann ?`; `answer` i32, one of the places. People move: the last statement about the person counts,
so that finding the name is not enough. Nothing needs padding. Passages are drawn independently;
with the default settings two equal ones are very unlikely.
"""

from __future__ import annotations

import numpy as np

from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.source import DataSource, Request, Setting
from ..core.splitting import split_rows, training_size
from ..core.vocabulary import Vocabulary
from ..formats.new_lines import CellReader

PEOPLE = ("ann", "ben", "cleo", "dan", "eve", "finn", "gus", "hana")
PLACES = ("attic", "bakery", "cellar", "forest", "garden", "harbour", "kitchen", "market")
VOCABULARY = Vocabulary("words", (*PEOPLE, *PLACES, "is", "in", ".", "where", "?"))
WORDS_PER_FACT = 5


def describe(request: Request) -> Schema:
    """Known without drawing anything."""
    fields = (
        Field("passage", "i32", (WORDS_PER_FACT * request["facts"],), len(VOCABULARY)),
        Field("question", "i32", (4,), len(VOCABULARY)),
        Field("answer", "i32", (), len(PLACES)),
    )
    return Schema(fields, training_size(request["count"], request["test"]))


def load(request: Request) -> Dataset:
    """Both splits."""
    count, facts = request["count"], request["facts"]
    random = np.random.RandomState(request["seed"])
    people = random.randint(len(PEOPLE), size=(count, facts))
    places = random.randint(len(PLACES), size=(count, facts))
    every = np.arange(count)
    # Somebody whom the passage mentions, so that every question has an answer.
    asked = people[every, random.randint(facts, size=count)]
    # the last statement about the person is the first of the reversed passage
    last = facts - 1 - np.argmax((people == asked[:, None])[:, ::-1], axis=1)
    word = {token: VOCABULARY.encode(token)[0] for token in VOCABULARY.tokens}
    passage = np.empty((count, facts, WORDS_PER_FACT), VOCABULARY.dtype)
    # [count, facts, 5]: `PERSON is in PLACE .`, with zeros where the two names go.
    passage[...] = [0, word["is"], word["in"], 0, word["."]]
    passage[:, :, 0] = people  # ids begin with the people, then the places
    passage[:, :, 3] = places + len(PEOPLE)
    question = np.empty((count, 4), VOCABULARY.dtype)
    question[...] = [word["where"], word["is"], 0, word["?"]]
    question[:, 2] = asked
    arrays = {
        "passage": passage.reshape(count, -1),
        "question": question,
        "answer": places[every, last].astype(np.int32),
    }
    known = {"passage": VOCABULARY, "question": VOCABULARY}
    return split_dataset(
        "retrieval",
        describe(request).fields,
        arrays,
        split_rows(count, request["test"], request["seed"]),
        class_names={"answer": PLACES},
        vocabularies=known,
        reader=CellReader(tuple(known), (WORDS_PER_FACT * facts, question.shape[1]), known),
    )


RETRIEVAL = DataSource(
    "retrieval",
    "who is where: passage i32[5 · facts], question i32[4], answer i32",
    (
        Setting("count", "count", "passages", 10_000),
        Setting("facts", "count", "statements in a passage", 6),
        Setting("test", "fraction", "the share that tests", 0.1),
        Setting("seed", "seed", "of the passages", 0),
    ),
    describe,
    load,
)
