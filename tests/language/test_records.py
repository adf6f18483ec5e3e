"""Records behave as frozen dataclasses do, whatever is compiled when."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import pytest

from nnc.dsl.records import record

frozen: Callable[[type], type] = dataclass(frozen=True)


def kinds(made: Callable) -> dict[str, type]:
    """One class of each sort."""

    @made
    class Point:
        x: int
        y: int = 2
        tags: tuple[str, ...] = ()

    @made
    class Placed(Point):
        place: str | None = field(default=None, compare=False)
        seen: list[int] = field(default_factory=list, repr=False, compare=False)

    @made
    class Derived:
        x: int
        twice: int = field(init=False, default=0)

        def __post_init__(self) -> None:
            self.__dict__["twice"] = 2 * self.x

    @made
    class Own:
        x: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, type(self))

        def __repr__(self) -> str:
            return "own"

    @made
    class Empty:
        pass

    found = (Point, Placed, Derived, Own, Empty)
    return {kind.__name__: kind for kind in found}


CALLS = [
    ("Point", (1,), {}),
    ("Point", (1,), {"y": 3}),
    ("Point", (), {"tags": ("a",), "x": 1}),
    ("Placed", (1, 2), {"place": "here"}),
    ("Placed", (1, 2), {"place": "there", "seen": [1]}),
    ("Placed", (1, 2, ()), {}),
    ("Derived", (4,), {}),
    ("Own", (1,), {}),
    ("Own", (2,), {}),
    ("Empty", (), {}),
]


def outcome(compute: Callable[[], object]) -> object:
    try:
        return compute()
    except TypeError as error:
        return str(error).rpartition("__init__()")[2]


def test_a_record_is_what_a_frozen_dataclass_is():
    def observed(made: Callable) -> list[object]:
        known = kinds(made)
        values = [known[kind](*given, **named) for kind, given, named in CALLS]
        texts = [repr(value).replace(made.__name__, "") for value in values]
        equal = [[a == b for b in values] for a in values]
        hashes = [outcome(lambda value=value: hash(value)) for value in values]
        states = [vars(value) for value in values]
        names = [[f.name for f in fields(kind)] for kind in known.values()]
        matched = [kind.__match_args__ for kind in known.values()]
        copies = [copy.deepcopy(value) == value for value in values]
        changed = repr(replace(values[3], x=7))
        return [texts, equal, hashes, states, names, matched, copies, changed]

    assert observed(record) == observed(frozen)


@pytest.mark.parametrize("given, named", [((), {}), ((1, 2, (), 4), {}), ((1,), {"z": 1})])
def test_wrong_arguments_are_refused(given, named):
    def said(made: Callable) -> object:
        return outcome(lambda: kinds(made)["Point"](*given, **named))

    assert said(record) == said(frozen) != ""


def test_some_are_compared_by_identity_and_take_names_alone():
    @record(eq=False, kw_only=True)
    class Named:
        x: int
        y: int = 0

    one, other = Named(x=1), Named(y=0, x=1)
    assert vars(one) == vars(other)
    assert one != other
    assert len({one, other}) == 2
    with pytest.raises(TypeError):
        Named(1)


@record
class Kept:
    x: int


def test_a_record_is_pickled_before_and_after_its_methods_are_made():
    assert pickle.loads(pickle.dumps(Kept(1))) == Kept(1)
