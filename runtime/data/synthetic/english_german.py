"""`english_german()`: made English sentences and their German, from a grammar of a few dozen words.

In: nothing. Out: fields as `pairs.py`. It is no corpus, but what makes translation more than
looking up words is there: German nouns have a gender, which English does not show; articles and
adjectives agree with gender, number and case; the verb stands second after an adverb and last in a
clause with `dass`; and `does not` before the verb becomes a `nicht` behind the object. No sentence
comes twice, so none that tests has been seen in training.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Schema, validate
from ..core.padding import longest
from ..core.source import Request, Setting, Source
from ..core.splitting import split_rows
from ..core.vocabulary import words
from ..formats.pairs import SPECIALS, assembled

MOST = 1_000_000  # of the 37 million that the grammar has

# English singular and plural, German singular and plural, gender
NOUNS = [
    ("dog", "dogs", "Hund", "Hunde", "m"), ("man", "men", "Mann", "Männer", "m"),
    ("tree", "trees", "Baum", "Bäume", "m"), ("table", "tables", "Tisch", "Tische", "m"),
    ("woman", "women", "Frau", "Frauen", "f"), ("cat", "cats", "Katze", "Katzen", "f"),
    ("flower", "flowers", "Blume", "Blumen", "f"), ("city", "cities", "Stadt", "Städte", "f"),
    ("child", "children", "Kind", "Kinder", "n"), ("horse", "horses", "Pferd", "Pferde", "n"),
    ("book", "books", "Buch", "Bücher", "n"), ("house", "houses", "Haus", "Häuser", "n"),
]  # fmt: skip
ADJECTIVES = [
    ("old", "alt"), ("small", "klein"), ("red", "rot"), ("new", "neu"), ("big", "groß"),
    ("young", "jung"), ("beautiful", "schön"), ("black", "schwarz"),
]  # fmt: skip
# English for one and for several, German for one and for several
VERBS = [
    ("sees", "see", "sieht", "sehen"), ("loves", "love", "liebt", "lieben"),
    ("finds", "find", "findet", "finden"), ("hears", "hear", "hört", "hören"),
    ("seeks", "seek", "sucht", "suchen"), ("buys", "buy", "kauft", "kaufen"),
    ("paints", "paint", "malt", "malen"), ("needs", "need", "braucht", "brauchen"),
]  # fmt: skip
ADVERBS = [("today", "heute"), ("often", "oft"), ("here", "hier"), ("now", "jetzt")]
BEGINNINGS = [("we know that", "wir wissen , dass"), ("he says that", "er sagt , dass"),
              ("they hope that", "sie hoffen , dass")]  # fmt: skip

# For each determiner, German forms and endings of adjectives: nominative, then accusative, in the
# order of GENDERS.
GENDERS = "mfnp"  # `p` is the plural
DETERMINERS = {
    "the":   (("der", "die", "das", "die"), ("den", "die", "das", "die"),
              ("e", "e", "e", "en"), ("en", "e", "e", "en")),
    "a":     (("ein", "eine", "ein"), ("einen", "eine", "ein"),
              ("er", "e", "es"), ("en", "e", "es")),
    "two":   (("zwei",) * 4, ("zwei",) * 4, ("e",) * 4, ("e",) * 4),
    "three": (("drei",) * 4, ("drei",) * 4, ("e",) * 4, ("e",) * 4),
}  # fmt: skip


class Phrase(NamedTuple):
    """A noun with its company in both languages; German in the nominative and the accusative."""

    english: str
    nominative: str
    accusative: str
    plural: bool


def sentence(random: np.random.RandomState) -> tuple[str, str]:
    """An English sentence and its German."""
    subject, target = phrase(random), phrase(random)
    one, several, eins, mehrere = VERBS[random.randint(len(VERBS))]
    verb = mehrere if subject.plural else eins
    acts, nicht = several if subject.plural else one, ""
    if random.randint(4) == 0:
        acts, nicht = f"{'do' if subject.plural else 'does'} not {several}", " nicht"
    english = f"{subject.english} {acts} {target.english}"
    form = random.randint(3)
    if form == 0:
        return english, f"{subject.nominative} {verb} {target.accusative}{nicht}"
    if form == 1:
        when, wann = ADVERBS[random.randint(len(ADVERBS))]
        german = f"{wann} {verb} {subject.nominative} {target.accusative}{nicht}"
        return f"{when} {english}", german
    begin, anfang = BEGINNINGS[random.randint(len(BEGINNINGS))]
    german = f"{anfang} {subject.nominative} {target.accusative}{nicht} {verb}"
    return f"{begin} {english}", german


def phrase(random: np.random.RandomState) -> Phrase:
    """A determiner, half of the time an adjective, and a noun."""
    one, several, eins, mehrere, gender = NOUNS[random.randint(len(NOUNS))]
    determiner = list(DETERMINERS)[random.randint(len(DETERMINERS))]
    plural = determiner in ("two", "three") or (determiner == "the" and random.randint(2) == 1)
    column = GENDERS.index("p" if plural else gender)
    adjective, stem = ADJECTIVES[random.randint(len(ADJECTIVES))]
    if random.randint(2):
        adjective = stem = ""
    *articles, nominative, accusative = DETERMINERS[determiner]
    cases = []
    for article, endings in zip(articles, (nominative, accusative), strict=True):
        told = f"{stem}{endings[column]}" if stem else ""
        cases.append(" ".join(filter(None, (article[column], told, mehrere if plural else eins))))
    english = " ".join(filter(None, (determiner, adjective, several if plural else one)))
    subject, target = cases
    return Phrase(english, subject, target, plural)


def describe(request: Request) -> Schema:
    """Makes the sentences, which is quick."""
    return load(request).schema


def load(request: Request) -> Dataset:
    """Both splits. E0615 for more sentences than can be drawn without many in vain."""
    count = request["count"]
    if count > MOST:
        raise fail(
            "E0615",
            f"`count` is {count:,}; up to {MOST:,} different sentences can be made",
            request.span_of("count"),
        )
    random = np.random.RandomState(request["seed"])
    made: dict[str, str] = {}
    while len(made) < count:
        english, german = sentence(random)
        made[english] = german
    known = words(made, SPECIALS), words(made.values(), SPECIALS)
    sources = [known[0].encode(text) for text in made]
    targets = [known[1].encode(text) for text in made.values()]
    most = longest(sources), longest(targets) + 1
    parts = split_rows(count, request["test"], request["seed"])
    return validate(assembled(request.source, sources, targets, parts, most, known), request.span)


ENGLISH_GERMAN = Source(
    "english_german",
    "made English sentences and their German: source, target_in and target_out i32[…], and lengths",
    (
        Setting("count", "count", "sentences", 12_000),
        Setting("test", "fraction", "the share that tests", 0.1),
        Setting("seed", "seed", "of the sentences", 0),
    ),
    describe,
    load,
)
