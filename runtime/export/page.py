"""A model as one page of HTML, with its module and weights inside: inputs, results, and where the
module trains, a step on what is right.

In: what is exported, and what the data of the model are known to be. Out: the text of the page,
which needs no other file and no network. What it looks like and does is in `web/`. Tests:
tests/runtime/test_export_page.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from math import prod
from typing import Any

from ...compiler.ir.equation import System
from ..data.core.vocabulary import Vocabulary
from ..data.recorded import Recorded
from ..inference.meanings import NUMBERS, PROBABILITY, SIGMOID, SOFTMAX, Meaning
from .header import About
from .javascript import OWN, WEB, constants
from .programs import Place, Program

MOST_CHOICES = 1000  # of an input that is an index; more are numbers
LEAST_SIDE = 4  # of a picture
COLOURS = (1, 3)
READ = ("chars", "words", "bytes")  # vocabularies whose texts the page takes apart
PROMPTS = ("The ", "the ", "The", "the", "a")
UNNAMED = Recorded("", None, {}, {}, {}, {})


def page(
    about: About,
    module: bytes,
    weights: bytes,
    prediction: System,
    meanings: Mapping[str, Meaning],
    recorded: Recorded | None,
) -> str:
    """The page; `weights` are in it unless they are in the module."""
    known = recorded or UNNAMED
    shown = _writing(about, known) or _Form(about, prediction, meanings, known).described()
    scripts = [
        constants(about),
        f'const MODULE = "{base64.b64encode(module).decode()}";',
        f'const WEIGHTS = "{"" if about.embedded else base64.b64encode(weights).decode()}";',
        f"const PAGE_ABOUT = {json.dumps(shown)};".replace("<", "\\u003c"),
        (WEB / "model.js").read_text("utf-8"),
        (WEB / "page.js").read_text("utf-8"),
    ]
    params = sum(prod(about.layout.tensors[name].shape) for name in about.layout.weights)
    parts = {
        "{title}": about.model,
        "{about}": f"{params:,} parameters. The network is in this page: nothing is sent.",
        "{style}": (WEB / "page.css").read_text("utf-8"),
        "{script}": "\n".join(scripts),
    }
    text = (WEB / "page.html").read_text("utf-8")
    for name, part in parts.items():
        text = text.replace(name, part)
    return text


# --- a model that writes --------------------------------------------------------------------------


def _writing(about: About, known: Recorded) -> dict[str, Any] | None:
    """What a page that writes has to know; None where the model does not, or reads something else
    first."""
    by_purpose = {p.purpose: p for p in about.programs}
    first, following = by_purpose.get("generate_first"), by_purpose.get("generate_next")
    if first is None or following is None or any(p.name not in OWN for p in first.places):
        return None
    token, logits = following.places[0], following.places[-1]
    vocabulary = _plain(known.vocabularies.get(token.name), known)
    text = {"vocabulary": vocabulary, "known": prod(logits.shape), "prompt": "0"}
    if vocabulary is not None:
        text["known"] = len(known.vocabularies[token.name])
        text["prompt"] = _prompt(vocabulary)
    return {"text": text}


def _plain(vocabulary: Vocabulary | None, known: Recorded) -> dict[str, Any] | None:
    """A vocabulary as the page reads it; None if it does not."""
    if vocabulary is None or vocabulary.kind not in READ:
        return None
    return {
        "kind": vocabulary.kind,
        "tokens": [] if vocabulary.kind == "bytes" else list(vocabulary.tokens),
        "specials": list(vocabulary.specials),
        "lowercase": bool(getattr(known.reader, "lowercase", False)),
    }


def _prompt(vocabulary: Mapping[str, Any]) -> str:
    """Something that the vocabulary has."""
    if vocabulary["kind"] == "bytes":
        return PROMPTS[0]
    tokens = vocabulary["tokens"]
    words = vocabulary["kind"] == "words"
    having = (p for p in PROMPTS if {*(p.split() if words else p)} <= {*tokens})
    return next(having, tokens[0])


# --- a model that predicts ------------------------------------------------------------------------


class _Form:
    """Inputs, results and what is taught, each by what it is made of."""

    def __init__(
        self,
        about: About,
        prediction: System,
        meanings: Mapping[str, Meaning],
        known: Recorded,
    ):
        self.about, self.known, self.meanings = about, known, meanings
        self.limits = prediction.index_inputs or {}
        self.program = about.programs[0]

    def described(self) -> dict[str, Any]:
        inputs = [p for p in self.program.places if p.is_input and p.name not in OWN]
        results = [p for p in self.program.places if not p.is_input]
        shown = [self.result(place) for place in results]
        return {
            "inputs": [self.input(place, self.program) for place in inputs],
            "results": shown,
            "teaching": self.teaching(inputs, shown),
        }

    def input(self, place: Place, program: Program) -> dict[str, Any]:
        """A field: a picture, a choice, a text, or numbers. `copies` fill a whole batch."""
        size = program.examples or self.about.batch
        by_example = bool(place.shape) and place.shape[0] == size
        shape = place.shape[1:] if by_example else place.shape
        found: dict[str, Any] = {
            "name": place.name, "title": self.known.title_of(place.name), "count": prod(shape),
            "copies": size if by_example and not program.examples else 1,
        }  # fmt: skip
        if size_of_picture := _picture(place, shape):
            return {**found, "kind": "picture", "size": size_of_picture}
        if vocabulary := _plain(self.known.vocabularies.get(place.name), self.known):
            if len(shape) == 1 and place.type[0] in "iu":
                text = _prompt(vocabulary)
                return {**found, "kind": "tokens", "vocabulary": vocabulary, "text": text}
        elif not shape:
            limit = self.limits.get(place.name, self.known.classes.get(place.name, 0))
            if place.type == "bool":
                return {**found, "kind": "choice", "names": ["no", "yes"]}
            if 0 < limit <= MOST_CHOICES:
                names = self.known.names_of(place.name, limit)
                return {**found, "kind": "choice", "names": list(names)}
        is_whole = place.type[0] in "iu"
        return {**found, "kind": "numbers", "names": self.names(place, shape), "isWhole": is_whole}

    def names(self, place: Place, shape: tuple[int, ...]) -> list[str]:
        """Those of the numbers of an input or result."""
        count, columns = prod(shape), self.known.columns.get(place.name, ())
        if len(columns) == count:
            return list(columns)
        return [place.name] if count == 1 else [f"{place.name}[{n}]" for n in range(count)]

    def result(self, place: Place) -> dict[str, Any]:
        """Classes with bars, a yes or no, or numbers."""
        meaning = self.meanings.get(place.name)
        shape = place.shape[1:]
        found: dict[str, Any] = {
            "name": place.name, "title": place.name, "count": prod(shape), "kind": "values",
            "names": [],
        }  # fmt: skip
        if size := _picture(place, shape):
            return {**found, "kind": "image", "size": size}
        if meaning is None:
            return found
        if meaning.field:
            found |= {"title": self.known.title_of(meaning.field), "field": meaning.field}
        if meaning.kind == SOFTMAX and len(shape) == 1:
            names = list(self.known.names_of(meaning.field, shape[0]))
            return {**found, "kind": "classes", "names": names}
        if meaning.kind in (SIGMOID, PROBABILITY) and prod(shape) == 1:
            both = self.known.class_names.get(meaning.field, ())
            names = list(both) if len(both) == 2 else ["no", "yes"]
            return {**found, "kind": "chance", "names": names, "isLogit": meaning.kind == SIGMOID}
        columns = self.known.columns.get(meaning.field, ())
        if meaning.kind == NUMBERS and len(columns) == prod(shape):
            found["names"] = list(columns)
        return found

    def teaching(self, inputs: list[Place], results: list[dict[str, Any]]) -> dict[str, Any] | None:
        """What a step needs besides the inputs; None where a page cannot give it."""
        steps = [p for p in self.about.programs if p.purpose == "train_step"]
        if len(steps) != 1:
            return None
        places = [p for p in steps[0].places if p.is_input]
        losses = [p.name for p in steps[0].places if not p.is_input]
        shapes = {p.name: p.shape[1:] for p in places}
        same = all(shapes.get(p.name) == p.shape[1:] for p in inputs)
        by_example = all(p.shape and p.shape[0] == self.about.batch for p in places)
        if not (same and by_example and losses):
            return None
        own = {p.name for p in inputs}
        taught = [self._label(p, steps[0], results) for p in places if p.name not in own]
        fields = [
            n for n, result in enumerate(results)
            if result["kind"] in ("classes", "chance") and taught and taught[0]["kind"] == "choice"
            and result.get("field") == taught[0]["name"]
        ]  # fmt: skip
        return {"inputs": taught, "loss": losses[0], "result": fields[0] if fields else -1}

    def _label(self, place: Place, step: Program, results: list[dict[str, Any]]) -> dict[str, Any]:
        """A field with what is right: the classes of the result that is compared with it."""
        made = {**self.input(place, step), "copies": 1}
        found = next((r for r in results if r.get("field") == place.name), None)
        if found is not None and found["kind"] in ("classes", "chance") and made["count"] == 1:
            return {**made, "kind": "choice", "names": found["names"]}
        return made


def _picture(place: Place, shape: tuple[int, ...]) -> list[int] | None:
    """The height, width and channels of an example that is a picture; None if it is none."""
    channels = shape[2] if len(shape) == 3 else 1
    is_one = len(shape) == 3 or (len(shape) == 2 and shape[0] == shape[1])
    if place.type not in ("f32", "f64", "f16", "bf16") or not is_one or channels not in COLOURS:
        return None
    return [*shape[:2], channels] if min(shape[:2]) >= LEAST_SIDE else None
