"""Tasks about how places, animals, shapes and motives are related: 4, 15 to 20."""

from __future__ import annotations

from itertools import pairwise

from .words import (
    ANIMALS,
    COLOURS,
    DIRECTIONS,
    MOTIVES,
    NAMES,
    PEOPLE,
    PLACES,
    ROOMS,
    SHAPES,
    SIDES,
    TOOK,
    VESSELS,
    WENT,
    Draws,
    Story,
)

Point = tuple[int, int]
SPREAD = 80  # of a vessel's sizes, where usual ones are 10 apart


def _add(a: Point, b: Point) -> Point:
    return (a[0] + b[0], a[1] + b[1])


def _opposite(ways: dict[str, Point], way: str) -> str:
    x, y = ways[way]
    return next(name for name, step in ways.items() if step == (-x, -y))


def two_arguments(draws: Draws) -> Story | None:
    """Two statements about three rooms, of which no two are on the same side of the third."""
    a, b, c = draws.some(ROOMS, 3)
    first = draws.one(list(DIRECTIONS))
    second = draws.one([way for way in DIRECTIONS if way != _opposite(DIRECTIONS, first)])
    told = draws.shuffled([f"the {a} is {first} of the {b}", f"the {b} is {second} of the {c}"])
    question, answer = draws.one(
        [
            (f"what is {first} of the {b}", a),
            (f"what is the {a} {first} of", b),
            (f"what is {second} of the {c}", b),
            (f"what is the {b} {second} of", c),
        ]
    )
    return Story(told, question, answer)


def deduction(draws: Draws) -> Story | None:
    kinds = draws.some(list(ANIMALS), 4)
    fears = {kind: draws.one([other for other in kinds if other != kind]) for kind in kinds}
    named = {name: draws.one(kinds) for name in draws.some(NAMES, 4)}
    told = [f"{ANIMALS[kind]} are afraid of {ANIMALS[fear]}" for kind, fear in fears.items()]
    told += [f"{name} is a {kind}" for name, kind in named.items()]
    name = draws.one(list(named))
    return Story(draws.shuffled(told), f"what is {name} afraid of", fears[named[name]])


def induction(draws: Draws) -> Story | None:
    """All of one kind have one colour; one has no colour yet, and another one of its kind has."""
    kinds = draws.some(list(ANIMALS), draws.between(2, 4))
    colour = {kind: draws.one(COLOURS) for kind in kinds}
    asked, *others = draws.some(NAMES, 5)
    named = {name: draws.one(kinds) for name in others}
    kind = draws.one(list(named.values()))
    told = [f"{name} is a {own}" for name, own in {**named, asked: kind}.items()]
    told += [f"{name} is {colour[own]}" for name, own in named.items()]
    return Story(draws.shuffled(told), f"what colour is {asked}", colour[kind])


def position(draws: Draws) -> Story | None:
    """Two shapes stand beside a third one; how they stand to each other is asked."""
    a, b, c = draws.some(SHAPES, 3)
    first, second = draws.one(list(SIDES)), draws.one(list(SIDES))
    if first == second:
        return None
    told = []
    for shape, side in ((a, first), (c, second)):
        if draws.chance(50):
            told.append(f"the {shape} is {side} the {b}")
        else:
            told.append(f"the {b} is {_opposite(SIDES, side)} the {shape}")
    (ax, ay), (cx, cy) = SIDES[first], SIDES[second]
    dx, dy = ax - cx, ay - cy
    holds = {side: x * dx > 0 or y * dy > 0 for side, (x, y) in SIDES.items()}
    wanted = draws.chance(50)
    side = draws.one([side for side, true in holds.items() if true == wanted])
    return Story(draws.shuffled(told), f"is the {a} {side} the {c}", "yes" if wanted else "no")


def size(draws: Draws) -> Story | None:
    """Five vessels, each told to be bigger than another one; chains of up to three. A chest is
    mostly bigger than a jar; of two vessels that are alike, either may be."""
    sizes = {vessel: 10 * number + draws.below(SPREAD) for number, vessel in enumerate(VESSELS)}
    order = sorted(draws.some(VESSELS, 5), key=sizes.__getitem__)  # the smallest first
    told = []
    for small, big in pairwise(order):
        fits = f"the {small} fits inside the {big}"
        told.append(fits if draws.chance(50) else f"the {big} is bigger than the {small}")
    steps = draws.between(1, 3)
    lower = draws.below(len(order) - steps)
    small, big = order[lower], order[lower + steps]
    yes = draws.chance(50)
    if draws.chance(50):
        first, second = (big, small) if yes else (small, big)
        question = f"is the {first} bigger than the {second}"
    else:
        first, second = (small, big) if yes else (big, small)
        question = f"does the {first} fit in the {second}"
    return Story(draws.shuffled(told), question, "yes" if yes else "no")


def path(draws: Draws) -> Story | None:
    """The six places on a map, five ways between neighbours, and a route of two of them."""
    rooms = draws.shuffled(PLACES)
    spots: dict[str, Point] = {rooms[0]: (0, 0)}
    ways: dict[tuple[str, str], str] = {}  # from a room to its neighbour: the direction
    told = []
    for room in rooms[1:]:
        free = [
            (near, way, _add(spot, step))
            for near, spot in spots.items()
            for way, step in DIRECTIONS.items()
            if _add(spot, step) not in spots.values()
        ]
        near, way, spots[room] = draws.one(free)
        back = _opposite(DIRECTIONS, way)
        ways[near, room], ways[room, near] = way, back
        said = f"the {room} is {way} of the {near}", f"the {near} is {back} of the {room}"
        told.append(draws.one(said))
    routes = [
        (start, end, f"{one},{two}")
        for (start, middle), one in ways.items()
        for (again, end), two in ways.items()
        if again == middle and end != start
    ]
    start, end, answer = draws.one(routes)
    return Story(draws.shuffled(told), f"how do you go from the {start} to the {end}", answer)


def motives(draws: Draws) -> Story | None:
    """People feel something, go to where there is something for it, and take that."""
    told: list[str] = []
    feels = {p: draws.one(list(MOTIVES)) for p in draws.some(PEOPLE, draws.between(2, 4))}
    done = dict.fromkeys(feels, 0)
    for _ in range(draws.between(2, 3 * len(feels))):
        person = draws.one([p for p in feels if done[p] < 3])
        place, thing = MOTIVES[feels[person]]
        acts = (
            f"is {feels[person]}",
            f"{draws.one(WENT)} the {place}",
            f"{draws.one(TOOK)} the {thing}",
        )
        told.append(f"{person} {acts[done[person]]}")
        done[person] += 1
    person = draws.one([p for p in feels if done[p]])
    feeling = feels[person]
    place, thing = MOTIVES[feeling]
    questions = (
        (f"where will {person} go", place),
        (f"why did {person} go to the {place}", feeling),
        (f"why did {person} take the {thing}", feeling),
    )
    return Story(told, *questions[done[person] - 1])
