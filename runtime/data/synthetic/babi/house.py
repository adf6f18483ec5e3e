"""Tasks about people who move through a house, and what they carry: 1 to 3, 5 to 14."""

from __future__ import annotations

from itertools import pairwise

from .words import (
    DROPPED,
    GAVE,
    NUMBERS,
    PEOPLE,
    PLACES,
    PRONOUNS,
    THEN,
    THINGS,
    TIMES,
    TOOK,
    WENT,
    Draws,
    Story,
)


class House:
    """Where everybody is, who has what and where it has been. Every action is a statement."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.told: list[str] = []
        self.place: dict[str, str] = {}  # of the people who have moved
        self.holder: dict[str, str] = {}  # of the things that somebody holds
        self.route: dict[str, list[str]] = {}  # of a thing since it was first taken
        self.given: list[tuple[str, str, str]] = []  # who gave what to whom

    def tell(self, text: str) -> None:
        self.told.append(text)

    def go(self) -> bool:
        person = self.draws.one(PEOPLE)
        place = self.draws.one([p for p in PLACES if p != self.place.get(person)])
        self.place[person] = place
        for thing in self.of(person):
            self.route[thing].append(place)
        self.tell(f"{person} {self.draws.one(WENT)} the {place}")
        return True

    def take(self) -> bool:
        free = [
            (person, thing)
            for person, place in self.place.items()
            for thing in THINGS
            if thing not in self.holder and self.route.get(thing, [place])[-1] == place
        ]
        if not free:
            return False
        person, thing = self.draws.one(free)
        self.holder[thing] = person
        self.route.setdefault(thing, [self.place[person]])
        self.tell(f"{person} {self.draws.one(TOOK)} the {thing}")
        return True

    def drop(self) -> bool:
        if not self.holder:
            return False
        thing = self.draws.one(sorted(self.holder))
        self.tell(f"{self.holder.pop(thing)} {self.draws.one(DROPPED)} the {thing}")
        return True

    def give(self) -> bool:
        pairs = [
            (giver, thing, taker)
            for thing, giver in sorted(self.holder.items())
            for taker in PEOPLE
            if taker != giver and self.place.get(taker) == self.place[giver]
        ]
        if not pairs:
            return False
        giver, thing, taker = self.draws.one(pairs)
        self.holder[thing] = taker
        self.given.append((giver, thing, taker))
        self.tell(f"{giver} {self.draws.one(GAVE)} the {thing} to {taker}")
        return True

    def of(self, person: str) -> list[str]:
        """What a person carries."""
        return [thing for thing in THINGS if self.holder.get(thing) == person]

    def live(self, statements: int, take: int, drop: int, give: int = 0) -> None:
        """Go on until there are so many statements. Take, drop and give are tried with these
        percentages; else somebody moves."""
        while len(self.told) < statements:
            what = self.draws.below(100)
            if what < take:
                done = self.take()
            elif what < take + drop:
                done = self.drop()
            else:
                done = what < take + drop + give and self.give()
            if not done:
                self.go()


def one_fact(draws: Draws) -> Story | None:
    house = House(draws)
    house.live(2 * draws.between(1, 5), 0, 0)
    person = draws.one(list(house.place))
    return Story(house.told, f"where is {person}", house.place[person])


def two_facts(draws: Draws) -> Story | None:
    house = House(draws)
    house.live(draws.between(4, 24), 25, 15)
    if not house.route:
        return None
    thing = draws.one(list(house.route))
    return Story(house.told, f"where is the {thing}", house.route[thing][-1])


def three_facts(draws: Draws) -> Story | None:
    house = House(draws)
    house.live(draws.between(6, 40), 25, 12)
    asked = [
        (thing, before, place)
        for thing, route in house.route.items()
        for before, place in pairwise(route)
        if route.count(place) == 1
    ]
    if not asked:
        return None
    thing, before, place = draws.one(asked)
    return Story(house.told, f"where was the {thing} before the {place}", before)


def three_arguments(draws: Draws) -> Story | None:
    house = House(draws)
    house.live(draws.between(4, 20), 25, 5, 60)
    if not house.given:
        return None
    giver, thing, taker = draws.one(house.given)
    last = house.given[::-1]
    question, fits, part = draws.one(
        [
            (f"what did {giver} give to {taker}", (giver, None, taker), 1),
            (f"who did {giver} give the {thing} to", (giver, thing, None), 2),
            (f"who gave the {thing} to {taker}", (None, thing, taker), 0),
            (f"who gave the {thing}", (None, thing, None), 0),
            (f"who received the {thing}", (None, thing, None), 2),
        ]
    )
    found = next(
        gift
        for gift in last
        if all(want in (None, is_) for want, is_ in zip(fits, gift, strict=True))
    )
    return Story(house.told, question, found[part])


def _yes_or_no(draws: Draws, told: list[str], person: str, place: str) -> Story:
    """Whether somebody is where they are, or as often elsewhere."""
    if draws.chance(50):
        return Story(told, f"is {person} in the {place}", "yes")
    other = draws.one([p for p in PLACES if p != place])
    return Story(told, f"is {person} in the {other}", "no")


def yes_or_no(draws: Draws) -> Story | None:
    house = House(draws)
    house.live(2 * draws.between(1, 5), 15, 10)
    person, place = draws.one(list(house.place.items()))
    return _yes_or_no(draws, house.told, person, place)


def counting(draws: Draws) -> Story | None:
    house = House(draws)
    house.live(2 * draws.between(1, 10), 40, 15, 15)
    person = draws.one(list(house.place))
    return Story(
        house.told, f"how many things is {person} carrying", NUMBERS[len(house.of(person))]
    )


def lists(draws: Draws) -> Story | None:
    house = House(draws)
    house.live(2 * draws.between(1, 10), 40, 15, 15)
    person = draws.one(list(house.place))
    return Story(house.told, f"what is {person} carrying", ",".join(house.of(person)) or "nothing")


def negation(draws: Draws) -> Story | None:
    told: list[str] = []
    known: dict[
        str, tuple[str, bool]
    ] = {}  # the last place that was named, and whether they are there
    for _ in range(2 * draws.between(1, 5)):
        person = draws.one(PEOPLE)
        place, there = known.get(person, ("", False))
        if there and draws.chance(50):
            told.append(f"{person} is no longer in the {place}")
        else:
            place = draws.one([p for p in PLACES if p != place])
            told.append(f"{person} {draws.one((*WENT, 'is in'))} the {place}")
            there = False
        known[person] = (place, not there)
    person, (place, there) = draws.one(list(known.items()))
    if there:
        return _yes_or_no(draws, told, person, place)
    return Story(told, f"is {person} in the {place}", "no")


def indefinite(draws: Draws) -> Story | None:
    told: list[str] = []
    known: dict[str, list[str]] = {}  # one place, or two of which one is right
    for _ in range(2 * draws.between(1, 5)):
        person = draws.one(PEOPLE)
        if draws.chance(50):
            places = draws.some(PLACES, 2)
            told.append(f"{person} is either in the {places[0]} or the {places[1]}")
        else:
            places = draws.some(PLACES, 1)
            told.append(f"{person} {draws.one((*WENT, 'is in'))} the {places[0]}")
        known[person] = places
    person, places = draws.one(list(known.items()))
    if len(places) == 1:
        return _yes_or_no(draws, told, person, places[0])
    if draws.chance(67):
        return Story(told, f"is {person} in the {draws.one(places)}", "maybe")
    other = draws.one([p for p in PLACES if p not in places])
    return Story(told, f"is {person} in the {other}", "no")


def _journeys(draws: Draws, together: int, again: bool) -> Story:
    """Some people at a time go somewhere, and then, if `again`, elsewhere under a pronoun."""
    told: list[str] = []
    place: dict[str, str] = {}
    for _ in range(draws.between(1, 5) if again else 2 * draws.between(1, 5)):
        people = draws.some(PEOPLE, together)
        here, there = draws.some(PLACES, 2)
        told.append(f"{' and '.join(people)} {draws.one(WENT)} the {here}")
        if again:
            pronoun = "they" if together > 1 else PRONOUNS[people[0]]
            told.append(f"{draws.one(THEN)} {pronoun} {draws.one(WENT)} the {there}")
        place.update(dict.fromkeys(people, there if again else here))
    person = draws.one(list(place))
    return Story(told, f"where is {person}", place[person])


def coreference(draws: Draws) -> Story | None:
    return _journeys(draws, 1, True)


def conjunction(draws: Draws) -> Story | None:
    return _journeys(draws, 2, False)


def compound_coreference(draws: Draws) -> Story | None:
    return _journeys(draws, 2, True)


def time(draws: Draws) -> Story | None:
    told, asked = [], []
    for person in draws.some(PEOPLE, draws.between(1, 3)):
        count = draws.between(2, 4)
        times = sorted(draws.some(range(len(TIMES)), count))
        places = draws.some(PLACES, count)
        told += [
            f"{TIMES[when]} {person} {draws.one(WENT)} the {place}"
            for when, place in zip(times, places, strict=True)
        ]
        asked += [(person, *pair) for pair in pairwise(places)]
    person, before, place = draws.one(asked)
    return Story(draws.shuffled(told), f"where was {person} before the {place}", before)
