"""Answers to the questions of `babi()`, found by reading the stories: no code of the source's."""

from __future__ import annotations

import re
from collections import defaultdict

STEPS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
SIDES = {"above": (0, 1), "below": (0, -1), "right": (1, 0), "left": (-1, 0)}
TIMES = ("yesterday", "this morning", "this afternoon", "this evening")
SINGULAR = {"mice": "mouse", "geese": "goose", "foxes": "fox"}
GOES = r"(?:went|walked|hurried|ran) to"
TAKES = r"(?:took|grabbed|picked up)"
DROPS = r"(?:dropped|put down|threw away)"
NUMBERS = ("none", "one", "two", "three")


def solve(statements: list[str], question: str) -> str:
    """The answer to any question of the twenty tasks."""
    for pattern, solver in SOLVERS:
        found = re.fullmatch(pattern, question)
        if found:
            return solver(statements, *found.groups())
    raise AssertionError(f"what is {question!r}?")


class Diary:
    """What can be known after the statements about people and things in a house."""

    def __init__(self, statements: list[str]) -> None:
        self.places: dict[str, list[str]] = {}  # where each person may be
        self.gone: dict[str, str] = {}  # from where they have gone, to an unknown place
        self.holds: dict[str, str] = {}
        self.seen: dict[str, list[str]] = defaultdict(list)  # the places of a thing, in order
        self.gifts: list[tuple[str, str, str]] = []
        self.mentioned: list[str] = []
        for text in statements:
            self.read(text)

    def read(self, text: str) -> None:
        if found := re.fullmatch(
            rf"(?:(?:then|afterwards|next) )?(.*?) (?:{GOES}|is in) the (\w+)", text
        ):
            who, place = found.groups()
            people = self.mentioned if who in ("he", "she", "they") else who.split(" and ")
            self.mentioned = people
            for person in people:
                self.be(person, [place])
        elif found := re.fullmatch(r"(\w+) is no longer in the (\w+)", text):
            self.places.pop(found[1])
            self.gone[found[1]] = found[2]
        elif found := re.fullmatch(r"(\w+) is either in the (\w+) or the (\w+)", text):
            self.be(found[1], [found[2], found[3]])
        elif found := re.fullmatch(rf"(\w+) {TAKES} the (\w+)", text):
            assert found[2] not in self.holds
            self.holds[found[2]] = found[1]
            self.see(found[2])
        elif found := re.fullmatch(rf"(\w+) {DROPS} the (\w+)", text):
            assert self.holds.pop(found[2]) == found[1]
        elif found := re.fullmatch(r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)", text):
            giver, thing, taker = found.groups()
            assert self.holds[thing] == giver and self.places[giver] == self.places[taker]
            self.holds[thing] = taker
            self.gifts.append((giver, thing, taker))
        else:
            raise AssertionError(f"what does {text!r} say?")

    def be(self, person: str, places: list[str]) -> None:
        self.places[person] = places
        self.gone.pop(person, None)
        for thing, holder in self.holds.items():
            if holder == person:
                self.see(thing)

    def see(self, thing: str) -> None:
        (place,) = self.places[self.holds[thing]]
        route = self.seen[thing]
        if not route or route[-1] != place:
            route.append(place)

    def carried(self, person: str) -> list[str]:
        return sorted(thing for thing, holder in self.holds.items() if holder == person)


def where(statements: list[str], what: str) -> str:
    (place,) = Diary(statements).places[what]
    return place


def where_thing(statements: list[str], thing: str) -> str:
    return Diary(statements).seen[thing][-1]


def before(statements: list[str], what: str, place: str) -> str:
    """Where a thing or a person was before they came to a place, where they have been once."""
    if any(text.startswith(TIMES) for text in statements):
        visits = []
        for text in statements:
            when, who, came = re.fullmatch(rf"(.*?) (\w+) {GOES} the (\w+)", text).groups()
            if who == what:
                visits.append((TIMES.index(when), came))
        route = [came for _, came in sorted(visits)]
    else:
        route = Diary(statements).seen[what]
    assert route.count(place) == 1
    return route[route.index(place) - 1]


def beside(statements: list[str], way: str, room: str) -> str:
    return _neighbour(statements, lambda a, w, b: a if (w, b) == (way, room) else None)


def beyond(statements: list[str], room: str, way: str) -> str:
    return _neighbour(statements, lambda a, w, b: b if (a, w) == (room, way) else None)


def _neighbour(statements, chosen) -> str:
    opposite = {"north": "south", "south": "north", "east": "west", "west": "east"}
    found = set()
    for text in statements:
        a, way, b = re.fullmatch(r"the (\w+) is (\w+) of the (\w+)", text).groups()
        found |= {chosen(a, way, b), chosen(b, opposite[way], a)}
    (answer,) = found - {None}
    return answer


def gift(part: int, *wanted: int):
    """A solver: a part of the last gift whose other parts are those of the question."""

    def find(statements: list[str], *asked: str) -> str:
        given = Diary(statements).gifts[::-1]
        return next(
            g[part] for g in given if all(g[w] == a for w, a in zip(wanted, asked, strict=True))
        )

    return find


