"""Tests of memory over many steps: `copying()` and `adding()`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data


@pytest.fixture
def search(tmp_path: Path) -> data.Search:
    return data.Search(None, tmp_path, offline=True, cache=tmp_path / "cache")


def both(search: data.Search, name: str, **settings) -> tuple[np.ndarray, np.ndarray]:
    """x and y of both splits, which are described as they are."""
    found = data.load(name, settings, search)
    assert data.describe(name, settings, search) == found.schema
    splits = [split.arrays for split in found.splits.values()]
    assert [len(arrays["x"]) for arrays in splits] == [300, 100]
    return tuple(np.concatenate([arrays[n] for arrays in splits]) for n in "xy")


def test_symbols_are_repeated_after_a_sign(search) -> None:
    x, y = both(search, "copying", count=400, test=0.25, delay=7)
    symbols = x[:, :10]
    assert set(np.unique(symbols)) == set(range(8))
    assert (x[:, 10:16] == 8).all() and (x[:, 16] == 9).all() and (x[:, 17:] == 8).all()
    assert x.shape == y.shape == (400, 27)
    assert (y[:, :17] == 8).all() and (y[:, 17:] == symbols).all()


def test_the_sum_is_that_of_one_number_of_each_half(search) -> None:
    x, y = both(search, "adding", count=400, test=0.25, length=31)
    value, mark = x[..., 0], x[..., 1]
    assert set(np.unique(mark)) == {0, 1}
    assert (mark[:, :15].sum(1) == 1).all() and (mark[:, 15:].sum(1) == 1).all()
    assert mark.any(0).all()
    np.testing.assert_allclose(y, [v[m == 1].sum() for v, m in zip(value, mark, strict=True)])
    assert value.min() >= 0 and value.max() < 1
    assert np.mean((y - 1) ** 2) == pytest.approx(1 / 6, rel=0.2)


def test_two_numbers_can_be_added_and_one_cannot(search) -> None:
    found = data.load("adding", {"length": 2, "count": 4, "test": 0}, search)
    arrays = found.train.arrays
    np.testing.assert_allclose(arrays["y"], arrays["x"][..., 0].sum(1))
    with pytest.raises(UserError) as caught:
        data.load("adding", {"length": 1}, search)
    assert [d.code for d in caught.value.diagnostics] == ["E0615"]


def test_a_delay_of_one_step_has_a_sign(search) -> None:
    found = data.load("copying", {"delay": 1, "count": 4, "test": 0}, search)
    assert (found.train.arrays["x"][:, 10] == 9).all()
