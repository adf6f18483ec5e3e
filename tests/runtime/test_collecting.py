"""The garbage collector rests during compilation, and is as it was before when that is over."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import project
from nnc.runtime.compiling import compiling
from nnc.runtime.project import project_of_text

RIGHT = "model Half(x: f32[B]) -> y: f32[B] {\n    y[b] = x[b] / 2\n}\n"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    gc.enable()


def test_inner_ones_do_not_end_the_rest():
    with compiling():
        with compiling():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_rests_while_a_program_is_read(monkeypatch):
    seen = []
    load = project.load_source

    def noted(*given):
        seen.append(gc.isenabled())
        return load(*given)

    monkeypatch.setattr(project, "load_source", noted)
    project_of_text(RIGHT)
    assert seen == [False]
    assert gc.isenabled()


def test_a_mistake_in_the_program_ends_it():
    with pytest.raises(UserError):
        project_of_text(RIGHT.replace("x[b]", "z[b]"))
    assert gc.isenabled()


def test_who_has_turned_it_off_keeps_it_off():
    gc.disable()
    project_of_text(RIGHT)
    assert not gc.isenabled()


@pytest.mark.slow
@pytest.mark.skipif(
    gc.get_freeze_count() > 0, reason="CPython 3.12 has frozen objects of its own: nothing is aged"
)
def test_what_grew_meanwhile_is_old_afterwards_and_not_kept_from_collection():
    with compiling():
        ring = [[] for _ in range(1000)]
        for k, part in enumerate(ring):
            part.append(ring[k - 1])  # only the collector can free it
        number = id(ring[0])
    assert number not in map(id, gc.get_objects(generation=0))
    assert number in map(id, gc.get_objects(generation=2))
    assert gc.get_freeze_count() == 0
    del ring, part
    assert gc.collect() >= 1000


def test_what_others_have_frozen_stays_so():
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with compiling():
            pass
        assert gc.get_freeze_count() == before > 0
    finally:
        gc.unfreeze()
