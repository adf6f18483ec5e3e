"""`movielens()`: both layouts of the files give the same, and mistakes in them are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.sets import movielens
from nnc.runtime.data.sets.movielens import FILMS, GENRES, OCCUPATIONS, RATINGS, USERS


def files(recbole: bool) -> dict[str, str]:
    """All that the set consists of: person u gives film 7u + 16n, for n below 106 or 107."""
    rows = [(n % USERS, (7 * (n % USERS) + 16 * (n // USERS)) % FILMS, 1 + n % 5)
            for n in range(RATINGS)]  # fmt: skip
    people = [(20 + u % 50, "FM"[u % 2], OCCUPATIONS[u % len(OCCUPATIONS)]) for u in range(USERS)]
    ratings = [f"{u + 1}\t{f + 1}\t{stars}\t0" for u, f, stars in rows]
    if recbole:
        users = ["\t".join(map(str, (u + 1, *p, "0"))) for u, p in enumerate(people)]
        films = [f"{f + 1}\tThe {f}\t1999\t{GENRES[f % 19]} War" for f in range(FILMS)]
        return {
            "ml-100k.inter": "\n".join(["user_id:token\t…", *ratings]),
            "ml-100k.user": "\n".join(["user_id:token\t…", *users]),
            "ml-100k.item": "\n".join(["item_id:token\t…", *films]),
        }
    users = ["|".join(map(str, (u + 1, *p, "0"))) for u, p in enumerate(people)]
    flags = ["|".join(str(int(g in (f % 19, GENRES.index("War")))) for g in range(19))
             for f in range(FILMS)]  # fmt: skip
    films = [f"{f + 1}|The {f} (1999)|01-Jan-1999||http|{flags[f]}" for f in range(FILMS)]
    return {"u.data": "\n".join(ratings), "u.user": "\n".join(users), "u.item": "\n".join(films)}


def write(folder: Path, contents: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in contents.items():
        encoding = "latin-1" if name.startswith("u.") else "utf-8"
        (folder / name).write_bytes((text + "\n").encode(encoding))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("movielens")
    write(base / "one" / "ml-100k", files(recbole=True))
    write(base / "two" / "movielens", files(recbole=False))
    return {name: base / name for name in ("one", "two")}


def load(folder: Path, **settings) -> data.Dataset:
    search = data.Search(folder, folder, offline=True, cache=folder / "cache")
    return data.load("movielens", settings, search)


def test_both_layouts_are_the_same_ratings(folders) -> None:
    one, two = load(folders["one"]), load(folders["two"])
    for name, values in one.train.arrays.items():
        np.testing.assert_array_equal(values, two.train.arrays[name])
    assert one.class_names == two.class_names
    assert one.class_names["film"][3] == "The 3 (1999)"
    assert len(one.train) == 80_000 and one.test is not None and len(one.test) == 20_000
    rows = one.train.arrays
    np.testing.assert_array_equal(rows["age"], 20 + rows["user"] % 50)
    np.testing.assert_array_equal(rows["genre"].argmax(-1), np.minimum(rows["film"] % 19, 17))


@pytest.mark.slow
def test_every_rating_tests_in_one_fold(folders) -> None:
    seen = np.zeros((USERS, FILMS), int)
    for fold in range(1, 6):
        test = load(folders["one"], fold=fold).test
        assert test is not None
        np.add.at(seen, (test.arrays["user"], test.arrays["film"]), 1)
    assert seen.sum() == RATINGS and seen.max() == 1


def test_by_user_the_folds_are_the_same(folders) -> None:
    rated, users = load(folders["one"], fold=2), load(folders["one"], fold=2, by="user")
    assert users.test is not None and len(users.train) == len(users.test) == USERS
    train, test = users.train.arrays, users.test.arrays
    np.testing.assert_array_equal(train["given"], train["rating"])
    np.testing.assert_array_equal(train["given"], test["given"])
    assert not ((test["given"] > 0) & (test["rating"] > 0)).any()
    rows = rated.train.arrays
    np.testing.assert_array_equal(train["given"][rows["user"], rows["film"]], rows["rating"])
    assert np.count_nonzero(train["given"]) == len(rated.train)


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("u.data", "944\t1\t3\t0", "u.data:5 "),
        ("u.data", "1\t1\t6\t0", "u.data:5 "),
        ("u.data", "1 1 3 0", "u.data:5 "),
        ("u.user", "5|21|X|writer|0", "u.user:5 "),
        ("u.item", "5|The 4", "u.item:5 "),
        ("u.item", "5|The 4\n6|The 5", "1,683 lines, not 1,682"),
    ],
)
def test_lines_that_are_not_of_the_set(folders, tmp_path, name, line, told) -> None:
    for path in (folders["two"] / "movielens").iterdir():
        lines = path.read_bytes().split(b"\n")
        if path.name == name:
            lines[4] = line.encode()
        (tmp_path / path.name).write_bytes(b"\n".join(lines))
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    (found,) = caught.value.diagnostics
    assert found.code == "E0602" and told in found.message


def test_where_it_is_looked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(movielens.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    (found,) = caught.value.diagnostics
    assert found.code == "E0601" and "ml-100k" in found.help and "recbole" in found.help