def is_in(statements: list[str], person: str, place: str) -> str:
    diary = Diary(statements)
    if diary.gone.get(person) == place:
        return "no"
    places = diary.places[person]
    return ("yes" if places == [place] else "maybe") if place in places else "no"


def afraid(statements: list[str], name: str) -> str:
    (kind,) = (t.split()[-1] for t in statements if t.startswith(f"{name} is a "))
    fears = dict(
        re.fullmatch(r"(\w+) are afraid of (\w+)", t).groups() for t in statements if "afraid" in t
    )
    one = {plural: SINGULAR.get(plural, plural[:-1]) for plural in {*fears, *fears.values()}}
    (feared,) = (one[fear] for kinds, fear in fears.items() if one[kinds] == kind)
    return feared


def colour(statements: list[str], name: str) -> str:
    kind = {t.split()[0]: t.split()[-1] for t in statements if " is a " in t}
    of_kind = {kind[t.split()[0]]: set() for t in statements if " is a " not in t}
    for text in statements:
        if " is a " not in text:
            of_kind[kind[text.split()[0]]].add(text.split()[-1])
    (found,) = of_kind[kind[name]]
    return found


def stands(statements: list[str], a: str, side: str, b: str) -> str:
    spots: dict[str, tuple[int, int]] = {}
    pairs = [
        re.fullmatch(r"the (\w+ \w+) is (?:to the )?(\w+)(?: of)? the (\w+ \w+)", t).groups()
        for t in statements
    ]
    spots[pairs[0][0]] = (0, 0)
    for first, way, second in pairs * 2:
        x, y = SIDES[way]
        if first in spots:
            spots[second] = (spots[first][0] - x, spots[first][1] - y)
        elif second in spots:
            spots[first] = (spots[second][0] + x, spots[second][1] + y)
    x, y = SIDES[side]
    apart = (spots[a][0] - spots[b][0]) * x + (spots[a][1] - spots[b][1]) * y
    return "yes" if apart > 0 else "no"


def bigger(statements: list[str], big: str, small: str) -> str:
    """By all pairs that follow from the statements; the other way round for certain, else."""
    order = set()
    for text in statements:
        if found := re.fullmatch(r"the (\w+) fits inside the (\w+)", text):
            order.add((found[2], found[1]))
        else:
            order.add(re.fullmatch(r"the (\w+) is bigger than the (\w+)", text).groups())
    for _ in statements:
        order |= {(a, d) for a, b in order for c, d in order if b == c}
    assert ((big, small) in order) != ((small, big) in order)
    return "yes" if (big, small) in order else "no"


def route(statements: list[str], start: str, end: str) -> str:
    ways = {}
    opposite = {"north": "south", "south": "north", "east": "west", "west": "east"}
    for text in statements:
        a, way, b = re.fullmatch(r"the (\w+) is (\w+) of the (\w+)", text).groups()
        ways[b, a], ways[a, b] = way, opposite[way]
    (found,) = {
        f"{ways[start, middle]},{ways[middle, end]}"
        for _, middle in ways
        if (start, middle) in ways and (middle, end) in ways
    }
    return found


def motive(statements: list[str], person: str) -> str:
    """How somebody feels, by the first statement about them."""
    return next(t.split()[-1] for t in statements if t.startswith(f"{person} is "))


def goal(statements: list[str], person: str) -> str:
    assert sum(t.startswith(person) for t in statements) == 1
    homes = {"hungry": "kitchen", "thirsty": "cellar", "tired": "attic", "bored": "garden"}
    return homes[motive(statements, person)]


SOLVERS = [
    (r"where is the (\w+)", where_thing),
    (r"where is (\w+)", where),
    (r"where was (?:the )?(\w+) before the (\w+)", before),
    (r"what is (north|south|east|west) of the (\w+)", beside),
    (r"what is the (\w+) (\w+) of", beyond),
    (r"what did (\w+) give to (\w+)", gift(1, 0, 2)),
    (r"who did (\w+) give the (\w+) to", gift(2, 0, 1)),
    (r"who gave the (\w+) to (\w+)", gift(0, 1, 2)),
    (r"who gave the (\w+)", gift(0, 1)),
    (r"who received the (\w+)", gift(2, 1)),
    (r"is (\w+) in the (\w+)", is_in),
    (r"how many things is (\w+) carrying", lambda t, who: NUMBERS[len(Diary(t).carried(who))]),
    (r"what is (\w+) carrying", lambda t, who: ",".join(Diary(t).carried(who)) or "nothing"),
    (r"what is (\w+) afraid of", afraid),
    (r"what colour is (\w+)", colour),
    (r"is the (\w+) bigger than the (\w+)", bigger),
    (r"does the (\w+) fit in the (\w+)", lambda t, small, big: bigger(t, big, small)),
    (r"is the (\w+ \w+) (?:to the )?(\w+)(?: of)? the (\w+ \w+)", stands),
    (r"how do you go from the (\w+) to the (\w+)", route),
    (r"where will (\w+) go", goal),
    (r"why did (\w+) (?:go|take) .*", motive),
]
